"""Profiles of the energy along and across the shower, response to incident energy, correlations."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from calojax.evaluation import quantity, resolution
from calojax.evaluation.averages import Averages
from calojax.evaluation.resolution import Resolution
from calojax.geometry import Detector
from calojax.plot.style import (
    DIFFERENCE_MAP,
    ENERGY_MAP,
    REFERENCE,
    REFERENCE_NAME,
    WIDTH,
    Figure,
    empty,
    figure,
    plain,
    ratio,
    series,
    styled,
)

# Smallest term of a resolution that a fit shows, as a fraction.
_TERM = 5e-4


@styled
def longitudinal(
    detector: Detector,
    reference: Averages,
    generated: Mapping[str, Averages],
    *,
    reference_name: str = REFERENCE_NAME,
) -> Figure:
    """Mean energy of each layer over E_inc, with ratios; a column for each slice of energy."""
    labels = "$z$ [mm]", r"$E_{\mathrm{layer}}/E_{\mathrm{inc}}$"
    edges = detector.z_edges
    return _profiles("longitudinal", reference, generated, reference_name, edges, labels)


@styled
def radial(
    reference: Averages,
    generated: Mapping[str, Averages],
    *,
    reference_name: str = REFERENCE_NAME,
) -> Figure:
    """Mean energy per area over E_inc against radius, with ratios; a column for each slice."""
    labels = "$r$ [mm]", r"$\mathrm{d}E/\mathrm{d}A\,/\,E_{\mathrm{inc}}$ [mm$^{-2}$]"
    return _profiles("radial", reference, generated, reference_name, reference.radii, labels)


@styled
def response(
    reference: Resolution,
    generated: Mapping[str, Resolution],
    *,
    reference_name: str = REFERENCE_NAME,
) -> Figure:
    """Linearity (mean of E_tot/E_inc) and resolution against incident energy.

    The curve through the resolution is a/sqrt(E) and c added in quadrature, fitted to the points.
    """
    picture = figure(WIDTH, 3.9)
    left, right = picture.subplots(1, 2)
    samples = [
        (plain(reference_name), reference, REFERENCE, "s"),
        *((label, item, colour, "o") for label, item, colour in series(generated)),
    ]
    for name, points, colour, mark in samples:
        x, style = points.energy / 1e3, {"color": colour, "fmt": mark, "ms": 4.5, "capsize": 2}
        left.errorbar(x, points.linearity, points.linearity_error, label=name, **style)
        if np.count_nonzero(points.resolution > 0) > 1:
            a, c = resolution.terms(points)
            line = np.geomspace(x.min(), x.max(), 100)
            right.plot(line, np.hypot(a / np.sqrt(line), c), color=colour, lw=1, alpha=0.6)
            name += _terms(a, c)
        right.errorbar(x, points.resolution, points.resolution_error, label=name, **style)
    left.set_ylabel(r"$\langle E_{\mathrm{tot}}/E_{\mathrm{inc}}\rangle$")
    right.set_ylabel(r"$\sigma_E\,/\,\langle E_{\mathrm{tot}}\rangle$")
    for axes in (left, right):
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=1, borderaxespad=0.2)
        axes.set_xscale("log")
        axes.margins(x=0.05, y=0.08)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(r"$E_{\mathrm{inc}}$ [GeV]")
    return picture


@styled
def correlations(
    reference: np.ndarray,
    generated: Mapping[str, np.ndarray],
    labels: Sequence[str] | None = None,
    *,
    axis: str = "Layer",
    reference_name: str = REFERENCE_NAME,
) -> Figure:
    """Pearson matrices [k, k] of all samples, then the differences to the reference.

    Rows and columns are an ``axis``, with ``labels`` [k] or numbers, some of them if k is large.
    """
    labels = labels or [str(index) for index in range(len(reference))]
    matrices = {reference_name: reference, **generated}
    differences = {name: matrix - reference for name, matrix in generated.items()}
    reach = max(0.05, *(float(np.abs(one).max(initial=0.0)) for one in differences.values()))
    negative = min(float(matrix.min()) for matrix in matrices.values()) < -0.1
    look = (-1.0, 1.0, DIFFERENCE_MAP) if negative else (0.0, 1.0, ENERGY_MAP)
    cells = [(plain(name), matrix, *look, "Pearson") for name, matrix in matrices.items()]
    cells += [
        (rf"{plain(name)}, mean $|\Delta|$ = {np.abs(one).mean():.3g}", one, -reach, reach,
         DIFFERENCE_MAP, "Difference")
        for name, one in differences.items()
    ]  # fmt: skip
    picture = figure(max(WIDTH, 3.6 * len(cells)), 3.6)
    # Long names are written along the vertical axis only, and stand upright below.
    upright = {"rotation": 90} if max(map(len, labels), default=0) > 3 else {}
    step = max(1, -(-len(labels) // 10))
    panels = picture.subplots(1, len(cells))
    for panel, (title, matrix, low, high, colours, label) in zip(panels, cells, strict=True):
        image = panel.imshow(
            matrix, vmin=low, vmax=high, cmap=colours, origin="lower", interpolation="nearest"
        )
        panel.set_title(title, fontsize="small")
        panel.set_xticks(range(0, len(labels), step), labels[::step], **upright)
        panel.set_yticks(range(0, len(labels), step), labels[::step])
        panel.minorticks_off()
        panel.tick_params(top=False, right=False, direction="out", length=2.5)
        panel.set_xlabel(axis)
        picture.colorbar(image, ax=panel, shrink=0.75, aspect=22, pad=0.02, label=label)
    panels[0].set_ylabel(axis)
    return picture


def _terms(a: float, c: float) -> str:
    """The terms of a fitted resolution; terms of zero are left out."""
    terms = [rf"{100 * a:.1f}% (GeV/$E)^{{\mathrm{{1/2}}}}$"] if a >= _TERM else []
    terms += [f"{100 * c:.2f}%"] if c >= _TERM else []
    return ": " + r" $\oplus$ ".join(terms) if terms else ""


def _profiles(
    kind: Literal["longitudinal", "radial"],
    reference: Averages,
    generated: Mapping[str, Averages],
    reference_name: str,
    edges: np.ndarray,
    labels: tuple[str, str],
) -> Figure:
    """Profiles of one kind; radial ones on a logarithmic axis."""
    samples = reference, *generated.values()
    slices = np.flatnonzero(np.all([one.counts > 1 for one in samples], axis=0)).tolist()
    if not slices:
        return empty("no slice of incident energy has two showers of each sample")
    picture = figure(min(WIDTH, 1.2 + 4.2 * len(slices)), 4.2)
    grid = picture.subplots(
        2, len(slices), squeeze=False, sharex=True, sharey="row", height_ratios=(3, 1)
    )
    # Rings between 1 and 2000 mm need a logarithmic axis, whose first edge cannot be zero.
    log_x = kind == "radial" and edges[-1] > 100 * edges[1]
    steps = np.maximum(edges, edges[1] / 2) if log_x else edges

    def means(one: Averages, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Means with their standard errors."""
        spread = getattr(one, f"{kind}_spread")[row]
        return getattr(one, kind)[row], spread / math.sqrt(one.counts[row])

    name = plain(reference_name)
    for (axes, below), row in zip(grid.T, slices, strict=True):
        known = means(reference, row)
        models = {label: means(one, row) for label, one in generated.items()}
        axes.stairs(known[0], steps, fill=True, color=REFERENCE, alpha=0.2, lw=0)
        axes.stairs(known[0], steps, color=REFERENCE, lw=1.2, baseline=None, label=name)
        for label, (mean, _), colour in series(models):
            axes.stairs(mean, steps, color=colour, baseline=None, label=label)
        axes.set_title(quantity.energies(*reference.edges[row : row + 2]), fontsize="small")
        ratio(below, steps, known, models)
        below.set_xlabel(labels[0])
        below.set_xlim(steps[0], steps[-1])
        if log_x:
            below.set_xscale("log")
    if kind == "radial" and any(one.radial.any() for one in samples):
        grid[0, 0].set_yscale("log")
    grid[0, 0].set_ylabel(labels[1])
    grid[1, 0].set_ylabel("Ratio", fontsize="small", loc="center")
    handles, names = grid[0, 0].get_legend_handles_labels()
    picture.legend(handles, names, loc="outside upper center", ncols=len(names))
    return picture
