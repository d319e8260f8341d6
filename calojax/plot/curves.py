"""Curves: losses over training steps, and quality against time over all published models."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.patheffects import withStroke

from calojax.evaluation.scoreboard import COLUMNS, Row, is_geant4
from calojax.plot.style import (
    ACCENT,
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

# Keys of a record that describe the step rather than the model.
_NOT_METRICS = ("step", "epoch", "time", "seconds", "seconds_left", "showers_per_second")
_PREFIXES = ("validation", "train")
_HIGHER_IS_BETTER = ("precision", "recall", "density", "coverage")


@styled
def loss_curves(records: Iterable[Mapping[str, float | str]], *, most: int = 24) -> Figure:
    """One panel for each metric of each stage against the step, training and validation together.

    Args:
      records: lines of a metrics file, such as ``{"stage": "prior", "step": 100, "loss": 1.5,
        "validation/loss": 1.6}``; values that are no finite numbers are left out.
      most: largest number of panels, in the order of the records.
    """
    panels = _series(records)
    names = list(panels)[:most]
    if not names:
        return empty("no metrics yet")
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    picture = figure(WIDTH if columns > 1 else 6.5, 2.9 * rows)
    grid = picture.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    for axes, (stage, metric) in zip(grid, names, strict=False):
        curves = panels[stage, metric]
        values = np.concatenate([y for _, y in curves.values()])
        for (kind, (x, y)), colour in zip(sorted(curves.items()), PALETTE, strict=False):
            # A single point has no line; its dot must be seen beside the other curve.
            size = 7 if len(x) == 1 else 3
            shape = "D" if len(x) == 1 else "o-" if len(x) < 30 else "-"
            axes.plot(x, y, shape, color=colour, ms=size, lw=1.3, label=kind)
        if values.min() > 0 and values.max() > 4 * values.min():
            axes.set_yscale("log")
        axes.set_title(plain(": ".join(filter(None, (stage, metric))).replace("_", " ")))
        axes.set_ylabel(plain(metric.replace("_", " ").capitalize()))
        axes.set_xlabel("Step")
        axes.margins(x=0.03, y=0.08)
        if len(curves) > 1:
            axes.legend(loc="best")
    return picture


@styled
def pareto(
    rows: Sequence[Row],
    metric: str,
    *,
    times: Sequence[str] = ("cpu_ms_1", "gpu_ms_100"),
    reference_name: str = REFERENCE_NAME,
) -> Figure:
    """One quality against ms per shower, a panel for each way of timing, with the published front.

    Published models are grey dots and the front a step line through the best of them; rows that
    are not published are stars, or dashed lines across if they have no time. The reference
    against itself is a line across.

    Args:
      rows: published rows and ours; rows without the score are left out.
      metric: attribute of `Row`.
      times: attributes of `Row` in ms.
      reference_name: name of the reference.
    """
    rows = [row for row in rows if getattr(row, metric) is not None]
    values = [v for row in rows if (v := getattr(row, metric)) > 0]
    logarithmic = bool(values) and max(values) > 30 * min(values)
    if logarithmic:
        rows = [row for row in rows if getattr(row, metric) > 0]
    picture = figure(5.9 * len(times) if len(times) > 1 else 7.0, 4.6)
    panels = picture.subplots(1, len(times), squeeze=False, sharey=True)[0]
    colours = dict(zip((row.model for row in rows if not row.published), PALETTE[1:], strict=False))
    fronts = []
    for axes, time in zip(panels, times, strict=True):
        axes.set_xscale("log")
        if logarithmic:
            axes.set_yscale("log")
        timed = [row for row in rows if getattr(row, time) is not None]
        front = _front(
            [(getattr(row, time), getattr(row, metric)) for row in timed if row.published],
            higher=metric in _HIGHER_IS_BETTER,
        )
        fronts.append(front)
        if front:
            axes.step(*zip(*front, strict=True), where="post", color="0.75", lw=1.2)
        for row in rows:
            x, y = getattr(row, time), getattr(row, metric)
            if row.published and x is not None:
                axes.plot(x, y, "o", color=REFERENCE, ms=5, alpha=0.8, zorder=3)
            elif x is not None:
                colour = colours.get(row.model, ACCENT)
                axes.plot(x, y, "*", color=colour, ms=15, mec="white", mew=0.8, zorder=5)
            elif not row.published:
                text = f"{plain(row.model)} (no time measured)"
                _line_across(axes, y, text, colours.get(row.model, ACCENT), right=False)
            if is_geant4(row):
                _line_across(axes, y, f"{plain(reference_name)} against itself", GENERATED)
        axes.margins(x=0.12, y=0.1)
        axes.set_xlabel("Time per shower [ms]")
        kind, _, batch = time.split("_")
        axes.set_title(f"{kind.upper()}, batch {int(batch):,}")
        if not timed:
            axes.text(
                0.5, 0.5, "no times published", ha="center", va="center", color="0.4",
                transform=axes.transAxes,
            )  # fmt: skip
    panels[0].set_ylabel(_quality_label(metric))
    # Labels dodge each other, so they can be placed only once the layout stands.
    picture.draw_without_rendering()
    for axes, time, front in zip(panels, times, fronts, strict=True):
        points = {
            row: (getattr(row, time), getattr(row, metric))
            for row in sorted(rows, key=lambda row: row.published)
            if getattr(row, time) is not None
        }
        _name_points(axes, points, front, colours)
    picture.set_layout_engine("none")
    return picture


def _line_across(axes, y: float, text: str, colour: str, *, right: bool = True) -> None:
    axes.axhline(y, color=colour, lw=0.9, ls=(0, (5, 3)), zorder=1)
    axes.text(
        0.985 if right else 0.015, y, text, color=colour, fontsize=8, va="bottom",
        ha="right" if right else "left", transform=axes.get_yaxis_transform(),
        path_effects=[withStroke(linewidth=2, foreground="white")],
    )  # fmt: skip


def _series(
    records: Iterable[Mapping[str, float | str]],
) -> dict[tuple[str, str], dict[str, tuple[np.ndarray, np.ndarray]]]:
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


# Places of a label about its point, in points: near first, then farther with a line.
_PLACES = tuple(
    (distance * dx, distance * dy)
    for distance in (1.0, 1.9, 3.0, 4.2)
    for dx, dy in ((7, 0), (6, 6), (6, -6), (0, 8), (0, -8), (-6, 6), (-6, -6), (-7, 0))
)


def _name_points(axes, points: Mapping[Row, tuple[float, float]], front, colours) -> None:
    """Writes each model's name beside its point where it covers no point, line or name."""
    if not points:
        return
    renderer = axes.figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    corners = [p for a, b in itertools.pairwise(front) for p in (a, (b[0], a[1]), b)]
    ends = axes.transData.transform(corners) if corners else np.zeros((0, 2))
    line = [np.linspace(a, b, 40) for a, b in itertools.pairwise(ends)]
    occupied = np.concatenate([axes.transData.transform(list(points.values())), *line])
    taken = []
    for row, point in points.items():
        label = axes.annotate(
            plain(row.model), point, xytext=(0, 0), textcoords="offset points", fontsize=8,
            zorder=6, color="black" if row.published else colours.get(row.model, ACCENT),
            fontweight="normal" if row.published else "bold",
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip

        def cost(place, label=label) -> float:
            box = _put(label, place).get_window_extent(renderer)
            inside = (occupied > (box.x0 - 2, box.y0 - 2)) & (occupied < (box.x1 + 2, box.y1 + 2))
            out = box.padded(4)
            outside = (
                out.x0 < frame.x0 or out.x1 > frame.x1 or out.y0 < frame.y0 or out.y1 > frame.y1
            )
            overlap = sum(_overlap(box, other) for other in taken)
            return overlap + 60 * float(inside.all(axis=1).sum()) + 1e6 * outside

        place = min(_PLACES, key=cost)  # The first of equal ones.
        taken.append(_put(label, place).get_window_extent(renderer))
        if math.hypot(*place) > 12:
            axes.annotate(
                "", point, xytext=place, textcoords="offset points", zorder=2,
                arrowprops={"arrowstyle": "-", "color": "0.6", "lw": 0.6, "shrinkB": 2},
            )  # fmt: skip


def _put(label, place: tuple[float, float]):
    dx, dy = place
    label.set_position(place)
    label.set_ha("left" if dx > 0 else "right" if dx < 0 else "center")
    label.set_va("bottom" if dy > 0 else "top" if dy < 0 else "center")
    return label


def _overlap(one, other) -> float:
    """The common area of two boxes in square pixels."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(width, 0.0) * max(height, 0.0)
