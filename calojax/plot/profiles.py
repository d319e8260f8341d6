"""Profiles of the energy along the shower and across it, and the response to incident energy."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from calojax.evaluation import quantity, resolution
from calojax.evaluation.averages import Averages
from calojax.evaluation.resolution import Resolution
from calojax.geometry import Detector
from calojax.plot.style import (
    DIFFERENCE_MAP,
    ENERGY_MAP,
    GENERATED,
    REFERENCE,
    REFERENCE_NAME,
    empty,
    energy_axis,
    figure,
    styled,
)


@styled
def longitudinal(
    detector: Detector, reference: Averages, generated: Averages, *, name: str = "Generated"
) -> Figure:
    """Mean energy of each layer over E_inc and its spread between showers; a column a slice."""
    return _profiles(
        reference,
        generated,
        edges=detector.z_edges,
        values=lambda a: (a.longitudinal, a.longitudinal_spread),
        x_label="$z$ [mm]",
        y_label=r"$E_{\mathrm{layer}}/E_{\mathrm{inc}}$",
        logarithmic=False,
        name=name,
    )


@styled
def radial(
    detector: Detector, reference: Averages, generated: Averages, *, name: str = "Generated"
) -> Figure:
    """Mean energy per area over E_inc against radius and its spread; a column a slice."""
    del detector  # The rings travel with the averages; all profiles are called alike.
    return _profiles(
        reference,
        generated,
        edges=reference.radii,
        values=lambda a: (a.radial, a.radial_spread),
        x_label="$r$ [mm]",
        y_label=r"$\mathrm{d}E/\mathrm{d}A\,/\,E_{\mathrm{inc}}$ [mm$^{-2}$]",
        logarithmic=True,
        name=name,
    )


@styled
def response(reference: Resolution, generated: Resolution, *, name: str = "Generated") -> Figure:
    """Linearity (mean of E_tot/E_inc) and resolution against incident energy, with ratios.

    The curve through the resolution is a/sqrt(E) and c added in quadrature, fitted to each.
    """
    picture = figure(11.6, 4.3)
    grid = picture.subplots(2, 2, sharex=True, height_ratios=(3, 1))
    panels = (
        ("linearity", "linearity_error", r"$\langle E_{\mathrm{tot}}/E_{\mathrm{inc}}\rangle$"),
        ("resolution", "resolution_error", r"$\sigma_E\,/\,\langle E_{\mathrm{tot}}\rangle$"),
    )
    for (axes, ratio), (value, error, label) in zip(grid.T, panels, strict=True):
        for who, points, colour, marker in (
            (REFERENCE_NAME, reference, REFERENCE, "s"),
            (name, generated, GENERATED, "o"),
        ):
            x, y, e = points.energy / 1e3, getattr(points, value), getattr(points, error)
            text = who
            a, c = resolution.terms(points) if np.count_nonzero(y > 0) > 1 else (0.0, 0.0)
            # A fit without a stochastic term describes no calorimeter.
            if value == "resolution" and a >= 5e-4:
                line = np.geomspace(x.min(), x.max(), 100)
                axes.plot(line, np.hypot(a / np.sqrt(line), c), color=colour, lw=1, alpha=0.6)
                text = rf"{who}: {100 * a:.1f}% (GeV/$E)^{{\mathrm{{1/2}}}}\oplus$ {100 * c:.2f}%"
            axes.errorbar(x, y, e, fmt=marker, color=colour, ms=4.5, lw=1.2, capsize=2, label=text)
        matched, own = _matching(reference.energy, generated.energy)
        middle, middle_error = (
            getattr(reference, value)[matched],
            getattr(reference, error)[matched],
        )
        upper, upper_error = getattr(generated, value)[own], getattr(generated, error)[own]
        good = middle > 0
        x = reference.energy[matched][good] / 1e3
        band = middle_error[good] / middle[good]
        ratio.fill_between(x, 1 - band, 1 + band, color=REFERENCE, alpha=0.2, lw=0)
        ratio.errorbar(
            x, upper[good] / middle[good], upper_error[good] / middle[good], fmt="o",
            color=GENERATED, ms=4, lw=1.2, capsize=2,
        )  # fmt: skip
        ratio.axhline(1, color=REFERENCE, lw=0.8)
        reach = np.max(np.abs(upper[good] / middle[good] - 1), initial=0.0)
        ratio.set_ylim(1 - max(1.3 * reach, 0.02), 1 + max(1.3 * reach, 0.02))
        energy_axis(ratio)
        axes.set_ylabel(label)
        # Head room for the legend.
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.25 * (high - low))
        axes.legend(loc="upper right", borderaxespad=0.8)
        ratio.set_ylabel(f"Ratio to\n{REFERENCE_NAME}", loc="center")
        ratio.yaxis.label.set_fontsize("small")
    return picture


@styled
def correlations(
    reference: np.ndarray,
    generated: np.ndarray,
    labels: Sequence[str],
    *,
    axis: str = "Layer",
    name: str = "Generated",
) -> Figure:
    """Two correlation matrices and their difference, generated less reference.

    Args:
      reference: Pearson coefficients, [k, k].
      generated: Pearson coefficients, [k, k].
      labels: one a row; only some are written where there are many.
      axis: what rows and columns are.
      name: the legend of the generated showers.
    """
    difference = generated - reference
    mean = float(np.mean(np.abs(difference)))
    picture = figure(11.6, 4.0)
    panels = picture.subplots(1, 3)
    reach = max(0.05, float(np.max(np.abs(difference), initial=0.0)))
    lowest = min(0.0, float(reference.min()), float(generated.min()))
    span = (-1.0, 1.0, DIFFERENCE_MAP) if lowest < -0.1 else (0.0, 1.0, ENERGY_MAP)
    for panel, matrix, title, (low, high, colours) in zip(
        panels,
        (reference, generated, difference),
        (REFERENCE_NAME, name, rf"Difference, mean $|\Delta|$ = {mean:.3g}"),
        (span, span, (-reach, reach, DIFFERENCE_MAP)),
        strict=True,
    ):
        image = panel.imshow(
            matrix, vmin=low, vmax=high, cmap=colours, origin="lower", interpolation="nearest"
        )
        panel.set_title(title)
        step = max(1, -(-len(labels) // 10))
        # Long names are written along the vertical axis only, and stand upright below.
        upright = {"rotation": 90} if max(map(len, labels), default=0) > 3 else {}
        panel.set_xticks(range(0, len(labels), step), labels[::step], **upright)
        panel.set_yticks(range(0, len(labels), step), labels[::step])
        panel.minorticks_off()
        panel.tick_params(top=False, right=False, direction="out", length=2.5)
        panel.set_xlabel(axis)
        if panel is panels[0]:
            panel.set_ylabel(axis)
        picture.colorbar(image, ax=panel, shrink=0.75, aspect=22, pad=0.02)
    return picture


def _matching(reference: np.ndarray, generated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions in both of the bins whose mean energies agree within a tenth."""
    close = np.abs(np.log(reference[:, None] / generated[None, :])) < 0.1
    return np.nonzero(close)


def _profiles(
    reference: Averages,
    generated: Averages,
    *,
    edges: np.ndarray,
    values,
    x_label: str,
    y_label: str,
    logarithmic: bool,
    name: str,
) -> Figure:
    slices = np.flatnonzero((reference.counts > 1) & (generated.counts > 1)).tolist()
    columns = len(slices)
    picture = figure(min(11.6, 1.2 + 4.2 * max(1, columns)), 4.6)
    if not slices:
        return empty(picture, "no slice of incident energy has two showers in both files")
    grid = picture.subplots(
        3, columns, squeeze=False, sharex=True, sharey="row", height_ratios=(3, 1, 1)
    )
    # Rings between 1 and 2000 mm need a logarithmic axis, whose first edge cannot be zero.
    log_x = logarithmic and edges[-1] > 100 * edges[1]
    steps = np.maximum(edges, edges[1] / 2) if log_x else edges
    for (axes, mean_ratio, spread_ratio), row in zip(grid.T, slices, strict=True):
        (mean, spread), (new, new_spread) = (
            [item[row] for item in values(a)] for a in (reference, generated)
        )
        n, m = reference.counts[row], generated.counts[row]
        axes.stairs(mean, steps, fill=True, color=REFERENCE, alpha=0.2, lw=0)
        axes.stairs(mean, steps, color=REFERENCE, lw=1.2, baseline=None, label=REFERENCE_NAME)
        axes.stairs(new, steps, color=GENERATED, baseline=None, label=name)
        floor = mean[mean > 0].min(initial=np.inf)
        lower = np.maximum(mean - spread, floor / 10 if logarithmic else 0)
        axes.stairs(
            mean + spread, steps, baseline=lower, fill=True, facecolor="none", hatch="////",
            edgecolor="0.6", lw=0, label=f"{REFERENCE_NAME}, spread",
        )  # fmt: skip
        if logarithmic and np.isfinite(floor):
            axes.set_yscale("log")
            axes.set_ylim(floor / 4, 8 * max(mean.max(), new.max()))
        elif mean.max() > 0:
            axes.set_ylim(0, 1.3 * max((mean + spread).max(), new.max()))
        axes.set_title(quantity.energies(*reference.edges[row : row + 2]), fontsize="small")
        seen = (mean > 0) & (spread > 0)
        for panel, new_value, value, error, new_error in (
            (mean_ratio, new, mean, spread / np.sqrt(n), new_spread / np.sqrt(m)),
            # The standard error of a standard deviation, as if normal.
            (
                spread_ratio,
                new_spread,
                spread,
                spread / np.sqrt(2 * n),
                new_spread / np.sqrt(2 * m),
            ),
        ):
            _ratio(panel, steps, new_value, value, error, new_error, seen)
    grid[0, 0].set_ylabel(y_label)
    grid[1, 0].set_ylabel("ratio of\nmeans", fontsize="small", loc="center")
    grid[2, 0].set_ylabel("ratio of\nspreads", fontsize="small", loc="center")
    grid[0, -1].legend(loc="upper right")
    for axes in grid[2]:
        axes.set_xlabel(x_label)
        if log_x:
            axes.set_xscale("log")
        axes.set_xlim(steps[0], steps[-1])
    return picture


def _ratio(axes, edges, new, old, error, new_error, seen) -> None:
    """Generated over reference in steps, the errors of both as bands."""
    safe = np.where(seen, old, 1.0)
    value = np.where(seen, new / safe, np.nan)
    band = np.where(seen, error / safe, 0.0)
    axes.stairs(1 + band, edges, baseline=1 - band, fill=True, color=REFERENCE, alpha=0.25, lw=0)
    new_band = np.where(seen, new_error / safe, np.nan)
    centre = (edges[1:] + edges[:-1]) / 2
    axes.stairs(value, edges, color=GENERATED, lw=1.2, baseline=None)
    axes.errorbar(centre, value, new_band, fmt="none", color=GENERATED, lw=0.8)
    axes.axhline(1, color=REFERENCE, lw=0.6)
    # Columns share the axis, which holds the ratios of all of them up to 4.
    reach = np.nanmax(np.abs(value - 1), initial=0.4) + 0.1
    low, high = axes.get_ylim() if axes.get_autoscaley_on() is False else (1.0, 1.0)
    axes.set_ylim(max(min(low, 1 - reach), 0.0), max(high, min(1 + reach, 4.0)))
    axes.yaxis.set_major_locator(MaxNLocator(3, prune="both"))
