"""Maps between the coordinates of a hit and real numbers for a flow."""

import abc
import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from calojax.geometry import Detector
from calojax.models.pointflow.dequantisation import (
    Dequantisation,
    HitEnergies,
    Spectrum,
    plane_forward,
    plane_inverse,
)
from calojax.models.pointflow.points import Points, grid_of

Statistics = dict[str, Any]
PerPoint = Float[Array, " p"]


class Counts:
    """Counts of hits over showers, from which `Coordinates.fit` fits its scales."""

    def __init__(self, coordinates: "Coordinates"):
        z, _, r = grid_of(coordinates.detector)
        self.layer = np.zeros(z, np.int64)
        self.r = np.zeros(r, np.int64)
        self.spectrum = Spectrum.empty()
        self._counted = coordinates.energies.counted

    def add(self, showers: np.ndarray) -> None:
        """Counts showers [b, z, alpha, r] in MeV."""
        hit = showers > 0
        self.layer += hit.sum((0, 2, 3))
        self.r += hit.sum((0, 1, 2))
        total = np.broadcast_to(showers.sum((1, 2, 3), keepdims=True), showers.shape)
        self.spectrum = self.spectrum.add(self._counted(showers[hit], total[hit]))


@dataclasses.dataclass(frozen=True)
class Coordinates(abc.ABC):
    """The coordinates of a hit that a flow draws; the last one is the energy."""

    features: ClassVar[int]  # number of coordinates d
    has_alpha: ClassVar[bool] = False  # whether the angle is among them
    has_layer: ClassVar[bool] = True  # whether the layer is among them; otherwise it is given
    detector: Detector  # detector with equal layers
    bins: Dequantisation  # map from bins to real numbers
    energies: HitEnergies  # map from hit energies to real numbers

    def fit(self, counts: Counts) -> Statistics:
        """Fits scales to counted hits."""
        return {
            "layer": self.bins.fit(counts.layer),
            "r": self.bins.fit(counts.r),
            "energy": self.energies.fit(counts.spectrum, self.detector.readout_threshold),
        }

    def forward(
        self, points: Points, total: PerPoint, noise: Float[Array, "p 3"], statistics: Statistics
    ) -> Float[Array, "p d"]:
        """Hits as real numbers, with noise uniform in [0, 1) within their bins.

        ``total`` is E_sum in MeV of the shower of each hit, positive also for padding.
        """
        energy = self.energies.forward(points.energy, total, statistics["energy"])
        return jnp.stack([*self._forward(points, noise, statistics), energy], -1)

    def inverse(
        self,
        x: Float[Array, "p d"],
        total: PerPoint,
        owner: Int[Array, " p"],
        layer: Int[Array, " p"],
        statistics: Statistics,
    ) -> Points:
        """Hits from real numbers, E_sum in MeV and number of their showers.

        ``layer`` is used if it is not among the coordinates; alpha is 0 if it is not.
        """
        layer, alpha, r = self._inverse(x, layer, statistics)
        energy = self.energies.inverse(x[:, -1], total, statistics["energy"])
        return Points(layer, alpha, r, energy, owner)

    def depth(self, layer: jax.Array, statistics: Statistics) -> jax.Array:
        """The real number of a layer [...], from the middle of its bin."""
        middle = jnp.full(layer.shape, 0.5, jnp.float32)
        return self.bins.forward(layer, middle, statistics["layer"])

    @abc.abstractmethod
    def _forward(self, points, noise, statistics) -> list[jax.Array]:
        """Coordinates [p] other than the energy."""

    @abc.abstractmethod
    def _inverse(self, x, layer, statistics) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Bins (layer, alpha, r), int32 [p] each."""


class Plane(Coordinates):
    """Layer, both coordinates in the transverse plane, energy (CaloPointFlow I)."""

    features = 4
    has_alpha = True

    def _forward(self, points, noise, statistics):
        _, n_alpha, n_r = grid_of(self.detector)
        plane = plane_forward(points.alpha, points.r, noise[:, 1:], (n_alpha, n_r))
        layer = self.bins.forward(points.layer, noise[:, 0], statistics["layer"])
        return [layer, plane[:, 0], plane[:, 1]]

    def _inverse(self, x, layer, statistics):
        _, n_alpha, n_r = grid_of(self.detector)
        alpha, r = plane_inverse(x[:, 1:3], (n_alpha, n_r))
        return self.bins.inverse(x[:, 0], statistics["layer"]), alpha, r


class Layers(Coordinates):
    """Energy and r of hits whose layer is given."""

    features = 2
    has_layer = False

    def _forward(self, points, noise, statistics):
        return [self.bins.forward(points.r, noise[:, 1], statistics["r"])]

    def _inverse(self, x, layer, statistics):
        r = self.bins.inverse(x[:, -2], statistics["r"])
        return layer, jnp.zeros_like(r), r


class Rings(Layers):
    """Layer, r, energy; `points.place` adds the angle (CaloPointFlow II)."""

    features = 3
    has_layer = True

    def _forward(self, points, noise, statistics):
        layer = self.bins.forward(points.layer, noise[:, 0], statistics["layer"])
        return [layer, *super()._forward(points, noise, statistics)]

    def _inverse(self, x, layer, statistics):
        layer = self.bins.inverse(x[:, 0], statistics["layer"])
        return super()._inverse(x, layer, statistics)


CoordinatesName = Literal["plane", "rings", "layers"]
COORDINATES: dict[CoordinatesName, type[Coordinates]] = {
    "plane": Plane,
    "rings": Rings,
    "layers": Layers,
}
