"""Curves: losses over training steps, and quality against time over all published models."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from calojax.evaluation.scoreboard import COLUMNS, Row, is_geant4
from calojax.plot.style import (
    ACCENT,
    GENERATED,
    REFERENCE,
    REFERENCE_NAME,
    figure,
    plain,
    styled,
)

# What a record says about the step itself rather than about the model.
_NOT_METRICS = ("step", "epoch", "time", "seconds", "seconds_left", "showers_per_second")
_PREFIXES = ("validation", "train")

_TIMES = {
    "cpu_ms_1": "CPU, batch 1",
    "cpu_ms_100": "CPU, batch 100",
    "cpu_ms_10000": "CPU, batch 10,000",
    "gpu_ms_1": "GPU, batch 1",
    "gpu_ms_100": "GPU, batch 100",
    "gpu_ms_10000": "GPU, batch 10,000",
}
_HIGHER_IS_BETTER = ("precision", "recall", "density", "coverage")


@styled
def loss_curves(records: Iterable[Mapping[str, float | str]], *, most: int = 24) -> Figure:
    """One panel for each metric of each stage against the step, training and validation together.

    Args:
      records: lines of a metrics file, such as ``{"stage": "prior", "step": 100, "loss": 1.5,
        "validation/loss": 1.6}``; values that are no finite numbers are left out.
      most: panels drawn at most, in the order of the records.
    """
    panels = _series(records)
    names = list(panels)[:most]
    columns = min(3, max(1, len(names)))
    rows = max(1, math.ceil(len(names) / columns))
    picture = figure(11.6 if columns > 1 else 6.5, 2.9 * rows)
    if not names:
        picture.text(0.5, 0.5, "no metrics yet", ha="center", va="center", color="0.4")
        return picture
    grid = picture.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    for axes, (stage, metric) in zip(grid, names, strict=False):
        curves = panels[stage, metric]
        values = np.concatenate([y for _, y in curves.values()])
        for (kind, (x, y)), colour in zip(
            sorted(curves.items()), itertools.cycle((GENERATED, ACCENT)), strict=False
        ):
            sparse = "o-" if len(x) < 30 else "-"
            axes.plot(x, y, sparse, color=colour, ms=3, lw=1.3, label=kind)
        if values.min() > 0 and values.max() > 4 * values.min():
            axes.set_yscale("log")
        axes.set_title(plain(": ".join(filter(None, (stage, metric))).replace("_", " ")))
        axes.set_ylabel(plain(metric.replace("_", " ").capitalize()))
        axes.set_xlabel("Step")
        axes.margins(x=0.02, y=0.08)
        if len(curves) > 1:
            axes.legend(loc="best")
    return picture


@styled
def pareto(
    rows: Sequence[Row],
    metric: str,
    *,
    times: Sequence[str] = ("cpu_ms_1", "gpu_ms_100"),
) -> Figure:
    """One quality against ms per shower, a panel a way of timing, with the published front.

    Published models are grey dots and the front a step line through the best of them; rows that
    are not published are stars. Geant4 against itself is a line across.

    Args:
      rows: published rows and ours; rows without the score or the time are left out.
      metric: an attribute of `Row`.
      times: attributes of `Row` in ms.
    """
    picture = figure(5.9 * len(times) if len(times) > 1 else 7.0, 4.6)
    panels = picture.subplots(1, len(times), squeeze=False, sharey=True)[0]
    values = [v for r in rows if (v := getattr(r, metric)) is not None and v > 0]
    logarithmic = bool(values) and max(values) > 30 * min(values)
    for axes, time in zip(panels, times, strict=True):
        shown = [
            (getattr(row, time), getattr(row, metric), row)
            for row in rows
            if getattr(row, time) is not None
            and getattr(row, metric) is not None
            and not (logarithmic and getattr(row, metric) <= 0)
        ]
        axes.set_xscale("log")
        if logarithmic:
            axes.set_yscale("log")
        published = [(x, y) for x, y, row in shown if row.published]
        front = _front(published, higher=metric in _HIGHER_IS_BETTER)
        if front:
            axes.step(*zip(*front, strict=True), where="post", color="0.75", lw=1.2)
        for x, y, row in shown:
            if row.published:
                axes.plot(x, y, "o", color=REFERENCE, ms=5, alpha=0.8, zorder=3)
            else:
                axes.plot(x, y, "*", color=ACCENT, ms=15, mec="white", mew=0.8, zorder=5)
        for row in rows:
            floor = getattr(row, metric)
            if is_geant4(row) and floor is not None and not (logarithmic and floor <= 0):
                axes.axhline(floor, color=GENERATED, lw=0.9, ls=(0, (5, 3)), zorder=1)
                axes.text(
                    0.985, floor, f"{REFERENCE_NAME} against itself", color=GENERATED, fontsize=8,
                    ha="right", va="bottom", transform=axes.get_yaxis_transform(),
                )  # fmt: skip
        axes.margins(x=0.12, y=0.1)
        axes.set_xlabel("Time per shower [ms]")
        axes.set_title(_TIMES.get(time, time))
        if not shown:
            axes.text(
                0.5, 0.5, "no times published", ha="center", va="center", color="0.4",
                transform=axes.transAxes,
            )  # fmt: skip
    panels[0].set_ylabel(_quality_label(metric))
    # Labels dodge each other, so they can be placed only once the layout stands.
    picture.draw_without_rendering()
    for axes, time in zip(panels, times, strict=True):
        _name_points(axes, rows, time, metric)
    picture.set_layout_engine("none")
    return picture


def _series(records) -> dict[tuple[str, str], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """(stage, metric) -> training or validation -> (steps, values), in order of appearance."""
    points: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for record in records:
        step = record.get("step", record.get("epoch"))
        if step is None:
            continue
        for key, value in record.items():
            if key in _NOT_METRICS or isinstance(value, bool | str) or value is None:
                continue
            if not isinstance(value, int | float) or not math.isfinite(value):
                continue
            prefix, _, rest = key.partition("/")
            kind, metric = (prefix, rest) if prefix in _PREFIXES and rest else ("train", key)
            if metric in _NOT_METRICS:
                continue
            kind = {"train": "training"}.get(kind, kind)
            panel = points.setdefault((str(record.get("stage", "")), metric), {})
            panel.setdefault(kind, []).append((float(step), float(value)))
    return {
        panel: {kind: tuple(np.array(curve).T) for kind, curve in curves.items()}
        for panel, curves in points.items()
    }


def _quality_label(metric: str) -> str:
    direction = "higher is better" if metric in _HIGHER_IS_BETTER else "lower is better"
    names = {
        "fpd": r"FPD $\times\,\mathrm{10^3}$",
        "kpd": r"KPD $\times\,\mathrm{10^3}$",
        "auc_low": "AUC, voxels (low)",
        "auc_high": "AUC, features (high)",
        "auc_cnn": "AUC, CNN",
    }
    return f"{names.get(metric, COLUMNS.get(metric, metric))}, {direction}"


def _front(points: Iterable[tuple[float, float]], *, higher: bool) -> list[tuple[float, float]]:
    """The points that no other beats in both time and quality, by time."""
    front: list[tuple[float, float]] = []
    sign = -1 if higher else 1
    for time, quality in sorted(points, key=lambda p: (p[0], sign * p[1])):
        if not front or sign * quality < sign * front[-1][1]:
            front.append((time, quality))
    return front


# Where a label may stand about its point, in points: near first, then farther with a line.
_PLACES = tuple(
    (distance * dx, distance * dy)
    for distance in (1.0, 1.9, 3.0, 4.2)
    for dx, dy in ((7, 0), (6, 6), (6, -6), (0, 8), (0, -8), (-6, 6), (-6, -6), (-7, 0))
)


def _name_points(axes, rows: Sequence[Row], time: str, metric: str) -> None:
    """Writes each model's name beside its point where it covers neither points nor names."""
    renderer = axes.figure.canvas.get_renderer()
    scale = axes.figure.dpi / 72
    frame = axes.get_window_extent(renderer)
    ours_first = sorted(rows, key=lambda row: row.published)
    points = []
    for row in ours_first:
        x, y = getattr(row, time), getattr(row, metric)
        if x is not None and y is not None and (y > 0 or axes.get_yscale() != "log"):
            points.append((row, x, y, axes.transData.transform((x, y))))
    taken = []
    dots = np.array([p for *_, p in points]).reshape(-1, 2)
    for row, x, y, _ in points:
        best = None
        for dx, dy in _PLACES:
            label = axes.annotate(
                plain(row.model), (x, y), xytext=(dx, dy), textcoords="offset points", fontsize=8,
                ha="left" if dx > 0 else "right" if dx < 0 else "center",
                va="bottom" if dy > 0 else "top" if dy < 0 else "center",
                color="black" if row.published else ACCENT, zorder=6,
                fontweight="normal" if row.published else "bold",
                path_effects=[withStroke(linewidth=2, foreground="white")],
            )  # fmt: skip
            box = label.get_window_extent(renderer)
            cost = sum(_overlap(box, other) for other in taken)
            cost += 30 * scale**2 * int(
                np.sum(
                    (dots[:, 0] > box.x0 - 2) & (dots[:, 0] < box.x1 + 2)
                    & (dots[:, 1] > box.y0 - 2) & (dots[:, 1] < box.y1 + 2)
                )
            )  # fmt: skip
            inside = box.padded(4)
            cost += 1e6 * (
                inside.x0 < frame.x0 or inside.x1 > frame.x1
                or inside.y0 < frame.y0 or inside.y1 > frame.y1
            )  # fmt: skip
            if best is None or cost < best[0]:
                if best is not None:
                    best[1].remove()
                best = (cost, label, box, (dx, dy))
            else:
                label.remove()
            if cost == 0:
                break
        _, label, box, (dx, dy) = best
        taken.append(box)
        if math.hypot(dx, dy) > 12:
            axes.annotate(
                "", (x, y), xytext=(dx, dy), textcoords="offset points", zorder=2,
                arrowprops={"arrowstyle": "-", "color": "0.6", "lw": 0.6, "shrinkB": 2},
            )  # fmt: skip


def _overlap(one, other) -> float:
    """The common area of two boxes in square pixels."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(width, 0.0) * max(height, 0.0)
