"""Batches as a pure function of (seed, stage, step), so that resuming is only a number.

Showers lie in a memory-mapped array; a thread gathers the next batch and sends it to the devices
while the current one computes.
"""

import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np

from calojax.errors import CalojaxError
from calojax.models.base import Batch


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
    order = np.random.default_rng([seed, zlib.crc32(b"split")]).permutation(num)
    return Split(np.sort(order[n_validation:]), np.sort(order[:n_validation]))


def rows(index: np.ndarray, batch_size: int, seed: int, stage: str, step: int) -> np.ndarray:
    """The showers of a step: every epoch is a new permutation of ``index``; tails are dropped."""
    per_epoch = len(index) // batch_size
    epoch, position = divmod(step, per_epoch)
    generator = np.random.default_rng([seed, zlib.crc32(stage.encode()), epoch])
    order = generator.permutation(len(index))
    return index[order[position * batch_size : (position + 1) * batch_size]]


def stream(
    dataset: Dataset,
    index: np.ndarray,
    sharding: jax.sharding.Sharding,
    *,
    batch_size: int,
    seed: int,
    stage: str,
    steps: range,
) -> Iterator[Batch]:
    """The batches of ``steps`` on the devices, one ahead of the one in use.

    Raises:
      CalojaxError: if there are fewer showers than a batch holds.
    """
    if len(index) < batch_size:
        raise CalojaxError(
            f"Stage {stage!r} takes {batch_size} showers a step but there are only {len(index)} "
            "to train on; give more data or a smaller batch."
        )

    def load(step: int) -> Batch:
        return put(dataset, rows(index, batch_size, seed, stage, step), sharding)

    yield from _ahead(load, steps)


def in_order(
    dataset: Dataset, index: np.ndarray, sharding: jax.sharding.Sharding, *, batch_size: int
) -> Iterator[Batch]:
    """All whole batches of ``index`` in order (for validation)."""

    def load(step: int) -> Batch:
        return put(dataset, index[step * batch_size : (step + 1) * batch_size], sharding)

    yield from _ahead(load, range(len(index) // batch_size))


def put(dataset: Dataset, index: np.ndarray, sharding: jax.sharding.Sharding) -> Batch:
    """The showers of ``index`` on the devices."""
    batch = {"energies": dataset.energies[index], "showers": dataset.showers[index]}
    return jax.device_put({k: np.asarray(v, np.float32) for k, v in batch.items()}, sharding)


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
