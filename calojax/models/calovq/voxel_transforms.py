"""Voxel transforms: the space of numbers y in which a decoder describes voxels.

A transform maps showers to one number y per voxel, for which `likelihoods` gives a density, and
drawn numbers to showers with given layer energies.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from calojax.geometry import Detector
from calojax.models.calovq import transforms
from calojax.models.calovq.transforms import Statistics
from calojax.models.voxels import layer_sums, over_voxels
from calojax.nn.recurrence import scan

VoxelTransformName = Literal["linear", "arctanh", "quantile"]
Voxels = Float[Array, "b v"]
Hits = Bool[Array, "b v"]
Layers = Float[Array, "b l"]


@dataclasses.dataclass(frozen=True)
class Linear:
    """Fractions of the layer's energy, in which squared errors of soft voxels are negligible."""

    detector: Detector

    def numbers(self, showers: Voxels, layer_energy: Layers, statistics: Statistics) -> Voxels:
        """The y of showers with their layer energies, both in MeV."""
        safe = jnp.where(layer_energy > 0, layer_energy, 1.0)
        return self._squeeze(showers / over_voxels(safe, self.detector))

    def lower(self, layer_energy: Layers, statistics: Statistics) -> Voxels:
        """The y of the readout threshold."""
        threshold = self.detector.readout_threshold
        safe = jnp.maximum(layer_energy, jnp.maximum(threshold, 1e-30))
        return over_voxels(self._squeeze(threshold / safe), self.detector)

    def showers(self, y: Voxels, hit: Hits, layer_energy: Layers, statistics: Statistics) -> Voxels:
        """Showers in MeV from y and hits, scaled to given layer energies."""
        fractions = jnp.where(hit, jnp.clip(self._stretch(y), 0.0, 1.0), 0.0)
        return transforms.join_layers(fractions, layer_energy, self.detector)

    @staticmethod
    def _squeeze(x: jax.Array) -> jax.Array:
        return x

    @staticmethod
    def _stretch(y: jax.Array) -> jax.Array:
        return y


@dataclasses.dataclass(frozen=True)
class Arctanh(Linear):
    """Fractions of the layer's energy through `transforms.arctanh_compress`, as in the talk."""

    _squeeze = staticmethod(transforms.arctanh_compress)
    _stretch = staticmethod(transforms.arctanh_expand)


@dataclasses.dataclass(frozen=True)
class Quantile:
    """Energies through `transforms.hit_quantile`, which keeps the edges of the spectrum of hits.

    The energy of a layer is matched by a shift of all its hits in y, not by a factor, which would
    smear the edges again.
    """

    detector: Detector

    def numbers(self, showers, layer_energy, statistics: Statistics) -> jax.Array:
        return transforms.hit_quantile(showers, statistics)

    def lower(self, layer_energy, statistics: Statistics) -> jax.Array:
        """-1 everywhere."""
        return jnp.full((layer_energy.shape[0], self.detector.n_voxels), -1.0, layer_energy.dtype)

    def showers(self, y, hit, layer_energy, statistics: Statistics) -> jax.Array:
        """Showers from hits; voxels with y below -1 are empty."""
        target = jnp.log(jnp.maximum(layer_energy, 1e-30))

        # Newton's method for the logarithm of the sum, which is nearly linear in y. After four
        # steps the remaining factor is close to one; `join_layers` applies it. The last turn only
        # computes energies. A loop, because on a CPU XLA would repeat much of the draw of y in
        # every step; on a GPU `scan` writes the steps out.
        def newton(carry, _):
            shift, _ = carry
            energy, slope = self._energies(y, shift, hit, statistics)
            total = layer_sums(energy, self.detector)
            rise = layer_sums(energy * slope, self.detector)
            safe = jnp.where(total > 0, total, 1.0)
            # The slope of a whole layer is about 1 to 10; near the ends of the range it vanishes.
            step = (target - jnp.log(safe)) / jnp.maximum(rise / safe, 1.0)
            step = jnp.where(total > 0, jnp.clip(step, -0.5, 0.5), 0.0)
            return (shift + step, energy), None

        start = jnp.zeros_like(layer_energy), jnp.zeros_like(y)
        (_, energy), _ = scan(newton, start, jnp.arange(5))
        return transforms.join_layers(energy, layer_energy, self.detector)

    def _energies(self, y, shift, hit, statistics):
        shift = over_voxels(shift, self.detector)
        energy, slope = transforms.hit_energy(y + shift, statistics)
        # Above the threshold, since hits on the threshold are cut or not depending on rounding.
        energy = jnp.maximum(energy, (1 + 1e-3) * self.detector.readout_threshold)
        # Not y >= -1, which XLA would move out of the loop and fuse with another copy of y's draw.
        return jnp.where(hit & (y + shift >= shift - 1.0), energy, 0.0), slope


VoxelTransform = Linear | Quantile
VOXEL_TRANSFORMS: dict[VoxelTransformName, Callable[[Detector], VoxelTransform]] = {
    "linear": Linear,
    "arctanh": Arctanh,
    "quantile": Quantile,
}
