"""What a calorimeter looks like to calojax: layers of rings of angular bins.

A voxel is one (layer, alpha, r) cell of a cylinder around the incident particle's direction. In
files and arrays the voxels of a shower are one flat axis ``v``, r fastest, then alpha, then layer
(the CaloChallenge's order). The layers need not be alike (dataset 1).

Coordinates are those of the CaloChallenge: ``z`` along the particle, ``alpha`` in [-pi, pi), and
in the transverse plane eta = r cos(alpha), phi = r sin(alpha), both in mm.
"""

import dataclasses
import functools
import math
from typing import Literal

import numpy as np

Particle = Literal["photon", "electron", "pion"]


@dataclasses.dataclass(frozen=True)
class Layer:
    """One calorimeter layer that is divided into voxels.

    Attributes:
      id: the layer's number in the experiment's scheme (dataset 1 has 0, 1, 2, 3, 12, ...).
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
        if any(b <= a for a, b in zip(self.r_edges, self.r_edges[1:], strict=False)):
            raise ValueError(f"layer {self.id}: r edges must increase, got {self.r_edges}")
        if self.n_alpha < 1:
            raise ValueError(f"layer {self.id}: n_alpha must be at least 1, got {self.n_alpha}")
        if not self.thickness > 0:
            raise ValueError(f"layer {self.id}: thickness must be positive, got {self.thickness}")

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
    """The absorber mixture as a shower sees it, on average over a layer.

    Attributes:
      radiation_length: X0 in mm.
      moliere_radius: R_M in mm.
      interaction_length: nuclear interaction length in mm.
      critical_energy: E_c in MeV.
      resolution: stochastic term of the energy resolution, sigma/E at 1 GeV.
      response: mean E_sum / E_inc.
    """

    radiation_length: float
    moliere_radius: float
    interaction_length: float
    critical_energy: float
    resolution: float
    response: float

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(
                    f"medium: {field.name} must be positive, got {getattr(self, field.name)}"
                )


@dataclasses.dataclass(frozen=True)
class VoxelMap:
    """Per-voxel coordinates of a detector, each an array [v] in file order.

    Attributes:
      layer: position of the voxel's layer in ``Detector.layers``.
      alpha: angular bin.
      r: radial bin.
      r_center: ring centre in mm (midpoint of the edges, as in the official evaluation).
      r_low: inner edge in mm.
      r_high: outer edge in mm.
      alpha_center: centre of the angular bin in [-pi, pi).
      eta: r_center * cos(alpha_center) in mm.
      phi: r_center * sin(alpha_center) in mm.
      z_center: depth of the layer's centre in mm.
    """

    layer: np.ndarray
    alpha: np.ndarray
    r: np.ndarray
    r_center: np.ndarray
    r_low: np.ndarray
    r_high: np.ndarray
    alpha_center: np.ndarray
    eta: np.ndarray
    phi: np.ndarray
    z_center: np.ndarray


@dataclasses.dataclass(frozen=True)
class Detector:
    """A voxelised calorimeter and what enters it. Frozen and hashable, so static under ``jit``.

    Attributes:
      name: short name, written into files and checkpoints.
      particle: the incident particle.
      layers: the layers that hold voxels, in order of depth.
      energy_range: lowest and highest incident energy in MeV.
      energies: the incident energies in MeV where they are discrete (dataset 1), else empty.
      readout_threshold: voxels below this energy in MeV are zero in the data (0: none).
      evaluation_threshold: voxels below this energy in MeV are zeroed before any metric.
      medium: the absorber, for the shower generator and for lengths in X0.
    """

    name: str
    particle: Particle
    layers: tuple[Layer, ...]
    energy_range: tuple[float, float]
    readout_threshold: float
    evaluation_threshold: float
    medium: Medium
    energies: tuple[float, ...] = ()

    def __post_init__(self):
        if not self.layers:
            raise ValueError(f"detector {self.name!r} has no layers")
        low, high = self.energy_range
        if not 0 < low < high:
            raise ValueError(f"detector {self.name!r}: bad energy range {self.energy_range} MeV")

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
        """(z, alpha, r) shape if all layers are alike (datasets 2 and 3), else None."""
        shapes = {(layer.n_alpha, layer.r_edges) for layer in self.layers}
        if len(shapes) > 1:
            return None
        return self.n_layers, self.layers[0].n_alpha, self.layers[0].n_r

    @functools.cached_property
    def voxels(self) -> VoxelMap:
        """Coordinates of every voxel in file order."""
        columns: dict[str, list[np.ndarray]] = {f.name: [] for f in dataclasses.fields(VoxelMap)}
        z_center = (self.z_edges[:-1] + self.z_edges[1:]) / 2
        for position, layer in enumerate(self.layers):
            alpha, r = (
                index.reshape(-1)
                for index in np.meshgrid(
                    np.arange(layer.n_alpha), np.arange(layer.n_r), indexing="ij"
                )
            )
            edges = np.asarray(layer.r_edges)
            r_center = (edges[r] + edges[r + 1]) / 2
            alpha_center = -math.pi + (alpha + 0.5) * (2 * math.pi / layer.n_alpha)
            values = {
                "layer": np.full(layer.n_voxels, position),
                "alpha": alpha,
                "r": r,
                "r_center": r_center,
                "r_low": edges[r],
                "r_high": edges[r + 1],
                "alpha_center": alpha_center,
                "eta": r_center * np.cos(alpha_center),
                "phi": r_center * np.sin(alpha_center),
                "z_center": np.full(layer.n_voxels, z_center[position]),
            }
            for name, value in values.items():
                columns[name].append(value)
        arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
        for array in arrays.values():
            array.flags.writeable = False
        return VoxelMap(**arrays)

    def voxel_index(self, layer, alpha, r) -> np.ndarray:
        """Flat voxel index of (layer position, alpha bin, r bin); broadcasts.

        Raises:
          IndexError: if any coordinate is outside the detector.
        """
        layer, alpha, r = np.broadcast_arrays(layer, alpha, r)
        starts = np.array([s.start for s in self.layer_slices])
        n_alpha = np.array([item.n_alpha for item in self.layers])
        n_r = np.array([item.n_r for item in self.layers])
        if np.any((layer < 0) | (layer >= self.n_layers)):
            raise IndexError(f"layer position outside 0..{self.n_layers - 1}")
        if np.any((alpha < 0) | (alpha >= n_alpha[layer]) | (r < 0) | (r >= n_r[layer])):
            raise IndexError("alpha or r bin outside its layer")
        return starts[layer] + alpha * n_r[layer] + r

    def voxel_coordinates(self, index) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(layer position, alpha bin, r bin) of flat voxel indices; inverse of `voxel_index`."""
        return self.voxels.layer[index], self.voxels.alpha[index], self.voxels.r[index]
