"""Showers from a trained model: fixed-size batches over all devices, fetched one batch late.

Shower i draws its random numbers from a key folded from the seed and i alone, so they are the same
for every batch size, device count and restart. (Matrix products may round differently for another
batch size; where a code hangs on the last bit, it can turn out another way.)
"""

import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from calojax import mesh as meshes
from calojax import rng
from calojax.data import simulation
from calojax.data.challenge import ShowerSource
from calojax.errors import CalojaxError
from calojax.geometry import Detector
from calojax.models.base import Model, Variables

Batches = Iterator[tuple[np.ndarray, np.ndarray]]
"""(incident energies [b], showers [b, v]), both in MeV, float32."""


def generate(
    model: Model,
    variables: Variables,
    energies: np.ndarray,
    *,
    seed: int = 0,
    first: int = 0,
    batch_size: int = 1000,
    temperature: float = 1.0,
    mesh: Mesh | None = None,
) -> Batches:
    """Yields showers for incident energies [n] in MeV, in order.

    Args:
      model: trained.
      variables: its arrays.
      energies: incident energies in MeV.
      seed: root of all random numbers.
      first: global index of the first shower.
      batch_size: showers a batch, rounded up to a multiple of the devices; the last is padded.
      temperature: see `Model.sample`.
      mesh: devices (default: all).

    Raises:
      CalojaxError: if the batch is empty, or the temperature is not positive.
    """
    if not temperature > 0:
        raise CalojaxError(f"A temperature of {temperature} is none; it must be above 0.")

    def inputs(rows: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.asarray(energies[rows], np.float32),)

    root = rng.stream(rng.root(seed), "generate")
    sample = functools.partial(model.sample, temperature=temperature)
    yield from _run(sample, inputs, variables, len(energies), root, first, batch_size, mesh)


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

    def inputs(rows: np.ndarray) -> tuple[np.ndarray, ...]:
        showers = source.read(int(rows[0]), int(rows[-1]) + 1)
        # Padding repeats the last row, which a slice does not.
        showers = np.concatenate([showers, np.repeat(showers[-1:], len(rows) - len(showers), 0)])
        return np.asarray(source.energies[rows], np.float32), showers

    def function(variables, keys, energies, showers):
        return model.reconstruct(variables, keys, {"energies": energies, "showers": showers})

    root = rng.stream(rng.root(seed), "generate")
    yield from _run(function, inputs, variables, len(source), root, 0, batch_size, mesh)


def simulate(
    detector: Detector,
    energies: np.ndarray,
    *,
    seed: int = 0,
    batch_size: int = 1000,
    mesh: Mesh | None = None,
) -> Batches:
    """Yields showers of the parametric generator; see `generate` for the arguments."""

    def inputs(rows: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.asarray(energies[rows], np.float32),)

    def function(variables, keys, energies):
        return simulation.simulate(keys, energies, detector)

    root = rng.stream(rng.root(seed), "simulate")
    yield from _run(function, inputs, {}, len(energies), root, 0, batch_size, mesh)


def _run(
    function: Callable[..., jax.Array],
    inputs: Callable[[np.ndarray], tuple[np.ndarray, ...]],
    variables: Variables,
    num: int,
    root: jax.Array,
    first: int,
    batch_size: int,
    mesh: Mesh | None,
) -> Batches:
    """Runs (variables, keys, *inputs) -> showers over the rows 0..num-1 in padded batches."""
    if batch_size < 1:
        raise CalojaxError(f"A batch of {batch_size} showers is none; ask for at least 1.")
    mesh = meshes.make() if mesh is None else mesh
    whole, parts = meshes.replicated(mesh), meshes.sharded(mesh)
    size = meshes.round_up(min(batch_size, num), mesh)

    @jax.jit
    def batch(variables, index, *arrays):
        return function(variables, rng.per_item(root, index), *arrays)

    variables = jax.device_put(variables, whole)
    waiting: list[tuple[np.ndarray, jax.Array, int]] = []
    for start in range(0, num, size):
        rows = np.minimum(np.arange(start, start + size), num - 1)
        arrays = inputs(rows)
        index = (rows + first).astype(np.uint32)
        showers = batch(variables, *jax.device_put((index, *arrays), parts))
        showers.copy_to_host_async()
        waiting.append((arrays[0], showers, min(size, num - start)))
        # The host takes a batch while the device is at work on the one after it.
        if len(waiting) > 1:
            yield _fetch(*waiting.pop(0))
    for item in waiting:
        yield _fetch(*item)


def _fetch(energies: np.ndarray, showers: jax.Array, num: int) -> tuple[np.ndarray, np.ndarray]:
    return energies[:num], np.asarray(showers)[:num]
