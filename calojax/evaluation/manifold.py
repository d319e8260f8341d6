"""Precision, recall, density and coverage: do the samples lie on each other's manifold?

Definitions: Kynkaanniemi et al., arXiv:1904.06991 (precision, recall); Naeem et al.,
arXiv:2002.09797 (density, coverage). Nearest neighbours are found block by block on the device,
which never holds more than one block of the n x n matrix of distances.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from calojax.errors import CalojaxError
from calojax.evaluation.features import apply_threshold
from calojax.evaluation.metric import Found, Options, Score, SliceMetric
from calojax.evaluation.samples import Samples, spread
from calojax.geometry import Detector
from calojax.io import ShowerSource

# Energy in MeV that the official code gives to empty voxels.
EMPTY_VOXEL = 0.1
# k, as in the official evaluation.
NEIGHBOURS = 5
_QUICK_SHOWERS = 1000

# Numbers in a block of points, 256 MiB of float32, and the most points in one.
_BLOCK_NUMBERS = 2**26
_BLOCK_POINTS = 4096


class Points(Protocol):
    """Points that can be read in slices: an array [n, f], a memory map, or `VoxelPoints`."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


class Prdc(NamedTuple):
    """How the generated sample covers the reference's manifold and the reverse.

    A manifold is the union of the balls around a sample's points that just reach their k-th
    nearest neighbours, and of the points themselves: where more than k points coincide, their balls
    have no size. Density counts at most k balls without size for a generated point.

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


class PrecisionRecall(SliceMetric):
    """Precision, recall, density and coverage of the voxels."""

    scores: Mapping[str, Score] = {
        name: Score(name, description, higher_is_better=True)
        for name, description in (
            ("precision", "generated showers on the reference's manifold"),
            ("recall", "reference showers on the generated manifold"),
            ("density", "reference neighbourhoods around a generated shower"),
            ("coverage", "reference neighbourhoods with a generated shower"),
        )
    }

    def check(self, detector: Detector, showers: int, options: Options) -> None:
        _check(showers, NEIGHBOURS)

    def settings(self, samples: Samples, options: Options) -> dict[str, Any]:
        points = _points(samples, options)
        return {"k": NEIGHBOURS, "showers": [len(sample) for sample in points]}

    def compute(self, samples: Samples, options: Options) -> Found:
        return Found(prdc(*_points(samples, options))._asdict())


def _points(samples: Samples, options: Options) -> list["VoxelPoints"]:
    """The showers of the reference and of the generated sample that are compared."""
    sources = samples.reference.source, samples.generated.source
    if options.quick:
        sources = [spread(source, _QUICK_SHOWERS) for source in sources]
    return [VoxelPoints(source) for source in sources]


def log_voxels(showers: np.ndarray, detector: Detector) -> np.ndarray:
    """log10 of voxel energies over 0.1 MeV after the threshold, [b, v]; zero where empty.

    The CaloChallenge takes log10 of energies in MeV with empty voxels set to 0.1 MeV. The constant
    between the two does not change distances; without it empty voxels are exact zeros, and float32
    is enough for |x|^2 + |y|^2 - 2 x.y.
    """
    showers = apply_threshold(showers, detector)
    return np.log10(np.where(showers > 0, showers, EMPTY_VOXEL) / EMPTY_VOXEL)


@dataclasses.dataclass(frozen=True)
class VoxelPoints:
    """The `log_voxels` of a source as points, read when they are needed.

    Attributes:
      source: the showers.
    """

    source: ShowerSource

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        return log_voxels(self.source.read(start, stop), self.source.detector)


def prdc(
    reference: Points, generated: Points, *, k: int = NEIGHBOURS, block: int | None = None
) -> Prdc:
    """Precision, recall, density and coverage of a generated sample.

    Args:
      reference: points of the reference, [n, f]; for showers, `VoxelPoints`.
      generated: points of the generated sample, [m, f].
      k: number of the neighbour that a ball reaches, the point itself not counted.
      block: points in a block; by default as many as fill 256 MiB, but at most 4096.

    Raises:
      CalojaxError: if a sample has no k-th neighbours.
    """
    _check(min(len(reference), len(generated)), k)
    if block is None:
        block = max(1, min(_BLOCK_POINTS, _BLOCK_NUMBERS // reference[0:1].shape[1]))
    block = min(block, max(len(reference), len(generated)))
    reference_radii = squared_radii(reference, k=k, block=block)
    generated_radii = squared_radii(generated, k=k, block=block)

    balls, coincident = np.zeros((2, len(generated)), np.int64)
    recalled, covered = np.zeros((2, len(reference)), bool)
    for rows, x, exists in _blocks(reference, block):
        x_radii = _padded(reference_radii[rows], block)
        for columns, y, valid in _blocks(generated, block):
            y_radii = _padded(generated_radii[columns], block)
            found = _membership(x, y, x_radii, y_radii, exists, valid)
            held, alone, inside, hit = map(np.asarray, found)
            height, width = rows.stop - rows.start, columns.stop - columns.start
            balls[columns] += held[:width]
            coincident[columns] += alone[:width]
            recalled[rows] |= inside[:height]
            covered[rows] |= hit[:height]
    balls += np.minimum(coincident, k)
    return Prdc(
        precision=float(np.mean(balls > 0)),
        recall=float(recalled.mean()),
        density=float(balls.mean() / k),
        coverage=float(covered.mean()),
    )


def _check(showers: int, k: int) -> None:
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
    """Points within balls, for a block of reference points x [b, f] and generated points y [c, f].

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
