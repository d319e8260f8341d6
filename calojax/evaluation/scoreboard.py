"""The CaloChallenge's published scores, and ours among them.

The rows are those of the organisers' result tables (arXiv:2410.21611), shipped as
``calochallenge_results.json``, under the keys and in the units of ``metrics.json``.
"""

import importlib.resources
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

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

TIMES = {
    f"{kind}_ms_{batch}": f"time {kind.upper()} {batch}"
    for kind in ("cpu", "gpu")
    for batch in (1, 100, 10000)
}
"""Keys of times in ms per shower at a batch size -> columns of the published tables."""

DATASETS = ("ds1-photons", "ds1-pions", "ds2", "ds3")


class Row(NamedTuple):
    """Scores of one model.

    ``values`` have the keys of `suite.SCORES` and `TIMES`, and ``parameters``, the number of
    parameters in generation; those that were not published or not computed are not there.
    """

    model: str
    values: Mapping[str, float]
    published: bool = False

    @property
    def is_geant4(self) -> bool:
        """Whether the row is the floor: Geant4 against Geant4."""
        return self.model.upper() == "GEANT4"


def dataset_of(detector: Detector) -> str | None:
    """The published data set with a detector's voxels, whatever the detector's name."""
    found = (name for name in DATASETS if DETECTORS[name].binning == detector.binning)
    return next(found, None)


def rows(dataset: str, path: str | os.PathLike | None = None) -> tuple[Row, ...]:
    """The published rows of a data set, Geant4 first; or those of a file of the same layout."""
    shipped = importlib.resources.files("calojax.evaluation") / "calochallenge_results.json"
    file = pathlib.Path(path) if path else shipped
    try:
        tables = json.loads(file.read_text(encoding="utf-8"))["datasets"]
        if dataset not in tables:
            raise CalojaxError(
                f"{file}: has no scores of {dataset!r}, only of {', '.join(tables) or 'nothing'}."
            )
        return tuple(
            Row(
                str(entry["model"]),
                {k: float(v) for k, v in entry.items() if isinstance(v, int | float)},
                published=True,
            )
            for entry in tables[dataset]
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CalojaxError(
            f"{file}: is not a table of scores ({error}); it must be JSON with "
            '{"datasets": {NAME: [{"model": ..., "auc_low": ...}, ...]}}.'
        ) from None


def ranking(
    ours: Sequence[Row], published: Sequence[Row], key: str, *, ranked: bool = True
) -> list[Row]:
    """Our rows among the published ones, sorted by a score of which lower is better.

    Geant4, the floor, stays on top. Rows without the score come last, and so do ours unless they
    may be ``ranked``.
    """

    def rank(row: Row) -> tuple[bool, bool, float]:
        value = row.values.get(key, math.nan)
        last = not row.published and not ranked
        if row.is_geant4 or not math.isfinite(value):
            return last, not row.is_geant4, math.inf
        return last, True, value

    return sorted([*published, *ours], key=rank)
