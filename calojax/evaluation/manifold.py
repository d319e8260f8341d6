"""Precision, recall, density and coverage: do the samples lie on each other's manifold?

Definitions: Kynkaanniemi et al., arXiv:1904.06991 (precision, recall); Naeem et al.,
arXiv:2002.09797 (density, coverage). Nearest neighbours are found block by block on the device,
which never holds more than one block of the n x n matrix of distances.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calojax import distributed
from calojax.errors import CalojaxError
from calojax.evaluation.features import apply_threshold
from calojax.evaluation.metric import Found, Options, Score, SliceMetric
from calojax.evaluation.samples import Samples, spread, tabulate
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


class Prdc(NamedTuple):
    """Overlap of the manifolds of the generated sample and the reference.

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
        return {"k": NEIGHBOURS, "showers": [len(one) for one in _sources(samples, options)]}

    def compute(self, samples: Samples, options: Options) -> Found:
        sources = _sources(samples, options)
        reference, generated = np.split(log_voxels(sources), [len(sources[0])])
        return Found(prdc(reference, generated)._asdict())


def _sources(samples: Samples, options: Options) -> list[ShowerSource]:
    """The showers of the reference and of the generated sample that are compared."""
    sources = [samples.reference.source, samples.generated.source]
    return [spread(source, _QUICK_SHOWERS) for source in sources] if options.quick else sources


def log_voxels(sources: Sequence[ShowerSource]) -> np.ndarray:
    """log10 of voxel energies over 0.1 MeV after the threshold, [n, v]; zero where empty.

    One table of all n showers of the sources, in order, so that their memory is counted together.

    The CaloChallenge takes log10 of energies in MeV with empty voxels set to 0.1 MeV. The constant
    between the two does not change distances; without it empty voxels are exact zeros, and float32
    is enough for |x|^2 + |y|^2 - 2 x.y.
    """
    detector = sources[0].detector

    def rows(_: np.ndarray, showers: np.ndarray) -> np.ndarray:
        showers = apply_threshold(showers, detector)
        return np.log10(np.where(showers > 0, showers, EMPTY_VOXEL) / EMPTY_VOXEL)

    return tabulate(sources, detector.n_voxels, rows)


def prdc(
    reference: np.ndarray,
    generated: np.ndarray,
    *,
    k: int = NEIGHBOURS,
    block: int | None = None,
) -> Prdc:
    """Precision, recall, density and coverage of a generated sample.

    Args:
      reference: points of the reference, [n, f]; for showers, `log_voxels`.
      generated: points of the generated sample, [m, f].
      k: number of the neighbour that a ball reaches, the point itself not counted; there must be
        more points in each sample.
      block: points in a block; by default at most 256 MiB and 4096 points, in equal blocks.
    """
    _check(min(len(reference), len(generated)), k)
    largest = max(len(reference), len(generated))
    if block is None:
        block = max(1, min(_BLOCK_POINTS, _BLOCK_NUMBERS // reference.shape[1]))
        # All equally large: what fills up the last block takes as long as points.
        block = -(-largest // -(-largest // block))
    block = min(block, largest)
    # Points in float32 may fill half of the device; the rest is for products of blocks.
    needed = 4 * (reference.size + generated.size)
    resident = jax.default_backend() != "cpu" and needed < distributed.device_memory() / 2
    xs, ys = (_blocks(points, block, resident=resident) for points in (reference, generated))
    x_radii, y_radii = squared_radii(xs, k), squared_radii(ys, k)

    balls, coincident = (jnp.zeros((len(ys), block), jnp.int32) for _ in range(2))
    recalled, covered = [], []
    for x, x_radius in zip(distributed.sent_ahead(xs), x_radii, strict=True):
        found: list[tuple[jax.Array, ...]] = []
        for y, radius in zip(distributed.sent_ahead(ys), y_radii, strict=True):
            found.append(_membership(x, y, x_radius, radius))
            jax.block_until_ready(found[-2:-1])
        held, alone, inside, hit = map(jnp.stack, zip(*found, strict=True))
        balls, coincident = balls + held, coincident + alone
        recalled.append(inside.any(axis=0))
        covered.append(hit.any(axis=0))
    counts = np.ravel(balls + jnp.minimum(coincident, k))[: len(generated)]
    return Prdc(
        precision=float(np.mean(counts > 0)),
        recall=float(np.concatenate(recalled)[: len(reference)].mean()),
        density=float(counts.mean() / k),
        coverage=float(np.concatenate(covered)[: len(reference)].mean()),
    )


def _check(showers: int, k: int) -> None:
    if showers <= k:
        raise CalojaxError(
            f"Precision and recall with k = {k} need more than {k} showers in each sample, got "
            f"{showers}: generate more."
        )


class _Block(NamedTuple):
    """Points [b, f], and which of them exist [b]: the last block is padded with zeros."""

    points: jax.Array | np.ndarray
    exists: jax.Array | np.ndarray


def _blocks(points: np.ndarray, size: int, *, resident: bool = False) -> list[_Block]:
    """Blocks of points [n, f]: on the device if they are to stay there, else on the host."""
    blocks = []
    for start in range(0, len(points), size):
        values = points[start : start + size].astype(np.float32, copy=False)
        exists = np.arange(size) < len(values)
        if len(values) < size:
            values = np.pad(values, ((0, size - len(values)), (0, 0)))
        block = _Block(values, exists)
        blocks.append(jax.device_put(block) if resident else block)
    return blocks


def squared_radii(blocks: list[_Block], k: int) -> list[jax.Array]:
    """Squared distance of every point from its k-th nearest other point, [b] for each block."""
    radii = []
    for x in distributed.sent_ahead(blocks):
        nearest = jnp.full((len(x.exists), k + 1), jnp.inf, jnp.float32)
        for y in distributed.sent_ahead(blocks):
            before, nearest = nearest, _merge_nearest(nearest, x, y)
            jax.block_until_ready(before)  # so that the device has the next block at once
        # The nearest of all is the point itself.
        radii.append(nearest[:, k])
    return radii


def _squared_distances(x: Any, y: Any) -> jax.Array:
    # Accelerators would otherwise multiply float32 in 10 or 16 bits of mantissa.
    product = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1) - 2 * product
    return jnp.where(_coincide(x, y), 0.0, squares)


def _coincide(x: Any, y: Any) -> jax.Array:
    """Which points [b, f] and [c, f] are equal to the last bit, by hashes of 64 bits, [b, c]."""
    weights = np.random.default_rng(0).integers(2**32, size=(2, x.shape[1]), dtype=np.uint32) | 1

    def hashes(points: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(points, jnp.uint32)
        return jnp.stack([jnp.sum(bits * word, axis=1, dtype=jnp.uint32) for word in weights])

    first, second = hashes(x), hashes(y)
    return (first[0][:, None] == second[0]) & (first[1][:, None] == second[1])


@jax.jit
def _merge_nearest(nearest: jax.Array, x: _Block, y: _Block) -> jax.Array:
    """The smallest squared distances [b, k + 1] so far and to a block y, in ascending order."""
    squares = jnp.where(y.exists, _squared_distances(x.points, y.points), jnp.inf)
    count = nearest.shape[1]
    candidates = -jax.lax.top_k(-squares, min(count, squares.shape[1]))[0]
    return jnp.sort(jnp.concatenate([nearest, candidates], axis=1), axis=1)[:, :count]


@jax.jit
def _membership(
    x: _Block, y: _Block, x_radii: jax.Array, y_radii: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Points within balls, for blocks of b reference points and of c generated points.

    Returns:
      Number of x's balls of some size that hold each y, [c]; number of x's balls without size at
      each y, [c]; whether each x is in some y's ball, [b]; whether some y is in each x's ball, [b].
    """
    squares = _squared_distances(x.points, y.points)
    real = x.exists[:, None] & y.exists
    same = _coincide(x.points, y.points) & real
    held = (squares < x_radii[:, None]) & real
    holding = ((squares < y_radii) & real) | same
    alone = same & ~held
    held_or_same = held | same
    return held.sum(axis=0), alone.sum(axis=0), holding.any(axis=1), held_or_same.any(axis=1)
