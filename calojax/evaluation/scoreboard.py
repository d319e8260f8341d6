"""The CaloChallenge's published scores, and ours among them.

The rows are those of the organisers' result tables (arXiv:2410.21611), shipped as
``calochallenge_results.json``. Times are in ms per shower.
"""

import dataclasses
import functools
import importlib.resources
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from calojax.errors import CalojaxError
from calojax.geometry import DETECTORS, Detector

SOURCE = "arXiv:2410.21611"

# Stands wherever published scores are shown.
CAVEAT = (
    "Published scores are of the CaloChallenge's own data sets (" + SOURCE + "). A score on other "
    "showers, another range of incident energies or another number of showers is not comparable "
    "with them, and times depend on the machine."
)

FULL_SIZE = 50_000
"""Fewest showers with which FPD and KPD draw samples as large as the published ones."""

_TIMES = [(kind, batch) for kind in ("cpu", "gpu") for batch in (1, 100, 10000)]

COLUMNS = {
    "fpd": "FPD * 1e3",
    "kpd": "KPD * 1e3",
    "auc_low": "binary cls low",
    "auc_high": "binary cls high",
    "auc_cnn": "binary cls cnn",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "separation_e_layer": "sep E layer",
    "separation_e_total": "sep E total",
    "separation_sparsity": "sep sparsity",
    "separation_voxel": "sep cell",
    **{f"{kind}_ms_{batch}": f"time {kind.upper()} {batch}" for kind, batch in _TIMES},
    "parameters": "Parameters generation",
}
"""Attribute of `Row` -> name of the column in the published tables."""

# Attribute of `Row` -> key in the file, where they differ.
_KEYS = {
    "fpd": "fpd_x1e3",
    "kpd": "kpd_x1e3",
    "separation_e_layer": "separation_e_layer_mean",
    "separation_sparsity": "separation_sparsity_mean",
    **{f"{kind}_ms_{batch}": f"{kind}_ms_batch_{batch}" for kind, batch in _TIMES},
    "parameters": "params_generation",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One model's scores; None where a score was not published or not computed.

    The attributes after the first two are the columns of the published tables (`COLUMNS`): FPD and
    KPD times 1e3, times in ms per shower at a batch size, number of parameters in generation.

    Attributes:
      model: name of the model.
      published: whether the row comes from the published tables.
    """

    model: str
    published: bool = False
    fpd: float | None = None
    kpd: float | None = None
    auc_low: float | None = None
    auc_high: float | None = None
    auc_cnn: float | None = None
    precision: float | None = None
    recall: float | None = None
    density: float | None = None
    coverage: float | None = None
    separation_e_layer: float | None = None
    separation_e_total: float | None = None
    separation_sparsity: float | None = None
    separation_voxel: float | None = None
    cpu_ms_1: float | None = None
    cpu_ms_100: float | None = None
    cpu_ms_10000: float | None = None
    gpu_ms_1: float | None = None
    gpu_ms_100: float | None = None
    gpu_ms_10000: float | None = None
    parameters: float | None = None


def dataset_of(detector: Detector) -> str | None:
    """The published data set with a detector's voxels, whatever the detector's name."""
    for name in _published():
        if DETECTORS[name.replace("_", "-")].binning == detector.binning:
            return name
    return None


def is_full_size(showers: int, quick: bool) -> bool:
    """Whether scores of so many showers may be ranked among the published ones."""
    return not quick and showers >= FULL_SIZE


def rows(dataset: str) -> tuple[Row, ...]:
    """The published rows of a data set in the order of the tables, Geant4 itself first.

    Raises:
      CalojaxError: if there are no published rows of that name.
    """
    try:
        return _published()[dataset.replace("-", "_")]
    except KeyError:
        raise CalojaxError(
            f"There are no published scores of {dataset!r}; choose one of "
            f"{', '.join(_published())}."
        ) from None


def read(path, dataset: str) -> tuple[Row, ...]:
    """Rows of a data set from a user's own file of the same layout, as `--against` takes it.

    Raises:
      CalojaxError: if the file cannot be read or lacks the data set.
    """
    try:
        with open(path, encoding="utf-8") as file:
            found = _parsed(json.load(file))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CalojaxError(
            f"{path}: is not a table of scores ({error}); it must be JSON with "
            '{"datasets": {NAME: [{"model": ..., "auc_low": ...}, ...]}}.'
        ) from None
    try:
        return found[dataset.replace("-", "_")]
    except KeyError:
        raise CalojaxError(
            f"{path}: has no scores of {dataset!r}, only of {', '.join(found) or 'nothing'}."
        ) from None


def against(
    scores: Mapping[str, Mapping[str, float]],
    published: Sequence[Row],
    *,
    sort: str = "auc_low",
    ranked: bool = True,
) -> list[Row]:
    """Our models as rows among the published ones, best first.

    Args:
      scores: values of each of our models, by its name and by the published names of `COLUMNS`,
        in the same units (FPD and KPD times 1e3, ms per shower); other names, and values that
        are not finite, are left out.
      published: published rows; Geant4's is the floor and stays on top.
      sort: attribute of `Row` to sort by; rows without it come last.
      ranked: whether our rows are sorted in (see `is_full_size`); else they come last.
    """
    ours = []
    for model, found in scores.items():
        values: dict[str, Any] = {
            attribute: float(value)
            for attribute, column in COLUMNS.items()
            if (value := found.get(column)) is not None and math.isfinite(value)
        }
        ours.append(Row(model=model, **values))
    higher_is_better = sort in ("precision", "recall", "density", "coverage")

    def rank(row: Row) -> tuple[bool, int, float]:
        value = getattr(row, sort)
        last = not row.published and not ranked
        if is_geant4(row) or value is None:
            return last, 0 if is_geant4(row) else 2, 0.0
        return last, 1, -value if higher_is_better else value

    return sorted([*published, *ours], key=rank)


def is_geant4(row: Row) -> bool:
    """Whether the row is the floor: Geant4 against Geant4."""
    return row.model.upper() == "GEANT4"


@functools.cache
def _published() -> dict[str, tuple[Row, ...]]:
    file = importlib.resources.files("calojax.evaluation") / "calochallenge_results.json"
    return _parsed(json.loads(file.read_text(encoding="utf-8")))


def _parsed(tables: Mapping) -> dict[str, tuple[Row, ...]]:
    """Rows by data set; unknown columns are ignored, absent ones None."""

    def row(entry: Mapping[str, Any]) -> Row:
        values = {name: entry.get(_KEYS.get(name, name)) for name in COLUMNS}
        numbers = {name: None if v is None else float(v) for name, v in values.items()}
        return Row(model=str(entry["model"]), published=True, **numbers)

    return {name: tuple(map(row, entries)) for name, entries in tables["datasets"].items()}
