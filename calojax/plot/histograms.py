"""Histograms of one or several models over the reference, with the ratios below."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
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
# A bin at zero this many times as full as all others leaves the frame.
_SPIKE = 3.0


class Counts(NamedTuple):
    """Entries of all samples in common bins.

    Attributes:
      edges: bin edges, [k + 1].
      reference: entries of the reference, [k].
      models: entries of each model, [k], by its name.
      log: whether the bins are even in the logarithm.
      beyond: whether there are entries below the bins, and above them.
    """

    edges: np.ndarray
    reference: np.ndarray
    models: Mapping[str, np.ndarray]
    log: bool = False
    beyond: tuple[bool, bool] = (False, False)

    def readable(self) -> "Counts":
        """The bins that hold nearly all entries, merged where showers are few."""
        samples = [self.reference, *self.models.values()]
        size = min(counts.sum() for counts in samples)
        filled = np.mean([counts / max(counts.sum(), 1) for counts in samples], axis=0)
        if not np.any(filled):
            return self
        below, tail = np.cumsum(filled), max(_TAIL, 2 / max(size, 1))
        first = int(np.searchsorted(below, tail, side="right")) % len(filled)
        last = max(int(np.searchsorted(below, below[-1] - tail)), first) + 1
        beyond = bool(np.any(filled[:first])), bool(np.any(filled[last:]))
        width = last - first
        step = math.ceil(width / max(size / _FULL, 2 * _FEWEST))
        step = max(1, min(step, width // _FEWEST))
        # Whole steps: from the left as far as there are bins, then empty ones on the right.
        missing = -width % step
        first -= min(first, missing)
        width += missing

        def merged(counts: np.ndarray) -> np.ndarray:
            inside = counts[first : first + width]
            return np.pad(inside, (0, width - len(inside))).reshape(-1, step).sum(axis=1)

        ends = np.log(self.edges) if self.log else self.edges
        edges = ends[first] + (ends[1] - ends[0]) * np.arange(0, width + 1, step)
        models = {name: merged(counts) for name, counts in self.models.items()}
        edges = np.exp(edges) if self.log else edges
        return Counts(edges, merged(self.reference), models, self.log, beyond)

    def fractions(self) -> np.ndarray:
        """Entries of the reference and of each model as fractions of all, [samples, k]."""
        return np.stack([_fractions(c)[0] for c in (self.reference, *self.models.values())])

    def spike(self) -> int | None:
        """The bin at zero, if it is far fuller than all others.

        Showers without energy in a layer have centre and width 0.
        """
        heights = self.fractions().max(axis=0)
        index = int(np.searchsorted(self.edges, 0.0, side="right")) - 1
        if not 0 <= index < len(heights):
            return None
        rest = np.delete(heights, index).max(initial=0.0)
        return index if 0 < rest < heights[index] / _SPIKE else None

    def heights(self) -> np.ndarray:
        """Fractions that are filled, without those of the spike, [any]."""
        fractions, spike = self.fractions(), self.spike()
        fractions = fractions if spike is None else np.delete(fractions, spike, axis=1)
        return fractions[fractions > 0]


@styled
def histogram(
    generated: Mapping[str, Histogram], *, reference_name: str = REFERENCE_NAME
) -> Figure:
    """One histogram with the ratios and the statistical errors of all samples below.

    Args:
      generated: the histogram of each model, by its name; all of one quantity and reference.
      reference_name: legend of the reference.
    """
    first = next(iter(generated.values()))
    picture = figure(5.6, 4.6)
    axes, below = picture.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    counts = _counts(generated).readable()
    _cell(axes, below, counts, reference_name)
    log = _wide(counts.heights())
    _limits(axes, counts, log=log, headroom=0.27 + 0.05 * len(generated))
    axes.set_ylabel("Fraction per bin")
    axes.legend(loc="upper left")
    lines = [("Separation power", "black"), *_scores(generated)]
    for row, (line, colour) in enumerate(lines):
        axes.text(
            0.97, 0.955 - 0.058 * row, line, color=colour, ha="right", va="top", fontsize="small",
            transform=axes.transAxes,
        )  # fmt: skip
    below.set_xlabel(first.label[:1].upper() + first.label[1:])
    below.set_ylabel(f"Ratio to\n{plain(reference_name)}", fontsize="small", loc="center")
    return picture


@styled
def histogram_sheet(
    histograms: Sequence[Mapping[str, Histogram]],
    *,
    title: str = "",
    reference_name: str = REFERENCE_NAME,
) -> Figure:
    """All histograms of one observable, a cell for each layer, each on axes of its own.

    Args:
      histograms: the histograms of each model by its name, layer by layer; at least one.
      title: observable, above the cells.
      reference_name: legend of the reference.
    """
    count = len(histograms)
    columns = columns_for(count)
    rows = math.ceil(count / columns)
    # In inches. Cells stand at fixed places: a layout engine takes seconds for 90 axes.
    left, right, top, bottom, gap_x, gap_y = 0.62, 0.1, 0.5, 0.5, 0.34, 0.27
    cell_x = (WIDTH - left - right - gap_x * (columns - 1)) / columns
    main, below = (0.98, 0.34) if columns > 4 else (1.5, 0.5)
    cell_y = main + below + gap_y
    height = top + bottom + rows * cell_y - gap_y
    picture = figure(WIDTH, height, layout=None)
    all_counts = [_counts(generated).readable() for generated in histograms]
    log = any(_wide(counts.heights()) for counts in all_counts)
    for index, (generated, counts) in enumerate(zip(histograms, all_counts, strict=True)):
        row, column = divmod(index, columns)
        x = (left + column * (cell_x + gap_x)) / WIDTH
        y = 1 - (top + row * cell_y + main + below) / height
        axes = picture.add_axes((x, y + below / height, cell_x / WIDTH, main / height))
        lower = picture.add_axes((x, y, cell_x / WIDTH, below / height), sharex=axes)
        _cell(axes, lower, counts, reference_name, thin=True)
        axes.tick_params(labelbottom=False)
        lower.tick_params(labelleft=column == 0)
        axes.text(
            0.04, 0.94, _short(next(iter(generated.values()))), ha="left", va="top", fontsize=8,
            transform=axes.transAxes,
        )  # fmt: skip
        _limits(axes, counts, log=log, headroom=0.22 + 0.08 * len(generated))
        for line, (text, colour) in enumerate(_scores(generated, short=True)):
            axes.text(
                0.96, 0.94 - 0.1 * line, text, color=colour, ha="right", va="top", fontsize=6.5,
                transform=axes.transAxes,
            )  # fmt: skip
        for panel in (axes, lower):
            # Each tick is an object to draw: without the minor ones a sheet takes seconds less.
            panel.minorticks_off()
            panel.tick_params(labelsize=6.5, length=3, pad=2, top=False, right=False)
        if not log:
            axes.yaxis.set_major_locator(MaxNLocator(3, prune="lower"))
    unit = observable(next(iter(histograms[0].values())))
    picture.text(left / WIDTH, 1 - 0.16 / height, title or unit, ha="left", va="top", fontsize=12)
    picture.text(1 - right / WIDTH, 0.08 / height, unit, ha="right", va="bottom")
    picture.text(
        0.1 / WIDTH, 1 - top / height, "Fraction per bin", rotation=90, ha="left", va="top"
    )
    handles, labels = picture.axes[0].get_legend_handles_labels()
    picture.legend(
        handles, labels, loc="upper right", ncols=len(labels), borderaxespad=0.3,
        bbox_to_anchor=(1 - right / WIDTH, 1 - 0.08 / height),
    )  # fmt: skip
    return picture


def observable(histogram: Histogram) -> str:
    """The axis label without the layer or energy: what all of a family's histograms show."""
    text = re.sub(r"(,| in) layer \d+| at [\d.]+ [MGT]eV", "", histogram.label)
    return text[:1].upper() + text[1:]


def _short(histogram: Histogram) -> str:
    """What tells a histogram from the others of its family: its layer or incident energy."""
    found = re.search(r"layer \d+|[\d.]+ [MGT]eV$", histogram.label)
    text = found.group(0) if found else histogram.name
    return text[:1].upper() + text[1:]


def _counts(generated: Mapping[str, Histogram]) -> Counts:
    first = next(iter(generated.values()))
    counts = {name: item.generated_counts for name, item in generated.items()}
    return Counts(first.edges, first.reference_counts, counts, first.log_x)


def _scores(generated: Mapping[str, Histogram], *, short: bool = False) -> list[tuple[str, str]]:
    """Lines of separation powers, their chance level, and shares outside of the bins; colours."""
    lines = []
    for _, item, colour in series(generated):
        colour = colour if len(generated) > 1 else "black"
        lines.append((rounded(item.separation, item.error), colour))
        if item.outside_counts:
            shares = item.generated_outside, item.reference_outside
            lines.append(("outside {:.1%}, {:.1%}".format(*shares), colour))
    if short:
        lines[0] = (f"S = {lines[0][0]}", lines[0][1])
    chance = max(item.floor for item in generated.values())
    return [*lines, (f"by chance {chance:#.2g}", "black")]


def _fractions(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts [k] as fractions of all, and their Poisson errors."""
    total = max(counts.sum(), 1)
    return counts / total, np.sqrt(counts) / total


def _cell(
    axes: Axes, below: Axes, counts: Counts, reference_name: str, *, thin: bool = False
) -> None:
    """A histogram and its ratios."""
    edges = counts.edges
    reference = _fractions(counts.reference)
    models = {name: _fractions(c) for name, c in counts.models.items()}
    axes.stairs(
        reference[0], edges, fill=True, color=REFERENCE, alpha=0.2, lw=0,
        label=plain(reference_name),
    )  # fmt: skip
    axes.stairs(reference[0], edges, color=REFERENCE, lw=0.7 if thin else 1.0)
    for label, (values, errors), colour in series(models):
        axes.stairs(values, edges, color=colour, lw=1.0 if thin else 1.6, label=label)
        axes.stairs(
            values + errors, edges, baseline=values - errors, fill=True, color=colour, alpha=0.25,
            lw=0,
        )  # fmt: skip
    ratio(below, edges, reference, models, width=0.8 if thin else 1.4)
    below.set_yticks((0.6, 1.0, 1.4) if thin else (0.5, 1.0, 1.5))
    for panel in (axes, below):
        if counts.log:
            panel.set_xscale("log")
            panel.xaxis.set_minor_formatter(NullFormatter())
            if thin:
                panel.xaxis.set_major_locator(FixedLocator(_decades(edges[0], edges[-1])))
        elif thin:
            panel.xaxis.set_major_locator(MaxNLocator(4, prune="both"))
        panel.set_xlim(edges[0], edges[-1])
    for mark, place, there in zip("<>", (0.0, 1.0), counts.beyond, strict=True):
        if there:
            axes.plot(
                place, 0.0, mark, color=REFERENCE, ms=3 if thin else 5, clip_on=False, zorder=5,
                transform=axes.transAxes,
            )  # fmt: skip


def _decades(low: float, high: float) -> list[float]:
    """At most four powers of ten between, none so near an end that its label would stick out."""
    first, last = math.log10(low), math.log10(high)
    margin = 0.06 * (last - first)
    powers = range(math.ceil(first + margin), math.floor(last - margin) + 1)
    return [10.0**power for power in powers[:: max(1, math.ceil(len(powers) / 4))]]


def _limits(axes: Axes, counts: Counts, *, log: bool, headroom: float) -> None:
    """A y axis that holds all but the spike, with a share of its height free on top."""
    heights, spike = counts.heights(), counts.spike()
    low, high = heights.min(initial=1.0), heights.max(initial=0.0) or 1.0
    if log:
        low = low / 1.6
        axes.set_yscale("log")
        axes.set_ylim(low, low * (high / low) ** (1 / (1 - headroom)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, high / (1 - headroom))
    if spike is not None:
        shares = ", ".join(f"{share:.0%}" for share in counts.fractions()[:, spike])
        # Below the legend, or below the name of the layer.
        axes.text(
            0.04, 0.72 if len(axes.texts) == 0 else 0.84, f"↑ {shares}", fontsize=6, va="top",
            color="0.3", transform=axes.transAxes,
            path_effects=[withStroke(linewidth=1.5, foreground="white")],
        )  # fmt: skip


def _wide(heights: np.ndarray) -> bool:
    """Whether heights need a logarithmic axis."""
    return bool(heights.size) and bool(heights.max() > _WIDE * heights.min())
