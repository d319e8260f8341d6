"""The whole evaluation of generated against reference showers: which scores, in which order.

Every score stands in one flat table under a stable key; `SCORES` says what each key means and
under which name the CaloChallenge publishes it.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

from calojax.errors import CalojaxError
from calojax.evaluation import classifiers, correlations, distances, features, histograms, manifold
from calojax.evaluation.features import Features
from calojax.evaluation.histograms import Histogram, Spectrum
from calojax.geometry import Detector
from calojax.io import inspection
from calojax.io.marks import TRAINED_ON, from_text
from calojax.io.marks import marks as marks_of
from calojax.io.reader import ShowerSource
from calojax.rng import checked_seed


class Score(NamedTuple):
    """What a score is.

    Attributes:
      name: the column of the CaloChallenge's tables, or a name in their manner.
      scale: what the score is multiplied by in tables.
      higher_is_better: the direction.
      description: one line for people.
    """

    name: str
    scale: float
    higher_is_better: bool
    description: str


def _separation(name: str, what: str) -> Score:
    return Score(name, 1.0, False, f"separation power of {what}")


SCORES: Mapping[str, Score] = {
    "separation_e_total": _separation("sep E total", "E_tot / E_inc"),
    "separation_e_total_at_energy": _separation(
        "sep E total per energy", "E_tot / E_inc at each incident energy, mean"
    ),
    "separation_e_layer": _separation("sep E layer", "layer energies, mean over layers"),
    "separation_voxel": _separation("sep cell", "voxel energies"),
    "separation_ec_eta": _separation("sep EC eta", "centres of energy in eta, mean over layers"),
    "separation_ec_phi": _separation("sep EC phi", "centres of energy in phi, mean over layers"),
    "separation_ec_r": _separation("sep EC r", "centres of energy in r, mean over layers"),
    "separation_width_eta": _separation("sep EC eta std", "widths in eta, mean over layers"),
    "separation_width_phi": _separation("sep EC phi std", "widths in phi, mean over layers"),
    "separation_width_r": _separation("sep EC r std", "widths in r, mean over layers"),
    "separation_sparsity": _separation("sep sparsity", "empty voxels, mean over layers"),
    "fpd": Score("FPD * 1e3", 1e3, False, "Frechet physics distance of the features"),
    "kpd": Score("KPD * 1e3", 1e3, False, "kernel physics distance of the features"),
    "precision": Score("precision", 1.0, True, "generated showers on the reference's manifold"),
    "recall": Score("recall", 1.0, True, "reference showers on the generated manifold"),
    "density": Score("density", 1.0, True, "reference neighbourhoods around a generated shower"),
    "coverage": Score("coverage", 1.0, True, "reference neighbourhoods with a generated shower"),
    "correlation_layers": Score(
        "PCC Layer Energies", 1.0, False, "mean |difference| of layer-energy correlations"
    ),
    "correlation_layers_max": Score(
        "PCC Layer Energies max", 1.0, False, "largest |difference| of layer-energy correlations"
    ),
    "correlation_neighbours": Score(
        "PCC neighbours", 1.0, False, "|difference| of the mean correlation of adjacent layers"
    ),
    "correlation_showers": Score(
        "PCC shower", 1.0, False, "mean |difference| of centre, width, hit and energy correlations"
    ),
    "auc_low": Score("binary cls low", 1.0, False, "AUC of the classifier on voxels"),
    "auc_low_normed": Score(
        "binary cls low-normed", 1.0, False, "AUC of the classifier on voxels over layer energies"
    ),
    "auc_high": Score("binary cls high", 1.0, False, "AUC of the classifier on features"),
    "auc_cnn": Score("binary cls cnn", 1.0, False, "AUC of the 3-D ResNet-18 on voxels"),
    "jsd_low": Score("JSD low", 1.0, False, "Jensen-Shannon divergence by the voxel classifier"),
    "jsd_low_normed": Score("JSD low-normed", 1.0, False, "the same by the layer-normed one"),
    "jsd_high": Score("JSD high", 1.0, False, "the same by the classifier on features"),
    "jsd_cnn": Score("JSD cnn", 1.0, False, "the same by the ResNet"),
}
"""Every key of `Evaluation.scores`.

Where a score has an error, its key is ``<key>_error``. ``separation_..._chance`` is the separation
power that two samples of these sizes from one distribution have on average.
"""

CLASSIFIERS: tuple[classifiers.Kind, ...] = ("low", "low-normed", "high", "cnn")
CHOICES = ("histograms", "fpd", "kpd", "prdc", "correlations", *CLASSIFIERS)
"""Groups of scores that `Options.metrics` may name, in the order in which they are computed."""

# Keys of the scores of a group, of those groups whose scores alone are needed.
_KEYS: Mapping[str, tuple[str, ...]] = {
    "fpd": ("fpd",),
    "kpd": ("kpd",),
    "prdc": manifold.Prdc._fields,
    **{k: (f"auc_{k.replace('-', '_')}", f"jsd_{k.replace('-', '_')}") for k in CLASSIFIERS},
}
# A slice's lowest incident energy and end in MeV, or None for all showers.
_Where = tuple[float, float] | None
# Fewest showers of a sample for which scores of a slice mean something.
_SLICE_SHOWERS = 300
# Fewest validation showers of each sample for an AUC in a slice.
_AUC_SHOWERS = 20
_QUICK_PRDC = 1000
# Fewer showers than this are warned about.
_FEW_SHOWERS = 100
# Share of empty showers, and of showers that repeat, above which a warning is due.
_MANY, _SOME = 0.1, 1e-3
# Share of a model's training showers in the reference from which there is a warning.
_LEAKED = 0.1
# Kolmogorov-Smirnov test of the incident energies: when to warn, and when to refuse.
_WARN_PROBABILITY = 1e-3
_REFUSE_DISTANCE = 0.5


@dataclasses.dataclass(frozen=True)
class Options:
    """What to evaluate.

    Attributes:
      metrics: some of `CHOICES`; or "all", which leaves out those that cannot be computed.
      seeds: number of trainings of each classifier.
      seed: seed of classifiers' starts and splits.
      quick: small classifiers and 1,000 showers for PRDC, for CPUs; not comparable with others.
      slices: boundaries in MeV of the slices of incident energy; None: `default_slices`; empty or
        a single one: no slices.
      energy_range: lowest and highest incident energy in MeV of the showers to evaluate.
      floor: also score one half of the reference against the other.
      truncate: cut the larger sample to the size of the smaller one; the showers that remain are
        spread evenly over its incident energies.
      neighbours: k of precision, recall, density and coverage.
    """

    metrics: tuple[str, ...] = ("histograms", "fpd", "kpd", "prdc", "correlations", "low", "high")
    seeds: int = 10
    seed: int = 0
    quick: bool = False
    slices: tuple[float, ...] | None = None
    energy_range: tuple[float, float] | None = None
    floor: bool = False
    truncate: bool = False
    neighbours: int = 5


@dataclasses.dataclass(frozen=True)
class Slice:
    """The scores of a slice of incident energy.

    Attributes:
      low: lowest incident energy in MeV.
      high: its end in MeV, not included.
      generated: generated showers in it.
      reference: reference showers in it.
      scores: as in `Evaluation`, those that enough showers allow.
    """

    low: float
    high: float
    generated: int
    reference: int
    scores: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
      detector: the geometry of both samples.
      generated: features of the generated showers.
      reference: features of the reference showers.
      histograms: all histograms, if they were asked for.
      layer_correlations: of the layer energies, likewise.
      shower_correlations: of centres, widths, hits and energy, likewise.
      scores: values by keys of `SCORES`, errors by ``<key>_error`` and chance levels of
        separation powers by ``<key>_chance``.
      slices: the same in slices of incident energy.
      floor: scores of one half of the reference against the other.
      warnings: sentences on what makes the scores less trustworthy.
      settings: how the scores were computed, by metric.
    """

    detector: Detector
    generated: Features
    reference: Features
    histograms: tuple[Histogram, ...]
    layer_correlations: correlations.Correlations | None
    shower_correlations: correlations.Correlations | None
    scores: Mapping[str, float]
    slices: tuple[Slice, ...]
    floor: Mapping[str, float] | None
    warnings: tuple[str, ...]
    settings: Mapping[str, object]


def evaluate(
    generated: ShowerSource, reference: ShowerSource, options: Options = Options()
) -> Evaluation:
    """Scores generated showers against reference showers.

    Args:
      generated: the showers to judge.
      reference: as many showers of the full simulation, of the same incident energies.
      options: what to compute.

    Raises:
      CalojaxError: if the samples cannot be compared, an option makes no sense, or a shower cannot
        be read.
    """
    return score(*comparable(generated, reference, options), options)


def score(generated: ShowerSource, reference: ShowerSource, options: Options) -> Evaluation:
    """Scores samples that `comparable` gave; see `evaluate`."""
    *_, complete = scoring(generated, reference, options)
    return complete


class Known(NamedTuple):
    """Scores of an earlier run with the same showers and options, for `scoring` to reuse.

    Attributes:
      scores: as in `Evaluation`.
      slices: scores by (low, high) of the slice in MeV.
      floor: scores of one half of the reference against the other.
    """

    scores: Mapping[str, float] = {}
    slices: Mapping[tuple[float, float], Mapping[str, float]] = {}
    floor: Mapping[str, float] = {}


def finished(scores: Mapping[str, float]) -> tuple[str, ...]:
    """The groups of `CHOICES` whose scores are there."""
    keys = {"histograms": ("separation_voxel",), "correlations": ("correlation_layers",), **_KEYS}
    return tuple(group for group in CHOICES if all(key in scores for key in keys[group]))


def scoring(
    generated: ShowerSource, reference: ShowerSource, options: Options, known: Known | None = None
) -> Iterator[Evaluation]:
    """Scores samples that `comparable` gave, one group of `CHOICES` after the other.

    Args:
      generated: the showers to judge.
      reference: as many showers of the full simulation.
      options: what to compute.
      known: scores that need not be computed again. Histograms and correlations always are, since
        pictures need more of them than scores.

    Yields:
      The evaluation after each group; the last one is complete.
    """
    known = known or Known()
    options, warnings = possible(options, reference.detector, min(len(generated), len(reference)))
    warnings += energy_warnings(generated.energies, reference.energies)
    warnings += _unit_warnings(generated, reference)
    edges = options.slices
    if edges is None:
        edges = default_slices(generated.energies, reference.energies, reference.detector)
    measured = _measure(generated, reference, edges, options)
    places = [None, *_pairs(edges)]
    evaluation = Evaluation(
        detector=reference.detector,
        generated=measured.generated,
        reference=measured.reference,
        histograms=(),
        layer_correlations=None,
        shower_correlations=None,
        scores={},
        slices=tuple(Slice(*where, *measured.counts(where), {}) for where in _pairs(edges)),
        floor=None,
        warnings=warnings + _sample_warnings(measured, options),
        settings={"quick": True} if options.quick else {},
    )
    for group in CHOICES:
        if group not in options.metrics:
            continue
        whole, *parts = _reused(group, places, known) or _found(group, measured, places, options)
        slices = zip(evaluation.slices, parts, strict=True)
        evaluation = dataclasses.replace(
            evaluation,
            scores={**evaluation.scores, **whole.scores},
            slices=tuple(
                dataclasses.replace(one, scores={**one.scores, **part.scores})
                for one, part in slices
            ),
            warnings=evaluation.warnings + whole.warnings,
            settings={**evaluation.settings, **_settings(group, measured, options)},
            **whole.fields,
        )
        yield evaluation
    if options.floor and len(reference) > 1:
        whole = np.arange(len(reference))
        halves = Selection(reference, whole[::2]), Selection(reference, whole[1::2])
        everything = dataclasses.replace(options, metrics=("all",))
        enough, _ = possible(everything, reference.detector, len(whole) // 2)
        inner = dataclasses.replace(
            options,
            metrics=tuple(group for group in options.metrics if group in enough.metrics),
            floor=False,
            slices=(),
            energy_range=None,
            truncate=True,
        )
        if not inner.metrics:
            return
        for half in scoring(*comparable(*halves, inner), inner, Known(known.floor)):
            yield dataclasses.replace(evaluation, floor=half.scores)


class Selection:
    """Chosen showers of a source, as a source: of a window or slice of energy, or a half.

    Attributes:
      detector: the geometry.
      energies: incident energies in MeV, [n].
      attributes: origin of the showers.
    """

    def __init__(self, source: ShowerSource, rows: np.ndarray):
        """The showers ``rows`` of a source: increasing indices, [n]."""
        self.detector = source.detector
        self.attributes = source.attributes
        self.energies = source.energies[rows]
        self._source = source
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Incident energies [b] and showers [b, v] in MeV, in order."""
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            yield self.energies[start:stop], self.read(start, stop)

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Showers start..stop in MeV, [stop - start, v]."""
        rows = self._rows[start:stop]
        showers = np.empty((len(rows), self.detector.n_voxels), np.float32)
        # Reads what lies between them too, but not much of it at a time.
        of_block = rows // features.batch_size(self.detector)
        for chosen in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(of_block)) + 1):
            if len(chosen):
                first, last = rows[chosen[[0, -1]]]
                showers[chosen] = self._source.read(int(first), int(last) + 1)[rows[chosen] - first]
        return showers


def spread(source: ShowerSource, count: int | None) -> ShowerSource:
    """``count`` showers of a source, evenly spread over its incident energies; all if fewer."""
    if count is None or count >= len(source):
        return source
    ranks = ((np.arange(count) + 0.5) * (len(source) / count)).astype(int)
    by_energy = np.argsort(np.ravel(source.energies), kind="stable")
    return Selection(source, np.sort(by_energy[ranks]))


def default_slices(
    generated: np.ndarray, reference: np.ndarray, detector: Detector
) -> tuple[float, ...]:
    """Boundaries in MeV of slices with enough showers of both samples, or none.

    Discrete incident energies are taken in three groups. Else slices are decades, or where a
    decade holds too few showers or is the only one, halves of the energies' range in the logarithm.

    Args:
      generated: incident energies in MeV, [n].
      reference: incident energies in MeV, [m].
      detector: tells whether they are discrete.
    """
    low, high = float(reference.min()), float(np.nextafter(reference.max(), np.inf))
    candidates = []
    if detector.energies:
        groups = np.array_split(np.asarray(detector.energies), 3)
        candidates.append([group[0] for group in groups] + [2 * groups[-1][-1]])
    else:
        decades = 10.0 ** np.arange(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        if len(decades) > 2:
            candidates.append(decades.tolist())
        candidates.append([low, math.sqrt(low * high), high])
    for edges in candidates:
        counts = [np.histogram(energies, edges)[0] for energies in (generated, reference)]
        if np.min(counts) >= _SLICE_SHOWERS:
            return tuple(map(float, edges))
    return ()


def _unit_warnings(generated: ShowerSource, reference: ShowerSource) -> tuple[str, ...]:
    return tuple(
        f"The units of the {name} showers look wrong: {sentence}"
        for name, source in (("generated", generated), ("reference", reference))
        for sentence in inspection.unit_warnings(source)
    )


def energy_warnings(generated: np.ndarray, reference: np.ndarray) -> tuple[str, ...]:
    """Sentences on incident energies that differ more than chance allows; none if they agree.

    Args:
      generated: incident energies in MeV, [n].
      reference: incident energies in MeV, [m].

    Raises:
      CalojaxError: if the spectra have little in common, so that no score would mean anything.
    """
    distance, probability = kolmogorov_smirnov(generated, reference)
    if distance > _REFUSE_DISTANCE and probability < _WARN_PROBABILITY:
        ranges = [f"{e.min():.4g} to {e.max():.4g} MeV" for e in (generated, reference)]
        raise CalojaxError(
            f"The incident energies do not match: {ranges[0]} generated, {ranges[1]} in the "
            "reference; sample with the reference's energies, or choose a common energy range."
        )
    if probability >= _WARN_PROBABILITY:
        return ()
    return (
        f"The incident energies of the samples differ (Kolmogorov-Smirnov distance {distance:.3f}, "
        f"probability {probability:.1g}), which distorts every score; sample with the reference's.",
    )


def kolmogorov_smirnov(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Largest distance of two samples' cumulative distributions, and its asymptotic probability.

    The probability is that of a distance as large between samples of one continuous distribution;
    for discrete ones it is larger than the true one. Equal samples in another order give 0 and 1.
    """
    found = scipy.stats.ks_2samp(x, y, method="asymp")
    return float(found.statistic), float(found.pvalue)


def _check_options(options: Options) -> None:
    unknown = [name for name in options.metrics if name not in (*CHOICES, "all")]
    choices = f"choose among {', '.join(CHOICES)}, or all"
    if unknown:
        raise CalojaxError(f"There is no metric {unknown[0]!r}; {choices}.")
    if not options.metrics:
        raise CalojaxError(f"There is no metric to compute; {choices}.")
    if options.seeds < 1:
        raise CalojaxError(f"seeds must be at least 1, got {options.seeds}.")
    if options.neighbours < 1:
        raise CalojaxError(f"neighbours must be at least 1, got {options.neighbours}.")
    checked_seed(options.seed)
    edges = options.slices or ()
    if not all(a < b for a, b in itertools.pairwise(edges)) or not all(e >= 0 for e in edges):
        raise CalojaxError(f"Slices need increasing energies in MeV, got {list(edges)}.")
    if options.energy_range and not options.energy_range[0] < options.energy_range[1]:
        raise CalojaxError(
            f"The energy range needs its lower end first, got {list(options.energy_range)} MeV."
        )


def possible(options: Options, detector: Detector, showers: int) -> tuple[Options, tuple[str, ...]]:
    """The options with "all" written out, and warnings about what that leaves out.

    Args:
      options: what is to be computed.
      detector: the geometry of the samples.
      showers: number of showers in the smaller sample.

    Raises:
      CalojaxError: if a metric that is named cannot be computed.
    """
    metrics, left_out = [], []
    for group in CHOICES:
        if group not in options.metrics and "all" not in options.metrics:
            continue
        try:
            if group in CLASSIFIERS:
                classifiers.check(group, detector, showers, options.quick)
            elif group == "prdc":
                manifold.check(showers, options.neighbours)
            elif group in ("fpd", "kpd"):
                distances.check(showers)
        except CalojaxError as error:
            if group in options.metrics:
                raise
            left_out.append(f"{group} was left out: {error}")
        else:
            metrics.append(group)
    return dataclasses.replace(options, metrics=tuple(metrics)), tuple(left_out)


def comparable(
    generated: ShowerSource, reference: ShowerSource, options: Options
) -> tuple[ShowerSource, ShowerSource]:
    """Both samples, cut to what is to be compared.

    Raises:
      CalojaxError: if they differ in geometry or number, nothing is left of one, an option makes
        no sense, or a metric cannot be computed.
    """
    _check_options(options)
    ours, theirs = generated.detector, reference.detector
    if ours.binning != theirs.binning:
        raise CalojaxError(
            f"The generated showers are of geometry {ours.name} ({ours.n_voxels} voxels), the "
            f"reference is of {theirs.name} ({theirs.n_voxels} voxels); compare like with like."
        )
    if len(generated) != len(reference):
        if not options.truncate:
            raise CalojaxError(
                f"There are {len(generated)} generated and {len(reference)} reference showers; "
                "evaluate as many of each, or --truncate the larger sample."
            )
        count = min(len(generated), len(reference))
        generated, reference = spread(generated, count), spread(reference, count)
    if options.energy_range is not None:
        low, high = options.energy_range
        generated, reference = (_within(s, low, high) for s in (generated, reference))
    for name, sample in (("generated", generated), ("reference", reference)):
        if not len(sample):
            window = " in this energy range" if options.energy_range else ""
            raise CalojaxError(f"There are no {name} showers{window}; check file and options.")
    possible(options, reference.detector, min(len(generated), len(reference)))
    return generated, reference


def _within(source: ShowerSource, low: float, high: float) -> Selection:
    return Selection(source, np.flatnonzero((source.energies >= low) & (source.energies < high)))


class _Found(NamedTuple):
    """What a group found in a slice or in all: scores, fields of `Evaluation`, warnings."""

    scores: Mapping[str, float] = {}
    fields: Mapping[str, Any] = {}
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Measured:
    """Both samples and all that passes over their voxels found; spectra by slice, None for all."""

    generated_source: ShowerSource
    reference_source: ShowerSource
    generated: Features
    reference: Features
    generated_spectra: Mapping[_Where, Spectrum]
    reference_spectra: Mapping[_Where, Spectrum]
    generated_marks: np.ndarray
    reference_marks: np.ndarray

    def sources(self, where: _Where) -> tuple[ShowerSource, ShowerSource]:
        """Generated and reference showers of a slice, or all."""
        both = self.generated_source, self.reference_source
        return both if where is None else tuple(_within(source, *where) for source in both)

    def features(self, where: _Where) -> tuple[Features, Features]:
        """Features of the generated and reference showers of a slice, or of all."""
        return (
            self.generated.take(_rows(self.generated_source, where)),
            self.reference.take(_rows(self.reference_source, where)),
        )

    def counts(self, where: _Where) -> tuple[int, int]:
        """Numbers of generated and reference showers of a slice, or of all."""
        both = self.generated_source, self.reference_source
        return tuple(int(_rows(source, where).sum()) for source in both)


def _measure(
    generated: ShowerSource, reference: ShowerSource, edges: Sequence[float], options: Options
) -> _Measured:
    """Features, marks, and with histograms the voxel spectra, whose bins the reference fixes.

    Hence three passes: the reference's features and maxima, all of the generated sample, and the
    reference's spectra.
    """
    detector = reference.detector
    kind = np.dtype([("maximum", np.float32), ("mark", np.uint64)])
    marks = np.zeros(len(generated), kind), np.zeros(len(reference), kind)

    def mark(which: int, start: int, showers: np.ndarray) -> None:
        inside = marks[which][start : start + len(showers)]
        inside["maximum"] = showers.max(axis=1)
        inside["mark"] = marks_of(showers)

    reference_features = features.stream(reference, hook=functools.partial(mark, 1))
    places: list[_Where] = [None, *_pairs(edges)] if "histograms" in options.metrics else []
    bins = {
        where: histograms.voxel_edges(
            detector, marks[1]["maximum"][_rows(reference, where)].max(initial=0.0)
        )
        for where in places
    }
    ours, theirs = (
        {
            where: Spectrum(bins[where], None if where is None else _rows(sample, where))
            for where in places
        }
        for sample in (generated, reference)
    )

    def count(start: int, showers: np.ndarray) -> None:
        mark(0, start, showers)
        histograms.count_voxels(list(ours.values()), detector, start, showers)

    generated_features = features.stream(generated, hook=count)
    start = 0
    for energies, showers in reference.batches(features.batch_size(detector)) if places else ():
        histograms.count_voxels(list(theirs.values()), detector, start, showers)
        start += len(energies)
    both = generated_features, reference_features
    return _Measured(generated, reference, *both, ours, theirs, *marks)


def _sample_warnings(measured: _Measured, options: Options) -> tuple[str, ...]:
    """Sentences on samples that are too small, empty, repeated, the same, or constant."""
    found = []
    marks = {"generated": measured.generated_marks, "reference": measured.reference_marks}
    least, columns = min(measured.counts(None)), features.names(measured.reference_source.detector)
    if least < _FEW_SHOWERS:
        found.append(f"There are only {least} showers in a sample: scores are mostly chance.")
    if least <= len(columns) and {"fpd", "kpd"} & set(options.metrics):
        found.append(
            f"FPD and KPD of {least} showers with {len(columns)} features each mean little; they "
            "need many times more showers than features."
        )
    empty = {name: float(np.mean(one["maximum"] == 0)) for name, one in marks.items()}
    if max(empty.values()) > _MANY or empty["generated"] > empty["reference"] + _SOME:
        found.append(
            f"{_percent(empty['generated'])} of the generated and {_percent(empty['reference'])} "
            "of the reference's showers are empty."
        )
    for name, one in marks.items():
        _, number = np.unique(one["mark"][one["maximum"] > 0], return_counts=True)
        repeated = float(number[number > 1].sum() / len(one))
        if repeated > _SOME:
            found.append(
                f"{_percent(repeated)} of the {name} showers occur more than once, which distorts "
                "precision, recall, density, coverage and classifiers."
            )
    shared = {
        name: float(np.mean(np.isin(one["mark"], other["mark"]) & (one["maximum"] > 0)))
        for name, one, other in zip(marks, marks.values(), list(marks.values())[::-1], strict=True)
    }
    if max(shared.values()) > _SOME:
        found.append(
            f"{_percent(shared['generated'])} of the generated showers are also in the reference: "
            "the samples are not independent, and scores look better than they are."
        )
    trained_on = from_text(measured.generated_source.attributes.get(TRAINED_ON, ""))
    leaked = np.isin(trained_on, marks["reference"]["mark"])
    if len(leaked) and leaked.mean() > _LEAKED:
        found.append(
            f"The reference contains {_percent(leaked.mean())} of the showers that the model was "
            "trained on: it is rewarded for repeating them; take showers that it has not seen."
        )
    vectors = _vectors(measured, None)
    if {"fpd", "kpd"} & set(options.metrics) and all(np.isfinite(v).all() for v in vectors):
        names = [columns[i] for i in np.flatnonzero(distances.became_variable(*vectors))]
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            found.append(
                f"{len(names)} of {len(columns)} features vary in the generated sample alone and "
                f"may dominate FPD and KPD: {', '.join(names[:3])}{more}."
            )
    return tuple(found)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _found(
    group: str, measured: _Measured, places: Sequence[_Where], options: Options
) -> list[_Found]:
    """What a group finds in all showers and in each slice; nothing where these are too few."""
    if group in CLASSIFIERS:
        return _judge(group, measured, places, options)
    return [
        _FINDERS[group](measured, where, options)
        if where is None or min(measured.counts(where)) > options.neighbours + 1
        else _Found()
        for where in places
    ]


def _reused(group: str, places: Sequence[_Where], known: Known) -> list[_Found] | None:
    """What an earlier run found, if it has the scores of a group."""
    keys = _KEYS.get(group, ())
    if not keys or not all(key in known.scores for key in keys):
        return None
    tables = [known.scores if where is None else known.slices.get(where, {}) for where in places]
    return [
        _Found({k: v for k, v in table.items() if k.removesuffix("_error") in keys})
        for table in tables
    ]


def _settings(group: str, measured: _Measured, options: Options) -> dict[str, object]:
    """How the scores of a group are computed."""
    sizes = distances.settings_for(min(measured.counts(None)))
    match group:
        case "fpd":
            return {group: {"min_samples": sizes.min_samples, "max_samples": sizes.max_samples}}
        case "kpd":
            return {group: {"batch_size": sizes.kernel_samples}}
        case "prdc":
            showers = [len(points) for points in _points(measured, None, options)]
            return {group: {"k": options.neighbours, "showers": showers}}
        case "histograms":
            published = histograms.has_published_ranges(measured.reference_source.detector)
            return {group: {"ranges": "CaloChallenge" if published else "from the reference"}}
        case "correlations":
            return {}
    settings = _classifier_settings(measured, options)
    return {group: dataclasses.asdict(settings) | {"seeds": options.seeds}}


def _histograms(measured: _Measured, where: _Where, options: Options) -> _Found:
    compared = histograms.compare(*measured.features(where), measured.reference_source.detector)
    spectra = measured.generated_spectra[where], measured.reference_spectra[where]
    compared.append(histograms.compare_voxels(*spectra))
    scores: dict[str, float] = {}
    for family, (value, error, chance) in histograms.means(compared).items():
        key = f"separation_{family}"
        scores |= _with_error(key, value, error) | {f"{key}_chance": chance}
    return _Found(scores, {"histograms": tuple(compared)}, histograms.outside_warnings(compared))


def _vectors(measured: _Measured, where: _Where) -> tuple[np.ndarray, np.ndarray]:
    """Feature vectors of the reference and of the generated sample."""
    ours, theirs = measured.features(where)
    return features.vector(theirs), features.vector(ours)


def _fpd(measured: _Measured, where: _Where, options: Options) -> _Found:
    sizes = distances.settings_for(min(measured.counts(where)))
    draws = {"min_samples": sizes.min_samples, "max_samples": sizes.max_samples}
    return _Found(_with_error("fpd", *distances.fpd(*_vectors(measured, where), **draws)))


def _kpd(measured: _Measured, where: _Where, options: Options) -> _Found:
    size = distances.settings_for(min(measured.counts(where))).kernel_samples
    return _Found(_with_error("kpd", *distances.kpd(*_vectors(measured, where), batch_size=size)))


def _points(
    measured: _Measured, where: _Where, options: Options
) -> tuple[manifold.VoxelPoints, manifold.VoxelPoints]:
    """The showers of the reference and of the generated sample that PRDC compares."""
    ours, theirs = measured.sources(where)
    count = _QUICK_PRDC if options.quick else None
    return manifold.VoxelPoints(spread(theirs, count)), manifold.VoxelPoints(spread(ours, count))


def _prdc(measured: _Measured, where: _Where, options: Options) -> _Found:
    points = _points(measured, where, options)
    return _Found(manifold.prdc(*points, k=options.neighbours)._asdict())


def _correlations(measured: _Measured, where: _Where, options: Options) -> _Found:
    ours, theirs = measured.features(where)
    layers = correlations.layers(ours, theirs)
    showers = correlations.showers(ours, theirs, measured.reference_source.detector)
    adjacent = [correlations.neighbours(matrix) for matrix in layers]
    scores = {
        "correlation_layers": layers.mean_difference(),
        "correlation_layers_max": layers.max_difference(),
        "correlation_neighbours": abs(adjacent[0] - adjacent[1]),
        "correlation_showers": showers.mean_difference(),
    }
    return _Found(scores, {"layer_correlations": layers, "shower_correlations": showers})


_FINDERS: Mapping[str, Callable[[_Measured, _Where, Options], _Found]] = {
    "histograms": _histograms,
    "fpd": _fpd,
    "kpd": _kpd,
    "prdc": _prdc,
    "correlations": _correlations,
}


def _classifier_settings(measured: _Measured, options: Options) -> classifiers.ClassifierSettings:
    base = classifiers.QUICK if options.quick else classifiers.OFFICIAL
    return classifiers.resolve(base, measured.reference_source.detector)


def _judge(
    kind: classifiers.Kind, measured: _Measured, places: Sequence[_Where], options: Options
) -> list[_Found]:
    """AUC and JSD of a classifier on its validation showers, of all and of each slice.

    A slice is judged by the classifier of all energies: the pooled score's own part of it.
    """
    both = measured.generated_source, measured.reference_source
    # A window of energy may hold more showers of one sample.
    generated, reference = (spread(source, min(map(len, both))) for source in both)
    settings = _classifier_settings(measured, options)
    predictions = classifiers.predict(
        kind, generated, reference, settings, seeds=options.seeds, seed=options.seed
    )
    found = []
    for where in places:
        inside = predictions if where is None else [p.within(*where) for p in predictions]
        fewest = min(np.bincount(p.labels, minlength=2).min() for p in inside)
        if where is not None and fewest < _AUC_SHOWERS:
            found.append(_Found())
            continue
        score, (auc, jsd) = classifiers.score(kind, inside, settings), _KEYS[kind]
        scores = _with_error(auc, score.auc, score.auc_error)
        found.append(_Found(scores | _with_error(jsd, score.jsd, score.jsd_error)))
    return found


def _pairs(edges: Sequence[float]) -> list[tuple[float, float]]:
    return list(itertools.pairwise(edges))


def _rows(source: ShowerSource, where: _Where) -> np.ndarray:
    """Mask [n] of the showers of a slice, or of all."""
    if where is None:
        return np.ones(len(source), bool)
    return (source.energies >= where[0]) & (source.energies < where[1])


def _with_error(key: str, value: float, error: float) -> dict[str, float]:
    return {key: value, f"{key}_error": error}
