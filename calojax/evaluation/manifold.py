"""Precision, recall, density and coverage: do the samples lie on each other's manifold?

Definitions: Kynkaanniemi et al., arXiv:1904.06991 (precision, recall); Naeem et al.,
arXiv:2002.09797 (density, coverage). Nearest neighbours are found block by block on the device:
of the n x n matrix of distances, one block exists at a time.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from calojax.errors import CalojaxError
from calojax.evaluation.features import apply_threshold
from calojax.io.reader import ShowerSource

# The official code's stand-in for the energy of empty voxels in MeV.
EMPTY_VOXEL = 0.1

# Numbers in a block of points, 256 MiB of float32, and the most points in one.
_BLOCK_NUMBERS = 2**26
_BLOCK_POINTS = 4096


class Points(Protocol):
    """Points that can be read in slices: an array [n, f], a memory map, or `VoxelPoints`."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> np.ndarray: ...


class Prdc(NamedTuple):
    """How the generated sample covers the reference's manifold and the reverse.

    A manifold is the union of the balls around a sample's points that just reach their k-th
    nearest neighbours, and of the points themselves: where more than k points coincide, their balls
    have no size. Of such balls, density counts k at most for a generated point.

    Attributes:
      precision: fraction of generated points on the reference's manifold.
      recall: fraction of reference points on the generated sample's manifold.
      density: mean number of reference balls that hold a generated point, over k.
      coverage: fraction of reference balls that hold a generated point.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def log_voxels(showers, detector):
    """log10 of voxel energies over 0.1 MeV after the threshold, [b, v]; zero where empty.

    The CaloChallenge takes log10 of energies in MeV with empty voxels set to 0.1 MeV. The constant
    between the two does not change distances; without it empty voxels are exact zeros, and float32
    is enough for |x|^2 + |y|^2 - 2 x.y.
    """
    xp = showers.__array_namespace__()
    showers = apply_threshold(showers, detector)
    return xp.log10(xp.where(showers > 0, showers, EMPTY_VOXEL) / EMPTY_VOXEL)


@dataclasses.dataclass(frozen=True)
class VoxelPoints:
    """The `log_voxels` of a source as points, read when they are needed.

    Attributes:
      source: the showers.
    """

    source: ShowerSource

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        return log_voxels(self.source.read(start, stop), self.source.detector)


def prdc(reference: Points, generated: Points, *, k: int = 5, block: int | None = None) -> Prdc:
    """Precision, recall, density and coverage of a generated sample.

    Args:
      reference: points of the reference, [n, f]; for showers, `VoxelPoints`.
      generated: points of the generated sample, [m, f].
      k: which nearest neighbour a ball reaches, the point itself not counted.
      block: points in a block; by default as many as fill 256 MiB, but at most 4096.

    Raises:
      CalojaxError: if a sample has no k-th neighbours.
    """
    check(min(len(reference), len(generated)), k)
    if block is None:
        block = max(1, min(_BLOCK_POINTS, _BLOCK_NUMBERS // reference[0:1].shape[1]))
    block = min(block, max(len(reference), len(generated)))
    reference_radii = squared_radii(reference, k=k, block=block)
    generated_radii = squared_radii(generated, k=k, block=block)

    balls, coincident = np.zeros((2, len(generated)), np.int64)
    recalled = np.zeros(len(reference), bool)
    covered = np.zeros(len(reference), bool)
    for rows, x, _ in _blocks(reference, block):
        x_radii = _padded(reference_radii[rows], block)
        for columns, y, valid in _blocks(generated, block):
            y_radii = _padded(generated_radii[columns], block)
            exists = jnp.arange(block) < rows.stop - rows.start
            holding, same, inside, hit = _membership(x, y, x_radii, y_radii, exists, valid)
            size = columns.stop - columns.start
            balls[columns] += np.asarray(holding)[:size]
            coincident[columns] += np.asarray(same)[:size]
            recalled[rows] |= np.asarray(inside)[: rows.stop - rows.start]
            covered[rows] |= np.asarray(hit)[: rows.stop - rows.start]
    balls += np.minimum(coincident, k)
    return Prdc(
        precision=float(np.mean(balls > 0)),
        recall=float(recalled.mean()),
        density=float(balls.mean() / k),
        coverage=float(covered.mean()),
    )


def check(showers: int, k: int) -> None:
    """Refuses samples, the smaller one of so many showers, without k-th neighbours.

    Raises:
      CalojaxError: with the numbers.
    """
    if showers <= k:
        raise CalojaxError(
            f"Precision and recall with k = {k} need more than {k} showers in each sample, got "
            f"{showers}: generate more."
        )


def squared_radii(points: Points, *, k: int, block: int) -> np.ndarray:
    """Squared distance of every point from its k-th nearest other point, [n] float32."""
    radii = np.zeros(len(points), np.float32)
    for rows, x, _ in _blocks(points, block):
        nearest = jnp.full((block, k + 1), jnp.inf, jnp.float32)
        for _, y, valid in _blocks(points, block):
            nearest = _merge_nearest(nearest, x, y, valid)
        # The nearest of all is the point itself.
        radii[rows] = np.asarray(nearest)[: rows.stop - rows.start, k]
    return radii


def _blocks(points: Points, size: int) -> Iterator[tuple[slice, jax.Array, jax.Array]]:
    """(rows, points [size, f], which of them exist [size]): the last block is padded."""
    for start in range(0, len(points), size):
        rows = slice(start, min(start + size, len(points)))
        values = np.asarray(points[rows], np.float32)
        yield rows, _padded(values, size), jnp.arange(size) < len(values)


def _padded(values: np.ndarray, size: int) -> jax.Array:
    missing = [(0, size - len(values))] + [(0, 0)] * (values.ndim - 1)
    return jnp.asarray(np.pad(values, missing), jnp.float32)


def _squared_distances(x: jax.Array, y: jax.Array) -> jax.Array:
    # Accelerators would otherwise multiply float32 in 10 or 16 bits of mantissa.
    product = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1) - 2 * product
    return jnp.where(_coincide(x, y), 0.0, squares)


def _coincide(x: jax.Array, y: jax.Array) -> jax.Array:
    """Which points [b, f] and [c, f] are equal to the last bit, by hashes of 64 bits, [b, c]."""
    weights = np.random.default_rng(0).integers(2**32, size=(2, x.shape[1]), dtype=np.uint32) | 1

    def hashes(points: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(points, jnp.uint32)
        return jnp.stack([jnp.sum(bits * word, axis=1, dtype=jnp.uint32) for word in weights])

    first, second = hashes(x), hashes(y)
    return (first[0][:, None] == second[0]) & (first[1][:, None] == second[1])


@functools.partial(jax.jit, donate_argnums=0)
def _merge_nearest(nearest: jax.Array, x: jax.Array, y: jax.Array, valid: jax.Array) -> jax.Array:
    """The smallest squared distances [b, k + 1] so far and to a block y, in ascending order."""
    squares = jnp.where(valid, _squared_distances(x, y), jnp.inf)
    count = nearest.shape[1]
    candidates = -jax.lax.top_k(-squares, min(count, squares.shape[1]))[0]
    return jnp.sort(jnp.concatenate([nearest, candidates], axis=1), axis=1)[:, :count]


@jax.jit
def _membership(
    x: jax.Array,
    y: jax.Array,
    x_radii: jax.Array,
    y_radii: jax.Array,
    exists: jax.Array,
    valid: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Who is within whose ball, for a block of reference points x and generated points y.

    Padding of x does not ``exist``, padding of y is not ``valid``.

    Returns:
      Number of x's balls of some size that hold each y, [c]; number of x's balls without size at
      each y, [c]; whether each x is in some y's ball, [b]; whether some y is in each x's ball, [b].
    """
    squares, real = _squared_distances(x, y), exists[:, None] & valid
    same = _coincide(x, y) & real
    held = (squares < x_radii[:, None]) & real
    holding = ((squares < y_radii) & real) | same
    alone = same & ~held
    held_or_same = held | same
    return held.sum(axis=0), alone.sum(axis=0), holding.any(axis=1), held_or_same.any(axis=1)
