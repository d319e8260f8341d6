"""The report of an evaluation: metrics.json, tables for the screen, pictures and one HTML page."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import platform
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import h5py
import jax
import numpy as np

import calojax
from calojax import files
from calojax.errors import CalojaxError, printable
from calojax.evaluation import averages, quantity, scoreboard
from calojax.evaluation.classifiers import MulticlassScore
from calojax.evaluation.features import ShowerSource
from calojax.evaluation.suite import SCORES, Evaluation
from calojax.progress import progress_bar
from calojax.report import page
from calojax.report.page import Picture, Section, Tile
from calojax.report.table import Table

if TYPE_CHECKING:
    from calojax.report import gallery

FORMAT = 1
"""Version of the layout of metrics.json; raised when a key changes its meaning."""

Kind = Literal["png", "pdf", "svg"]
"""File format of a picture."""

_PUBLISHED = "Among published models"

# What is seen first, where it was computed.
_TILES = ("auc_low", "auc_high", "auc_cnn", "fpd", "kpd",
          "separation_e_total", "separation_e_layer", "separation_voxel")  # fmt: skip

# Columns of the table of published models.
_BOARD = ("fpd", "kpd", "auc_low", "auc_high", "auc_cnn", "separation_e_layer", "separation_voxel",
          "cpu_ms_1", "gpu_ms_1", "gpu_ms_100")  # fmt: skip


# What they are sorted by: the first of these that was computed.
_ORDERS = ("auc_low", "auc_high", "fpd", "separation_e_layer", "kpd")


@dataclasses.dataclass(frozen=True)
class Context:
    """What an evaluation does not know of itself.

    Attributes:
      name: how the generated showers are called in tables and legends.
      inputs: what was evaluated: files, runs, checksums; text by text.
      settings: how: seeds, sizes, whether it was a quick run.
      times: ms per shower by published column, such as ``time GPU 100``.
      published: rows to stand among; none leaves the part out.
      multiclass: which of several generated samples the reference looks like, by classifier.
      warnings: sentences on what makes the scores less trustworthy, besides the evaluation's.
    """

    name: str = "Generated"
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    times: Mapping[str, float] = dataclasses.field(default_factory=dict)
    published: Sequence[scoreboard.Row] = ()
    multiclass: Sequence[MulticlassScore] = ()
    warnings: Sequence[str] = ()


def metrics(evaluation: Evaluation, context: Context = Context()) -> dict[str, Any]:
    """What metrics.json holds: numbers under stable keys, and where they come from.

    ``scores`` has a value and an error ``<key>_error`` for each key of `suite.SCORES`;
    ``published_names`` gives the column of the CaloChallenge's tables that each belongs to.
    """
    return _finite({
        "format": FORMAT,
        "name": context.name,
        "geometry": evaluation.detector.name,
        "showers": _counts(evaluation),
        "scores": dict(evaluation.scores),
        "floor": None if evaluation.floor is None else dict(evaluation.floor),
        "slices": [
            {
                "low_mev": part.low,
                "high_mev": part.high,
                "generated": part.generated,
                "reference": part.reference,
                "scores": dict(part.scores),
            }
            for part in evaluation.slices
        ],
        "published_names": {key: SCORES[key].name for key in SCORES if key in evaluation.scores},
        "warnings": [*context.warnings, *evaluation.warnings],
        "histograms": {
            item.name: {
                "family": item.family,
                "separation": item.separation,
                "error": item.error,
                "floor": item.floor,
            }
            for item in evaluation.histograms
        },
        "times_ms": dict(context.times),
        "multiclass": [dataclasses.asdict(score) for score in context.multiclass],
        "inputs": dict(context.inputs),
        "settings": _settings(evaluation, context),
        "versions": versions(),
    })  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of what computed the numbers, and the device."""
    device = jax.devices()[0]
    return {
        "calojax": calojax.__version__,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "python": platform.python_version(),
        "device": f"{device.platform} ({device.device_kind}), {jax.device_count()} in all",
    }


def tables(evaluation: Evaluation, context: Context = Context()) -> list[Table]:
    """The scores, the scores in slices of incident energy, and the published models if asked."""
    found = [_score_table(evaluation, context)]
    if any(part.scores for part in evaluation.slices):
        found.append(_slice_table(evaluation))
    found += [_multiclass_table(score, context) for score in context.multiclass]
    if context.published:
        found.append(_board_table(evaluation, context))
    return found


def screen(evaluation: Evaluation, context: Context = Context()) -> str:
    """Warnings and all `tables` as plain text."""
    warned = [
        textwrap.fill(printable(f"Warning: {text}"), 100) for text in _warnings(evaluation, context)
    ]
    return "\n\n".join([*warned, *(table.text() for table in tables(evaluation, context))])


def write(
    evaluation: Evaluation,
    folder: str | os.PathLike,
    *,
    context: Context = Context(),
    generated: ShowerSource | None = None,
    reference: ShowerSource | None = None,
    dpi: int = 110,
    pictures: bool = True,
    kind: Kind = "png",
    tell: Callable[[str], None] = lambda sentence: None,
) -> pathlib.Path:
    """Writes metrics.json, then pictures to figures, and report.html; each when it is complete.

    Args:
      evaluation: what was computed.
      folder: where to write; made if need be.
      context: names, inputs, settings, published rows.
      generated: the generated showers that were evaluated, for pictures of showers; those are
        left out without them.
      reference: the reference's showers, likewise.
      dpi: resolution of the pictures in pixels per inch.
      pictures: whether to draw pictures; one that cannot be drawn is left out with a warning.
      kind: format of the pictures in figures; those in the page are PNG.
      tell: called with a sentence on every picture that could not be drawn.

    Returns:
      The path of the page.

    Raises:
      CalojaxError: if something cannot be written.
    """
    folder = pathlib.Path(folder)
    files.make_folder(folder)
    content = metrics(evaluation, context)
    write_metrics(content, folder)

    scores, *others = tables(evaluation, context)
    board = [others.pop()] if context.published else []
    sections = {"Scores": [scores, *others], _PUBLISHED: board}
    lost: list[str] = []
    if pictures:
        drawings = _drawings(evaluation, context, generated, reference)
        _draw(drawings, sections, folder / "figures", kind, dpi, lost)
    sections["Inputs, settings and versions"] = _provenance(evaluation, context)
    path = folder / "report.html"
    text = page.html(
        f"{context.name} against Geant4",
        _subtitle(evaluation),
        _tiles(evaluation),
        [Section(title, tuple(parts)) for title, parts in sections.items()],
        warnings=[*_warnings(evaluation, context), *lost],
    )
    _replace(path, text.encode())
    for sentence in lost:
        tell(sentence)
    return path


def write_metrics(content: Mapping[str, Any], folder: pathlib.Path) -> None:
    """Writes what `metrics` gave to metrics.json, which is complete at any time."""
    text = json.dumps(content, indent=1, allow_nan=False)
    _replace(folder / "metrics.json", (text + "\n").encode())


def _draw(
    drawings: "Iterator[tuple[str, Iterator[gallery.Drawing]]]",
    sections: dict[str, list],
    folder: pathlib.Path,
    kind: Kind,
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

        files.make_folder(folder)
        for title, section in drawings:
            parts = sections.setdefault(title, [])
            with _without(f"pictures of section '{title}'", lost):
                for drawing in section:
                    with _without(f"picture {drawing.name}", lost):
                        figure = drawing.draw()
                        png = plot.png(figure, dpi=dpi)
                        if kind == "png":
                            _replace(folder / f"{drawing.name}.png", png)
                        else:
                            plot.save(figure, folder / f"{drawing.name}.{kind}", dpi=dpi)
                        parts.append(Picture(drawing.name, png, drawing.caption, drawing.narrow))
                    bar.update()


@contextlib.contextmanager
def _without(what: str, lost: list[str]) -> Iterator[None]:
    """Goes on without something that cannot be drawn, unless the file cannot be written."""
    try:
        yield
    except CalojaxError:
        raise
    except ImportError as error:
        lost.append(f"There are no {what}, which need {error.name}: install calojax[plots].")
    except Exception as error:
        lost.append(f"The {what} could not be drawn ({type(error).__name__}: {error}).")


def _drawings(
    evaluation: Evaluation,
    context: Context,
    generated: ShowerSource | None,
    reference: ShowerSource | None,
) -> "Iterator[tuple[str, Iterator[gallery.Drawing]]]":
    """Titles of sections and their pictures, which are not drawn yet."""
    from calojax.report import gallery

    # matplotlib hides labels that begin with an underscore.
    look = {"name": context.name.lstrip("_") or "Generated"}
    detector, features = evaluation.detector, (evaluation.reference, evaluation.generated)
    if context.published:
        yield _PUBLISHED, gallery.pareto(_board(evaluation, context))
    yield "Response", gallery.response(detector, *features, **look)
    yield "Histograms", gallery.histograms(evaluation.histograms, **look)
    matrices = evaluation.layer_correlations, evaluation.shower_correlations
    yield "Correlations", gallery.correlations(detector, *matrices, **look)
    if generated is None or reference is None:
        return
    edges = averages.decades(np.concatenate([generated.energies, reference.energies]))
    means = [averages.average(source, edges) for source in (reference, generated)]
    yield "Profiles", gallery.profiles(detector, *means, **look)
    yield "Mean showers", gallery.mean_showers(detector, *means, **look)
    chosen = averages.pairs(generated, reference)
    yield "Single showers", gallery.single_showers(detector, chosen, **look)


def _score_table(evaluation: Evaluation, context: Context) -> Table:
    scores, floor = evaluation.scores, evaluation.floor
    shown = [(key, metric) for key, metric in SCORES.items() if key in scores]
    columns = {context.name: [_cell(scores, key) for key, _ in shown]}
    caption = (
        f"Scores of {context.name} against Geant4, value ± error, under their names in the "
        "CaloChallenge's tables. Lower is better unless said."
    )
    if any(_chance(scores, key) for key, _ in shown):
        columns["by chance"] = [_chance(scores, key) for key, _ in shown]
        caption += (
            " By chance: the mean separation power of samples of these sizes that do not differ."
        )
    if floor is not None:
        columns["Geant4 floor"] = [_cell(floor, key) for key, _ in shown]
        caption += (
            " The floor is one half of the reference against the other: what chance alone adds to "
            "a score is about twice as much there as in the first column."
        )
    columns["What it is"] = [
        metric.description + ("; higher is better" if metric.higher_is_better else "")
        for _, metric in shown
    ]
    header = ("Score", *columns)
    names = [metric.name for _, metric in shown]
    rows = tuple(zip(names, *columns.values(), strict=True))
    return Table(caption, header, rows, prose=frozenset({len(header) - 1}))


def _slice_table(evaluation: Evaluation) -> Table:
    slices = evaluation.slices
    keys = [key for key in SCORES if any(key in part.scores for part in slices)]
    rows = [
        ("showers, generated", *(f"{part.generated:,}" for part in slices)),
        ("showers, Geant4", *(f"{part.reference:,}" for part in slices)),
    ]
    for key in keys:
        rows.append((SCORES[key].name, *(_cell(part.scores, key) for part in slices)))
        chances = [_chance(part.scores, key) for part in slices]
        if any(chances):
            rows.append(("  by chance", *chances))
    return Table(
        "Scores in slices of incident energy: a pooled score can hide a bad slice.",
        ("Score", *(quantity.energies(part.low, part.high) for part in slices)),
        tuple(rows),
    )


def _board(evaluation: Evaluation, context: Context) -> list[scoreboard.Row]:
    values = {
        metric.name: evaluation.scores[key] * metric.scale
        for key, metric in SCORES.items()
        if key in evaluation.scores
    }
    scores = {**values, **context.times}
    quick = bool(evaluation.settings.get("quick"))
    ranked = scoreboard.is_full_size(len(evaluation.reference.energy), quick)
    order = _order(evaluation)
    return scoreboard.against(context.name, scores, context.published, sort=order, ranked=ranked)


def _order(evaluation: Evaluation) -> str:
    """The score that sorts the published models: the best known of those that were computed."""
    return next((key for key in _ORDERS if key in evaluation.scores), _ORDERS[0])


def _board_table(evaluation: Evaluation, context: Context) -> Table:
    rows = _board(evaluation, context)
    columns = [c for c in _BOARD if any(getattr(row, c) is not None for row in rows)]
    return Table(
        f"{context.name} (marked) among the CaloChallenge's models, sorted by "
        f"'{SCORES[_order(evaluation)].name}', best first; times in ms per shower. "
        f"{scoreboard.CAVEAT}",
        ("Model", *(scoreboard.COLUMNS[column] for column in columns)),
        tuple((row.model, *(_plain(getattr(row, column)) for column in columns)) for row in rows),
        frozenset(index for index, row in enumerate(rows) if not row.published),
    )


def _multiclass_table(score: MulticlassScore, context: Context) -> Table:
    names = tuple(score.log_posterior)
    rows = [
        (
            name,
            f"{score.log_posterior[name]:.3f} ± {score.log_posterior_error[name]:.3f}",
            *(f"{value:.3f}" for value in score.cross_check[index]),
        )
        for index, name in enumerate(names)
    ]
    rows.sort(key=lambda row: -score.log_posterior[row[0]])
    return Table(
        f"Which sample Geant4's showers are most likely taken for, by a classifier between the "
        f"samples ('{score.kind}'): mean log-posterior, higher is better; {score.uniform:.3f} if "
        "they were all alike. The columns behind it are the same for each sample's own showers "
        "(rows): the classifier works where the diagonal is highest.",
        ("Sample", "multi cls", *(f"taken for {name}" for name in names)),
        tuple(rows),
        frozenset(index for index, row in enumerate(rows) if row[0] == context.name),
    )


def _provenance(evaluation: Evaluation, context: Context) -> list[Table]:
    return [
        Table(
            caption,
            ("Name", "Value"),
            tuple((str(name), _text(value)) for name, value in entries.items()),
            prose=frozenset({1}),
        )
        for caption, entries in (
            ("Inputs", context.inputs),
            ("Settings", _settings(evaluation, context)),
            ("Versions", versions()),
        )
        if entries
    ]


def _text(value: Any) -> str:
    """A setting for people: mappings as 'name: value' pairs."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {item}" for key, item in value.items())
    return str(value)


def _tiles(evaluation: Evaluation) -> list[Tile]:
    found = []
    for key in _TILES:
        if key not in evaluation.scores:
            continue
        value, _, error = _cell(evaluation.scores, key).partition(" ± ")
        notes = [f"± {error}"] if error else []
        if chance := _chance(evaluation.scores, key):
            notes.append(f"by chance {chance}")
        if evaluation.floor is not None and key in evaluation.floor:
            notes.append(f"floor {_cell(evaluation.floor, key).partition(' ± ')[0]}")
        found.append(Tile(SCORES[key].name, value, ", ".join(notes)))
    return found


def _subtitle(evaluation: Evaluation) -> str:
    counts = _counts(evaluation)
    energies = np.asarray(evaluation.reference.energy)
    span = ""
    if energies.size:
        span = f", incident energies {quantity.energies(energies.min(), energies.max())}"
    return (
        f"Geometry {evaluation.detector.name}: {counts['generated']:,} generated showers against "
        f"{counts['reference']:,} of the reference{span}. calojax {calojax.__version__}."
    )


def _counts(evaluation: Evaluation) -> dict[str, int]:
    return {
        "generated": len(evaluation.generated.energy),
        "reference": len(evaluation.reference.energy),
    }


def _warnings(evaluation: Evaluation, context: Context) -> list[str]:
    quick = "This was a quick run: small classifiers and samples, not comparable with other scores."
    return [
        *([quick] if evaluation.settings.get("quick") else []),
        *context.warnings,
        *evaluation.warnings,
    ]


def _settings(evaluation: Evaluation, context: Context) -> dict[str, Any]:
    return {**context.settings, **evaluation.settings}


def _cell(scores: Mapping[str, float], key: str) -> str:
    if key not in scores:
        return "–"
    scale, error = SCORES[key].scale, scores.get(f"{key}_error")
    return quantity.rounded(scores[key] * scale, None if error is None else error * scale)


def _chance(scores: Mapping[str, float], key: str) -> str:
    """The chance level of a separation power; nothing for other scores."""
    value = scores.get(f"{key}_chance")
    return "" if value is None else f"{value:#.2g}"


def _plain(value: float | None) -> str:
    return "–" if value is None else quantity.rounded(value)


def _finite(value: Any) -> Any:
    """The same with what JSON cannot hold replaced: NaN and infinity by null, arrays by lists."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | jax.Array):
        return _finite(np.asarray(value).tolist())
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        return _finite(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return str(value)


def _replace(path: pathlib.Path, content: bytes) -> None:
    with files.replacing(path) as partial:
        partial.write_bytes(content)
