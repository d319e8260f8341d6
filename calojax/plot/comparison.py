"""Several models beside Geant4: the same quantities as lines over one reference, and matrices."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from calojax.plot.style import (
    ENERGY_MAP,
    PALETTE,
    REFERENCE,
    REFERENCE_NAME,
    figure,
    plain,
    styled,
)


class Panel(NamedTuple):
    """One quantity of all samples.

    Attributes:
      label: of the horizontal axis, with units.
      reference: values of Geant4's showers, [n].
      generated: values of each model's showers, [any], by its name.
      log: bins and axis even in the logarithm; values of 0 are left out.
    """

    label: str
    reference: np.ndarray
    generated: Mapping[str, np.ndarray]
    log: bool = False


@styled
def compared(panels: Sequence[Panel], *, columns: int = 4, bins: int = 40) -> Figure:
    """A cell a quantity: Geant4 filled grey, a line a model, and their ratios below.

    Bins span the central 99.8 % of Geant4's values; what lies outside counts in the outer ones,
    which an arrow marks.

    Args:
      panels: at least one; all of the same models.
      columns: cells in a row.
      bins: of every histogram.
    """
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    picture = figure(3.3 * columns, 3.1 * rows + 0.35)
    grid = picture.subplots(2 * rows, columns, squeeze=False, height_ratios=(2.6, 1) * rows)
    for axes in grid.reshape(-1):
        axes.set_visible(False)
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        main, ratio = grid[2 * row, column], grid[2 * row + 1, column]
        main.set_visible(True)
        ratio.set_visible(True)
        _cell(main, ratio, panel, bins)
        if column == 0:
            main.set_ylabel("Fraction per bin")
            ratio.set_ylabel("Ratio", loc="center")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return picture


@styled
def matrices(
    reference: np.ndarray, generated: Mapping[str, np.ndarray], *, axis: str = "Layer"
) -> Figure:
    """Correlation matrices of Geant4 and of every model on one scale.

    Args:
      reference: Pearson coefficients [k, k].
      generated: the same of each model, by its name.
      axis: what rows and columns are.
    """
    picture = figure(3.1 * (1 + len(generated)) + 0.6, 3.9)
    panels = picture.subplots(1, 1 + len(generated), squeeze=False, sharey=True)[0]
    lowest = min(0.0, float(reference.min()), *(float(m.min()) for m in generated.values()))
    for panel, (name, matrix) in zip(
        panels, {REFERENCE_NAME: reference, **generated}.items(), strict=True
    ):
        image = panel.imshow(
            matrix, vmin=lowest, vmax=1.0, cmap=ENERGY_MAP, origin="lower", interpolation="nearest"
        )
        gap = "" if matrix is reference else f"\n{_gap(matrix, reference)}"
        panel.set_title(plain(name) + gap)
        panel.set_xlabel(axis)
        panel.minorticks_off()
        panel.tick_params(top=False, right=False, direction="out", length=2.5)
    panels[0].set_ylabel(axis)
    picture.colorbar(image, ax=list(panels), shrink=0.8, aspect=24, pad=0.01, label="Pearson")
    return picture


def _gap(matrix: np.ndarray, reference: np.ndarray) -> str:
    return rf"mean $|\Delta|$ = {np.abs(matrix - reference).mean():.3f}"


def _cell(main: Axes, ratio: Axes, panel: Panel, bins: int) -> None:
    edges = _edges(panel, bins)
    centres = np.sqrt(edges[:-1] * edges[1:]) if panel.log else (edges[:-1] + edges[1:]) / 2
    wanted, error = _counted(panel.reference, edges)
    seen = wanted > 0
    safe = np.where(seen, wanted, 1.0)
    main.stairs(wanted, edges, fill=True, color=REFERENCE, alpha=0.25, lw=0, label=REFERENCE_NAME)
    band = np.where(seen, error / safe, 0.0)
    ratio.stairs(1 + band, edges, baseline=1 - band, fill=True, color=REFERENCE, alpha=0.25, lw=0)
    for (name, values), colour in zip(panel.generated.items(), PALETTE, strict=False):
        found, own = _counted(values, edges)
        main.stairs(found, edges, color=colour, lw=1.2, label=plain(name))
        ratio.errorbar(
            centres[seen], (found / safe)[seen], (own / safe)[seen], color=colour, lw=0.9, ms=0
        )
    for axes in (main, ratio):
        if panel.log:
            axes.set_xscale("log")
        axes.set_xlim(edges[0], edges[-1])
    everything = np.concatenate([panel.reference, *panel.generated.values()])
    for arrow, place, outside in (
        ("<", 0.0, everything < edges[0]),
        (">", 1.0, everything > edges[-1]),
    ):
        if outside.any():
            main.plot(
                place, 0.0, arrow, color=REFERENCE, ms=5, clip_on=False, transform=main.transAxes
            )
    main.tick_params(labelbottom=False)
    main.set_ylim(bottom=0)
    ratio.axhline(1, color=REFERENCE, lw=0.6)
    ratio.set_ylim(0.4, 1.6)
    ratio.set_xlabel(panel.label)


def _edges(panel: Panel, bins: int) -> np.ndarray:
    values = panel.reference[panel.reference > 0] if panel.log else panel.reference
    low, high = np.quantile(values, (0.001, 0.999))
    if not low < high:
        low, high = low - 0.5, low + 0.5
    return np.geomspace(low, high, bins + 1) if panel.log else np.linspace(low, high, bins + 1)


def _counted(values: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fractions of values [n] in bins [k] and their Poisson errors; the outer bins are open."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return counts / max(len(values), 1), np.sqrt(counts) / max(len(values), 1)
