"""The evaluation of generated against reference showers: all metrics, slices, floor and warnings.

Every score stands in one flat table under a stable key; `SCORES` says what each key means and
under which name the CaloChallenge publishes it.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args

import numpy as np

from calojax.errors import CalojaxError
from calojax.evaluation.classifiers import Classifier, Kind
from calojax.evaluation.correlations import Correlations, LinearCorrelations
from calojax.evaluation.distances import PhysicsDistance
from calojax.evaluation.features import Features
from calojax.evaluation.histograms import Histogram, Histograms
from calojax.evaluation.manifold import PrecisionRecall
from calojax.evaluation.metric import Found, Metric, Options, Score
from calojax.evaluation.samples import (
    Sample,
    Samples,
    Selection,
    default_slices,
    energy_warnings,
    equal_in_number,
    inside,
    measure,
    sample_warnings,
)
from calojax.geometry import Detector
from calojax.io import ShowerSource
from calojax.rng import checked_seed

CLASSIFIERS: tuple[Kind, ...] = get_args(Kind)
METRICS: dict[str, Metric] = {
    "histograms": Histograms(),
    "fpd": PhysicsDistance("fpd"),
    "kpd": PhysicsDistance("kpd"),
    "prdc": PrecisionRecall(),
    "correlations": LinearCorrelations(),
    **{kind: Classifier(kind) for kind in CLASSIFIERS},
}
"""Metrics by their names in `Options.metrics`, in the order in which they are computed."""

SCORES: dict[str, Score] = {
    key: score for metric in METRICS.values() for key, score in metric.scores.items()
}
"""Meaning of every key of `Evaluation.scores`.

Where a score has an error, its key is ``<key>_error``. ``<key>_chance`` is the separation power
that two samples of these sizes from one distribution have on average.
"""


def register(name: str, metric: Metric) -> None:
    """Adds a metric of another package; `ValueError` if the name or one of its keys is taken."""
    if name in METRICS or SCORES.keys() & metric.scores.keys():
        raise ValueError(f"there is another metric {name!r}, or one with the same scores")
    METRICS[name] = metric
    SCORES.update(metric.scores)


@dataclasses.dataclass(frozen=True)
class Slice:
    """Scores of a slice of incident energy, whose upper end is not included.

    It has ``generated`` and ``reference`` showers, and those scores for which these are enough.
    """

    low_mev: float
    high_mev: float
    generated: int
    reference: int
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, repr=False)
class Evaluation:
    """Results of an evaluation.

    Attributes:
      detector: geometry of both samples.
      generated: features of the generated showers.
      reference: features of the reference showers.
      histograms: all histograms, if they were asked for.
      layer_correlations: correlations of the layer energies, if they were asked for.
      shower_correlations: correlations of centres, widths, hits and energy, if asked for.
      scores: values by keys of `SCORES`, errors by ``<key>_error`` and chance levels of
        separation powers by ``<key>_chance``.
      slices: scores in slices of incident energy.
      floor: scores of one half of the reference against the other, if they were asked for.
      warnings: sentences on what makes the scores less trustworthy.
      settings: how the scores were computed, by metric.
    """

    detector: Detector
    generated: Features[np.ndarray]
    reference: Features[np.ndarray]
    histograms: tuple[Histogram, ...] = ()
    layer_correlations: Correlations | None = None
    shower_correlations: Correlations | None = None
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    slices: tuple[Slice, ...] = ()
    floor: Mapping[str, float] | None = None
    warnings: tuple[str, ...] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        counts = len(self.generated.total), len(self.reference.total)
        found = [key for key in self.scores if key in SCORES]
        return (
            f"<Evaluation of {counts[0]:,} against {counts[1]:,} showers of {self.detector.name}: "
            f"{len(found)} scores, {len(self.slices)} slices, {len(self.warnings)} warnings>"
        )


class Known(NamedTuple):
    """Scores of an earlier run with the same showers and options, for `scoring` to reuse.

    Fields are those of `Evaluation`, but the slices are scores by (low, high) in MeV.
    """

    scores: Mapping[str, float] = {}
    slices: Mapping[tuple[float, float], Mapping[str, float]] = {}
    floor: Mapping[str, float] = {}


def evaluate(
    generated: ShowerSource, reference: ShowerSource, options: Options | None = None
) -> Evaluation:
    """Scores generated showers against as many showers of the full simulation, of equal energies.

    Raises:
      CalojaxError: if the samples cannot be compared, an option makes no sense, or a shower cannot
        be read.
    """
    options = options or Options()
    (generated,), reference = comparable([generated], reference, options)
    *_, complete = scoring(measure(generated), measure(reference), options)
    return complete


def scoring(
    generated: Sample, reference: Sample, options: Options, known: Known | None = None
) -> Iterator[Evaluation]:
    """Scores samples whose sources `comparable` gave; yields the evaluation after each metric.

    The last evaluation is complete. Scores in ``known`` are not computed again, unless pictures
    need more than scores.
    """
    known, samples = known or Known(), Samples(generated, reference)
    options = dataclasses.replace(options, metrics=(*options.metrics, *metrics_of(known.scores)))
    options, warnings = possible(options, samples.detector, samples.size)
    energies = generated.source.energies, reference.source.energies
    slices = options.slices
    if slices is None:
        slices = default_slices(*energies, samples.detector)
    slices = list(itertools.pairwise(slices))
    metrics = {name: METRICS[name] for name in options.metrics}
    warnings += energy_warnings(*energies) + sample_warnings(samples)
    warnings += tuple(text for metric in metrics.values() for text in metric.warnings(samples))
    evaluation = Evaluation(
        detector=samples.detector,
        generated=generated.features,
        reference=reference.features,
        scores=known.scores,
        slices=tuple(
            Slice(
                *ends,
                generated=int(inside(generated.source, *ends).sum()),
                reference=int(inside(reference.source, *ends).sum()),
                scores=known.slices.get(ends, {}),
            )
            for ends in slices
        ),
        floor=known.floor or None,
        warnings=tuple(dict.fromkeys(warnings)),
        settings={"quick": True} if options.quick else {},
    )
    for name, metric in metrics.items():
        found = [Found()] * (1 + len(slices))
        if not metric.reusable or not known.scores.keys() >= metric.scores.keys():
            found = metric.compute_all(samples, slices, options)
        whole, *parts = found
        settings = metric.settings(samples, options)
        evaluation = dataclasses.replace(
            evaluation,
            scores={**evaluation.scores, **whole.scores},
            slices=tuple(
                dataclasses.replace(one, scores={**one.scores, **part.scores})
                for one, part in zip(evaluation.slices, parts, strict=True)
            ),
            warnings=evaluation.warnings + whole.warnings,
            settings={**evaluation.settings, **({name: settings} if settings else {})},
            **whole.details,
        )
        yield evaluation
    if options.floor and len(reference) > 1:
        for floor in _floors(reference, options, known):
            yield dataclasses.replace(evaluation, floor=floor)


def metrics_of(scores: Mapping[str, float]) -> tuple[str, ...]:
    """Names of the metrics that have a value in ``scores``."""
    return tuple(name for name, one in METRICS.items() if scores.keys() & one.scores.keys())


def _floors(reference: Sample, options: Options, known: Known) -> Iterator[Mapping[str, float]]:
    """Scores of one half of the reference against the other, more after each metric."""
    size = len(reference) // 2
    # At random, since the order of a file may go with the energies.
    rows = np.random.default_rng(0).permutation(len(reference))[: 2 * size]
    every = dataclasses.replace(options, metrics=("all",))
    enough = possible(every, reference.source.detector, size)[0].metrics
    metrics = tuple(name for name in options.metrics if name in enough)
    inner = dataclasses.replace(options, metrics=metrics, floor=False, slices=())
    if metrics:
        first, second = (reference.take(np.sort(half)) for half in np.split(rows, 2))
        for evaluation in scoring(first, second, inner, Known(known.floor)):
            yield evaluation.scores


def possible(options: Options, detector: Detector, showers: int) -> tuple[Options, tuple[str, ...]]:
    """The options with "all" written out, and warnings about what that leaves out.

    ``showers`` is the number of showers in the smaller sample. Raises `CalojaxError` if a metric
    that is named cannot be computed.
    """
    chosen, left_out = [], []
    for name, metric in METRICS.items():
        if name not in options.metrics and "all" not in options.metrics:
            continue
        try:
            metric.check(detector, showers, options)
            chosen.append(name)
        except CalojaxError as error:
            if name in options.metrics:
                raise
            left_out.append(f"{name} was left out: {error}")
    return dataclasses.replace(options, metrics=tuple(chosen)), tuple(left_out)


def comparable(
    samples: Sequence[ShowerSource], reference: ShowerSource, options: Options
) -> tuple[list[ShowerSource], ShowerSource]:
    """Generated samples and the reference, cut to the showers that are compared.

    Raises:
      CalojaxError: if they differ in geometry, number or incident energies, nothing is left of
        one, an option makes no sense, or a metric cannot be computed.
    """
    _check_options(options)
    theirs = reference.detector
    for ours, count in ((sample.detector, len(sample)) for sample in samples):
        if ours.binning != theirs.binning:
            raise CalojaxError(
                f"The generated showers are of geometry {ours.name} ({ours.n_voxels} voxels), the "
                f"reference is of {theirs.name} ({theirs.n_voxels} voxels); compare like with like."
            )
        if count != len(reference) and not options.truncate:
            raise CalojaxError(
                f"There are {count} generated and {len(reference)} reference showers; evaluate as "
                "many of each, or --truncate the larger sample."
            )
    sources = equal_in_number(*samples, reference)
    if options.energy_range is not None:
        sources = [
            Selection(source, np.flatnonzero(inside(source, *options.energy_range)))
            for source in sources
        ]
    *samples, reference = sources
    for source in sources:
        if not len(source):
            name = "reference" if source is reference else "generated"
            window = " in this energy range" if options.energy_range else ""
            raise CalojaxError(f"There are no {name} showers{window}; check file and options.")
    possible(options, theirs, min(map(len, sources)))
    for sample in samples:
        energy_warnings(sample.energies, reference.energies)
    return samples, reference


def _check_options(options: Options) -> None:
    unknown = [name for name in options.metrics if name not in (*METRICS, "all")]
    choices = f"choose among {', '.join(METRICS)}, or all"
    if unknown:
        raise CalojaxError(f"There is no metric {unknown[0]!r}; {choices}.")
    if not options.metrics:
        raise CalojaxError(f"There is no metric to compute; {choices}.")
    if options.seeds < 1:
        raise CalojaxError(f"seeds must be at least 1, got {options.seeds}.")
    checked_seed(options.seed)
    edges = options.slices or ()
    if not all(a < b for a, b in itertools.pairwise(edges)) or not all(e >= 0 for e in edges):
        raise CalojaxError(f"Slices need increasing energies in MeV, got {list(edges)}.")
    if options.energy_range and not options.energy_range[0] < options.energy_range[1]:
        raise CalojaxError(
            f"The energy range needs its lower end first, got {list(options.energy_range)} MeV."
        )
