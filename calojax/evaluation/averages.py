"""Mean showers and profiles in slices of incident energy, from one pass over a file."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from calojax.evaluation.features import apply_threshold
from calojax.geometry import Detector
from calojax.io import ShowerSource


class Averages(NamedTuple):
    """Means over the showers of each of s slices of incident energy; zeros where there are none.

    Attributes:
      edges: slice boundaries in MeV, [s + 1].
      counts: showers in each slice, [s].
      voxels: mean voxel energies in MeV, [s, v].
      longitudinal: mean E_layer / E_inc, [s, l].
      longitudinal_spread: standard deviation of E_layer / E_inc between showers, [s, l].
      radii: edges of the rings in mm, the union of those of all layers, [k + 1].
      radial: mean energy per area over E_inc in 1/mm^2, summed over layers, [s, k].
      radial_spread: standard deviation of that between showers, [s, k].
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
    # In double: the logarithm of 999,999.9 MeV is 6 in float32.
    low, high = np.floor(np.log10(np.array([np.min(energies), np.max(energies)], float)))
    return 10.0 ** np.arange(low, high + 2)


def ring_weights(detector: Detector) -> tuple[np.ndarray, np.ndarray]:
    """Edges of the common rings in mm [k + 1], and each voxel's share in them [v, k].

    The energy of a voxel that spans several rings is shared by area; rows sum to one.
    """
    edges = np.unique(np.concatenate([layer.r_edges for layer in detector.layers]))
    low, high = detector.voxels.r_low[:, None], detector.voxels.r_high[:, None]
    overlap = np.minimum(edges[1:], high) ** 2 - np.maximum(edges[:-1], low) ** 2
    return edges, np.maximum(overlap, 0.0) / (high**2 - low**2)


def average(showers: ShowerSource, edges: np.ndarray, *, batch: int = 1000) -> Averages:
    """Means of showers in slices of incident energy, after the evaluation threshold.

    Slices have increasing boundaries [s + 1] in MeV; a slice includes its lower one.
    """
    detector, edges = showers.detector, np.asarray(edges, float)
    radii, weights = ring_weights(detector)
    weights = (weights / (np.pi * np.diff(radii**2))).astype(np.float32)
    starts = [where.start for where in detector.layer_slices]
    n_slices = len(edges) - 1
    counts, voxels = np.zeros(n_slices), np.zeros((n_slices, detector.n_voxels))
    # Sums of x and x^2.
    layers = np.zeros((2, n_slices, detector.n_layers))
    rings = np.zeros((2, n_slices, len(radii) - 1))
    for energies, block in showers.batches(batch):
        block = apply_threshold(np.asarray(block, np.float32), detector)
        of_slice = np.searchsorted(edges, np.asarray(energies, np.float32), side="right") - 1
        member = (of_slice == np.arange(n_slices)[:, None]).astype(np.float32)
        # In double: a spread is the small difference of large squares.
        energies = np.asarray(energies, np.float32).astype(float)[:, None]
        layer = np.add.reduceat(block, starts, axis=1, dtype=float) / energies
        ring = block @ weights / energies
        counts += member.sum(axis=1)
        voxels += member @ block
        layers += np.stack([member @ layer, member @ layer**2])
        rings += np.stack([member @ ring, member @ ring**2])
    longitudinal, longitudinal_spread = _moments(layers, counts)
    radial, radial_spread = _moments(rings, counts)
    return Averages(
        edges=edges,
        counts=counts.astype(int),
        voxels=voxels / np.maximum(counts, 1)[:, None],
        longitudinal=longitudinal,
        longitudinal_spread=longitudinal_spread,
        radii=radii,
        radial=radial,
        radial_spread=radial_spread,
    )


class Shower(NamedTuple):
    """The incident energy and the voxel energies [v] of a shower, in MeV."""

    energy: float
    voxels: np.ndarray


def alike(samples: Mapping[str, ShowerSource], *, count: int = 3) -> list[dict[str, Shower]]:
    """Showers of evenly spaced quantiles of the first sample's energy, and the others' closest.

    No shower is chosen for its looks: the choice depends on the incident energies alone. Returns a
    shower of every sample, by its name, for each of ``count`` energies in order.
    """
    first = np.ravel(next(iter(samples.values())).energies)
    quantiles = np.unique(((np.arange(count) + 0.5) / count * len(first)).astype(int))
    energies = np.sort(first)[quantiles].tolist()
    return [{name: _closest(one, energy) for name, one in samples.items()} for energy in energies]


def _closest(sample: ShowerSource, energy: float) -> Shower:
    energies = np.ravel(sample.energies)
    index = int(np.argmin(np.abs(np.log(energies / energy))))
    voxels = sample.read(index, index + 1)[0]
    return Shower(float(energies[index]), apply_threshold(voxels, sample.detector))


def _moments(sums: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation from sums of x and x^2, [2, s, ...], and counts [s]."""
    first, second = sums / np.maximum(counts, 1)[:, None]
    # Rounding can push the variance of a constant just below zero.
    return first, np.sqrt(np.maximum(second - first**2, 0.0))
