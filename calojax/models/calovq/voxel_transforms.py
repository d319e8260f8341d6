"""The space in which a decoder describes voxels: numbers y instead of energies.

A scale takes showers to numbers [b, v], one a voxel, and numbers that were drawn to showers that
hold the energies of their layers. Heads (`calojax.models.calovq.likelihoods`) work on the numbers.
"""

import dataclasses
from typing import Literal, Protocol

import jax
import jax.numpy as jnp

from calojax.geometry import Detector
from calojax.models.calovq import transforms
from calojax.models.voxels import layer_sums, over_voxels

ScaleName = Literal["linear", "arctanh", "quantile"]


class Scale(Protocol):
    """See the module's docstring.

    Attributes:
      detector: whose voxels they are.
    """

    detector: Detector

    def numbers(
        self, showers: jax.Array, layer_energy: jax.Array, statistics: transforms.Statistics
    ) -> jax.Array:
        """Showers [b, v] and their layer energies [b, l] in MeV -> y [b, v]."""
        ...

    def lower(self, layer_energy: jax.Array, statistics: transforms.Statistics) -> jax.Array:
        """The y [b, v] of the readout threshold, in layers of energies [b, l] MeV."""
        ...

    def showers(
        self,
        y: jax.Array,
        hit: jax.Array,
        layer_energy: jax.Array,
        statistics: transforms.Statistics,
    ) -> jax.Array:
        """Numbers [b, v], where there are hits [b, v], and layer energies [b, l] -> [b, v] MeV."""
        ...


@dataclasses.dataclass(frozen=True)
class Linear:
    """Fractions of the layer's energy as they are; squared errors do not see soft voxels here."""

    detector: Detector

    def numbers(
        self, showers: jax.Array, layer_energy: jax.Array, statistics: transforms.Statistics
    ) -> jax.Array:
        """See `Scale`."""
        safe = jnp.where(layer_energy > 0, layer_energy, 1.0)
        return self._squeeze(showers / over_voxels(safe, self.detector))

    def lower(self, layer_energy: jax.Array, statistics: transforms.Statistics) -> jax.Array:
        """See `Scale`."""
        threshold = self.detector.readout_threshold
        safe = jnp.maximum(layer_energy, jnp.maximum(threshold, 1e-30))
        return over_voxels(self._squeeze(threshold / safe), self.detector)

    def showers(
        self,
        y: jax.Array,
        hit: jax.Array,
        layer_energy: jax.Array,
        statistics: transforms.Statistics,
    ) -> jax.Array:
        """See `Scale`; what exceeds a layer's energy, or lacks, is shared out in proportion."""
        fractions = jnp.where(hit, jnp.clip(self._stretch(y), 0.0, 1.0), 0.0)
        return transforms.join_layers(fractions, layer_energy, self.detector)

    @staticmethod
    def _squeeze(fractions: jax.Array) -> jax.Array:
        return fractions

    @staticmethod
    def _stretch(y: jax.Array) -> jax.Array:
        return y


@dataclasses.dataclass(frozen=True)
class Arctanh(Linear):
    """The talk's: fractions of the layer's energy through `transforms.arctanh_compress`."""

    _squeeze = staticmethod(transforms.arctanh_compress)
    _stretch = staticmethod(transforms.arctanh_expand)


@dataclasses.dataclass(frozen=True)
class Quantile:
    """Energies through `transforms.hit_quantile`, so that the spectrum of hits keeps its edges.

    What a layer lacks is shared out by moving all its hits by the same y, and not by a factor,
    which would blur the edges again.
    """

    detector: Detector

    def numbers(
        self, showers: jax.Array, layer_energy: jax.Array, statistics: transforms.Statistics
    ) -> jax.Array:
        """See `Scale`."""
        return transforms.hit_quantile(showers, statistics)

    def lower(self, layer_energy: jax.Array, statistics: transforms.Statistics) -> jax.Array:
        """See `Scale`; -1 everywhere."""
        return jnp.full((len(layer_energy), self.detector.n_voxels), -1.0, layer_energy.dtype)

    def showers(
        self,
        y: jax.Array,
        hit: jax.Array,
        layer_energy: jax.Array,
        statistics: transforms.Statistics,
    ) -> jax.Array:
        """See `Scale`; hits are those with y above -1."""
        hit = hit & (y >= -1.0)
        wanted = jnp.log(jnp.maximum(layer_energy, 1e-30))
        shift = jnp.zeros_like(layer_energy)
        # Newton's steps for log of the sum: nearly a straight line in y. What is left after four is
        # a factor close to one, and `join_layers` applies it.
        for _ in range(4):
            energy, slope = self._energies(y, shift, hit, statistics)
            total = layer_sums(energy, self.detector)
            rise = layer_sums(energy * slope, self.detector)
            safe = jnp.where(total > 0, total, 1.0)
            # The slope of a whole layer is about 1 to 10; near the ends of the range it vanishes.
            step = (wanted - jnp.log(safe)) / jnp.maximum(rise / safe, 1.0)
            shift = shift + jnp.where(total > 0, jnp.clip(step, -0.5, 0.5), 0.0)
        energy, _ = self._energies(y, shift, hit, statistics)
        return transforms.join_layers(energy, layer_energy, self.detector)

    def _energies(self, y, shift, hit, statistics):
        moved = y + over_voxels(shift, self.detector)
        energy, slope = transforms.hit_energy(moved, statistics)
        # The softest hits lie on the threshold itself, where the last bit would decide whether they
        # are cut, and so the batch that they were computed in.
        energy = jnp.maximum(energy, (1 + 1e-3) * self.detector.readout_threshold)
        return jnp.where(hit, energy, 0.0), slope


SCALES: dict[ScaleName, type[Scale]] = {
    "linear": Linear,
    "arctanh": Arctanh,
    "quantile": Quantile,
}
