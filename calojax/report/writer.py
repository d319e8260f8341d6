"""The files of a report: metrics.json, pictures and one self-contained HTML page."""

import base64
import contextlib
import functools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup

import calojax
from calojax import files
from calojax.errors import CalojaxError, printable
from calojax.evaluation import quantity
from calojax.progress import progress_bar
from calojax.report.results import Report, metrics, write_metrics
from calojax.report.tables import PUBLISHED, Table, provenance, tables

PictureFormat = Literal["png", "pdf", "svg"]
"""File format of a picture."""


class _Section(NamedTuple):
    """A section of the page; ``pictures`` are arguments of the template's macro of that name."""

    title: str
    tables: list[Table]
    pictures: list[dict[str, Any]]


def write(
    report: Report,
    folder: str | os.PathLike,
    *,
    dpi: int = 110,
    pictures: bool = True,
    kind: PictureFormat = "png",
    warn: Callable[[str], None] = lambda sentence: None,
) -> pathlib.Path:
    """Writes metrics.json, pictures to figures, and report.html, whose path it returns.

    ``kind`` is the format of the pictures in figures; those in the page are PNG. ``warn`` is called
    with a sentence on every picture that could not be drawn.
    """
    folder = pathlib.Path(folder)
    files.make_folder(folder)
    write_metrics(metrics(report), folder)
    found = tables(report)
    published = [found.pop()] if report.published else []
    sections = {"Scores": _Section("Scores", found, [])}
    if published:
        sections[PUBLISHED] = _Section(PUBLISHED, published, [])
    lost: list[str] = []
    if pictures:
        _draw(report, sections, folder / "figures", kind, dpi, lost)
    last = "Inputs, settings and versions"
    sections[last] = _Section(last, provenance(report), [])
    text = _environment().get_template("report.html.jinja").render(
        title=report.title,
        subtitle=_subtitle(report),
        warnings=[*report.warnings, *lost],
        sections=[s for s in sections.values() if s.tables or s.pictures],
    )  # fmt: skip
    path = folder / "report.html"
    with files.replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    for sentence in lost:
        warn(sentence)
    return path


@functools.cache
def _environment() -> jinja2.Environment:
    """Templates that escape all texts, and what no file or terminal can hold."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda v: printable(v) if isinstance(v, str) and not isinstance(v, Markup) else v,
    )


def _draw(
    report: Report,
    sections: dict[str, _Section],
    folder: pathlib.Path,
    kind: PictureFormat,
    dpi: int,
    lost: list[str],
) -> None:
    """Draws pictures into ``sections`` and a folder; ``lost`` gets a sentence for each failure."""
    with (
        _without("pictures", lost),
        np.errstate(over="ignore", invalid="ignore"),  # What cannot be drawn says so.
        progress_bar("draw", None, unit="picture") as bar,
    ):
        # Here and not above: tables and metrics.json need no matplotlib.
        from calojax import plot
        from calojax.report.pictures import drawings

        files.make_folder(folder)
        for drawing in drawings(report):
            with _without(f"picture {drawing.name}", lost):
                figure = drawing.draw()
                path = plot.save(figure, folder / f"{drawing.name}.{kind}", dpi=dpi)
                png = path.read_bytes() if kind == "png" else plot.png(figure, dpi=dpi)
                title = drawing.section
                sections.setdefault(title, _Section(title, [], [])).pictures.append({
                    "base64": base64.b64encode(png).decode("ascii"),
                    # Width and height are in the header (PNG specification, 11.2.2).
                    "width": int.from_bytes(png[16:20], "big"),
                    "height": int.from_bytes(png[20:24], "big"),
                    "caption": drawing.caption,
                    "narrow": drawing.narrow,
                })  # fmt: skip
            bar.update()


@contextlib.contextmanager
def _without(what: str, lost: list[str]) -> Iterator[None]:
    """Continues without what cannot be drawn; files that cannot be written are errors."""
    try:
        yield
    except CalojaxError:
        raise
    except ImportError as error:
        lost.append(f"There are no {what}, which need {error.name}: install calojax[plots].")
    except Exception as error:
        lost.append(f"The {what} could not be drawn ({type(error).__name__}: {error}).")


def _subtitle(report: Report) -> str:
    evaluation = report.models[0].evaluation
    energies = np.asarray(evaluation.reference.energy)
    span = ""
    if energies.size:
        span = f", incident energies {quantity.energies(energies.min(), energies.max())}"
    counts = " and ".join(f"{len(m.evaluation.generated.energy):,}" for m in report.models)
    return (
        f"Geometry {evaluation.detector.name}: {counts} generated showers against "
        f"{energies.size:,} of {report.reference_name}{span}. calojax {calojax.__version__}."
    )
