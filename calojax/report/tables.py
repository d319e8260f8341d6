"""Tables of an evaluation, for the screen and the page."""

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from calojax.errors import printable
from calojax.evaluation import quantity, scoreboard
from calojax.evaluation.classifiers import MulticlassScore
from calojax.evaluation.scoreboard import Row
from calojax.evaluation.suite import SCORES
from calojax.report.results import Model, Report, versions

PUBLISHED = "Among published models"
"""Title of the section on published models."""

# Columns of the table of published models.
_BOARD = ("fpd", "kpd", "auc_low", "auc_high", "auc_cnn", "separation_e_layer", "separation_voxel",
          "cpu_ms_1", "gpu_ms_1", "gpu_ms_100")  # fmt: skip
# Scores that sort it: the first of these that was computed.
_ORDERS = ("auc_low", "auc_high", "fpd", "separation_e_layer", "kpd")
# Expected scores of equal samples, where they do not depend on the sample. FPD and KPD are
# extrapolated to infinitely many showers.
_CHANCES = {"fpd": 0.0, "kpd": 0.0, **{key: 0.5 for key in SCORES if key.startswith("auc_")}}


@dataclasses.dataclass(frozen=True)
class Table:
    """Texts in rows and columns; the first column names the rows.

    Rows whose positions are ``marked`` stand out. Columns of ``prose`` start at the left; others,
    of numbers, end at the right.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: frozenset[int] = frozenset()
    prose: frozenset[int] = frozenset()

    def text(self) -> str:
        """The table in aligned plain text, without control characters; a star marks rows."""
        signs = ["  ", *("* " if index in self.marked else "  " for index in range(len(self.rows)))]
        lines = [tuple(map(printable, line)) for line in (self.header, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        shown = []
        for sign, line in zip(signs, lines, strict=True):
            cells = [
                cell.ljust(width) if column in {0} | self.prose else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            shown.append(((sign if self.marked else "") + "  ".join(cells)).rstrip())
        rule = "-" * max(map(len, shown))
        caption = textwrap.fill(printable(self.caption), 100)
        return "\n".join([caption, rule, shown[0], rule, *shown[1:], rule])


def tables(report: Report) -> list[Table]:
    """Scores, scores in slices of incident energy, multi-class scores, and published models."""
    found = [_scores(report)]
    found += [
        _slices(m, report) for m in report.models if any(s.scores for s in m.evaluation.slices)
    ]
    found += [_multiclass(score, report) for score in report.multiclass]
    return [*found, _board(report)] if report.published else found


def screen(report: Report) -> str:
    """Warnings and all `tables` as plain text."""
    warned = [textwrap.fill(printable(f"Warning: {text}"), 100) for text in report.warnings]
    return "\n\n".join([*warned, *(table.text() for table in tables(report))])


def provenance(report: Report) -> list[Table]:
    """Inputs and settings of each model, and versions."""
    entries = {}
    for model in report.models:
        name = f" of {model.name}" if len(report.models) > 1 else ""
        entries[f"Inputs{name}"] = model.inputs
        entries[f"Settings{name}"] = {**model.options, **model.evaluation.settings}
    entries["Versions"] = versions()
    return [
        Table(
            caption,
            ("Name", "Value"),
            tuple((str(key), _text(value)) for key, value in values.items()),
            prose=frozenset({1}),
        )
        for caption, values in entries.items()
        if values
    ]


def board(report: Report) -> list[scoreboard.Row]:
    """The published rows and ours."""
    evaluation = report.models[0].evaluation
    quick, showers = evaluation.settings.get("quick"), len(evaluation.reference.energy)
    return scoreboard.ranking(
        [Row(model.name, {**model.evaluation.scores, **model.times}) for model in report.models],
        report.published,
        _order(report),
        ranked=not quick and showers >= scoreboard.FULL_SIZE,
    )


def cell(scores: Mapping[str, float], key: str) -> str:
    """A score and its error as they are published, or a dash."""
    if key not in scores:
        return "–"
    scale = SCORES[key].scale if key in SCORES else 1.0
    error = scores.get(f"{key}_error")
    return quantity.rounded(scores[key] * scale, None if error is None else error * scale)


def chance(samples: Sequence[Mapping[str, float]], key: str) -> str:
    """The score of equal samples as large as these, or nothing where it is not known."""
    if key in _CHANCES:
        return f"{_CHANCES[key]:g}"
    known = [scores[f"{key}_chance"] for scores in samples if f"{key}_chance" in scores]
    return f"{max(known):#.2g}" if known else ""


def _scores(report: Report) -> Table:
    samples = [model.evaluation.scores for model in report.models]
    keys = [key for key in SCORES if any(key in scores for scores in samples)]
    columns = {
        model.name: [cell(model.evaluation.scores, key) for key in keys] for model in report.models
    }
    caption = (
        f"Scores of {report.title}, value ± error, under their names in the CaloChallenge's "
        "tables. Lower is better unless said."
    )
    chances = [chance(samples, key) for key in keys]
    if any(chances):
        columns["by chance"] = chances
        caption += " By chance: the mean score of samples of these sizes that do not differ."
    if report.floor:
        columns[f"{report.reference_name} floor"] = [cell(report.floor, key) for key in keys]
        caption += (
            " The floor is one half of the reference against the other: with half as many showers, "
            "chance adds about twice as much to it as to the scores."
        )
    columns["What it is"] = [
        SCORES[key].description + ("; higher is better" if SCORES[key].higher_is_better else "")
        for key in keys
    ]
    header = ("Score", *columns)
    names = [SCORES[key].name for key in keys]
    rows = tuple(zip(names, *columns.values(), strict=True))
    return Table(caption, header, rows, prose=frozenset({len(header) - 1}))


def _slices(model: Model, report: Report) -> Table:
    slices = model.evaluation.slices
    rows = [
        ("showers, generated", *(f"{part.generated:,}" for part in slices)),
        (f"showers, {report.reference_name}", *(f"{part.reference:,}" for part in slices)),
    ]
    for key in SCORES:
        if any(key in part.scores for part in slices):
            rows.append((SCORES[key].name, *(cell(part.scores, key) for part in slices)))
            chances = [chance([part.scores], key) for part in slices]
            if any(chances) and key not in _CHANCES:
                rows.append(("  by chance", *chances))
    return Table(
        f"Scores of {model.name} in slices of incident energy; a pooled score can hide a bad one.",
        ("Score", *(quantity.energies(part.low_mev, part.high_mev) for part in slices)),
        tuple(rows),
    )


def _order(report: Report) -> str:
    scores = report.models[0].evaluation.scores
    return next((key for key in _ORDERS if key in scores), _ORDERS[0])


def _board(report: Report) -> Table:
    rows = board(report)
    columns = [key for key in _BOARD if any(key in row.values for row in rows)]
    names = ", ".join(model.name for model in report.models)
    return Table(
        f"{names} (marked) among the CaloChallenge's models, sorted by "
        f"'{SCORES[_order(report)].name}', best first; times in ms per shower. "
        f"{scoreboard.CAVEAT}",
        ("Model", *(scoreboard.TIMES.get(key) or SCORES[key].name for key in columns)),
        tuple((row.model, *(cell(row.values, key) for key in columns)) for row in rows),
        frozenset(index for index, row in enumerate(rows) if not row.published),
    )


def _multiclass(score: MulticlassScore, report: Report) -> Table:
    names = tuple(score.log_posterior)
    rows = [
        (
            name,
            quantity.rounded(score.log_posterior[name], score.log_posterior_error[name]),
            *(f"{value:.3f}" for value in score.cross_check[index]),
        )
        for index, name in enumerate(names)
    ]
    rows.sort(key=lambda row: -score.log_posterior[row[0]])
    return Table(
        f"Samples that {report.reference_name}'s showers resemble, by a classifier between the "
        f"samples ('{score.kind}'): mean log-posterior, higher is better; {score.uniform:.3f} if "
        "the samples are all alike. The further columns are the same for each sample's own showers "
        "(rows): the classifier works where the diagonal is highest.",
        ("Sample", "multi cls", *(f"taken for {name}" for name in names)),
        tuple(rows),
    )


def _text(value: Any) -> str:
    """A setting for people: mappings as 'name: value' pairs."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {item}" for key, item in value.items())
    return str(value)
