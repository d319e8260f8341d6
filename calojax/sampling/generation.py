"""Showers from a trained model, in blocks that devices compute in turn and that are copied late.

The random numbers of shower i depend on the seed and on i only. The shower is computed in block
i // size, at row i % size, by a program for whole blocks, whichever showers are asked for. On one
kind of device it is therefore the same to the last bit for any number of showers, parts, devices
and restarts. Two things change last bits, and through them rarely a sampled code or hit: another
block size (``batch_size``); and, for models that pack the hits of several showers into one buffer,
other incident energies in the same block.
"""

import collections
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from calojax import distributed, rng
from calojax.errors import CalojaxError
from calojax.geometry import Detector
from calojax.io.source import ShowerSource, flat_energies
from calojax.io.sparse import Hits, showers_of
from calojax.models.base import Model, Variables
from calojax.nn.precision import Precision, rounding
from calojax.sampling import gflash, packing
from calojax.sampling.incident_energies import EnergySource, listed

Batches = Iterator[tuple[np.ndarray, np.ndarray]]
"""(incident energies [b], showers [b, v]), both in MeV, float32."""

STREAM = "generate"
"""The stream of keys (`calojax.rng`) that showers are sampled with."""

# The inputs [size, ...] of a block, from the index of its first shower and its size.
_Inputs = Callable[[int, int], tuple[np.ndarray, ...]]

# Default block sizes. On a CPU larger blocks gain nothing, and a single shower takes as long as a
# block; an accelerator needs more showers to be busy.
_ON_CPU, _ON_ACCELERATOR = 128, 1000


def generate(
    model: Model,
    variables: Variables,
    energies: EnergySource | ArrayLike,
    *,
    seed: int = 0,
    parts: Sequence[range] | None = None,
    batch_size: int | None = None,
    temperature: float = 1.0,
    precision: Precision = "default",
    devices: Sequence[Any] | None = None,
    packed: bool | None = None,
    hits: bool = False,
) -> Batches:
    """Yields showers for incident energies [n] in MeV, in order.

    Args:
      model: trained model.
      variables: arrays of the model.
      energies: incident energies in MeV, [n] or [n, 1].
      seed: seed of all random numbers.
      parts: ranges of showers to generate, in this order (default: all). No batch has showers of
        two parts.
      batch_size: number of showers that a device computes at a time, and the largest batch
        (default: `default_batch_size`). Smaller numbers of showers take as long.
      temperature: temperature of `Model.sample`.
      precision: precision of matrix products.
      devices: devices that take the blocks in turn (default: all of this process).
      packed: whether hits are copied from the devices instead of dense showers, which changes no
        bit (default: blocks of a million voxels or more, unless the devices are CPUs).
      hits: whether packed showers come as `calojax.io.sparse.Hits`, which `ShowerWriter` takes.

    Raises:
      CalojaxError: if the energies are not positive numbers, the batch size, the seed or the
        temperature is out of range, or a batch does not fit into memory.
    """
    if not 0 < temperature < math.inf:
        raise CalojaxError(f"temperature must be positive and finite, got {temperature}.")
    source = _source(energies)
    root = rng.stream(rng.root(seed), STREAM)
    function = _Sample(model, temperature, precision)
    wanted = [range(len(source))] if parts is None else parts
    given = _energies_of(source)
    yield from _run(
        function, given, variables, root, wanted, batch_size, devices, packed=packed, hits=hits
    )


def default_batch_size() -> int:
    """The default number of showers that a device computes at a time: more on an accelerator."""
    return _ON_CPU if jax.default_backend() == "cpu" else _ON_ACCELERATOR


def reconstruct(
    model: Model,
    variables: Variables,
    source: ShowerSource,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    devices: Sequence[Any] | None = None,
) -> Batches:
    """Yields the showers of ``source``, encoded by the model and decoded again.

    Their distance to the originals is what the first stage loses. Arguments as in `generate`.
    """
    num = _checked_count(len(source))

    def inputs(first: int, size: int) -> tuple[np.ndarray, ...]:
        rows = slice(first, min(first + size, num))
        showers = source.read(rows.start, rows.stop)
        return _filled(source.energies[rows], size), _filled(showers, size)

    root = rng.stream(rng.root(seed), STREAM)
    yield from _run(_Reconstruct(model), inputs, variables, root, [range(num)], batch_size, devices)


def simulate(
    detector: Detector,
    energies: EnergySource | ArrayLike,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    devices: Sequence[Any] | None = None,
) -> Batches:
    """Yields showers of the parametric generator; arguments as in `generate`."""
    source = _source(energies)
    root = rng.stream(rng.root(seed), "simulate")
    function, wanted = _Simulate(detector), [range(len(source))]
    yield from _run(function, _energies_of(source), {}, root, wanted, batch_size, devices)


def blocks(parts: Sequence[range], size: int) -> Iterator[tuple[int, list[range]]]:
    """The blocks that hold the showers of ``parts``: first shower, and ranges to keep.

    Blocks begin at multiples of ``size``, whatever the parts are. A block in which one part ends
    and the next begins comes once, with a range for each.
    """
    pieces = (
        (first, range(max(first, part.start), min(first + size, part.stop)))
        for part in parts
        for first in range(part.start - part.start % size, part.stop, size)
    )
    for first, same in itertools.groupby(pieces, lambda piece: piece[0]):
        yield first, [piece for _, piece in same]


def _source(energies: EnergySource | ArrayLike) -> EnergySource:
    if isinstance(energies, EnergySource):
        _checked_count(len(energies))
        return energies
    found = flat_energies("generation", energies)
    if not len(found):
        raise CalojaxError("There are no incident energies; give at least one, in MeV.")
    return listed("given", found, _checked_count(len(found)))


def _checked_count(num: int) -> int:
    # Indices of showers are folded into keys as 32-bit numbers.
    if num > rng.MAX_SEED + 1:
        raise CalojaxError(
            f"One seed has {rng.MAX_SEED + 1:,} showers, fewer than {num:,}; use another seed for "
            "the rest."
        )
    return num


def _energies_of(source: EnergySource) -> _Inputs:
    return lambda first, size: (np.asarray(source.block(first, first + size), np.float32),)


def _filled(array: np.ndarray, size: int) -> np.ndarray:
    """The array [b, ...], padded to [size, ...] with its last row."""
    return array.take(np.minimum(np.arange(size), len(array) - 1), axis=0)


# Functions that a device computes: (variables, keys [b], inputs [b, ...]) -> showers [b, v]. Equal
# ones share a compiled program, also in later calls of `generate`.


@dataclasses.dataclass(frozen=True)
class _Sample:
    model: Model
    temperature: float
    precision: Precision

    def __call__(self, variables: Variables, keys: jax.Array, energies: jax.Array) -> jax.Array:
        with rounding(self.precision):
            return self.model.sample(variables, keys, energies, temperature=self.temperature)


@dataclasses.dataclass(frozen=True)
class _Reconstruct:
    model: Model

    def __call__(
        self, variables: Variables, keys: jax.Array, energies: jax.Array, showers: jax.Array
    ) -> jax.Array:
        return self.model.reconstruct(variables, keys, {"energies": energies, "showers": showers})


@dataclasses.dataclass(frozen=True)
class _Simulate:
    detector: Detector

    def __call__(self, variables: Variables, keys: jax.Array, energies: jax.Array) -> jax.Array:
        return gflash.simulate(keys, energies, self.detector)


def _run(
    function: Callable[..., jax.Array],
    inputs: _Inputs,
    variables: Variables,
    root: jax.Array,
    parts: Sequence[range],
    batch_size: int | None,
    devices: Sequence[Any] | None,
    *,
    packed: bool | None = None,
    hits: bool = False,
) -> Iterator[tuple[np.ndarray, Any]]:
    """Runs a function over the blocks of ``parts``, which the devices take in turn."""
    size = default_batch_size() if batch_size is None else batch_size
    if size < 1:
        raise CalojaxError(f"--batch must be at least 1, got {size}.")
    devices = jax.local_devices() if devices is None else list(devices)
    # A program is compiled for each device, so use no more devices than there are blocks. (In the
    # folder where JAX keeps programs, one serves all equal GPUs.)
    devices = devices[: len(list(itertools.islice(blocks(parts, size), len(devices))))]
    smallest = 0 if packed else packing.SMALLEST
    if packed is None:
        packed = any(device.platform != "cpu" for device in devices)
    advice = f"--batch {size} is too large for it"
    if size > 1:
        advice += f"; use a smaller one, such as {size // 2}"
    with distributed.full_memory_reported(advice):
        constants = [jax.device_put((variables, root), device) for device in devices]
        under_way: collections.deque[_UnderWay] = collections.deque()
        for number, (first, kept) in enumerate(blocks(parts, size)):
            # The host fetches a block while its device computes the next one.
            if len(under_way) == 2 * len(devices):
                yield from _fetched(*under_way.popleft(), hits)
            device = number % len(devices)
            index = np.arange(first, first + size, dtype=np.uint64).astype(np.uint32)
            arrays = inputs(first, size)
            given = jax.device_put((index, *arrays), devices[device])
            showers, good = _compute(function, *constants[device], *given)
            small = None
            if packed and smallest <= showers.size <= packing.LARGEST:
                small = packing.pack(showers)
            (showers if small is None else small.counts).copy_to_host_async()
            under_way.append((first, kept, arrays[0], showers, good, small))
        for started in under_way:
            yield from _fetched(*started, hits)


# The first shower of a block, ranges to keep, incident energies, the result of `_compute`, and its
# hits if they are packed.
_UnderWay = tuple[int, list[range], np.ndarray, jax.Array, jax.Array, packing.Packed | None]


# One program per device: XLA fuses one over all devices differently, also in `jax.shard_map`, so it
# would round differently.
@functools.partial(jax.jit, static_argnames="function")
def _compute(
    function: Callable[..., jax.Array],
    variables: Variables,
    root: jax.Array,
    index: jax.Array,
    *arrays: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Showers [b, v], and whether all their voxels are energies: finite and not negative."""
    showers = function(variables, rng.per_item(root, index), *arrays)
    return showers, ((showers >= 0) & (showers < jnp.inf)).all()


def _fetched(
    first: int,
    kept: list[range],
    energies: np.ndarray,
    showers: jax.Array,
    good: jax.Array,
    packed: packing.Packed | None,
    hits: bool,
) -> Iterator[tuple[np.ndarray, Any]]:
    """Energies and showers of each range to keep of a block."""
    good = jax.device_get(good)
    here = packing.fetch(packed, showers) if packed and good else jax.device_get(showers)
    for piece in kept:
        rows = slice(piece.start - first, piece.stop - first)
        some = here[rows]
        if isinstance(some, Hits):
            some = some if hits else showers_of(some, showers.shape[1])
        elif not good:
            _check(piece.start, energies[rows], some)
        yield energies[rows], some


def _check(first: int, energies: np.ndarray, showers: np.ndarray) -> None:
    """Refuses showers [b, v] with voxels that are not energies; the first shower is ``first``."""
    bad = np.argwhere(~((showers >= 0) & (showers < np.inf)))
    if len(bad):
        row, voxel = bad[0]
        raise CalojaxError(
            f"The model gave {showers[row, voxel]:g} MeV to voxel {voxel} of shower {first + row} "
            f"({energies[row]:g} MeV); its training has failed, so train it again."
        )
