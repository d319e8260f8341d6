"""The two samples that are compared: which showers, their features, and whether they are sound."""

import dataclasses
import hashlib
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

from calojax import distributed
from calojax.errors import CalojaxError
from calojax.evaluation import features
from calojax.evaluation.averages import decades
from calojax.evaluation.features import Features
from calojax.geometry import Detector
from calojax.io import ShowerSource
from calojax.io.findings import unit_findings
from calojax.io.marks import TRAINED_ON, from_text, marks

# Fewest showers of each sample in a slice that is chosen by default, and in one that has scores.
_SLICE_SHOWERS, _LEAST_SHOWERS = 300, 7
# Fewer showers than this cause a warning.
_FEW_SHOWERS = 100
# Shares of empty showers, and of showers that repeat, above which there is a warning.
_MANY, _SOME = 0.1, 1e-3
# Share of a model's training showers in the reference above which there is a warning.
_LEAKED = 0.1
_READ = 1000  # showers read at once for a table
# Kolmogorov-Smirnov test of the incident energies: limits of a warning and of a refusal.
_WARN_PROBABILITY = 1e-3
_REFUSE_DISTANCE = 0.5


class Selection(ShowerSource):
    """Chosen showers of a source, as a source."""

    def __init__(self, source: ShowerSource, rows: np.ndarray):
        """The showers ``rows`` of a source: increasing indices, [n]."""
        self.detector = source.detector
        self.attributes = source.attributes
        self.energies = source.energies[rows]
        self._source = source
        self._rows = rows

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        rows = self._rows[start:stop]
        # Showers between the chosen ones are read too, so one read spans only one batch.
        batch = rows // features.batch_size(self.detector)
        for chosen in np.split(rows, np.flatnonzero(np.diff(batch)) + 1) if len(rows) else ():
            first, last = int(chosen[0]), int(chosen[-1])
            yield self._source.read(first, last + 1)[chosen - first]


def spread(source: ShowerSource, count: int) -> ShowerSource:
    """``count`` showers of a source, evenly spread over its incident energies; all if fewer."""
    if count >= len(source):
        return source
    ranks = ((np.arange(count) + 0.5) * (len(source) / count)).astype(int)
    by_energy = np.argsort(np.ravel(source.energies), kind="stable")
    return Selection(source, np.sort(by_energy[ranks]))


def equal_in_number(*sources: ShowerSource) -> list[ShowerSource]:
    """As many showers of each source, evenly spread over its incident energies."""
    return [spread(source, min(map(len, sources))) for source in sources]


def inside(source: ShowerSource, low: float, high: float) -> np.ndarray:
    """Mask [n] of the showers with incident energies in [low, high) MeV."""
    return (source.energies >= low) & (source.energies < high)


@dataclasses.dataclass(frozen=True, repr=False)
class Sample:
    """Showers, and what one pass over their voxels gives.

    Beside the features these are the largest voxel energy of each shower in MeV, float32 [n], and
    its mark (`calojax.io.marks`), uint64 [n].
    """

    source: ShowerSource
    features: Features[np.ndarray]
    maxima: np.ndarray
    marks: np.ndarray

    def __len__(self) -> int:
        return len(self.source)

    @property
    def digest(self) -> str:
        """Digest of incident energies and showers, whatever the file's name, date and layout."""
        content = self.source.energies.tobytes() + self.marks.tobytes()
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    def take(self, rows: np.ndarray) -> "Sample":
        """The showers of increasing indices [m]."""
        return Sample(
            Selection(self.source, rows),
            self.features.take(rows),
            self.maxima[rows],
            self.marks[rows],
        )

    def within(self, low: float, high: float) -> "Sample":
        """The showers with incident energies in [low, high) MeV."""
        return self.take(np.flatnonzero(inside(self.source, low, high)))


class Samples(NamedTuple):
    """The generated sample and the reference."""

    generated: Sample
    reference: Sample

    @property
    def detector(self) -> Detector:
        """Geometry of both."""
        return self.reference.source.detector

    @property
    def size(self) -> int:
        """Number of showers of the smaller one."""
        return min(map(len, self))

    @property
    def is_enough(self) -> bool:
        """Whether there are enough showers for scores of a slice."""
        return self.size >= _LEAST_SHOWERS

    def within(self, low: float, high: float) -> "Samples":
        """The showers with incident energies in [low, high) MeV."""
        return Samples(self.generated.within(low, high), self.reference.within(low, high))


def measure(source: ShowerSource) -> Sample:
    """Passes once over the showers of a source."""
    maxima = np.zeros(len(source), np.float32)
    hashes = np.zeros(len(source), np.uint64)

    def hook(start: int, showers: np.ndarray) -> None:
        rows = slice(start, start + len(showers))
        maxima[rows] = showers.max(axis=1)
        hashes[rows] = marks(showers)

    return Sample(source, features.stream(source, hook=hook), maxima, hashes)


def tabulate(
    sources: Sequence[ShowerSource],
    width: int,
    function: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """Rows [n, width] float32 of all showers of the sources, in order.

    ``function`` makes rows of incident energies [b] and showers [b, v] in MeV. A table larger than
    half of the machine's memory is mapped to a temporary file, which vanishes with it.
    """
    shape = sum(map(len, sources)), width
    if 4 * shape[0] * width <= distributed.host_memory() / 2:
        rows = np.empty(shape, np.float32)
    else:
        with tempfile.TemporaryFile() as file:
            rows = np.memmap(file, np.float32, mode="w+", shape=shape)
    start = 0
    for source in sources:
        for energies, showers in source.batches(_READ):
            rows[start : start + len(energies)] = function(energies, showers)
            start += len(energies)
    return rows


def default_slices(
    generated: np.ndarray, reference: np.ndarray, detector: Detector
) -> tuple[float, ...]:
    """Boundaries in MeV of slices with enough showers of both samples, or none.

    Discrete incident energies are divided into three groups. Otherwise slices are decades, or
    halves of the range in the logarithm if there is one decade or a decade holds too few showers.
    Incident energies [n], [m] are in MeV.
    """
    if detector.energies:
        groups = np.array_split(np.asarray(detector.energies), min(3, len(detector.energies)))
        candidates = [[*(group[0] for group in groups), 2 * detector.energies[-1]]]
    else:
        powers = decades(reference).tolist()
        low, high = float(reference.min()), float(np.nextafter(reference.max(), np.inf))
        candidates = [powers] if len(powers) > 2 else []
        candidates.append([low, math.sqrt(low * high), high])
    for edges in candidates:
        counts = [np.histogram(energies, edges)[0] for energies in (generated, reference)]
        if np.min(counts) >= _SLICE_SHOWERS:
            return tuple(map(float, edges))
    return ()


def energy_warnings(generated: np.ndarray, reference: np.ndarray) -> tuple[str, ...]:
    """A sentence on incident energies [n], [m] that differ by more than chance, or nothing.

    Raises:
      CalojaxError: if the spectra have so little in common that scores would mean nothing.
    """
    distance, probability = map(float, scipy.stats.ks_2samp(generated, reference, method="asymp"))
    if probability >= _WARN_PROBABILITY:
        return ()
    if distance > _REFUSE_DISTANCE:
        ranges = [f"{e.min():.4g} to {e.max():.4g} MeV" for e in (generated, reference)]
        raise CalojaxError(
            f"The incident energies do not match: {ranges[0]} generated, {ranges[1]} in the "
            "reference; sample with the reference's energies, or choose a common energy range."
        )
    return (
        f"The incident energies of the samples differ (Kolmogorov-Smirnov distance {distance:.3f}, "
        f"probability {probability:.1g}), which distorts every score; sample with the reference's.",
    )


def sample_warnings(samples: Samples) -> tuple[str, ...]:
    """Sentences on units, and on samples that are small, empty, repeated or known to the model."""
    named = samples._asdict()
    sentences = [
        f"The units of the {name} showers look wrong: {found.sentence}"
        for name, sample in named.items()
        for found in unit_findings(sample.source)
        if found.severity == "error"
    ]
    if samples.size < _FEW_SHOWERS:
        sentences.append(
            f"There are only {samples.size} showers in a sample: scores are mostly chance."
        )
    empty = {name: float(np.mean(sample.maxima == 0)) for name, sample in named.items()}
    if max(empty.values()) > _MANY or empty["generated"] > empty["reference"] + _SOME:
        sentences.append(
            f"{_percent(empty['generated'])} of the generated and {_percent(empty['reference'])} "
            "of the reference's showers are empty."
        )
    for name, sample in named.items():
        _, counts = np.unique(sample.marks[sample.maxima > 0], return_counts=True)
        repeated = float(counts[counts > 1].sum() / len(sample))
        if repeated > _SOME:
            sentences.append(
                f"{_percent(repeated)} of the {name} showers occur more than once, which distorts "
                "precision, recall, density, coverage and classifiers."
            )
    ours, theirs = samples
    shared = [
        float(np.mean(np.isin(one.marks, other.marks) & (one.maxima > 0)))
        for one, other in ((ours, theirs), (theirs, ours))
    ]
    if max(shared) > _SOME:
        sentences.append(
            f"{_percent(shared[0])} of the generated showers are also in the reference: the "
            "samples are not independent, and scores look better than they are."
        )
    trained_on = from_text(str(ours.source.attributes.get(TRAINED_ON, "")))
    leaked = np.isin(trained_on, theirs.marks)
    if len(leaked) and leaked.mean() > _LEAKED:
        sentences.append(
            f"The reference contains {_percent(leaked.mean())} of the showers that the model was "
            "trained on, which rewards a model that repeats them; use showers that it has not seen."
        )
    return tuple(sentences)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
