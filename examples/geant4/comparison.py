"""Profiles and total energy of showers in a Geant4 job, against those of the full simulation."""

import pathlib

import numpy as np
from tracks import Electrons, Hits, voxels

from calojax import ShowerArrays, ShowerSource
from calojax.evaluation.averages import average
from calojax.plot import style

LABELS = (
    ("$z$ along the track [mm]", r"$E_{\mathrm{layer}}/E_{\mathrm{inc}}$"),
    ("$r$ from the track [mm]", r"$\mathrm{d}E/\mathrm{d}A\,/\,E_{\mathrm{inc}}$ [mm$^{-2}$]"),
    (r"$E_{\mathrm{tot}}/E_{\mathrm{inc}}$", "Fraction of showers"),
)


@style.styled
def draw(path: pathlib.Path, electrons: Electrons, hits: Hits, full: ShowerSource) -> None:
    """Draws the hits, seen along their tracks, and the showers of the full simulation."""
    made = voxels(full.detector, electrons, hits)
    generated = curves(ShowerArrays(full.detector, electrons.energy, made))
    drawn = style.figure(style.WIDTH, 4.2)
    grid = drawn.subplots(2, len(LABELS), sharex="col", height_ratios=(3, 1))
    columns = zip(grid.T, LABELS, curves(full), generated, strict=True)
    for (axes, below), (x, y), (edges, reference), (_, model) in columns:
        axes.stairs(reference[0], edges, fill=True, color=style.REFERENCE, alpha=0.2, lw=0)
        axes.stairs(reference[0], edges, color=style.REFERENCE, label="Geant4, full simulation")
        axes.stairs(model[0], edges, color=style.GENERATED, label="calojax in a Geant4 job")
        style.ratio(below, edges, reference, {"calojax": model})
        axes.set_ylabel(y)
        below.set(xlabel=x, xlim=(edges[0], edges[-1]))
    grid[0, 1].set_yscale("log")
    grid[1, 0].set_ylabel("Ratio", loc="center")
    handles = grid[0, 0].get_legend_handles_labels()
    drawn.legend(*handles, loc="outside upper center", ncols=2)
    style.save(drawn, path)


def curves(showers: ShowerSource) -> list[tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]]:
    """Bin edges, and values with errors, of mean profiles in z and r and of the total energy."""
    energies, detector = showers.energies, showers.detector
    mean = average(showers, np.array([energies.min(), np.nextafter(energies.max(), np.inf)]))
    root = np.sqrt(len(showers))
    total = showers.read(0, len(showers)).sum(axis=1) / energies
    edges = np.linspace(0.7, 1.2, 21)
    counts = np.histogram(total, edges)[0]
    return [
        (detector.z_edges, (mean.longitudinal[0], mean.longitudinal_spread[0] / root)),
        (mean.radii, (mean.radial[0], mean.radial_spread[0] / root)),
        (edges, (counts / len(total), np.sqrt(counts) / len(total))),
    ]
