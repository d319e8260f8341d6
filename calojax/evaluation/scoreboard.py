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

from calojax.errors import CalojaxError
from calojax.geometry import DETECTORS, Detector

SOURCE = "arXiv:2410.21611"

# Rows of other showers are worth a look, not a verdict: this goes wherever both are shown.
CAVEAT = (
    "Published scores are of the CaloChallenge's own data sets (" + SOURCE + "). A score on other "
    "showers, another range of incident energies or another number of showers is not comparable "
    "with them, and times depend on the machine."
)

FULL_SIZE = 50_000
"""Fewest showers with which FPD and KPD draw samples as large as the published ones."""

# Attribute of `Row` -> the name of the column in the published tables.
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
    "cpu_ms_1": "time CPU 1",
    "cpu_ms_100": "time CPU 100",
    "cpu_ms_10000": "time CPU 10000",
    "gpu_ms_1": "time GPU 1",
    "gpu_ms_100": "time GPU 100",
    "gpu_ms_10000": "time GPU 10000",
    "parameters": "Parameters generation",
}

# Attribute of `Row` -> key in the file, where they differ.
_KEYS = {
    "fpd": "fpd_x1e3",
    "kpd": "kpd_x1e3",
    "separation_e_layer": "separation_e_layer_mean",
    "separation_sparsity": "separation_sparsity_mean",
    "cpu_ms_1": "cpu_ms_batch_1",
    "cpu_ms_100": "cpu_ms_batch_100",
    "cpu_ms_10000": "cpu_ms_batch_10000",
    "gpu_ms_1": "gpu_ms_batch_1",
    "gpu_ms_100": "gpu_ms_batch_100",
    "gpu_ms_10000": "gpu_ms_batch_10000",
    "parameters": "params_generation",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One model's scores; None where a score was not published or not computed.

    Attributes:
      model: its name.
      published: whether the row comes from the published tables.
      fpd: Frechet physics distance times 1e3.
      kpd: kernel physics distance times 1e3.
      auc_low: AUC of the classifier on voxels.
      auc_high: AUC of the classifier on high-level features.
      auc_cnn: AUC of the convolutional classifier.
      precision: share of generated showers within the reference's neighbourhoods.
      recall: share of reference showers within the generated ones' neighbourhoods.
      density: mean number of neighbourhoods around a generated shower, over k.
      coverage: share of reference showers with a generated one in their neighbourhood.
      separation_e_layer: separation power of the layer energies, mean over layers.
      separation_e_total: separation power of E_tot / E_inc.
      separation_sparsity: separation power of the sparsities, mean over layers.
      separation_voxel: separation power of the voxel energies.
      cpu_ms_1: generation time on a CPU, ms per shower, batch of 1; likewise 100 and 10,000.
      cpu_ms_100: see above.
      cpu_ms_10000: see above.
      gpu_ms_1: generation time on a GPU, ms per shower, batch of 1; likewise 100 and 10,000.
      gpu_ms_100: see above.
      gpu_ms_10000: see above.
      parameters: number of parameters used in generation.
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
    """The published data set whose showers have a detector's voxels, whatever its name."""
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
    model: str,
    scores: Mapping[str, float],
    published: Sequence[Row],
    *,
    sort: str = "auc_low",
    ranked: bool = True,
) -> list[Row]:
    """Our scores as one more row among the published ones, best first.

    Args:
      model: the name of our row.
      scores: values by the published names of `COLUMNS`, in the same units (FPD and KPD times
        1e3, ms per shower); other names, and values that are not finite, are left out.
      published: rows to stand among; Geant4's is the floor and stays on top.
      sort: the attribute of `Row` to sort by; rows without it come last.
      ranked: whether our row is sorted in (see `is_full_size`); else it comes last.
    """
    values = {
        attribute: float(value)
        for attribute, column in COLUMNS.items()
        if (value := scores.get(column)) is not None and math.isfinite(value)
    }
    ours = Row(model=model, **values)
    return sorted(
        [*published, ours], key=lambda row: (row is ours and not ranked, *_rank(row, sort))
    )


def _rank(row: Row, column: str) -> tuple[int, float]:
    value = getattr(row, column)
    if is_geant4(row):
        return 0, 0.0
    if value is None:
        return 2, 0.0
    return 1, -value if column in ("precision", "recall", "coverage", "density") else value


def is_geant4(row: Row) -> bool:
    """Whether the row is the floor: Geant4 against Geant4."""
    return row.model.upper() == "GEANT4"


@functools.cache
def _published() -> dict[str, tuple[Row, ...]]:
    file = importlib.resources.files("calojax.evaluation") / "calochallenge_results.json"
    return _parsed(json.loads(file.read_text(encoding="utf-8")))


def _parsed(tables: Mapping) -> dict[str, tuple[Row, ...]]:
    """Rows by data set; unknown columns are ignored, absent ones None."""
    names = [f.name for f in dataclasses.fields(Row) if f.name not in ("model", "published")]
    return {
        dataset: tuple(
            Row(
                model=str(entry["model"]),
                published=True,
                **{name: _number(entry.get(_KEYS.get(name, name))) for name in names},
            )
            for entry in entries
        )
        for dataset, entries in tables["datasets"].items()
    }


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)
