"""What do the rows of results say? One Markdown table, and one picture of ms/shower.

    python benchmarks/picture.py benchmarks/results/*.jsonl --out docs/speed.png

The table goes to standard output. The picture has a panel for each geometry and kind of device,
with the times that the CaloChallenge published in grey (arXiv:2410.21611). Their hardware is not
stated, so they show orders of magnitude; ratios on one machine are in the rows of ``rivals.py``.
"""

import json
import pathlib
from collections.abc import Iterable, Iterator

import tyro
from rows import Row

from calojax import plot
from calojax.evaluation import scoreboard
from calojax.geometry import find_detector
from calojax.plot import style

# Columns with a figure, in order of preference, and their units.
FIGURES = {
    "showers_per_second": "showers/s",
    "ms_per_shower": "ms/shower",
    "seconds": "s",
    "device_gib": "GiB on the device",
    "gflop_per_second": "GFLOP/s",
    "gbyte_per_second": "GB/s",
    "ms": "ms",
}
# Columns that say what was measured.
SUBJECTS = (
    *("subject", "variant", "network", "writer", "layout", "threads", "stage", "step", "part"),
    *("limit", "code", "compared"),
)
SHARES = {"matrix": "share_of_matrix_rate", "bandwidth": "share_of_bandwidth"}
BATCHES = (1, 100, 10_000)
# Published models with a name in the picture; the others are lines without one.
NAMED = ("Calo-VQ", "CaloPointFlow", "CaloDREAM")


def table(rows: Iterable[Row]) -> Iterator[str]:
    """Lines of a Markdown table: one for each row that has a figure."""
    yield "| question | geometry | what | batch | figure | of the limit | device |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        key = next((key for key in FIGURES if key in row), None)
        if "benchmark" not in row or key is None:
            continue
        what = ", ".join(str(row[column]) for column in SUBJECTS if column in row)
        what += ", best batch" if "best" in row else ""
        figure = f"{row[key]:.4g} {FIGURES[key]}"
        figure += f", ratio {row['ratio']:.3g}" if "ratio" in row else ""
        figure += f", {row['host_gib']:.3g} GiB on the host" if "host_gib" in row else ""
        bound = row.get("bound")
        share = f"{row[SHARES[bound]]:.1%} of the {bound} rate" if bound else ""
        where = f"{row.get('devices', 1)} x {row.get('device', '?')}"
        if row.get("platform") == "cpu":
            where = f"CPU, {row['cores']} cores"
        cells = row["benchmark"], row.get("geometry", ""), what, row.get("batch", "")
        yield "| " + " | ".join(map(str, (*cells, figure, share, where))) + " |"


@style.styled
def picture(rows: list[Row]) -> plot.Figure:
    """A panel of ms/shower over batch size for each geometry and kind of device."""
    wholes = [row for row in rows if row.get("part") == "whole" and "best" not in row]
    panels = sorted({(row["geometry"], row["platform"]) for row in wholes})
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    sheet = style.figure(4.2 * columns, 3.6 * lines)
    for number, (geometry, platform) in enumerate(panels, 1):
        axes = sheet.add_subplot(lines, columns, number)
        published(axes, geometry, "cpu" if platform == "cpu" else "gpu")
        curves: dict[str, list[tuple[int, float]]] = {}
        for row in wholes:
            if (row["geometry"], row["platform"]) == (geometry, platform):
                rounded = row["precision"] if row["precision"] != "default" else ""
                where = "" if platform == "cpu" else f" ({row['device']})"
                name = ", ".join(filter(None, (row["subject"], rounded))) + where
                curves.setdefault(name, []).append((row["batch"], row["ms_per_shower"]))
        for name, points in sorted(curves.items()):
            axes.plot(*zip(*sorted(points), strict=True), "o-", label=name)
        axes.set(xscale="log", yscale="log", title=f"{geometry}, {platform.upper()}")
        axes.set(xlabel="showers at a time", ylabel="ms/shower")
        axes.margins(x=0.12)
        # Below the axes: inside, it would cover curves.
        axes.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(0.0, -0.16))
    return sheet


def published(axes, geometry: str, kind: str) -> None:
    """Draws the CaloChallenge's times on a kind of device, in grey."""
    dataset = scoreboard.dataset_of(find_detector(geometry))
    if dataset is None:
        return
    for entry in scoreboard.rows(dataset):
        keys = {batch: f"{kind}_ms_{batch}" for batch in BATCHES}
        times = [(batch, entry.values[key]) for batch, key in keys.items() if key in entry.values]
        named = entry.model in NAMED
        shade = {"color": "0.45", "linewidth": 1.0} if named else {"color": "0.85"}
        if times:
            axes.plot(*zip(*times, strict=True), zorder=1, **shade)
        if times and named:
            text = f"{entry.model}, published"
            axes.annotate(
                text, times[-1], fontsize="xx-small", color="0.3", ha="right", va="bottom"
            )
    axes.plot([], [], color="0.45", label="CaloChallenge 2022 (hardware not stated)")


def main(results: tyro.conf.Positional[tuple[pathlib.Path, ...]], out: pathlib.Path) -> None:
    """Prints the table and draws the picture.

    Args:
      results: files of JSON lines.
      out: picture to write.
    """
    lines = (line for path in results for line in path.read_text().splitlines())
    rows = [json.loads(line) for line in lines]
    print("\n".join(table(rows)))
    if any(row.get("part") == "whole" for row in rows):
        plot.save(picture(rows), out)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
