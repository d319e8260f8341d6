"""The order in which a file keeps its voxels, judged by how much the mean shower looks like one."""

import itertools
import math

import numpy as np

from calojax.geometry import Detector

Order = tuple[str, ...]
"""The axes, slowest first."""

OURS: Order = ("z", "alpha", "r")


def order_overlaps(mean: np.ndarray, detector: Detector, energy: float) -> dict[Order, float]:
    """How much the mean shower looks like a shower for each order that its voxels may be in.

    The measure is the Bhattacharyya coefficient sum_v sqrt(p_v q_v) of the mean shower p, taken in
    that order, and `expected_shower` q: 1 if they are equal, 0 if they have no voxel in common.
    ``mean`` [v] is in file order and in any unit, and ``energy`` a typical incident one in MeV.
    """
    p = np.sqrt(mean.astype(np.float64) / mean.sum(dtype=np.float64))
    q = expected_shower(detector, energy)
    if detector.grid is None:
        # Layers that differ cannot be mixed up as axes, and their energies say nothing of order.
        share = np.concatenate(
            [np.full(part.stop - part.start, p[part] @ p[part]) for part in detector.layer_slices]
        )
        q = np.sqrt(q * share)
        swapped = np.empty_like(p)
        for part, layer in zip(detector.layer_slices, detector.layers, strict=True):
            swapped[part] = p[part].reshape(layer.n_r, layer.n_alpha).T.reshape(-1)
        return {OURS: float(p @ q), ("z", "r", "alpha"): float(swapped @ q)}
    size = dict(zip(OURS, detector.grid, strict=True))
    q = np.sqrt(q).reshape(detector.grid)
    found = {}
    for axes in itertools.permutations(size):
        ours = p.reshape([size[axis] for axis in axes]).transpose(list(map(axes.index, OURS)))
        found[axes] = float((ours * q).sum())
    return found


def expected_shower(detector: Detector, energy: float) -> np.ndarray:
    """Rough share of each voxel in the energy of a mean shower, [v]; ``energy`` is in MeV.

    Along z a gamma distribution, for electrons and photons with the maximum and shape of
    Grindhammer and Peters (hep-ex/0001020, section 3.1.1, homogeneous media, Z = 74), for hadrons
    with the maximum of the PDG's review (0.2 ln E/GeV + 0.7 interaction lengths); across it
    r^2 / (r^2 + R^2) within r, with 90 % inside a Moliere radius (hadrons: 95 % in an interaction
    length); uniform in alpha. Normalised to 1; for detectors of unlike layers, to 1 in each layer.
    """
    medium = detector.medium
    if detector.shower == "hadron":
        length = medium.interaction_length
        peak, shape = 0.2 * math.log(energy / 1e3) + 0.7, 2.0
        radius = length / math.sqrt(0.95 / 0.05)
    else:
        length = medium.radiation_length
        ln_y = max(math.log(energy / medium.critical_energy), 2.0)
        peak, shape = ln_y - 0.858, 0.21 + (0.492 + 2.38 / 74) * ln_y
        radius = medium.moliere_radius / math.sqrt(0.90 / 0.10)
    t = np.linspace(0, detector.z_edges[-1] / length, 4001)
    density = t ** (shape - 1) * np.exp(-(shape - 1) * t / peak)
    cumulative = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    depth = np.diff(np.interp(detector.z_edges / length, t, cumulative))
    share = np.empty(detector.n_voxels)
    for part, layer, energy_share in zip(
        detector.layer_slices, detector.layers, depth / depth.sum(), strict=True
    ):
        edges = np.asarray(layer.r_edges, np.float64)
        ring = np.diff(edges**2 / (edges**2 + radius**2))
        ring /= ring.sum() * layer.n_alpha
        share[part] = np.tile(ring, layer.n_alpha) * (energy_share if detector.grid else 1.0)
    return share
