"""Histograms of generated showers over Geant4's, with the ratio below."""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter

from calojax.evaluation.histograms import Histogram
from calojax.evaluation.quantity import rounded
from calojax.plot.style import (
    GENERATED,
    REFERENCE,
    REFERENCE_NAME,
    columns_for,
    figure,
    styled,
)

# A logarithmic y axis where the fullest bin holds this many times the emptiest seen.
_WIDE = 200.0
# Mean entries of a bin below which bins are drawn together, as long as enough of them are left.
_FULL = 15
_FEWEST = 10


@styled
def histogram(histogram: Histogram, *, name: str = "Generated") -> Figure:
    """One histogram, Geant4 filled grey, with the ratio and both statistical errors below.

    Args:
      histogram: what to draw.
      name: the legend of the generated showers.
    """
    histogram = _readable(histogram)
    picture = figure(5.6, 4.6)
    axes, ratio = picture.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    _fill(axes, histogram, name)
    _ratio(ratio, histogram)
    _limits(axes, [histogram], headroom=0.27)
    axes.set_ylabel("Fraction per bin")
    axes.legend(loc="upper left")
    axes.text(
        0.97,
        0.955,
        f"Separation power\n{_value(histogram)}",
        ha="right",
        va="top",
        transform=axes.transAxes,
        fontsize="small",
    )
    ratio.set_xlabel(histogram.label[:1].upper() + histogram.label[1:])
    ratio.set_ylabel(f"Ratio to\n{REFERENCE_NAME}", fontsize="small", loc="center")
    return picture


@styled
def histogram_sheet(
    histograms: Sequence[Histogram], *, title: str = "", name: str = "Generated"
) -> Figure:
    """All histograms of one observable, a cell a layer, on common y axes.

    Args:
      histograms: at least one, in order.
      title: the observable, above the cells.
      name: the legend of the generated showers.
    """
    histograms = [_readable(item) for item in histograms]
    count = len(histograms)
    columns = columns_for(count)
    rows = math.ceil(count / columns)
    same_x = all(
        len(h.edges) == len(histograms[0].edges) and np.allclose(h.edges, histograms[0].edges)
        for h in histograms
    )
    # In inches. Cells stand at fixed places: a layout engine takes seconds for 90 axes.
    width, left, right, top, bottom = 11.6, 0.62, 0.08, 0.5, 0.5
    gap_x, gap_y = 0.08, 0.08 if same_x else 0.27
    cell_x = (width - left - right - gap_x * (columns - 1)) / columns
    main, below = (0.98, 0.34) if columns > 4 else (1.5, 0.5)
    cell_y = main + below + gap_y
    height = top + bottom + rows * cell_y - gap_y
    picture = figure(width, height, layout="none")
    cells = []
    for index, item in enumerate(histograms):
        row, column = divmod(index, columns)
        x = (left + column * (cell_x + gap_x)) / width
        y = 1 - (top + row * cell_y + main + below) / height
        axes = picture.add_axes((x, y + below / height, cell_x / width, main / height))
        ratio = picture.add_axes((x, y, cell_x / width, below / height), sharex=axes)
        _fill(axes, item, name, thin=True)
        _ratio(ratio, item, thin=True)
        axes.tick_params(labelbottom=False, labelleft=column == 0)
        last = index + columns >= count
        ratio.tick_params(labelbottom=last or not same_x, labelleft=column == 0)
        axes.text(
            0.04, 0.94, _short(item), ha="left", va="top", transform=axes.transAxes, fontsize=8
        )
        axes.text(
            0.96,
            0.94,
            f"S = {_value(item)}",
            ha="right",
            va="top",
            transform=axes.transAxes,
            fontsize=6.5,
        )
        for panel in (axes, ratio):
            # Each tick is an object to draw: without the minor ones a sheet takes seconds less.
            panel.minorticks_off()
            panel.tick_params(labelsize=7, length=3, pad=2, top=False, right=False)
        cells.append((axes, ratio, last))
    for axes, _, _ in cells:
        _limits(axes, histograms, headroom=0.3)
        if axes.get_yscale() == "log":
            axes.minorticks_off()
        else:
            axes.yaxis.set_major_locator(MaxNLocator(4, prune="lower"))
    unit = observable(histograms[0])
    picture.text(left / width, 1 - 0.16 / height, title or unit, ha="left", va="top", fontsize=12)
    picture.text(1 - right / width, 0.08 / height, unit, ha="right", va="bottom")
    picture.text(
        0.1 / width, 1 - top / height, "Fraction per bin", rotation=90, ha="left", va="top"
    )
    handles, labels = cells[0][0].get_legend_handles_labels()
    picture.legend(
        handles, labels, loc="upper right", ncols=2, borderaxespad=0.3,
        bbox_to_anchor=(1 - right / width, 1 - 0.08 / height),
    )  # fmt: skip
    return picture


def observable(histogram: Histogram) -> str:
    """The axis label without the layer or energy: what all of a family's histograms show."""
    text = re.sub(r"(,| in) layer \d+| at [\d.]+ [MGT]eV", "", histogram.label)
    return text[:1].upper() + text[1:]


def _readable(histogram: Histogram) -> Histogram:
    """The histogram in fewer bins where showers are few: ratios of single showers show nothing."""
    counts = histogram.reference_counts, histogram.generated_counts
    bins = len(counts[0])
    most = min(c.sum() for c in counts) / _FULL
    steps = (step for step in range(1, bins // _FEWEST + 1) if bins % step == 0)
    step = next((step for step in steps if bins <= step * max(most, 2 * _FEWEST)), 1)
    reference, generated = (np.reshape(c, (-1, step)).sum(axis=1) for c in counts)
    return dataclasses.replace(
        histogram,
        edges=histogram.edges[::step],
        reference_counts=reference,
        generated_counts=generated,
    )


def _short(histogram: Histogram) -> str:
    """What tells a histogram from the others of its family: its layer or incident energy."""
    found = re.search(r"layer \d+|[\d.]+ [MGT]eV$", histogram.label)
    text = found.group(0) if found else histogram.name
    return text[:1].upper() + text[1:]


def _value(histogram: Histogram) -> str:
    """The separation power, its chance level, and what lies outside of the bins if that counts."""
    text = f"{rounded(histogram.separation, histogram.error)}\nby chance {histogram.floor:#.2g}"
    if histogram.outside_counts:
        shares = histogram.generated_outside, histogram.reference_outside
        text += "\noutside {:.1%}, {:.1%}".format(*shares)
    return text


def _fractions(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts [b] as fractions of all in range, and their Poisson errors."""
    counts = np.asarray(counts, float)
    total = max(counts.sum(), 1.0)
    return counts / total, np.sqrt(counts) / total


def _fill(axes: Axes, histogram: Histogram, name: str, *, thin: bool = False) -> None:
    reference, _ = _fractions(histogram.reference_counts)
    generated, error = _fractions(histogram.generated_counts)
    edges = histogram.edges
    # A patch for the legend and the fill, a line for the outline.
    axes.stairs(reference, edges, fill=True, color=REFERENCE, alpha=0.2, lw=0, label=REFERENCE_NAME)
    axes.stairs(reference, edges, color=REFERENCE, lw=0.7 if thin else 1.0)
    axes.stairs(generated, edges, color=GENERATED, lw=1.0 if thin else 1.6, label=name)
    axes.stairs(
        generated + error, edges, baseline=generated - error, fill=True, color=GENERATED,
        alpha=0.25, lw=0,
    )  # fmt: skip
    if histogram.log_x:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        if thin:
            axes.xaxis.set_major_locator(FixedLocator(_decades(edges[0], edges[-1])))
    elif thin:
        axes.xaxis.set_major_locator(MaxNLocator(4, prune="both"))
    axes.set_xlim(edges[0], edges[-1])


def _decades(low: float, high: float) -> list[float]:
    """At most four powers of ten between, none so near an end that its label would stick out."""
    first, last = math.log10(low), math.log10(high)
    margin = 0.06 * (last - first)
    powers = range(math.ceil(first + margin), math.floor(last - margin) + 1)
    return [10.0**power for power in powers[:: max(1, math.ceil(len(powers) / 4))]]


def _ratio(axes: Axes, histogram: Histogram, *, thin: bool = False) -> None:
    """Generated over reference; the bands are the errors of each in its colour."""
    reference, error = _fractions(histogram.reference_counts)
    generated, own = _fractions(histogram.generated_counts)
    seen = reference > 0
    safe = np.where(seen, reference, 1.0)
    value = np.where(seen, generated / safe, np.nan)
    band = np.where(seen, error / safe, 0.0)
    own_band = np.where(seen, own / safe, np.nan)
    edges = histogram.edges
    axes.stairs(1 + band, edges, baseline=1 - band, fill=True, color=REFERENCE, alpha=0.25, lw=0)
    axes.stairs(
        value + own_band, edges, baseline=value - own_band, fill=True, color=GENERATED,
        alpha=0.25, lw=0,
    )  # fmt: skip
    axes.stairs(value, edges, color=GENERATED, baseline=None, lw=0.8 if thin else 1.4)
    axes.axhline(1, color=REFERENCE, lw=0.6)
    axes.set_ylim(0.4, 1.6)
    axes.set_yticks((0.5, 1.0, 1.5) if not thin else (0.6, 1.0, 1.4))


def _limits(axes: Axes, histograms: Sequence[Histogram], *, headroom: float) -> None:
    """A y axis that holds all of the histograms, with a share of its height left free on top."""
    values = np.concatenate(
        [
            _fractions(counts)[0]
            for h in histograms
            for counts in (h.reference_counts, h.generated_counts)
        ]
    )
    seen = values[values > 0]
    if not len(seen):
        axes.set_ylim(0, 1)
        return
    low, high = float(seen.min()), float(seen.max())
    if high > _WIDE * low:
        low = low / 1.6
        axes.set_yscale("log")
        axes.set_ylim(low, low * (high / low) ** (1 / (1 - headroom)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, high / (1 - headroom))
