"""Showers from a trained model: blocks of a fixed size, dealt out to the devices, fetched one late.

Shower i draws its random numbers from a key folded from the seed and i alone. It is computed in
block i // size, at row i % size, by a program for whole blocks, whichever showers are asked for. On
one kind of device a shower is therefore the same to the last bit for any number of showers, parts,
devices and restarts. Two things change last bits, and seldom a hit, where a discrete choice depends
on the last bit: another block size (``batch_size``); and, for models that pack the hits of several
showers into one buffer, other incident energies of the showers in the same block.
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from calojax import distributed, rng
from calojax.errors import CalojaxError
from calojax.geometry import Detector
from calojax.io.source import ShowerSource, checked_energies
from calojax.models.base import Model, Variables
from calojax.sampling import gflash

Batches = Iterator[tuple[np.ndarray, np.ndarray]]
"""(incident energies [b], showers [b, v]), both in MeV, float32."""

Precision = Literal["default", "float32", "tf32", "bf16"]
"""How matrix units round what they multiply; sums are float32 in all. "default" is the device's own
choice, tf32 on NVIDIA's GPUs and bf16 on TPUs; a CPU does not round. Convolutions know no bf16 of
their own and take the default instead."""

# What JAX calls them. Its "bfloat16" is whatever the device does by default: on a GPU, tf32.
_PRECISIONS = {"float32": "float32", "tf32": "tensorfloat32", "bf16": "BF16_BF16_F32"}

# The inputs [size, ...] of a block, given the index of its first shower and its size.
_Inputs = Callable[[int, int], tuple[np.ndarray, ...]]

# Showers of a block by default. On a CPU larger ones gain nothing, and one shower takes as long as
# a block; an accelerator needs more to be busy.
_ON_CPU, _ON_ACCELERATOR = 128, 1000


class Energies(Protocol):
    """Incident energies that are made when they are needed."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def block(self, start: int, stop: int) -> np.ndarray:
        """Energies ``start`` to ``stop`` in MeV, float32; also beyond the last.

        Blocks are computed whole, so the showers at the end have neighbours that are thrown away.
        """
        ...


def generate(
    model: Model,
    variables: Variables,
    energies: Energies | np.typing.ArrayLike,
    *,
    seed: int = 0,
    parts: Sequence[range] | None = None,
    batch_size: int | None = None,
    temperature: float = 1.0,
    precision: Precision = "default",
    mesh: Mesh | None = None,
) -> Batches:
    """Yields showers for incident energies [n] in MeV, in order.

    Args:
      model: trained.
      variables: its arrays.
      energies: incident energies in MeV, [n] or [n, 1].
      seed: root of all random numbers.
      parts: which showers to make, one range after the other (default: all). No batch has showers
        of two parts.
      batch_size: showers that a device computes at a time, and the most of a batch (default: see
        `default_batch_size`). Every program is for that many, so that one shower takes as long.
      temperature: see `Model.sample`.
      precision: of matrix products.
      mesh: devices (default: all of this process).

    Raises:
      CalojaxError: if the energies are not positive numbers, the batch size, the seed or the
        temperature makes no sense, or a batch does not fit into the memory.
    """
    if not 0 < temperature < math.inf:
        raise CalojaxError(f"temperature must be positive and finite, got {temperature}.")
    source = _source(energies)
    root = rng.stream(rng.root(seed), "generate")
    function = _Sample(model, temperature, precision)
    wanted = [range(len(source))] if parts is None else parts
    yield from _run(function, _energies_of(source), variables, root, wanted, batch_size, mesh)


def default_batch_size() -> int:
    """Showers that a device computes at a time unless the user says: it depends on its kind."""
    return _ON_CPU if jax.default_backend() == "cpu" else _ON_ACCELERATOR


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
    batch_size: int | None = None,
    mesh: Mesh | None = None,
) -> Batches:
    """Yields the showers of ``source`` as they come back from the model's latent space.

    Their distance to the originals is what the first stage loses; see `generate` for the arguments.
    """
    num = _checked_count(len(source))

    def inputs(first: int, size: int) -> tuple[np.ndarray, ...]:
        rows = slice(first, min(first + size, num))
        return _filled(source.energies[rows], size), _filled(
            source.read(rows.start, rows.stop), size
        )

    root = rng.stream(rng.root(seed), "generate")
    yield from _run(_Reconstruct(model), inputs, variables, root, [range(num)], batch_size, mesh)


def simulate(
    detector: Detector,
    energies: Energies | np.typing.ArrayLike,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
) -> Batches:
    """Yields showers of the parametric generator; see `generate` for the arguments."""
    source = _source(energies)
    root = rng.stream(rng.root(seed), "simulate")
    wanted = [range(len(source))]
    yield from _run(_Simulate(detector), _energies_of(source), {}, root, wanted, batch_size, mesh)


def blocks(parts: Sequence[range], size: int) -> Iterator[tuple[int, list[range]]]:
    """The blocks that hold the showers of ``parts``: the first shower of each, and what is wanted.

    Blocks begin at multiples of ``size``, whatever the parts are. A block in which one part ends
    and the next begins comes once, with a range of each.
    """
    pieces = (
        (first, range(max(first, part.start), min(first + size, part.stop)))
        for part in parts
        for first in range(part.start - part.start % size, part.stop, size)
    )
    for first, same in itertools.groupby(pieces, lambda piece: piece[0]):
        yield first, [piece for _, piece in same]


class _Given:
    """An array of energies; beyond the last they begin anew."""

    def __init__(self, energies: np.typing.ArrayLike):
        array = np.asarray(energies)
        if (
            array.dtype.kind not in "fiu"
            or array.ndim not in (1, 2)
            or array.shape[1:] not in ((), (1,))
        ):
            raise CalojaxError(
                f"incident energies must be numbers of shape (n,), got {array.dtype} of shape "
                f"{array.shape}."
            )
        self._energies = checked_energies("generation", array.reshape(-1))

    def __len__(self) -> int:
        return len(self._energies)

    def block(self, start: int, stop: int) -> np.ndarray:
        return self._energies.take(range(start, stop), mode="wrap")


def _source(energies: Energies | np.typing.ArrayLike) -> Energies:
    source = energies if hasattr(energies, "block") else _Given(energies)
    _checked_count(len(source))
    return source


def _checked_count(num: int) -> int:
    # Indices of showers are folded into keys as 32-bit numbers.
    if num > rng.MAX_SEED + 1:
        raise CalojaxError(
            f"One seed has {rng.MAX_SEED + 1:,} showers, fewer than {num:,}; take another seed for "
            "the rest."
        )
    return num


def _energies_of(source: Energies) -> _Inputs:
    return lambda first, size: (np.asarray(source.block(first, first + size), np.float32),)


def _filled(array: np.ndarray, size: int) -> np.ndarray:
    """The array [b, ...] filled up to [size, ...] with its last row."""
    return array.take(np.minimum(np.arange(size), len(array) - 1), axis=0)


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
        return gflash.simulate(keys, energies, self.detector)


def _run(
    function: Callable[..., jax.Array],
    inputs: _Inputs,
    variables: Variables,
    root: jax.Array,
    parts: Sequence[range],
    batch_size: int | None,
    mesh: Mesh | None,
) -> Batches:
    """Runs a function over the blocks of ``parts``, which the devices take in turn."""
    size = default_batch_size() if batch_size is None else batch_size
    if size < 1:
        raise CalojaxError(f"--batch must be at least 1, got {size}.")
    devices = jax.local_devices() if mesh is None else list(mesh.devices.flat)
    # A program is compiled for every device that it runs on.
    devices = devices[: len(list(itertools.islice(blocks(parts, size), len(devices))))]
    advice = f"--batch {size} is too large for it" + (
        f"; take a smaller one, such as {size // 2}" if size > 1 else ""
    )
    with distributed.full_memory_reported(advice):
        constants = [jax.device_put((variables, root), device) for device in devices]
        under_way: collections.deque[_UnderWay] = collections.deque()
        for number, (first, wanted) in enumerate(blocks(parts, size)):
            # The host takes a block while its device is at work on the one after it.
            if len(under_way) == 2 * len(devices):
                yield from _fetched(*under_way.popleft())
            device = number % len(devices)
            index = np.arange(first, first + size, dtype=np.uint64).astype(np.uint32)
            arrays = inputs(first, size)
            given = jax.device_put((index, *arrays), devices[device])
            result = _compute(function, *constants[device], *given)
            result[0].copy_to_host_async()
            under_way.append((first, wanted, arrays[0], result))
        for started in under_way:
            yield from _fetched(*started)


# The first shower of a block, what is wanted of it, its incident energies and `_compute`'s result.
_UnderWay = tuple[int, list[range], np.ndarray, tuple[jax.Array, jax.Array]]


# A program of each device, not one over all: XLA fuses a program of several devices otherwise than
# that of a single one, so it rounds otherwise.
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
    wanted: list[range],
    energies: np.ndarray,
    result: tuple[jax.Array, jax.Array],
) -> Batches:
    """Of a block, each of the wanted ranges."""
    showers, good = jax.device_get(result)
    for piece in wanted:
        rows = slice(piece.start - first, piece.stop - first)
        if not good:
            _check(piece.start, energies[rows], showers[rows])
        yield energies[rows], showers[rows]


def _check(first: int, energies: np.ndarray, showers: np.ndarray) -> None:
    """Refuses showers [b, v] with voxels that are no energies; the first is number ``first``."""
    bad = np.argwhere(~((showers >= 0) & (showers < np.inf)))
    if len(bad):
        row, voxel = bad[0]
        raise CalojaxError(
            f"The model made {showers[row, voxel]:g} MeV of voxel {voxel} of shower {first + row} "
            f"({energies[row]:g} MeV); its training has failed, so train it again."
        )
