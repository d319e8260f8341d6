"""A hit as numbers for a flow: which of its coordinates are drawn, on which scales, and back.

- ``plane``: layer, both coordinates in the transverse plane, energy (CaloPointFlow I);
- ``rings``: layer, r, energy; the angle is left to `points.place` (CaloPointFlow II);
- ``layers``: r and energy of a hit whose layer is known, from a quota.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from calojax.geometry import Detector
from calojax.models.pointflow import dequantisation
from calojax.models.pointflow.dequantisation import DequantisationName, HitEnergiesName, Spectrum
from calojax.models.pointflow.points import Points

CoordinatesName = Literal["plane", "rings", "layers"]
Statistics = dict[str, Any]


class Counts:
    """What `Coordinates.fit` needs to know of showers, counted in one pass."""

    def __init__(self, coordinates: "Coordinates"):
        z, _, r = coordinates.detector.grid
        self.layer = np.zeros(z, np.int64)
        self.r = np.zeros(r, np.int64)
        self.spectrum = Spectrum.empty()
        self._counted = dequantisation.HIT_ENERGIES[coordinates.energy].counted

    def add(self, showers: np.ndarray) -> None:
        """Counts showers [b, z, alpha, r] in MeV."""
        hit = showers > 0
        self.layer += hit.sum((0, 2, 3))
        self.r += hit.sum((0, 1, 2))
        total = np.broadcast_to(showers.sum((1, 2, 3), keepdims=True), showers.shape)
        self.spectrum = self.spectrum.add(self._counted(showers[hit], total[hit]))


@dataclasses.dataclass(frozen=True)
class Coordinates:
    """See the module's docstring.

    Attributes:
      detector: with layers that are all alike.
      kind: which coordinates are drawn.
      dequantisation: how bins become numbers.
      energy: how energies do.
    """

    detector: Detector
    kind: CoordinatesName
    dequantisation: DequantisationName
    energy: HitEnergiesName

    @property
    def features(self) -> int:
        """Numbers d of a hit that are drawn."""
        return {"plane": 4, "rings": 3, "layers": 2}[self.kind]

    def fit(self, counts: Counts) -> Statistics:
        """Fits scales to the hits that were counted."""
        energy = dequantisation.HIT_ENERGIES[self.energy]
        return {
            "layer": self._bins.fit(counts.layer),
            "r": self._bins.fit(counts.r),
            "energy": energy.fit(counts.spectrum, self.detector.readout_threshold),
        }

    def forward(
        self, points: Points, total: jax.Array, noise: jax.Array, statistics: Statistics
    ) -> jax.Array:
        """Hits as numbers [p, d].

        Args:
          points: the hits.
          total: E_sum in MeV of the shower of each, [p]; positive for padding too.
          noise: uniform in [0, 1), [p, 3].
          statistics: from `fit`.
        """
        numbers = []
        if self.kind != "layers":
            numbers += [self._bins.forward(points.layer, noise[:, 0], statistics["layer"])]
        if self.kind == "plane":
            plane = dequantisation.plane_forward(
                points.alpha, points.r, noise[:, 1:], self.detector.grid[1:]
            )
            numbers += [plane[:, 0], plane[:, 1]]
        else:
            numbers += [self._bins.forward(points.r, noise[:, 1], statistics["r"])]
        numbers += [self._energy.forward(points.energy, total, statistics["energy"])]
        return jnp.stack(numbers, -1)

    def inverse(
        self,
        x: jax.Array,
        total: jax.Array,
        owner: jax.Array,
        layer: jax.Array,
        statistics: Statistics,
    ) -> Points:
        """The hits of numbers [p, d]; angles are 0 where they are not drawn.

        Args:
          x: numbers.
          total: E_sum in MeV of the shower of each, [p].
          owner: shower of each, [p].
          layer: of each [p], where it is known.
          statistics: from `fit`.
        """
        if self.kind != "layers":
            layer = self._bins.inverse(x[:, 0], statistics["layer"])
        if self.kind == "plane":
            alpha, r = dequantisation.plane_inverse(x[:, 1:3], self.detector.grid[1:])
        else:
            r = self._bins.inverse(x[:, -2], statistics["r"])
            alpha = jnp.zeros_like(r)
        energy = self._energy.inverse(x[:, -1], total, statistics["energy"])
        return Points(layer, alpha, r, energy, owner)

    def depth(self, layer: jax.Array, statistics: Statistics) -> jax.Array:
        """The number that stands for a layer [...] that is known: the middle of its bin."""
        return self._bins.forward(
            layer, jnp.full(layer.shape, 0.5, jnp.float32), statistics["layer"]
        )

    @property
    def _bins(self) -> dequantisation.Dequantisation:
        return dequantisation.DEQUANTISATIONS[self.dequantisation]

    @property
    def _energy(self) -> dequantisation.HitEnergies:
        return dequantisation.HIT_ENERGIES[self.energy]
