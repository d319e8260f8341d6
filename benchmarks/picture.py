"""What do all the rows of speed say? One Markdown table, and one picture of ms/shower.

    python benchmarks/picture.py benchmarks/results/*.jsonl --out docs/speed.png

The table goes to standard output: a line for every row that has a figure. The picture has a panel
for every geometry and kind of device: calojax by batch, its device named, and in grey what the
CaloChallenge published (arXiv:2410.21611). On what hardware those were timed was not found: they
tell orders of magnitude; ratios on one machine are in the rows of ``rivals.py``.
"""

import json
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tyro

from calojax import plot
from calojax.evaluation import scoreboard
from calojax.geometry import detector
from calojax.plot import style

Row = dict[str, Any]
# What a row may have measured, the first that it has, and its unit.
FIGURES = {
    "showers_per_second": "showers/s",
    "ms_per_shower": "ms/shower",
    "seconds": "s",
    "device_gib": "GiB on the device",
    "gflop_per_second": "GFLOP/s",
    "gbyte_per_second": "GB/s",
    "ms": "ms",
}
WHAT = ("subject", "preset", "network", "layout", "stage", "part", "limit", "code", "compared")
PUBLISHED_BATCHES = (1, 100, 10_000)
# Named in the picture; the others are lines without a name.
NAMED = ("Calo-VQ", "CaloPointFlow", "CaloDREAM")


def read(paths: Iterable[pathlib.Path]) -> list[Row]:
    """Rows of files of JSON lines."""
    lines = (line for path in paths for line in path.read_text().splitlines() if line.strip())
    return [json.loads(line) for line in lines]


def table(rows: Iterable[Row]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| question | geometry | what | batch | figure | of the limit | device |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        key = next((key for key in FIGURES if key in row), None)
        if "benchmark" not in row or key is None:
            continue
        what = ", ".join(str(row[column]) for column in WHAT if column in row)
        what += ", best batch" if "best" in row else ""
        figure = f"{row[key]:.4g} {FIGURES[key]}"
        if "ratio" in row:
            figure += f", ratio {row['ratio']:.3g}"
        if "host_gib" in row:
            figure += f", {row['host_gib']:.3g} GiB on the host"
        cells = row["benchmark"], row.get("geometry", ""), what, row.get("batch", "")
        yield "| " + " | ".join(map(str, (*cells, figure, reached(row), device(row)))) + " |"


def reached(row: Row) -> str:
    """The share of the limit that binds."""
    if "bound" not in row:
        return ""
    column = {"matrix": "share_of_matrix_rate", "bandwidth": "share_of_bandwidth"}[row["bound"]]
    return f"{row[column]:.1%} of the {row['bound']}" + " rate" * (row["bound"] == "matrix")


def name(row: Row) -> str:
    """What was timed."""
    subject = row.get("subject") or row["model"]
    rounded = row["benchmark"] == "generation" and row.get("precision", "default") != "default"
    return f"{subject}, {row['precision']}" if rounded else subject


def device(row: Row) -> str:
    """Where a row was measured."""
    if row.get("platform") == "cpu":
        return f"CPU, {row['cores']} cores"
    return f"{row.get('devices', 1)} x {row.get('device', '?')}"


@style.styled
def picture(rows: list[Row]):
    """Panels of ms/shower over batch, a figure of matplotlib."""
    wholes = [row for row in rows if row.get("part") == "whole" and "best" not in row]
    panels = sorted({(row["geometry"], row["platform"]) for row in wholes})
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    sheet = style.figure(4.2 * columns, 3.6 * lines)
    for number, (geometry, platform) in enumerate(panels, 1):
        axes = sheet.add_subplot(lines, columns, number)
        _published(axes, geometry, platform)
        here = [r for r in wholes if (r["geometry"], r["platform"]) == (geometry, platform)]
        for subject, where in sorted({(name(r), device(r)) for r in here}):
            own = sorted(
                (r["batch"], r["ms_per_shower"])
                for r in here
                if (name(r), device(r)) == (subject, where)
            )
            axes.plot(*zip(*own, strict=True), "o-", label=f"{subject} ({where})")
        axes.set(xscale="log", yscale="log", title=f"{geometry}, {platform.upper()}")
        axes.set(xlabel="showers at a time", ylabel="ms/shower")
        axes.margins(x=0.12)
        # Below the axes: inside, it would cover curves.
        axes.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(0.0, -0.16))
    return sheet


def _published(axes, geometry: str, platform: str) -> None:
    """The CaloChallenge's times, in grey."""
    dataset = scoreboard.dataset_of(detector(geometry))
    if dataset is None:
        return
    kind = "cpu" if platform == "cpu" else "gpu"
    columns = [f"{kind}_ms_{batch}" for batch in PUBLISHED_BATCHES]
    for entry in scoreboard.rows(dataset):
        times = [getattr(entry, column) for column in columns]
        told = [(b, t) for b, t in zip(PUBLISHED_BATCHES, times, strict=True) if t is not None]
        if not told:
            continue
        named = entry.model in NAMED
        shade = dict(color="0.45" if named else "0.85", linewidth=1.0 if named else 0.7)
        axes.plot(*zip(*told, strict=True), zorder=1, **shade)
        if named:
            text = f"{entry.model}, published"
            axes.annotate(text, told[-1], fontsize="xx-small", color="0.3", ha="right", va="bottom")
    x = np.median(PUBLISHED_BATCHES)
    axes.plot([x], [np.nan], color="0.45", label="CaloChallenge 2022 (hardware not told)")


def main(results: tyro.conf.Positional[tuple[pathlib.Path, ...]], out: pathlib.Path) -> None:
    """Prints the table and draws the picture.

    Args:
      results: files of JSON lines.
      out: picture to write.
    """
    rows = read(results)
    for line in table(rows):
        print(line)
    if any(row.get("part") == "whole" for row in rows):
        plot.save(picture(rows), out)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
