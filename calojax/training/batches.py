"""Batches as a pure function of (seed, stage, step), so that a run resumes from a step number.

All batches are balanced (see `calojax.training.balanced_batches`), which models need that pack hits
into buffers; for other models they are as good as random batches. Showers lie in a memory-mapped
array; a thread gathers the next batch and sends it to the devices while the current one computes.
"""

import collections
import itertools
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from calojax import distributed, rng
from calojax.errors import CalojaxError
from calojax.models.base import Batch, Stage, Variables
from calojax.progress import progress_bar
from calojax.training import balanced_batches
from calojax.training.balanced_batches import BalancedBatches, balanced

Arrays = Mapping[str, np.ndarray]
"""Arrays of showers by name, each [n, ...]."""


class Dataset(NamedTuple):
    """Showers in memory, or in a memory map."""

    energies: np.ndarray  # incident energies [n] in MeV
    showers: np.ndarray  # voxel energies [n, v] in MeV, float32


class Data(NamedTuple):
    """Showers of a run, divided into those to train on and those to validate with."""

    dataset: Dataset  # all showers [n]
    training: np.ndarray  # sorted row numbers of the training showers
    validation: np.ndarray  # sorted row numbers of the other showers
    hits: np.ndarray  # number of hits of all showers [n]; or another quantity to balance batches by

    def batches(self, index: np.ndarray, size: int) -> BalancedBatches:
        """Batches of the showers of rows ``index``."""
        return balanced(index, self.hits[index], size)


def split(num: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted row numbers of the training and the validation showers, drawn at random by the seed.

    Raises:
      CalojaxError: if nothing would be left to train on or to validate with.
    """
    n_validation = round(num * fraction)
    if not 0 < n_validation < num:
        raise CalojaxError(
            f"A validation fraction of {fraction} of {num} showers leaves nothing to train on or "
            "nothing to validate with; give more showers or another fraction."
        )
    order = np.random.default_rng([rng.checked_seed(seed), zlib.crc32(b"split")]).permutation(num)
    return np.sort(order[n_validation:]), np.sort(order[:n_validation])


def chunks(
    dataset: Dataset, index: np.ndarray, *, size: int = 4096
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Incident energies [b] and showers [b, v] of the rows ``index`` in MeV, b <= ``size``."""
    for first in range(0, len(index), size):
        rows = index[first : first + size]
        yield dataset.energies[rows], dataset.showers[rows]


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
    """Refuses a buffer that is too small for a possible batch of showers with ``hits`` [n]."""
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
    """The batch size, halved until ``num`` showers fill a batch."""
    while batch_size > num:
        batch_size //= 2
    return batch_size


def rows(plan: BalancedBatches, seed: int, stage: str, steps: range) -> Iterator[np.ndarray]:
    """The showers [b] of each step: each at most once per epoch, in a new order in each epoch."""
    for epoch, same in itertools.groupby(steps, lambda step: step // plan.per_epoch):
        generator = np.random.default_rng([seed, zlib.crc32(stage.encode()), epoch])
        # Drawn once: for 100,000 showers it takes longer than a step on a GPU.
        order = plan.epoch(generator)
        yield from (order[step % plan.per_epoch] for step in same)


def stream(
    dataset: Dataset | Arrays,
    plan: BalancedBatches,
    sharding: jax.sharding.Sharding,
    *,
    seed: int,
    stage: str,
    steps: range,
) -> Iterator[Batch]:
    """The batches of ``steps`` of a stage on the devices, prepared one ahead."""
    plans = rows(plan, seed, stage, steps)

    def load() -> Batch:
        return put(dataset, next(plans), sharding)

    with ThreadPoolExecutor(max_workers=1) as pool:
        pending = collections.deque()
        for _ in steps:
            pending.append(pool.submit(load))
            if len(pending) == 2:
                yield pending.popleft().result()
        for batch in pending:
            yield batch.result()


def prepared(stage: Stage, variables: Variables, dataset: Dataset, mesh: Mesh) -> Arrays:
    """What ``stage.prepare`` makes of all showers, computed once for all steps of the stage."""
    assert stage.prepare is not None
    whole, parts = distributed.replicated(mesh), distributed.sharded(mesh)
    compute = jax.jit(stage.prepare, in_shardings=(whole, parts), out_shardings=whole)
    number, size = len(dataset.energies), stage.schedule.batch_size
    pieces = []
    label = f"preparing {stage.name}"
    with progress_bar(label, number, disable=not distributed.is_first()) as bar:
        for first in range(0, number, size):
            # The last batch is filled up with the last shower.
            rows = np.minimum(np.arange(first, first + size), number - 1)
            pieces.append(jax.device_get(compute(variables, put(dataset, rows, parts))))
            bar.update(min(size, number - first))
    return {name: np.concatenate([piece[name] for piece in pieces])[:number] for name in pieces[0]}


def put(dataset: Dataset | Arrays, index: np.ndarray, sharding: jax.sharding.Sharding) -> Batch:
    """The showers of ``index`` on the devices; a process reads the rows of its own devices."""

    def share(array: np.ndarray) -> jax.Array:
        def read(part: tuple[slice, ...] | None) -> np.ndarray:
            rows = index if part is None else index[part[0]]
            # Energies in float64 become float32; codes stay integers.
            return np.asarray(array[rows], jax.dtypes.canonicalize_dtype(array.dtype))

        return jax.make_array_from_callback((len(index), *array.shape[1:]), sharding, read)

    arrays = dataset._asdict() if isinstance(dataset, Dataset) else dataset
    return {name: share(array) for name, array in arrays.items()}
