"""What an earlier evaluation left in its folder, and which of its scores are used again."""

import contextlib
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from calojax.errors import CalojaxError
from calojax.evaluation.classifiers import MulticlassScore
from calojax.evaluation.suite import SCORES, Known

# Of the names that `gallery` gives to pictures.
_PICTURE = re.compile(
    r"(histogram|response|profile|mean|single|correlation|pareto)\w*\.(png|pdf|svg)"
)


class Stored(NamedTuple):
    """What is known of the same evaluation.

    Attributes:
      known: its scores.
      multiclass: its multi-class scores, if they were of the same rivals.
      replaced: name of the other evaluation that was in the folder, or None.
    """

    known: Known = Known()
    multiclass: tuple[MulticlassScore, ...] = ()
    replaced: str | None = None


def check(folder: pathlib.Path) -> None:
    """Refuses a folder with results that calojax did not write.

    Raises:
      CalojaxError: naming the first of them.
    """
    foreign = [n for n in ("metrics.json", "report.html", "figures") if (folder / n).exists()]
    if foreign and _content(folder) is None:
        raise CalojaxError(
            f"{folder / foreign[0]}: was not written by calojax evaluate; choose another --out, or "
            "replace it: --force."
        )


def prepare(folder: pathlib.Path, inputs: Mapping[str, Any], *, force: bool = False) -> Stored:
    """Reads the scores of the same evaluation, or clears the folder of another one.

    Args:
      folder: an existing folder that passed `check`, or is to be overwritten.
      inputs: as in `writer.Context`; ``digest`` is that of all that scores depend on, and
        ``rivals`` has those of the rivals.
      force: use no score again.
    """
    content = _content(folder)
    if content is None:
        return Stored()
    earlier = content["inputs"]
    if not force and earlier.get("digest") == inputs["digest"]:
        same_rivals = earlier.get("rivals") == inputs.get("rivals")
        return Stored(_known(content), _multiclass(content) if same_rivals else ())
    for path in (folder / "report.html", *(folder / "figures").glob("*")):
        if path.name == "report.html" or _PICTURE.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink()
    return Stored(replaced=str(content["name"]))


def _content(folder: pathlib.Path) -> dict[str, Any] | None:
    """What the folder's metrics.json holds, if calojax wrote it."""
    try:
        content = json.loads((folder / "metrics.json").read_bytes())
        _ = content["name"], content["inputs"].get("digest"), _known(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return content


def _known(content: Mapping[str, Any]) -> Known:
    return Known(
        scores=_numbers(content["scores"]),
        slices={
            (float(part["low_mev"]), float(part["high_mev"])): _numbers(part["scores"])
            for part in content["slices"]
        },
        floor=_numbers(content["floor"] or {}),
    )


def _numbers(scores: Mapping[str, float | None]) -> dict[str, float]:
    """Scores by key; JSON has null where they are not finite."""
    return {
        key: float("nan") if value is None else float(value)
        for key, value in scores.items()
        if re.sub("_(error|chance)$", "", key) in SCORES
    }


def _multiclass(content: Mapping[str, Any]) -> tuple[MulticlassScore, ...]:
    try:
        return msgspec.convert(content["multiclass"], tuple[MulticlassScore, ...])
    except (KeyError, msgspec.ValidationError):
        return ()
