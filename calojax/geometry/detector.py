"""A calorimeter: layers of rings of angular bins.

A voxel is one (layer, alpha, r) cell of a cylinder around the incident particle's direction. In
files and arrays the voxels of a shower are one flat axis ``v``, r fastest, then alpha, then layer
(the CaloChallenge's order). Layers may differ, as those of dataset 1 do.

Coordinates are those of the CaloChallenge: ``z`` along the particle, ``alpha`` in [-pi, pi), and
in the transverse plane eta = r cos(alpha), phi = r sin(alpha), both in mm.
"""

import dataclasses
import functools
import itertools
import math
from typing import Self

import numpy as np

from calojax.geometry import particles

MOST_VOXELS = 10_000_000
MOST_LAYERS = 1_000
# Lengths in mm, energies in MeV and ratios beyond these are mistakes, and may overflow float32.
_SMALLEST, _LARGEST = 1e-12, 1e12


def _check(what: str, value: float) -> None:
    if not _SMALLEST <= value <= _LARGEST:
        raise ValueError(
            f"{what} must be positive, from {_SMALLEST:g} to {_LARGEST:g}, got {value:g}"
        )


@dataclasses.dataclass(frozen=True)
class Layer:
    """A calorimeter layer that is divided into voxels.

    Attributes:
      id: number of the layer in the experiment (dataset 1 has 0, 1, 2, 3, 12, ...).
      r_edges: radial bin edges in mm, increasing, starting at 0.
      n_alpha: number of angular bins.
      thickness: extent along z in mm.
    """

    id: int
    r_edges: tuple[float, ...]
    n_alpha: int
    thickness: float

    def __post_init__(self):
        if len(self.r_edges) < 2:
            raise ValueError(f"layer {self.id} needs at least two r edges, got {self.r_edges}")
        if not 0 <= self.r_edges[0] <= self.r_edges[-1] <= _LARGEST:
            raise ValueError(
                f"layer {self.id}: r edges must be from 0 to {_LARGEST:g} mm, got "
                f"{self.r_edges[0]:g} to {self.r_edges[-1]:g}"
            )
        for a, b in itertools.pairwise(self.r_edges):
            if not (a < b <= _LARGEST and np.float32(a) < np.float32(b)):
                raise ValueError(
                    f"layer {self.id}: r edges must increase, also when rounded to float32, got "
                    f"{a!r} before {b!r}"
                )
        if self.n_alpha < 1:
            raise ValueError(f"layer {self.id}: n_alpha must be at least 1, got {self.n_alpha}")
        if abs(self.id) >= 2**31:
            raise ValueError(f"layer {self.id}: id must be below 2^31")
        _check(f"layer {self.id}: thickness", self.thickness)

    @property
    def n_r(self) -> int:
        """Number of radial bins."""
        return len(self.r_edges) - 1

    @property
    def n_voxels(self) -> int:
        """Number of voxels, n_alpha * n_r."""
        return self.n_alpha * self.n_r


@dataclasses.dataclass(frozen=True)
class Medium:
    """The material of the layers, averaged over absorber and sensor.

    Attributes:
      radiation_length: X0 in mm.
      moliere_radius: R_M in mm.
      interaction_length: nuclear interaction length in mm.
      critical_energy: E_c in MeV.
      resolution: stochastic term of the energy resolution, sigma/E at 1 GeV.
      response: mean E_sum / E_inc of electrons, including leakage.
    """

    radiation_length: float
    moliere_radius: float
    interaction_length: float
    critical_energy: float
    resolution: float
    response: float

    def __post_init__(self):
        for field in dataclasses.fields(self):
            _check(f"medium: {field.name}", getattr(self, field.name))


@dataclasses.dataclass(frozen=True)
class VoxelMap:
    """Coordinates of the voxels of a detector, each an array [v] in file order; lengths are in mm.

    ``layer`` is a position in ``Detector.layers``, ``alpha`` and ``r`` are bins, and ``n_alpha`` is
    the number of angular bins of the layer. ``alpha_center`` is in [-pi, pi), and ``r_center`` the
    midpoint of the edges ``r_low`` and ``r_high``, as in the official evaluation. ``eta`` and
    ``phi`` are r_center cos(alpha_center) and r_center sin(alpha_center).
    """

    layer: np.ndarray
    alpha: np.ndarray
    r: np.ndarray
    n_alpha: np.ndarray
    r_center: np.ndarray
    r_low: np.ndarray
    r_high: np.ndarray
    alpha_center: np.ndarray
    eta: np.ndarray
    phi: np.ndarray
    z_center: np.ndarray


@dataclasses.dataclass(frozen=True)
class Detector:
    """A voxelised calorimeter and its beam. Frozen and hashable, so static under ``jit``.

    Attributes:
      name: short name, written into files and checkpoints.
      particle: the incident particle, a name of `particles.PARTICLES` or ``pid N``.
      layers: the layers that hold voxels, in order of depth.
      energy_range: lowest and highest incident energy in MeV; None if unknown.
      energies: incident energies in MeV if they are discrete (dataset 1), else empty.
      readout_threshold: energy in MeV below which voxels are zero in the data (0: no threshold).
      evaluation_threshold: energy in MeV below which voxels are set to zero before any metric.
      medium: the material, for the shower generator and for lengths in X0.
    """

    name: str
    particle: str
    layers: tuple[Layer, ...]
    energy_range: tuple[float, float] | None
    readout_threshold: float
    evaluation_threshold: float
    medium: Medium
    energies: tuple[float, ...] = ()

    def __post_init__(self):
        if not self.name.isprintable():
            raise ValueError(f"name {self.name!r} has characters that cannot be printed")
        if not self.layers:
            raise ValueError(f"detector {self.name!r} has no layers")
        if len(self.layers) > MOST_LAYERS:
            raise ValueError(f"{len(self.layers):,} layers are too many; at most {MOST_LAYERS:,}")
        if self.n_voxels > MOST_VOXELS:
            raise ValueError(f"{self.n_voxels:,} voxels are too many; at most {MOST_VOXELS:,}")
        ids = [layer.id for layer in self.layers]
        for layer_id in ids:
            if ids.count(layer_id) > 1:
                raise ValueError(f"layer {layer_id}: attribute 'id' occurs more than once")
        particles.shower(self.particle)
        low, high = self.energy_range or (_SMALLEST, _LARGEST)
        if not _SMALLEST <= low < high <= _LARGEST:
            raise ValueError(
                f"the energy range must be two increasing energies in MeV, from {_SMALLEST:g} to "
                f"{_LARGEST:g}, got {low:g} and {high:g}"
            )
        for name in ("readout_threshold", "evaluation_threshold"):
            if getattr(self, name) != 0:
                _check(name, getattr(self, name))
        for energy in self.energies:
            _check("an incident energy", energy)

    @property
    def shower(self) -> particles.Shower:
        """The kind of shower that the incident particle makes."""
        return particles.shower(self.particle)

    @functools.cached_property
    def binning(self) -> tuple:
        """R edges (as float32) and angular bins of each layer; showers of equal ones compare."""
        return tuple(
            (tuple(np.asarray(layer.r_edges, np.float32).tolist()), layer.n_alpha)
            for layer in self.layers
        )

    def spanning(self, energies: np.ndarray) -> Self:
        """This detector, with the range of the energies [n] in MeV if it has none of its own."""
        if self.energy_range is not None:
            return self
        low, high = float(np.min(energies)), float(np.max(energies))
        # Networks are conditioned on the place in a range; a single energy is its lower end.
        return dataclasses.replace(self, energy_range=(low, high if high > 1.01 * low else 2 * low))

    @property
    def n_layers(self) -> int:
        """Number of layers that hold voxels."""
        return len(self.layers)

    @functools.cached_property
    def n_voxels(self) -> int:
        """Number of voxels of a shower."""
        return sum(layer.n_voxels for layer in self.layers)

    @functools.cached_property
    def layer_slices(self) -> tuple[slice, ...]:
        """The voxels of each layer as slices of the flat voxel axis."""
        ends = np.cumsum([layer.n_voxels for layer in self.layers]).tolist()
        return tuple(slice(a, b) for a, b in zip([0, *ends], ends, strict=False))

    @functools.cached_property
    def z_edges(self) -> np.ndarray:
        """Layer boundaries along z in mm, [n_layers + 1], starting at 0."""
        return np.concatenate([[0.0], np.cumsum([layer.thickness for layer in self.layers])])

    @functools.cached_property
    def grid(self) -> tuple[int, int, int] | None:
        """Shape (z, alpha, r) if all layers are equal (datasets 2 and 3), else None."""
        shapes = {(layer.n_alpha, layer.r_edges) for layer in self.layers}
        if len(shapes) > 1:
            return None
        return self.n_layers, self.layers[0].n_alpha, self.layers[0].n_r

    @functools.cached_property
    def voxels(self) -> VoxelMap:
        """Coordinates of every voxel in file order."""
        layer = np.repeat(np.arange(self.n_layers), self._bins.prod(axis=0))
        n_alpha, n_r = self._bins[:, layer]
        first = np.array([where.start for where in self.layer_slices])[layer]
        alpha, r = np.divmod(np.arange(self.n_voxels) - first, n_r)
        edges = [(np.asarray(item.r_edges, float), item.n_alpha) for item in self.layers]
        r_low = np.concatenate([np.tile(inner[:-1], n) for inner, n in edges])
        r_high = np.concatenate([np.tile(outer[1:], n) for outer, n in edges])
        r_center = (r_low + r_high) / 2
        alpha_center = -math.pi + (alpha + 0.5) * (2 * math.pi / n_alpha)
        found = VoxelMap(
            layer=layer,
            alpha=alpha,
            r=r,
            n_alpha=n_alpha,
            r_center=r_center,
            r_low=r_low,
            r_high=r_high,
            alpha_center=alpha_center,
            eta=r_center * np.cos(alpha_center),
            phi=r_center * np.sin(alpha_center),
            z_center=((self.z_edges[:-1] + self.z_edges[1:]) / 2)[layer],
        )
        for array in vars(found).values():
            array.flags.writeable = False
        return found

    @property
    def _bins(self) -> np.ndarray:
        """Numbers of angular and radial bins of each layer, [2, n_layers]."""
        return np.array([(layer.n_alpha, layer.n_r) for layer in self.layers]).T

    def voxel_index(self, layer, alpha, r) -> np.ndarray:
        """Flat index of (layer position, alpha bin, r bin), which broadcast, or `IndexError`."""
        layer, alpha, r = np.broadcast_arrays(layer, alpha, r)
        starts = np.array([s.start for s in self.layer_slices])
        n_alpha, n_r = self._bins
        if np.any((layer < 0) | (layer >= self.n_layers)):
            raise IndexError(f"layer position outside 0..{self.n_layers - 1}")
        if np.any((alpha < 0) | (alpha >= n_alpha[layer]) | (r < 0) | (r >= n_r[layer])):
            raise IndexError("alpha or r bin outside its layer")
        return starts[layer] + alpha * n_r[layer] + r

    def voxelise(self, shower, x, y, z, energy, count: int | None = None) -> np.ndarray:
        """Sums hits into the voxels of showers; hits outside all voxels are left out.

        Args:
          shower: number of the shower of each hit, from 0, [h].
          x: transverse position along alpha = 0 in mm, [h].
          y: transverse position along alpha = pi / 2 in mm, [h].
          z: depth behind the front of the first layer in mm, [h].
          energy: energy of each hit in MeV, [h].
          count: number of showers; by default up to the last one with a hit.

        Returns:
          Showers [count, v] in MeV, float32.
        """
        shower = np.asarray(shower)
        r, alpha = np.hypot(x, y), np.arctan2(y, x)
        layer = np.searchsorted(self.z_edges, z, side="right") - 1
        voxel = np.full(len(shower), -1)
        for position, (item, part) in enumerate(zip(self.layers, self.layer_slices, strict=True)):
            here = np.flatnonzero(layer == position)
            ring = np.searchsorted(item.r_edges, r[here], side="right") - 1
            here, ring = (values[(ring >= 0) & (ring < item.n_r)] for values in (here, ring))
            turn = np.floor((alpha[here] + math.pi) * (item.n_alpha / (2 * math.pi))).astype(int)
            voxel[here] = part.start + turn % item.n_alpha * item.n_r + ring
        found = voxel >= 0
        count = int(shower.max(initial=-1)) + 1 if count is None else count
        showers = np.zeros((count, self.n_voxels))
        np.add.at(showers, (shower[found], voxel[found]), np.asarray(energy)[found])
        return showers.astype(np.float32)
