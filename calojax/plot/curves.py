"""Curves: losses over training steps, and quality against time over all published models."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.patheffects import withStroke

from calojax.evaluation.scoreboard import TIMES, Row
from calojax.evaluation.suite import SCORES
from calojax.plot.style import (
    GENERATED,
    PALETTE,
    REFERENCE,
    REFERENCE_NAME,
    WIDTH,
    Figure,
    empty,
    figure,
    plain,
    styled,
)

_MOST = 24  # panels
# Keys of a record that describe the step rather than the model.
_NOT_METRICS = ("stage", "step", "time", "seconds", "seconds_left", "showers_per_second")
_LABEL = {"path_effects": [withStroke(linewidth=2, foreground="white")], "fontsize": 8}


@styled
def loss_curves(records: Iterable[Mapping[str, float | str]]) -> Figure:
    """One panel for each metric of each stage against the step, training and validation together.

    Records are lines of a metrics file, such as ``{"stage": "prior", "step": 100, "loss": 1.5,
    "validation/loss": 1.6}``. Values that are no finite numbers are left out, and so are metrics
    with a single value, which have no curve.
    """
    series = _series(records).items()
    panels = [(name, curves) for name, curves in series if max(map(len, curves.values())) > 1]
    panels = panels[:_MOST]
    if not panels:
        return empty("no metric has two values")
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    picture = figure(WIDTH if columns > 1 else 6.5, 2.9 * rows)
    for index, ((stage, metric), curves) in enumerate(panels, 1):
        axes = picture.add_subplot(rows, columns, index)
        for (kind, points), colour in zip(sorted(curves.items()), PALETTE, strict=False):
            # A single point has no line; its dot must be seen beside the other curve.
            shape = "D" if len(points) == 1 else "o-" if len(points) < 30 else "-"
            axes.plot(*np.transpose(points), shape, color=colour, ms=3, lw=1.3, label=kind)
        values = [value for points in curves.values() for _, value in points]
        if min(values) > 0 and max(values) > 4 * min(values):
            axes.set_yscale("log")
        axes.set_title(plain(": ".join(filter(None, (stage, metric))).replace("_", " ")))
        axes.set_ylabel(plain(metric.replace("_", " ").capitalize()))
        axes.set_xlabel("Step")
        axes.margins(x=0.03, y=0.08)
        if len(curves) > 1:
            axes.legend(loc="best")
    return picture


def _series(
    records: Iterable[Mapping[str, float | str]],
) -> dict[tuple[str, str], dict[str, list[tuple[float, float]]]]:
    """(stage, metric) -> training or validation -> (step, value) pairs, in order of appearance."""
    panels: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for record in records:
        for key, value in record.items():
            name = key.removeprefix("validation/")
            if "step" not in record or name in _NOT_METRICS or isinstance(value, str | bool):
                continue
            if math.isfinite(value):
                curves = panels.setdefault((str(record.get("stage", "")), name), {})
                points = curves.setdefault("training" if name == key else "validation", [])
                points.append((float(record["step"]), float(value)))
    return panels


@styled
def pareto(
    rows: Sequence[Row],
    metric: str,
    *,
    times: Sequence[str] = ("cpu_ms_1", "gpu_ms_100"),
    reference_name: str = REFERENCE_NAME,
) -> Figure:
    """One quality against ms per shower, a panel for each way of timing, with the published front.

    Published models are grey dots; a line joins those that no other beats in both, by name. Rows
    that are not published are stars, or dashed lines across if they have no time. The reference
    against itself is a line across. Rows without the metric, a key of `suite.SCORES`, are left out;
    ``times`` are keys of `scoreboard.TIMES`.
    """
    score = SCORES[metric]
    rated = [(row, row.values[metric] * score.scale) for row in rows if metric in row.values]
    qualities = [y for _, y in rated] or [1.0]
    logarithmic = 0 < 30 * min(qualities) < max(qualities)
    picture = figure(5.9 * len(times) if len(times) > 1 else 7.0, 4.6)
    panels = picture.subplots(1, len(times), squeeze=False, sharey=True)[0]
    ours = (row.model for row, _ in rated if not row.published)
    colours = dict(zip(ours, itertools.cycle(PALETTE[1:]), strict=False))
    for axes, time in zip(panels, times, strict=True):
        axes.set(xscale="log", yscale="log" if logarithmic else "linear", title=TIMES[time])
        axes.set_xlabel("Time per shower [ms]")
        timed = [
            (row.values[time], y, row.model)
            for row, y in rated
            if row.published and time in row.values
        ]
        front = _front(timed, higher=score.higher_is_better)
        if front:
            x, y, _ = zip(*front, strict=True)
            axes.step(x, y, where="post", color="0.75", lw=1.2)
        for x, y, _ in timed:
            axes.plot(x, y, "o", color=REFERENCE, ms=5, alpha=0.8, zorder=3)
        # On this side of the front there is no model.
        side, place = (4, "bottom") if score.higher_is_better else (-4, "top")
        for x, y, name in front:
            axes.annotate(
                plain(name), (x, y), (-4, side), textcoords="offset points", ha="right", va=place,
                zorder=6, **_LABEL,
            )  # fmt: skip
        for row, y in rated:
            if row.is_geant4:
                _line_across(axes, y, f"{plain(reference_name)} against itself", GENERATED)
            if row.published:
                continue
            colour = colours[row.model]
            if time in row.values:
                x = row.values[time]
                axes.plot(x, y, "*", color=colour, ms=15, mec="white", mew=0.8, zorder=5)
                axes.annotate(
                    plain(row.model), (x, y), (8, 0), textcoords="offset points", va="center",
                    zorder=6, color=colour, fontweight="bold", **_LABEL,
                )  # fmt: skip
            else:
                _line_across(axes, y, f"{plain(row.model)} (no time measured)", colour)
        axes.margins(x=0.2, y=0.12)
    direction = "higher" if score.higher_is_better else "lower"
    panels[0].set_ylabel(f"{score.name}, {direction} is better")
    return picture


def _line_across(axes, y: float, text: str, colour: str) -> None:
    axes.axhline(y, color=colour, lw=0.9, ls=(0, (5, 3)), zorder=1)
    axes.text(
        0.985, y, text, color=colour, va="bottom", ha="right",
        transform=axes.get_yaxis_transform(), **_LABEL,
    )  # fmt: skip


def _front(
    points: Iterable[tuple[float, float, str]], *, higher: bool
) -> list[tuple[float, float, str]]:
    """The (time, quality, name) that no other beats in both time and quality, by time."""
    front: list[tuple[float, float, str]] = []
    sign = -1 if higher else 1
    for point in sorted(points, key=lambda p: (p[0], sign * p[1])):
        if not front or sign * point[1] < sign * front[-1][1]:
            front.append(point)
    return front
