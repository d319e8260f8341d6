"""Showers one event at a time, as a simulation asks for them."""

import itertools
import math
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from calojax import rng
from calojax.api import TrainedModel, load
from calojax.errors import CalojaxError
from calojax.geometry import Detector
from calojax.io import sparse
from calojax.io.source import flat_energies
from calojax.sampling import packing
from calojax.sampling.generation import STREAM

# Largest ratio of the size of a block to its showers; the rest is padding. A CPU takes as long for
# padding as for showers; an accelerator is not busy with blocks this small.
_ON_CPU, _ON_ACCELERATOR = 2, math.inf


class Hits(NamedTuple):
    """The voxels with energy of the showers of an event, each an array [h].

    Attributes:
      shower: number of the shower in the event.
      layer: number of the layer.
      alpha: angular bin.
      r: radial bin.
      x: position of the voxel's centre along alpha = 0, in mm.
      y: position along alpha = pi / 2, in mm.
      z: depth behind the front, in mm.
      energy: energy in MeV.
    """

    shower: np.ndarray
    layer: np.ndarray
    alpha: np.ndarray
    r: np.ndarray
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    energy: np.ndarray


class Generator:
    """Showers of a trained model for the particles of one event after the other.

    Programs for a few numbers of showers are compiled at the start, and serve any number of
    energies. Several threads may call it at the same time.

    Example::

      generator = calojax.Generator("calovq-ds2", seed=1)
      for event, energies in enumerate(events):
          showers = generator(energies, event=event)   # [n, voxels], MeV

    Shower i of event n depends on the seed, n and i only; event 0 has the showers of ``calojax
    sample``. Another number of showers in an event, or other ``sizes``, may run another program,
    which changes last bits, and through them rarely a sampled code; with one size nothing changes.
    """

    def __init__(
        self,
        run: str | os.PathLike | TrainedModel,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        sizes: tuple[int, ...] = (1, 16, 128),
    ):
        """Loads the model and compiles its programs.

        Args:
          run: trained model, or what `calojax.load` takes.
          seed: seed of all random numbers.
          temperature: temperature of `Model.sample`.
          sizes: numbers of showers to compile programs for.

        Raises:
          CalojaxError: if there is no such run, or an argument is not valid.
        """
        if not sizes or any(size < 1 or size % 1 for size in sizes):
            raise CalojaxError(f"sizes must be whole numbers from 1, got {sizes}.")
        if not 0 < temperature < math.inf:
            raise CalojaxError(f"temperature must be positive and finite, got {temperature}.")
        self.trained = run if isinstance(run, TrainedModel) else load(run)
        self.sizes = tuple(sorted(set(sizes)))
        self._events = itertools.count()
        root = rng.root(seed)
        model, variables = self.trained.model, self.trained.variables

        def program(variables, event, index, energies):
            keys = rng.per_item(rng.stream(root, STREAM, event), index)
            return model.sample(variables, keys, energies, temperature=temperature)

        jitted = jax.jit(program)
        event = jax.ShapeDtypeStruct((), jnp.uint32)
        self._programs = {
            size: jitted.lower(
                variables,
                event,
                jax.ShapeDtypeStruct((size,), jnp.uint32),
                jax.ShapeDtypeStruct((size,), jnp.float32),
            ).compile()
            for size in self.sizes
        }

    @property
    def detector(self) -> Detector:
        """Geometry of the showers."""
        return self.trained.detector

    def __call__(self, energies: ArrayLike, *, event: int | None = None) -> np.ndarray:
        """The showers of an event, [n, v] in MeV.

        Args:
          energies: incident energies in MeV, [n], [n, 1] or a single one.
          event: number of the event; by default the number of earlier calls without one.

        Raises:
          CalojaxError: if the energies are not positive numbers, or the event is no whole number
            from 0 to 2^32 - 1.
        """
        blocks, count = self._run(energies, event)
        return np.concatenate([np.asarray(block) for block in blocks])[:count]

    def hits(self, energies: ArrayLike, *, event: int | None = None) -> Hits:
        """The hits of the showers of an event; arguments as in a call.

        From an accelerator only the hits of large blocks are copied.
        """
        blocks, count = self._run(energies, event)
        found = sparse.joined([_hits_of(block) for block in blocks])[:count]
        voxels, voxel = self.detector.voxels, found.voxels
        return Hits(
            np.repeat(np.arange(count), found.counts),
            layer=voxels.layer[voxel],
            alpha=voxels.alpha[voxel],
            r=voxels.r[voxel],
            x=voxels.eta[voxel],
            y=voxels.phi[voxel],
            z=voxels.z_center[voxel],
            energy=found.energies,
        )

    def _run(self, energies: ArrayLike, event: int | None) -> tuple[list[Any], int]:
        """Blocks of showers [b, v] on the device, and the number of those that are no padding."""
        energies = flat_energies("generator", np.atleast_1d(energies))
        number = rng.checked_seed(next(self._events) if event is None else event, "event")
        if not len(energies):
            return [np.zeros((0, self.detector.n_voxels), np.float32)], 0
        blocks = [
            self._programs[size](
                self.trained.variables,
                np.uint32(number),
                np.arange(first, first + size, dtype=np.uint32),
                # The last ones are repeated, and left out of the result.
                energies.take(np.arange(first, first + size), mode="clip"),
            )
            for first, size in _blocks(len(energies), self.sizes)
        ]
        return blocks, len(energies)


def _hits_of(block: Any) -> sparse.Hits:
    """The hits of showers [b, v] on a device or on the host."""
    showers = block
    if jax.default_backend() != "cpu" and packing.SMALLEST <= block.size <= packing.LARGEST:
        showers = packing.fetch(packing.pack(block), block)
    return showers if isinstance(showers, sparse.Hits) else sparse.hits_of(np.asarray(showers))


def _blocks(number: int, sizes: tuple[int, ...]) -> list[tuple[int, int]]:
    """First shower and size of each block, for sizes in ascending order."""
    most = _ON_CPU if jax.default_backend() == "cpu" else _ON_ACCELERATOR
    first, blocks = 0, []
    while first < number:
        left = number - first
        padded = [size for size in sizes if left <= size <= most * left]
        full = [size for size in sizes if size <= left]
        size = padded[0] if padded else full[-1] if full else sizes[0]
        blocks.append((first, size))
        first += size
    return blocks
