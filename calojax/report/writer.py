"""The report of an evaluation: metrics.json, tables for the screen, pictures and one HTML page."""

import dataclasses
import json
import math
import os
import pathlib
import platform
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import h5py
import jax
import numpy as np

import calojax
from calojax import files
from calojax.evaluate import averages, quantity, scoreboard
from calojax.evaluate.classifiers import MulticlassScore
from calojax.evaluate.features import ShowerSource
from calojax.evaluate.suite import METRICS, Evaluation
from calojax.report import page
from calojax.report.page import Picture, Section, Tile
from calojax.report.table import Table

FORMAT = 1
"""Version of the layout of metrics.json; raised when a key changes its meaning."""

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
    """

    name: str = "Generated"
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    times: Mapping[str, float] = dataclasses.field(default_factory=dict)
    published: Sequence[scoreboard.Row] = ()
    multiclass: Sequence[MulticlassScore] = ()


def metrics(evaluation: Evaluation, context: Context = Context()) -> dict[str, Any]:
    """What metrics.json holds: numbers under stable keys, and where they come from.

    ``scores`` has a value and an error ``<key>_error`` for each key of `suite.METRICS`;
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
        "published_names": {key: METRICS[key].name for key in METRICS if key in evaluation.scores},
        "warnings": list(evaluation.warnings),
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
    warned = [textwrap.fill(f"Warning: {text}", 100) for text in _warnings(evaluation)]
    return "\n\n".join([*warned, *(table.text() for table in tables(evaluation, context))])


def write(
    evaluation: Evaluation,
    folder: str | os.PathLike,
    *,
    context: Context = Context(),
    generated: ShowerSource | None = None,
    reference: ShowerSource | None = None,
    dpi: int = 110,
) -> pathlib.Path:
    """Writes metrics.json, figures/*.png and report.html; each appears only when complete.

    Args:
      evaluation: what was computed.
      folder: where to write; made if need be.
      context: names, inputs, settings, published rows.
      generated: the generated showers that were evaluated, for pictures of showers; those are
        left out without them.
      reference: the reference's showers, likewise.
      dpi: resolution of the pictures in pixels per inch.

    Returns:
      The path of the page.

    Raises:
      CalojaxError: if something cannot be written.
    """
    folder = pathlib.Path(folder)
    figures = folder / "figures"
    files.make_folder(figures)
    text = json.dumps(metrics(evaluation, context), indent=1, allow_nan=False)
    _replace(folder / "metrics.json", (text + "\n").encode())

    sections = list(_sections(evaluation, context, generated, reference, dpi))
    for section in sections:
        for part in section.parts:
            if isinstance(part, Picture):
                _replace(figures / f"{part.name}.png", part.png)
    path = folder / "report.html"
    content = page.html(
        f"{context.name} against Geant4",
        _subtitle(evaluation),
        _tiles(evaluation),
        sections,
        warnings=_warnings(evaluation),
    )
    _replace(path, content.encode())
    return path


def _sections(
    evaluation: Evaluation,
    context: Context,
    generated: ShowerSource | None,
    reference: ShowerSource | None,
    dpi: int,
) -> Iterator[Section]:
    # Here and not above: tables and metrics.json need no matplotlib.
    from calojax.report import gallery

    scores, *others = tables(evaluation, context)
    board = others.pop() if context.published else None
    yield Section("Scores", (scores, *others))
    if board is not None:
        pictures = gallery.pareto(_board(evaluation, context), dpi=dpi)
        yield Section("Among published models", (board, *pictures))
    # matplotlib hides labels that begin with an underscore.
    look: dict[str, Any] = {"name": context.name.lstrip("_") or "Generated", "dpi": dpi}
    detector, samples = evaluation.detector, (evaluation.reference, evaluation.generated)
    yield Section("Histograms", tuple(gallery.histograms(evaluation.histograms, **look)))
    yield Section("Response", tuple(gallery.response(detector, *samples, **look)))
    if generated is not None and reference is not None:
        edges = averages.decades(np.concatenate([generated.energies, reference.energies]))
        means = [averages.average(source, edges) for source in (reference, generated)]
        yield Section("Profiles", tuple(gallery.profiles(detector, *means, **look)))
        yield Section("Mean showers", tuple(gallery.mean_showers(detector, *means, **look)))
        chosen = averages.pairs(generated, reference)
        yield Section("Single showers", tuple(gallery.single_showers(detector, chosen, **look)))
    matrices = evaluation.layer_correlations, evaluation.shower_correlations
    yield Section("Correlations", tuple(gallery.correlations(detector, *matrices, **look)))
    yield Section("Inputs, settings and versions", _provenance(evaluation, context))


def _score_table(evaluation: Evaluation, context: Context) -> Table:
    floor = evaluation.floor
    rows = []
    for key, metric in METRICS.items():
        if key not in evaluation.scores:
            continue
        what = metric.description + ("; higher is better" if metric.higher_is_better else "")
        floors = [] if floor is None else [_cell(floor, key)]
        rows.append((metric.name, _cell(evaluation.scores, key), *floors, what))
    floors = [] if floor is None else ["Geant4 floor"]
    caption = (
        f"Scores of {context.name} against Geant4, value ± error, under their names in the "
        "CaloChallenge's tables. Lower is better unless said."
    )
    if floor is not None:
        caption += (
            " The floor is one half of the reference against the other: what chance alone adds to "
            "a score is about twice as much there as in the column beside it."
        )
    header = ("Score", context.name, *floors, "What it is")
    return Table(caption, header, tuple(rows), prose=frozenset({len(header) - 1}))


def _slice_table(evaluation: Evaluation) -> Table:
    slices = evaluation.slices
    keys = [key for key in METRICS if any(key in part.scores for part in slices)]
    return Table(
        "Scores in slices of incident energy: a pooled score can hide a bad slice.",
        ("Score", *(quantity.energies(part.low, part.high) for part in slices)),
        (
            ("showers, generated", *(f"{part.generated:,}" for part in slices)),
            ("showers, Geant4", *(f"{part.reference:,}" for part in slices)),
            *((METRICS[key].name, *(_cell(part.scores, key) for part in slices)) for key in keys),
        ),
    )


def _board(evaluation: Evaluation, context: Context) -> list[scoreboard.Row]:
    values = {
        metric.name: evaluation.scores[key] * metric.scale
        for key, metric in METRICS.items()
        if key in evaluation.scores
    }
    scores = {**values, **context.times}
    return scoreboard.against(context.name, scores, context.published, sort=_order(evaluation))


def _order(evaluation: Evaluation) -> str:
    """The score that sorts the published models: the best known of those that were computed."""
    return next((key for key in _ORDERS if key in evaluation.scores), _ORDERS[0])


def _board_table(evaluation: Evaluation, context: Context) -> Table:
    rows = _board(evaluation, context)
    columns = [c for c in _BOARD if any(getattr(row, c) is not None for row in rows)]
    return Table(
        f"{context.name} (marked) among the CaloChallenge's models, sorted by "
        f"'{METRICS[_order(evaluation)].name}', best first; times in ms per shower. "
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


def _provenance(evaluation: Evaluation, context: Context) -> tuple[Table, ...]:
    return tuple(
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
    )


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
        if evaluation.floor is not None and key in evaluation.floor:
            notes.append(f"floor {_cell(evaluation.floor, key).partition(' ± ')[0]}")
        found.append(Tile(METRICS[key].name, value, ", ".join(notes)))
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


def _warnings(evaluation: Evaluation) -> list[str]:
    quick = "This was a quick run: small classifiers and samples, not comparable with other scores."
    return [*([quick] if evaluation.settings.get("quick") else []), *evaluation.warnings]


def _settings(evaluation: Evaluation, context: Context) -> dict[str, Any]:
    return {**context.settings, **evaluation.settings}


def _cell(scores: Mapping[str, float], key: str) -> str:
    if key not in scores:
        return "–"
    scale, error = METRICS[key].scale, scores.get(f"{key}_error")
    return quantity.rounded(scores[key] * scale, None if error is None else error * scale)


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
