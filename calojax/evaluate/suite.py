"""The whole evaluation of generated against reference showers: which scores, in which order.

Every score stands in one flat table under a stable key; `METRICS` says what each key means and
under which name the CaloChallenge publishes it.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from calojax.data import inspection
from calojax.data.challenge import ShowerSource
from calojax.errors import CalojaxError
from calojax.evaluate import classifiers, correlations, distances, features, histograms, manifold
from calojax.evaluate.features import Features
from calojax.evaluate.histograms import Histogram, Spectrum
from calojax.geometry import Detector


class Metric(NamedTuple):
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


def _separation(name: str, what: str) -> Metric:
    return Metric(name, 1.0, False, f"separation power of {what}")


METRICS: Mapping[str, Metric] = {
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
    "fpd": Metric("FPD * 1e3", 1e3, False, "Frechet physics distance of the features"),
    "kpd": Metric("KPD * 1e3", 1e3, False, "kernel physics distance of the features"),
    "precision": Metric("precision", 1.0, True, "generated showers on the reference's manifold"),
    "recall": Metric("recall", 1.0, True, "reference showers on the generated manifold"),
    "density": Metric("density", 1.0, True, "reference neighbourhoods around a generated shower"),
    "coverage": Metric("coverage", 1.0, True, "reference neighbourhoods with a generated shower"),
    "correlation_layers": Metric(
        "PCC Layer Energies", 1.0, False, "mean |difference| of layer-energy correlations"
    ),
    "correlation_layers_max": Metric(
        "PCC Layer Energies max", 1.0, False, "largest |difference| of layer-energy correlations"
    ),
    "correlation_neighbours": Metric(
        "PCC neighbours", 1.0, False, "|difference| of the mean correlation of adjacent layers"
    ),
    "correlation_showers": Metric(
        "PCC shower", 1.0, False, "mean |difference| of centre, width, hit and energy correlations"
    ),
    "auc_low": Metric("binary cls low", 1.0, False, "AUC of the classifier on voxels"),
    "auc_low_normed": Metric(
        "binary cls low-normed", 1.0, False, "AUC of the classifier on voxels over layer energies"
    ),
    "auc_high": Metric("binary cls high", 1.0, False, "AUC of the classifier on features"),
    "auc_cnn": Metric("binary cls cnn", 1.0, False, "AUC of the 3-D ResNet-18 on voxels"),
    "jsd_low": Metric("JSD low", 1.0, False, "Jensen-Shannon divergence by the voxel classifier"),
    "jsd_low_normed": Metric("JSD low-normed", 1.0, False, "the same by the layer-normed one"),
    "jsd_high": Metric("JSD high", 1.0, False, "the same by the classifier on features"),
    "jsd_cnn": Metric("JSD cnn", 1.0, False, "the same by the ResNet"),
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
# Kolmogorov-Smirnov test of the incident energies: when to warn, and when to refuse.
_WARN_PROBABILITY = 1e-3
_REFUSE_DISTANCE = 0.5


@dataclasses.dataclass(frozen=True)
class Options:
    """What to evaluate.

    Attributes:
      metrics: some of `CHOICES`.
      seeds: trainings of each classifier.
      seed: of classifiers' starts and splits.
      quick: small classifiers and 1,000 showers for PRDC, for CPUs; not comparable with others.
      slices: boundaries in MeV of the slices of incident energy; None: `default_slices`; empty or
        a single one: no slices.
      energy_range: lowest and highest incident energy in MeV of the showers to evaluate.
      floor: also score one half of the reference against the other.
      truncate: compare the first showers of the larger sample where sizes differ.
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
      scores: values by keys of `METRICS`, errors by ``<key>_error`` and chance levels of
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
        warnings=energy_warnings(generated.energies, reference.energies)
        + _unit_warnings(generated, reference),
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
            settings={**evaluation.settings, **_settings(group, measured, options)},
            **whole.fields,
        )
        yield evaluation
    if options.floor:
        whole = np.arange(len(reference))
        halves = Selection(reference, whole[::2]), Selection(reference, whole[1::2])
        inner = dataclasses.replace(
            options, floor=False, slices=(), energy_range=None, truncate=True
        )
        for half in scoring(*comparable(*halves, inner), inner, Known(known.floor)):
            yield dataclasses.replace(evaluation, floor=half.scores)


class Selection:
    """Chosen showers of a source, as a source: of a window or slice of energy, or a half.

    Attributes:
      detector: the geometry.
      energies: incident energies in MeV, [n].
    """

    def __init__(self, source: ShowerSource, rows: np.ndarray):
        """The showers ``rows`` of a source: increasing indices, [n]."""
        self.detector = source.detector
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
        """Showers start..stop in MeV, [stop - start, v]; reads what lies between them too."""
        rows = self._rows[start:stop]
        if not len(rows):
            return np.zeros((0, self.detector.n_voxels), np.float32)
        showers = self._source.read(int(rows[0]), int(rows[-1]) + 1)
        return showers if len(showers) == len(rows) else showers[rows - rows[0]]


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
    if distance > _REFUSE_DISTANCE:
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
    values = np.unique(np.concatenate([x, y]))
    cumulative = [np.searchsorted(np.sort(s), values, side="right") / len(s) for s in (x, y)]
    distance = float(np.abs(cumulative[0] - cumulative[1]).max())
    # Stephens' form of the argument, good from a dozen entries on.
    effective = math.sqrt(len(x) * len(y) / (len(x) + len(y)))
    argument = (effective + 0.12 + 0.11 / effective) * distance
    if argument < 0.2:  # where the series converges slowly, and is one to all digits
        return distance, 1.0
    terms = [(-1) ** (j - 1) * math.exp(-2 * (j * argument) ** 2) for j in range(1, 101)]
    return distance, min(max(2 * math.fsum(terms), 0.0), 1.0)


def _check_options(options: Options) -> None:
    unknown = [name for name in options.metrics if name not in CHOICES]
    if unknown:
        raise CalojaxError(f"There is no metric {unknown[0]!r}; choose among {', '.join(CHOICES)}.")
    edges = options.slices or ()
    if any(b <= a for a, b in itertools.pairwise(edges)):
        raise CalojaxError(f"Slices need increasing energies in MeV, got {list(edges)}.")
    if options.energy_range and not options.energy_range[0] < options.energy_range[1]:
        raise CalojaxError(
            f"The energy range needs its lower end first, got {list(options.energy_range)} MeV."
        )


def comparable(
    generated: ShowerSource, reference: ShowerSource, options: Options
) -> tuple[ShowerSource, ShowerSource]:
    """Both samples, cut to what is to be compared.

    Raises:
      CalojaxError: if they differ in geometry or number, nothing is left of one, or an option makes
        no sense.
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
                "evaluate as many of each, or --truncate the larger sample to its first."
            )
        rows = np.arange(min(len(generated), len(reference)))
        generated, reference = Selection(generated, rows), Selection(reference, rows)
    if options.energy_range is not None:
        low, high = options.energy_range
        generated, reference = (_within(s, low, high) for s in (generated, reference))
    for name, sample in (("generated", generated), ("reference", reference)):
        if not len(sample):
            window = " in this energy range" if options.energy_range else ""
            raise CalojaxError(f"There are no {name} showers{window}; check file and options.")
    return generated, reference


def _within(source: ShowerSource, low: float, high: float) -> Selection:
    return Selection(source, np.flatnonzero((source.energies >= low) & (source.energies < high)))


class _Found(NamedTuple):
    """What a group found in a slice or in all: its scores, and fields of `Evaluation`."""

    scores: Mapping[str, float] = {}
    fields: Mapping[str, Any] = {}


@dataclasses.dataclass(frozen=True)
class _Measured:
    """Both samples and all that passes over their voxels found; spectra by slice, None for all."""

    generated_source: ShowerSource
    reference_source: ShowerSource
    generated: Features
    reference: Features
    generated_spectra: Mapping[_Where, Spectrum]
    reference_spectra: Mapping[_Where, Spectrum]

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
    """Features, and with histograms the voxel spectra, whose bins the reference's maxima fix.

    Hence three passes: the reference's features and maxima, all of the generated sample, and the
    reference's spectra.
    """
    detector = reference.detector
    if "histograms" not in options.metrics:
        both = features.stream(generated), features.stream(reference)
        return _Measured(generated, reference, *both, {}, {})

    maxima = np.zeros(len(reference), np.float32)

    def note_maxima(start: int, showers: np.ndarray) -> None:
        maxima[start : start + len(showers)] = showers.max(axis=1)

    reference_features = features.stream(reference, hook=note_maxima)
    slices: list[_Where] = [None, *_pairs(edges)]
    bins = {
        where: histograms.voxel_edges(detector, maxima[_rows(reference, where)].max(initial=0.0))
        for where in slices
    }
    ours, theirs = (
        {
            where: Spectrum(bins[where], None if where is None else _rows(sample, where))
            for where in slices
        }
        for sample in (generated, reference)
    )

    def count(start: int, showers: np.ndarray) -> None:
        histograms.count_voxels(list(ours.values()), detector, start, showers)

    generated_features = features.stream(generated, hook=count)
    start = 0
    for energies, showers in reference.batches(features.batch_size(detector)):
        histograms.count_voxels(list(theirs.values()), detector, start, showers)
        start += len(energies)
    return _Measured(generated, reference, generated_features, reference_features, ours, theirs)


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
        case "histograms" | "correlations":
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
    return _Found(scores, {"histograms": tuple(compared)})


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
    return manifold.VoxelPoints(theirs, count), manifold.VoxelPoints(ours, count)


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
    generated, reference = measured.generated_source, measured.reference_source
    if len(generated) != len(reference):  # a window of energy keeps what falls into it
        rows = np.arange(min(len(generated), len(reference)))
        generated, reference = Selection(generated, rows), Selection(reference, rows)
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
