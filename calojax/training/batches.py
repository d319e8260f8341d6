"""Batches as a pure function of (seed, stage, step), so that resuming is only a number.

Every batch takes one shower of each stratum of the number of hits (see
`calojax.training.balanced_batches`), for models that pack hits into buffers; for others it is as
good as any random batch. Showers lie in a memory-mapped array; a thread gathers the next batch and
sends it to the devices while the current one computes.
"""

import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np

from calojax import rng
from calojax.errors import CalojaxError
from calojax.models.base import Batch, Stage
from calojax.training import balanced_batches
from calojax.training.balanced_batches import Strata


class Dataset(NamedTuple):
    """Showers in memory, or in a memory map.

    Attributes:
      energies: incident energies [n] in MeV.
      showers: [n, v] in MeV, float32.
    """

    energies: np.ndarray
    showers: np.ndarray


def chunks(
    dataset: Dataset, index: np.ndarray, *, size: int = 4096
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Incident energies [b] and showers [b, v] of ``index`` in MeV, a bounded number at a time."""
    for first in range(0, len(index), size):
        rows = index[first : first + size]
        yield dataset.energies[rows], dataset.showers[rows]


class Split(NamedTuple):
    """Which showers are trained on, and which judge.

    Attributes:
      training: indices into the dataset, sorted.
      validation: likewise; disjoint.
    """

    training: np.ndarray
    validation: np.ndarray


def split(num: int, validation_fraction: float, seed: int) -> Split:
    """Divides ``num`` showers at random; the same for the same arguments.

    Raises:
      CalojaxError: if either part would be empty.
    """
    n_validation = round(num * validation_fraction)
    if not 0 < n_validation < num:
        raise CalojaxError(
            f"A validation fraction of {validation_fraction} of {num} showers leaves nothing to "
            "train on or nothing to validate with; give more showers or another fraction."
        )
    order = np.random.default_rng([rng.checked_seed(seed), zlib.crc32(b"split")]).permutation(num)
    return Split(np.sort(order[n_validation:]), np.sort(order[:n_validation]))


def count_hits(dataset: Dataset, *, size: int = 512) -> np.ndarray:
    """The number of hits of every shower, int32 [n]; reads ``size`` showers at a time."""
    hits = np.empty(len(dataset.energies), np.int32)
    for first in range(0, len(hits), size):
        hits[first : first + size] = (dataset.showers[first : first + size] > 0).sum(1)
    return hits


def check_variety(dataset: Dataset, index: np.ndarray) -> None:
    """Refuses training showers ``index`` that are all empty, or all equal."""
    first = dataset.showers[index[0]]
    if all((showers == first).all() for _, showers in chunks(dataset, index, size=512)):
        what = "are all the same" if first.any() else "have no hit"
        raise CalojaxError(
            f"The {len(index):,} showers to train on {what}, so there is nothing to learn; look at "
            "the data with calojax check."
        )


def check_packing(stage: Stage, hits: np.ndarray) -> None:
    """Refuses a buffer that some batch of training showers with ``hits`` [n] would not fit."""
    packing, size = stage.packing, stage.schedule.batch_size
    if packing is None or size > len(hits):
        return
    needed = -(-balanced_batches.bound(hits, size, packing.group) // packing.group)
    if needed > packing.hits_per_shower:
        raise CalojaxError(
            f"A group of {packing.group} showers can have {needed} hits per shower, which its "
            f"buffer cannot hold; raise {packing.flag} from {packing.hits_per_shower} to {needed}."
        )


def fitting(batch_size: int, num: int) -> int:
    """The batch size, halved as often as it takes to fill one with ``num`` showers."""
    while batch_size > num:
        batch_size //= 2
    return batch_size


def rows(cut: Strata, seed: int, stage: str, step: int) -> np.ndarray:
    """The showers of a step [b]: in an epoch each at most once, in the next in another order."""
    epoch, position = divmod(step, cut.batches)
    generator = np.random.default_rng([seed, zlib.crc32(stage.encode()), epoch])
    return balanced_batches.epoch(cut, generator)[position]


def stream(
    dataset: Dataset,
    index: np.ndarray,
    hits: np.ndarray,
    sharding: jax.sharding.Sharding,
    *,
    batch_size: int,
    seed: int,
    stage: str,
    steps: range,
) -> Iterator[Batch]:
    """The batches of ``steps`` on the devices, one ahead of the one in use.

    Args:
      dataset: all showers.
      index: those to train on.
      hits: of all showers.
      sharding: of the batches.
      batch_size: showers a batch.
      seed: root of all random numbers.
      stage: that is trained.
      steps: of the stage.

    Raises:
      CalojaxError: if there are fewer showers than a batch holds.
    """
    if len(index) < batch_size:
        raise CalojaxError(
            f"Stage {stage!r} takes {batch_size} showers a step but there are only {len(index)} "
            "to train on; give more data or a smaller batch."
        )
    cut = balanced_batches.cut(index, hits[index], batch_size)

    def load(step: int) -> Batch:
        return put(dataset, rows(cut, seed, stage, step), sharding)

    yield from _ahead(load, steps)


def in_order(
    dataset: Dataset,
    index: np.ndarray,
    hits: np.ndarray,
    sharding: jax.sharding.Sharding,
    *,
    batch_size: int,
) -> Iterator[Batch]:
    """The batches of ``index`` for validation, always the same; see `stream` for the arguments."""
    cut = balanced_batches.cut(index, hits[index], batch_size)

    def load(step: int) -> Batch:
        return put(dataset, rows(cut, 0, "validation", step), sharding)

    yield from _ahead(load, range(cut.batches))


def put(dataset: Dataset, index: np.ndarray, sharding: jax.sharding.Sharding) -> Batch:
    """The showers of ``index`` on the devices; a process reads the rows of its own devices."""

    def place(array: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(
            (len(index), *array.shape[1:]),
            sharding,
            lambda part: np.asarray(array[index[part[0]]], np.float32),
        )

    return {"energies": place(dataset.energies), "showers": place(dataset.showers)}


def _ahead(load, steps: range) -> Iterator[Batch]:
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending = None
        for step in steps:
            following = pool.submit(load, step)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
