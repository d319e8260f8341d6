"""Showers one event at a time, as a simulation asks for them."""

import itertools
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from calojax import rng
from calojax.api import TrainedModel, load
from calojax.errors import CalojaxError
from calojax.geometry import Detector
from calojax.io.source import checked_energies
from calojax.sampling.generation import STREAM


class Hits(NamedTuple):
    """The voxels with energy of the showers of an event, each an array [h].

    Attributes:
      shower: number of the shower in the event.
      layer: layer.
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

    Programs for a few numbers of showers are compiled at the start; any number of energies is made
    with them. Calls from several threads at a time are safe.

    Example::

      generator = calojax.Generator("calovq-ds2", seed=1)
      for event, energies in enumerate(events):
          showers = generator(energies, event=event)   # [n, voxels], MeV

    Shower i of event n depends on the seed, n and i only; event 0 has the showers of ``calojax
    sample``. Another number of showers in an event, or other ``sizes``, may run another program,
    which changes last bits, and through them rarely a sampled code; with one size nothing changes.

    Attributes:
      trained: trained model.
      sizes: numbers of showers that programs are compiled for.
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
        if not sizes or min(sizes) < 1:
            raise CalojaxError(f"sizes must be whole numbers from 1, got {sizes}.")
        if not temperature > 0:
            raise CalojaxError(f"temperature must be positive, got {temperature}.")
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
          energies: incident energies in MeV, [n] or a single one.
          event: number of the event; by default one more than in the call before, from 0.

        Raises:
          CalojaxError: if the energies are not positive numbers, or the event is out of range.
        """
        number = next(self._events) if event is None else event
        if not 0 <= number <= rng.MAX_SEED:
            raise CalojaxError(f"event must be from 0 to {rng.MAX_SEED}, got {number}.")
        energies = np.atleast_1d(np.asarray(energies, np.float32))
        if not len(energies):
            return np.zeros((0, self.detector.n_voxels), np.float32)
        energies = checked_energies("generator", energies)
        showers = [
            self._programs[size](
                self.trained.variables,
                np.uint32(number),
                np.arange(first, first + size, dtype=np.uint32),
                # The last ones are repeated, and left out of the result.
                energies.take(np.arange(first, first + size), mode="clip"),
            )
            for first, size in self._blocks(len(energies))
        ]
        return np.concatenate([np.asarray(block) for block in showers])[: len(energies)]

    def hits(self, energies: ArrayLike, *, event: int | None = None) -> Hits:
        """The hits of the showers of an event; arguments as in a call."""
        showers = self(energies, event=event)
        shower, voxel = np.nonzero(showers)
        voxels = self.detector.voxels
        return Hits(
            shower,
            layer=voxels.layer[voxel],
            alpha=voxels.alpha[voxel],
            r=voxels.r[voxel],
            x=voxels.eta[voxel],
            y=voxels.phi[voxel],
            z=voxels.z_center[voxel],
            energy=showers[shower, voxel],
        )

    def _blocks(self, number: int) -> list[tuple[int, int]]:
        """First shower and size of each block: the largest size, then the smallest that fits."""
        largest, blocks = self.sizes[-1], []
        for first in range(0, number, largest):
            left = min(number - first, largest)
            blocks.append((first, next(size for size in self.sizes if size >= left)))
        return blocks
