"""Histograms of one or several models over the reference, with the ratios below."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter

from calojax.evaluation.histograms import Histogram
from calojax.evaluation.quantity import rounded
from calojax.plot.style import (
    REFERENCE,
    REFERENCE_NAME,
    WIDTH,
    Figure,
    columns_for,
    figure,
    plain,
    ratio,
    series,
    styled,
)

# A logarithmic y axis where the fullest bin holds this many times the emptiest filled one.
_WIDE = 300.0
# Mean entries of a drawn bin, and the fewest bins: bins with fewer entries are merged.
_FULL = 15
_FEWEST = 10
# Share of the entries at either end that may lie beyond the frame.
_TAIL = 1e-3
# Font sizes in points of texts in a single panel and in those of a sheet.
_TEXT = (9.0, 6.5)
_LINE = 1.2  # line spacing in font sizes
# A bin at zero this many times as full as all others leaves the frame.
_SPIKE = 3.0


@styled
def histogram_sheet(
    histograms: Sequence[Mapping[str, Histogram]],
    *,
    reference_name: str = REFERENCE_NAME,
) -> Figure:
    """Histograms of one observable, a cell for each layer: those of each model by its name."""
    count, columns = len(histograms), columns_for(len(histograms))
    rows = math.ceil(count / columns)
    small = count > 1
    # In inches. Cells stand at fixed places: a layout engine takes seconds for 90 axes.
    width = WIDTH if small else 5.6
    left, right, top, bottom, gap_x, gap_y = 0.65, 0.1, 0.5, 0.5, 0.34, 0.27
    cell_x = (width - left - right - gap_x * (columns - 1)) / columns
    main, below = (2.6, 0.9) if not small else (0.78, 0.34) if columns > 4 else (1.15, 0.5)
    above = (8 + _LINE * _TEXT[small] * max(len(_scores(item)) for item in histograms)) / 72
    main += above
    cell_y = main + below + gap_y
    height = top + bottom + rows * cell_y - gap_y
    picture = figure(width, height, layout=None)
    cells = [_readable(item) for item in histograms]
    heights = [_heights(*one) for one in cells]
    log = any(high > _WIDE * low for low, high in heights)
    for index, (generated, (edges, counts)) in enumerate(zip(histograms, cells, strict=True)):
        row, column = divmod(index, columns)
        x = (left + column * (cell_x + gap_x)) / width
        y = 1 - (top + row * cell_y + main + below) / height
        axes = picture.add_axes((x, y + below / height, cell_x / width, main / height))
        lower = picture.add_axes((x, y, cell_x / width, below / height), sharex=axes)
        _cell(axes, lower, generated, edges, counts, reference_name, small=small)
        _write(axes, generated, small=small)
        _limits(axes, heights[index], log=log, headroom=above / main)
        axes.tick_params(labelbottom=False)
        lower.tick_params(labelleft=column == 0)
        if column == 0:
            lower.set_ylabel("Ratio", loc="center", fontsize=_TEXT[small])
    first = next(iter(histograms[0].values()))
    label = first.label[:1].upper() + first.label[1:]
    picture.text(1 - right / width, 0.08 / height, label, ha="right", va="bottom")
    picture.text(
        0.1 / width, 1 - top / height, "Fraction per bin", rotation=90, ha="left", va="top"
    )
    handles, labels = picture.axes[0].get_legend_handles_labels()
    picture.legend(
        handles, labels, loc="upper right", ncols=len(labels), borderaxespad=0.3,
        bbox_to_anchor=(1 - right / width, 1 - 0.08 / height),
    )  # fmt: skip
    return picture


def _readable(generated: Mapping[str, Histogram]) -> tuple[np.ndarray, np.ndarray]:
    """Edges [m + 1] and entries [samples, m] of bins to draw, those of the reference first.

    These are the bins that hold nearly all entries, merged where showers are few.
    """
    first = next(iter(generated.values()))
    edges = first.edges
    counts = np.stack(
        [first.reference_counts, *(item.generated_counts for item in generated.values())]
    )
    size, filled = counts.sum(axis=1).min(), _fractions(counts)[0].mean(axis=0)
    if not filled.any():
        return edges, counts
    cumulative, tail = np.cumsum(filled), max(_TAIL, 2 / max(size, 1))
    start = int(np.searchsorted(cumulative, tail, side="right")) % len(filled)
    stop = max(int(np.searchsorted(cumulative, cumulative[-1] - tail)), start) + 1
    width = stop - start
    step = math.ceil(width / max(size / _FULL, 2 * _FEWEST))
    step = max(1, min(step, width // _FEWEST))
    # Whole steps: from the left as far as there are bins, then empty ones on the right.
    missing = -width % step
    start -= min(start, missing)
    width += missing
    merged = counts[:, start : start + width]
    merged = np.pad(merged, ((0, 0), (0, width - merged.shape[1])))
    ends = np.log(edges) if first.log_x else edges
    ends = ends[start] + (ends[1] - ends[0]) * np.arange(0, width + 1, step)
    merged = merged.reshape(len(counts), -1, step).sum(axis=2)
    return np.exp(ends) if first.log_x else ends, merged


def _fractions(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts [samples, k] as fractions of all of a sample, and their Poisson errors."""
    total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return counts / total, np.sqrt(counts) / total


def _cell(
    axes,
    below,
    generated: Mapping[str, Histogram],
    edges: np.ndarray,
    counts: np.ndarray,
    reference_name: str,
    *,
    small: bool,
) -> None:
    """A histogram and its ratios."""
    reference, *others = zip(*_fractions(counts), strict=True)
    models = dict(zip(generated, others, strict=True))
    axes.stairs(
        reference[0], edges, fill=True, color=REFERENCE, alpha=0.2, lw=0,
        label=plain(reference_name),
    )  # fmt: skip
    axes.stairs(reference[0], edges, color=REFERENCE, lw=0.7 if small else 1.0)
    for label, (values, errors), colour in series(models):
        axes.stairs(values, edges, color=colour, lw=1.0 if small else 1.6, label=label)
        axes.stairs(
            values + errors, edges, baseline=values - errors, fill=True, color=colour, alpha=0.25,
            lw=0,
        )  # fmt: skip
    ratio(below, edges, reference, models, width=0.8 if small else 1.4)
    below.set_yticks((0.6, 1.0, 1.4))
    first = next(iter(generated.values()))
    for panel in (axes, below):
        if first.log_x:
            panel.set_xscale("log")
            panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_xlim(edges[0], edges[-1])
        if small:
            ticks = FixedLocator(_decades(edges)) if first.log_x else MaxNLocator(4, prune="both")
            panel.xaxis.set_major_locator(ticks)
            # Each tick is an object to draw: without the minor ones a sheet takes seconds less.
            panel.minorticks_off()
            panel.tick_params(labelsize=6.5, length=3, pad=2, top=False, right=False)


def _write(axes, generated: Mapping[str, Histogram], *, small: bool) -> None:
    """Writes the layer and the separation powers into the upper corners of a panel."""
    part, size = next(iter(generated.values())).part, _TEXT[small]
    place = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "top"}
    axes.annotate(part[:1].upper() + part[1:], (0, 1), (5, -4), fontsize=8 if small else 9, **place)
    for line, (text, colour) in enumerate(_scores(generated)):
        below = (-5, -4 - _LINE * size * line)
        axes.annotate(text, (1, 1), below, color=colour, ha="right", fontsize=size, **place)


def _scores(generated: Mapping[str, Histogram]) -> list[tuple[str, str]]:
    """Lines of separation powers, their chance level, and shares outside of the bins; colours."""
    lines = []
    for _, item, colour in series(generated):
        colour = colour if len(generated) > 1 else "black"
        lines.append((f"S = {rounded(item.separation, item.error)}", colour))
        if item.outside_counts:
            shares = item.generated_outside, item.reference_outside
            lines.append(("outside {:.1%}, {:.1%}".format(*shares), colour))
    chance = max(item.floor for item in generated.values())
    return [*lines, (f"by chance {chance:#.2g}", "black")]


def _decades(edges: np.ndarray) -> list[float]:
    """At most four powers of ten between, none so near an end that its label would stick out."""
    first, last = np.log10(edges[[0, -1]])
    margin = 0.06 * (last - first)
    powers = range(math.ceil(first + margin), math.floor(last - margin) + 1)
    return [10.0**power for power in powers[:: max(1, math.ceil(len(powers) / 4))]]


def _heights(edges: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Smallest fraction that is filled, and largest one with its error.

    A bin at zero may leave the frame: showers without energy in a layer have centre and width 0.
    """
    fractions, errors = _fractions(counts)
    zero = int(np.searchsorted(edges, 0.0, side="right")) - 1
    if 0 <= zero < counts.shape[1]:
        others = np.delete(fractions, zero, axis=1)
        if 0 < others.max(initial=0.0) < fractions[:, zero].max() / _SPIKE:
            fractions, errors = others, np.delete(errors, zero, axis=1)
    return fractions[fractions > 0].min(initial=1.0), (fractions + errors).max(initial=0.0) or 1.0


def _limits(axes, heights: tuple[float, float], *, log: bool, headroom: float) -> None:
    """A y axis with a share of its height free on top."""
    low, high = heights
    if log:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.6, low / 1.6 * (1.6 * high / low) ** (1 / (1 - headroom)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, high / (1 - headroom))
        axes.yaxis.set_major_locator(MaxNLocator(3, prune="lower"))
