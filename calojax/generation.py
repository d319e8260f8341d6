"""Showers from a trained model: blocks of a fixed size, dealt out to the devices, fetched one late.

Shower i draws its random numbers from a key folded from the seed and i alone, so they are the same
for every batch size, device count and restart. Every device runs the same program, on blocks that
do not depend on how many devices there are; so showers do not either, to the last bit. (Matrix
products may round differently for another block size; where a code hangs on the last bit, it can
turn out another way.)
"""

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from calojax import rng
from calojax.data import simulation
from calojax.data.challenge import ShowerSource
from calojax.errors import CalojaxError
from calojax.geometry import Detector
from calojax.models.base import Model, Variables

Batches = Iterator[tuple[np.ndarray, np.ndarray]]
"""(incident energies [b], showers [b, v]), both in MeV, float32."""

Precision = Literal["default", "float32", "tf32", "bf16"]
"""How matrix units round what they multiply; sums are float32 in all. "default" is the device's own
choice, tf32 on NVIDIA's GPUs and bf16 on TPUs; a CPU does not round. Convolutions know no bf16 of
their own and take the default instead."""

# What JAX calls them. Its "bfloat16" is whatever the device does by default: on a GPU, tf32.
_PRECISIONS = {"float32": "float32", "tf32": "tensorfloat32", "bf16": "BF16_BF16_F32"}

_Inputs = Callable[[range], tuple[np.ndarray, ...]]

# Indices of showers are folded into keys as 32-bit numbers.
_MOST = 2**32


class Energies(Protocol):
    """Incident energies in MeV, float32 [n]; an array, or what draws them when they are needed."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """Those of a slice."""
        ...


def generate(
    model: Model,
    variables: Variables,
    energies: Energies,
    *,
    seed: int = 0,
    parts: Sequence[range] | None = None,
    batch_size: int = 1000,
    temperature: float = 1.0,
    precision: Precision = "default",
    mesh: Mesh | None = None,
) -> Batches:
    """Yields showers for incident energies [n] in MeV, in order.

    Args:
      model: trained.
      variables: its arrays.
      energies: incident energies in MeV.
      seed: root of all random numbers.
      parts: which showers to make, one range after the other (default: all). No batch has showers
        of two parts, so that a part is the same whichever others are made.
      batch_size: showers a device computes at a time, and most of a batch.
      temperature: see `Model.sample`.
      precision: of matrix products.
      mesh: devices (default: all of this process).

    Raises:
      CalojaxError: if the batch is empty, or the temperature is not positive.
    """
    if not temperature > 0:
        raise CalojaxError(f"A temperature of {temperature} is none; it must be above 0.")

    def inputs(block: range) -> tuple[np.ndarray, ...]:
        return (np.asarray(energies[block.start : block.stop], np.float32),)

    size = _block_size(batch_size, len(energies))
    blocks = Blocks([range(len(energies))] if parts is None else parts, size)
    root = rng.stream(rng.root(seed), "generate")
    function = _Sample(model, temperature, precision)
    yield from _run(function, inputs, variables, root, blocks, mesh)


def rounding(precision: Precision) -> contextlib.AbstractContextManager[None]:
    """Within it, programs that are traced round products so."""
    if precision == "default":
        # And not None, which would pass over what the user's environment says.
        return contextlib.nullcontext()
    return jax.default_matmul_precision(_PRECISIONS[precision])


def reconstruct(
    model: Model,
    variables: Variables,
    source: ShowerSource,
    *,
    seed: int = 0,
    batch_size: int = 1000,
    mesh: Mesh | None = None,
) -> Batches:
    """Yields the showers of ``source`` as they come back from the model's latent space.

    Their distance to the originals is what the first stage loses; see `generate` for the arguments.
    """

    def inputs(block: range) -> tuple[np.ndarray, ...]:
        energies = np.asarray(source.energies[block.start : block.stop], np.float32)
        return energies, source.read(block.start, block.stop)

    size = _block_size(batch_size, len(source))
    blocks = Blocks([range(len(source))], size)
    root = rng.stream(rng.root(seed), "generate")
    yield from _run(_Reconstruct(model), inputs, variables, root, blocks, mesh)


def simulate(
    detector: Detector,
    energies: Energies,
    *,
    seed: int = 0,
    batch_size: int = 1000,
    mesh: Mesh | None = None,
) -> Batches:
    """Yields showers of the parametric generator; see `generate` for the arguments."""

    def inputs(block: range) -> tuple[np.ndarray, ...]:
        return (np.asarray(energies[block.start : block.stop], np.float32),)

    size = _block_size(batch_size, len(energies))
    blocks = Blocks([range(len(energies))], size)
    root = rng.stream(rng.root(seed), "simulate")
    yield from _run(_Simulate(detector), inputs, {}, root, blocks, mesh)


class Blocks:
    """Ranges of showers cut into blocks of ``size``; the last of a range may be smaller."""

    def __init__(self, parts: Iterable[range], size: int):
        self.parts = tuple(parts)
        self.size = size

    def __len__(self) -> int:
        return sum(-(-len(part) // self.size) for part in self.parts)

    def __iter__(self) -> Iterator[range]:
        for part in self.parts:
            for first in range(part.start, part.stop, self.size):
                yield range(first, min(first + self.size, part.stop))


def _block_size(batch_size: int, num: int) -> int:
    """Showers a block; that it depends on nothing else makes showers the same on any devices."""
    if batch_size < 1:
        raise CalojaxError(f"A batch of {batch_size} showers is none; ask for at least 1.")
    if num > _MOST:
        raise CalojaxError(
            f"One seed has {_MOST:,} showers, fewer than {num:,}; take another one for the rest."
        )
    return max(1, min(batch_size, num))


# What a device does with a block: (variables, keys [b], inputs [b, ...]) -> showers [b, v]. Equal
# ones share a compiled program, in this call of `generate` and in later ones.


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
        return simulation.simulate(keys, energies, self.detector)


def _run(
    function: Callable[..., jax.Array],
    inputs: _Inputs,
    variables: Variables,
    root: jax.Array,
    blocks: Blocks,
    mesh: Mesh | None,
) -> Batches:
    """Runs a function over blocks, which the devices take in turn."""
    devices = jax.local_devices() if mesh is None else list(mesh.devices.flat)
    # A program is compiled for every device that it runs on.
    devices = devices[: len(blocks)]
    constants = [jax.device_put((variables, root), device) for device in devices]
    under_way: collections.deque[tuple[np.ndarray, jax.Array]] = collections.deque()
    for number, block in enumerate(blocks):
        # The host takes a block while its device is at work on the one after it.
        if len(under_way) == 2 * len(devices):
            yield _fetched(*under_way.popleft())
        device = number % len(devices)
        arrays = inputs(block)
        given = (np.arange(block.start, block.stop, dtype=np.uint32), *arrays)
        given = jax.device_put([_padded(array, blocks.size) for array in given], devices[device])
        showers = _compute(function, *constants[device], *given)
        showers.copy_to_host_async()
        under_way.append((arrays[0], showers))
    for started in under_way:
        yield _fetched(*started)


# A program of each device, not one over all: XLA fuses a program of several devices otherwise than
# that of a single one, so it rounds otherwise.
@functools.partial(jax.jit, static_argnames="function")
def _compute(
    function: Callable[..., jax.Array],
    variables: Variables,
    root: jax.Array,
    index: jax.Array,
    *arrays: jax.Array,
) -> jax.Array:
    return function(variables, rng.per_item(root, index), *arrays)


def _padded(array: np.ndarray, size: int) -> np.ndarray:
    """The array [b, ...] filled up to [size, ...] with its last row."""
    missing = size - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array


def _fetched(energies: np.ndarray, showers: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    return energies, jax.device_get(showers)[: len(energies)]
