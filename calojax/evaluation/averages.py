"""Mean showers and profiles in slices of incident energy, summed while a file streams past."""

from typing import NamedTuple

import numpy as np

from calojax.evaluation.features import ShowerSource, apply_threshold
from calojax.geometry import Detector


class Averages(NamedTuple):
    """Means over the showers of each of s slices of incident energy; zeros where there are none.

    Attributes:
      edges: slice boundaries in MeV, [s + 1].
      counts: showers in each slice, [s].
      voxels: mean voxel energies in MeV, [s, v].
      longitudinal: mean E_layer / E_inc, [s, l].
      longitudinal_spread: its standard deviation between showers, [s, l].
      radii: edges of the rings in mm, the union of those of all layers, [k + 1].
      radial: mean energy per area over E_inc in 1/mm^2, summed over layers, [s, k].
      radial_spread: its standard deviation between showers, [s, k].
    """

    edges: np.ndarray
    counts: np.ndarray
    voxels: np.ndarray
    longitudinal: np.ndarray
    longitudinal_spread: np.ndarray
    radii: np.ndarray
    radial: np.ndarray
    radial_spread: np.ndarray


def decades(energies: np.ndarray) -> np.ndarray:
    """Powers of ten in MeV that enclose all ``energies`` [n]; at least two, increasing."""
    low = np.floor(np.log10(np.min(energies)))
    high = np.floor(np.log10(np.max(energies))) + 1
    return 10.0 ** np.arange(low, high + 1)


def ring_weights(detector: Detector) -> tuple[np.ndarray, np.ndarray]:
    """Edges of the common rings in mm [k + 1], and each voxel's share in them [v, k].

    A voxel that spans several rings is taken as uniformly filled in area; rows sum to one.
    """
    edges = np.unique(np.concatenate([layer.r_edges for layer in detector.layers]))
    low, high = detector.voxels.r_low[:, None], detector.voxels.r_high[:, None]
    overlap = np.minimum(edges[1:], high) ** 2 - np.maximum(edges[:-1], low) ** 2
    return edges, np.maximum(overlap, 0.0) / (high**2 - low**2)


class Averager:
    """Sums over showers that come in batches; `averages` divides them when all have been added."""

    def __init__(self, detector: Detector, edges: np.ndarray):
        """Nothing has been added yet.

        Args:
          detector: the geometry of the showers.
          edges: increasing slice boundaries in MeV, [s + 1]; a slice holds its lower edge.
        """
        self.detector = detector
        self.edges = np.asarray(edges, float)
        self._radii, weights = ring_weights(detector)
        self._weights = (weights / (np.pi * np.diff(self._radii**2))).astype(np.float32)
        n_slices = len(self.edges) - 1
        self._counts = np.zeros(n_slices)
        self._voxels = np.zeros((n_slices, detector.n_voxels))
        self._layers = np.zeros((2, n_slices, detector.n_layers))
        self._rings = np.zeros((2, n_slices, len(self._radii) - 1))

    def add(self, energies: np.ndarray, showers: np.ndarray) -> None:
        """Adds showers [b, v] of incident energies [b], both in MeV.

        Voxels below the detector's evaluation threshold count as zero.
        """
        showers = apply_threshold(np.asarray(showers, np.float32), self.detector)
        energies = np.asarray(energies, np.float32)
        of_slice = np.searchsorted(self.edges, energies, side="right") - 1
        member = (of_slice == np.arange(len(self._counts))[:, None]).astype(np.float32)
        starts = [where.start for where in self.detector.layer_slices]
        # In double: a spread is the small difference of large squares.
        layers = np.add.reduceat(showers, starts, axis=1, dtype=float) / energies[:, None].astype(
            float
        )
        rings = showers @ self._weights / energies[:, None].astype(float)
        self._counts += member.sum(axis=1)
        self._voxels += member @ showers
        self._layers += np.stack([member @ layers, member @ layers**2])
        self._rings += np.stack([member @ rings, member @ rings**2])

    def averages(self) -> Averages:
        """The means of all that was added."""
        longitudinal, longitudinal_spread = _moments(self._layers, self._counts)
        radial, radial_spread = _moments(self._rings, self._counts)
        return Averages(
            edges=self.edges,
            counts=self._counts.astype(int),
            voxels=self._voxels / np.maximum(self._counts, 1)[:, None],
            longitudinal=longitudinal,
            longitudinal_spread=longitudinal_spread,
            radii=self._radii,
            radial=radial,
            radial_spread=radial_spread,
        )


def average(showers: ShowerSource, edges: np.ndarray, *, batch: int = 1000) -> Averages:
    """Means of all ``showers`` in the slices of incident energy between ``edges`` in MeV."""
    averager = Averager(showers.detector, edges)
    for energies, voxels in showers.batches(batch):
        averager.add(energies, voxels)
    return averager.averages()


class Pair(NamedTuple):
    """A generated shower and the reference's shower of the closest incident energy.

    Attributes:
      energies: incident energies in MeV, (reference, generated).
      reference: voxel energies in MeV, [v].
      generated: voxel energies in MeV, [v].
    """

    energies: tuple[float, float]
    reference: np.ndarray
    generated: np.ndarray


def pairs(generated: ShowerSource, reference: ShowerSource, *, count: int = 3) -> list[Pair]:
    """``count`` generated showers at evenly spaced quantiles of energy, each beside its neighbour.

    No shower is picked for its looks: the choice depends on the incident energies alone.
    """
    energies = np.ravel(generated.energies)
    by_energy = np.argsort(energies, kind="stable")
    quantiles = (np.arange(count) + 0.5) / count
    chosen = by_energy[np.minimum((quantiles * len(energies)).astype(int), len(energies) - 1)]
    partners = np.ravel(reference.energies)
    found = []
    for index in np.unique(chosen[:count]).tolist():
        partner = int(np.argmin(np.abs(np.log(partners / energies[index]))))
        found.append(
            Pair(
                energies=(float(partners[partner]), float(energies[index])),
                reference=_one(reference, partner),
                generated=_one(generated, index),
            )
        )
    return sorted(found, key=lambda pair: pair.energies[1])


def _one(showers: ShowerSource, index: int) -> np.ndarray:
    return apply_threshold(showers.read(index, index + 1)[0], showers.detector)


def _moments(sums: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation from sums of x and x^2, [2, s, ...], and counts [s]."""
    first, second = sums / np.maximum(counts, 1)[:, None]
    # Rounding can push the variance of a constant just below zero.
    return first, np.sqrt(np.maximum(second - first**2, 0.0))
