"""What a metric is: the base class of everything that ``calojax evaluate --metrics`` names.

A new metric is a file with a subclass of `SliceMetric`, and one line in `calojax.evaluation.suite`,
or a call of `calojax.evaluation.suite.register` from another package; docs/evaluation.md has one.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from calojax.evaluation.samples import Samples
from calojax.geometry import Detector


class Score(NamedTuple):
    """Meaning of one number of an evaluation; tables show it times ``scale``.

    The name is a column of the CaloChallenge's tables, or in the same style.
    """

    name: str
    description: str
    higher_is_better: bool = False
    scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Options:
    """What to evaluate. In Python energies are in MeV, on the command line they have a unit.

    Attributes:
      metrics: names of scores: histograms fpd kpd prdc correlations low low-normed high cnn; or
        all, which leaves out what cannot be computed. The last four train classifiers, for which a
        GPU or the option quick is needed.
      seeds: number of trainings of each classifier.
      seed: seed of sampling, and of the classifiers' initial weights and splits.
      quick: small classifiers and 1,000 showers for prdc; not comparable with other scores.
      slices: boundaries of slices of incident energy; by default decades with enough showers, and
        no slices if there are fewer than two.
      energy_range: lowest and highest incident energy of the showers that are evaluated, such as
        10GeV 100GeV.
      floor: also score one half of the reference against the other.
      truncate: take as many showers of the larger samples as the smallest has, spread evenly over
        incident energy.
    """

    metrics: tuple[str, ...] = ("histograms", "fpd", "kpd", "prdc", "correlations")
    seeds: int = 10
    seed: int = 0
    quick: bool = False
    slices: tuple[float, ...] | None = None
    energy_range: tuple[float, float] | None = None
    floor: bool = False
    truncate: bool = False


class Found(NamedTuple):
    """Results of a metric, for all showers or for a slice.

    Scores are values by key, errors by ``<key>_error`` and chance levels by ``<key>_chance``;
    details are values of further fields of `suite.Evaluation` by name, such as histograms.
    """

    scores: Mapping[str, float] = {}
    details: Mapping[str, Any] = {}
    warnings: tuple[str, ...] = ()


class Metric(abc.ABC):
    """Base class of metrics that treat slices in their own way; the others are `SliceMetric`s.

    Attributes:
      scores: meaning of each score, by key.
      reusable: whether scores of an earlier run can be reused; not where pictures need more.
    """

    scores: Mapping[str, Score] = {}
    reusable: bool = True

    @abc.abstractmethod
    def compute_all(
        self, samples: Samples, slices: Sequence[tuple[float, float]], options: Options
    ) -> list[Found]:
        """Results for all showers, then for each slice, given by its energies in MeV."""

    def check(  # noqa: B027 (optional)
        self, detector: Detector, showers: int, options: Options
    ) -> None:
        """Raises `CalojaxError` if samples of so many showers each have no such scores."""

    def settings(self, samples: Samples, options: Options) -> dict[str, Any]:
        """How the scores are computed, for the report."""
        return {}

    def warnings(self, samples: Samples) -> tuple[str, ...]:
        """Sentences on samples that make the scores less trustworthy."""
        return ()


class SliceMetric(Metric):
    """Base class of metrics that score a slice like the whole sample."""

    @abc.abstractmethod
    def compute(self, samples: Samples, options: Options) -> Found:
        """Scores of the samples."""

    def compute_all(
        self, samples: Samples, slices: Sequence[tuple[float, float]], options: Options
    ) -> list[Found]:
        parts = [samples.within(*ends) for ends in slices]
        return [
            self.compute(samples, options),
            *(self.compute(p, options) if p.is_enough else Found() for p in parts),
        ]


def with_error(key: str, value: float, error: float) -> dict[str, float]:
    """Entries of `Found.scores` of a value and its error."""
    return {key: value, f"{key}_error": error}
