"""What a report is made of, and metrics.json: its numbers, written and read again."""

import contextlib
import dataclasses
import json
import math
import pathlib
import platform
import re
from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import jax
import msgspec
import numpy as np

import calojax
from calojax import files
from calojax.errors import CalojaxError
from calojax.evaluation import scoreboard
from calojax.evaluation.classifiers import MulticlassScore
from calojax.evaluation.suite import SCORES, Evaluation, Known, Slice
from calojax.io import ShowerSource

FORMAT = 1
"""Version of the layout of metrics.json; raised when a key changes its meaning."""

# Names that `pictures` gives to files.
_PICTURE = re.compile(
    r"(histogram|response|profile|mean|single|correlation|pareto)\w*\.(png|pdf|svg)"
)


@dataclasses.dataclass(frozen=True)
class Model:
    """A generated sample in a report; without showers there are no pictures of showers.

    ``inputs`` are files, runs and digests that were evaluated, by what they are; ``times`` are ms
    per shower by the keys of `scoreboard.TIMES`.
    """

    name: str
    evaluation: Evaluation
    showers: ShowerSource | None = None
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    times: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Report:
    """One or several models of the same geometry beside one reference; all names differ."""

    models: Sequence[Model]
    reference: ShowerSource | None = None
    reference_name: str = "Geant4"
    published: Sequence[scoreboard.Row] = ()
    multiclass: Sequence[MulticlassScore] = ()

    @property
    def title(self) -> str:
        names = [model.name for model in self.models]
        both = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
        return f"{both} against {self.reference_name}"

    @property
    def floor(self) -> Mapping[str, float]:
        """Scores of one half of the reference against the other; empty if not asked for."""
        return next((m.evaluation.floor for m in self.models if m.evaluation.floor), {})

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings of the evaluations; those that not all models have begin with the name."""
        found = []
        if any(model.evaluation.settings.get("quick") for model in self.models):
            found.append(
                "This was a quick run: small classifiers and samples, not comparable with other "
                "scores."
            )
        every = [set(model.evaluation.warnings) for model in self.models]
        for model in self.models:
            for text in model.evaluation.warnings:
                common = all(text in one for one in every)
                found.append(text if common else f"{model.name}: {text}")
        return tuple(dict.fromkeys(found))


def metrics(report: Report) -> list[dict[str, Any]]:
    """Content of metrics.json for each model: numbers under stable keys, and their origin.

    ``scores`` has a value and an error ``<key>_error`` for each key of `suite.SCORES`;
    ``published_names`` gives the column of the CaloChallenge's tables that each belongs to.
    """
    return [_content(model, report) for model in report.models]


def _content(model: Model, report: Report) -> dict[str, Any]:
    evaluation = model.evaluation
    return _finite({
        "format": FORMAT,
        "name": model.name,
        "geometry": evaluation.detector.name,
        "showers": {
            "generated": len(evaluation.generated.energy),
            "reference": len(evaluation.reference.energy),
        },
        "scores": evaluation.scores,
        "floor": evaluation.floor,
        "slices": [vars(part) for part in evaluation.slices],
        "published_names": {key: SCORES[key].name for key in SCORES if key in evaluation.scores},
        "warnings": evaluation.warnings,
        "histograms": {
            item.name: {
                "family": item.family,
                "separation": item.separation,
                "error": item.error,
                "floor": item.floor,
            }
            for item in evaluation.histograms
        },
        "times_ms": model.times,
        "multiclass": [dataclasses.asdict(score) for score in report.multiclass],
        "inputs": model.inputs,
        "settings": {**model.options, **evaluation.settings},
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


def write_metrics(contents: Sequence[Mapping[str, Any]], folder: pathlib.Path) -> None:
    """Writes metrics.json: one model's content, or those of several under ``models``."""
    content = contents[0] if len(contents) == 1 else {"format": FORMAT, "models": [*contents]}
    text = json.dumps(content, indent=1, allow_nan=False)
    with files.replacing(folder / "metrics.json") as partial:
        partial.write_text(text + "\n")


def _finite(value: Any) -> Any:
    """Values that JSON can hold: null for NaN and infinity, lists for arrays, else text."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _finite(np.asarray(value).tolist())
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def _with_nan(value: Any) -> Any:
    """Values of JSON with NaN for null, as they were before `_finite`."""
    if isinstance(value, dict):
        return {key: _with_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_nan(item) for item in value]
    return math.nan if value is None else value


class Earlier(msgspec.Struct):
    """What an earlier evaluation of a model left in metrics.json; empty if there was none.

    ``content`` is all of it, as it was read. The others are parts of it, with NaN for null.
    """

    content: dict[str, Any] = {}
    name: str = ""
    inputs: dict[str, Any] = {}
    scores: dict[str, float] = {}
    slices: list[Slice] = []
    floor: dict[str, float] = {}
    multiclass: tuple[MulticlassScore, ...] = ()

    @property
    def known(self) -> Known:
        """The scores for `suite.scoring`."""
        slices = {(part.low_mev, part.high_mev): part.scores for part in self.slices}
        return Known(self.scores, slices, self.floor)


def check(folder: pathlib.Path) -> None:
    """Raises `CalojaxError` if there are results in a folder that calojax did not write."""
    foreign = [n for n in ("metrics.json", "report.html", "figures") if (folder / n).exists()]
    if foreign and not _read(folder):
        raise CalojaxError(
            f"{folder / foreign[0]}: was not written by calojax evaluate; choose another --out, or "
            "replace it: --force."
        )


def earlier(
    folder: pathlib.Path, digests: Sequence[str], *, force: bool = False
) -> tuple[list[Earlier], list[str]]:
    """What is known of each model, and the names of evaluations in the folder to be replaced.

    A model is known by the digest of all that its scores depend on, as in `Model.inputs`; with
    ``force`` none is. The report of other models is removed.
    """
    stored = _read(folder)
    known = {} if force else {one.inputs.get("digest"): one for one in stored}
    others = [one for one in stored if force or one.inputs.get("digest") not in digests]
    for path in (folder / "report.html", *(folder / "figures").glob("*")) if others else ():
        if path.name == "report.html" or _PICTURE.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink()
    return [known.get(digest, Earlier()) for digest in digests], [one.name for one in others]


def _read(folder: pathlib.Path) -> list[Earlier]:
    """The evaluations in the folder's metrics.json; none if calojax did not write it."""
    try:
        content = json.loads((folder / "metrics.json").read_bytes())
        if content["format"] != FORMAT:
            return []
        return [
            msgspec.convert(
                {**_with_nan(one), "floor": _with_nan(one["floor"] or {}), "content": one}, Earlier
            )
            for one in content.get("models", [content])
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
