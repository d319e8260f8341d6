"""Histograms of features and voxels, and how well they separate generated from reference showers.

Bins, ranges and the separation power are those of the CaloChallenge's evaluation
(arXiv:2410.21611, section 4; its ``evaluate_plotting_helper``), names too, so that every number
stands beside its official one. For other geometries ranges come from the reference. Sums are
float64 on the host: the official numbers are, and an event in the wrong bin costs more than any
other rounding.

The official separation power ignores entries outside of the range. Here they count, in two bins
more, where their shares in the two samples differ by more than chance and that raises the
separation power; otherwise it is the official one.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np

from calojax.evaluation import scoreboard
from calojax.evaluation.features import Features, alpha_layers
from calojax.geometry import Detector, Layer
from calojax.io.reader import ShowerSource

# The official guard of empty bins in the denominator.
_EMPTY_BIN = 1e-16
# Standard deviations by which shares outside of a range may differ by chance; there are hundreds of
# histograms, and those of the official pairs reach 2.9.
_CHANCE = 5.0
# Without thresholds, energies of six decades below the reference's largest are in a histogram.
_DECADES = 1e-6

# Names of the families of histograms, one per published separation power (`SCORES` in `suite`).
E_TOTAL, E_LAYER, VOXEL, SPARSITY = "e_total", "e_layer", "voxel", "sparsity"
EC_ETA, EC_PHI, EC_R = "ec_eta", "ec_phi", "ec_r"
WIDTH_ETA, WIDTH_PHI, WIDTH_R = "width_eta", "width_phi", "width_r"
E_TOTAL_AT_ENERGY = "e_total_at_energy"


@dataclasses.dataclass(frozen=True)
class Histogram:
    """One quantity of both samples in the same k bins.

    Attributes:
      name: the official name, such as ``EC Eta layer 12``.
      family: what it shares with the other layers' histograms, such as ``ec_eta``.
      label: what the horizontal axis shows, with units; mathtext.
      edges: bin edges, [k + 1]. The last bin includes its upper edge.
      generated: density of the generated sample, [k]: integrates to one over the bins; zeros if
        all entries are outside of them.
      reference: density of the reference, [k].
      generated_counts: entries of the generated sample in each bin, [k].
      reference_counts: entries of the reference in each bin, [k].
      generated_outside: share of the generated sample's entries outside of the bins.
      reference_outside: share of the reference's entries outside of the bins.
      outside_counts: whether entries outside count in the separation power.
      separation: separation power, 0 for equal and 1 for disjoint histograms.
      error: its statistical standard deviation (`statistics`).
      floor: what fluctuations alone add to it: its expectation for samples of these sizes from
        equal distributions.
      log_x: whether the bins are even in the logarithm.
    """

    name: str
    family: str
    label: str
    edges: np.ndarray
    generated: np.ndarray
    reference: np.ndarray
    generated_counts: np.ndarray
    reference_counts: np.ndarray
    generated_outside: float
    reference_outside: float
    outside_counts: bool
    separation: float
    error: float
    floor: float
    log_x: bool


def separation_power(p: np.ndarray, q: np.ndarray) -> float:
    """Half the triangular discrimination of two histograms, sum (p - q)^2 / (p + q) / 2.

    Equation 15 of arXiv:2009.03796.

    Args:
      p: fractions of entries in each bin, [k], of sum one.
      q: the same of the other sample, [k].
    """
    return float(0.5 * np.sum((p - q) ** 2 / (p + q + _EMPTY_BIN)))


def covariance(counts: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Covariance [k, k] of the fractions of entries in bins.

    Args:
      counts: entries in each bin, [k].
      products: sum over showers of c c' [k, k], with c the shower's entries in each bin. For
        independent entries that is the diagonal matrix of the counts.
    """
    total = max(counts.sum(), 1)
    p, sums = counts / total, products.sum(axis=1)
    # sum_e (c_e - p t_e)(c_e - p t_e)' with t_e the shower's number of entries, multiplied out.
    mixed = np.outer(p, sums)
    return (products - mixed - mixed.T + sums.sum() * np.outer(p, p)) / total**2


def statistics(
    p: np.ndarray, q: np.ndarray, p_covariance: np.ndarray, q_covariance: np.ndarray
) -> tuple[float, float]:
    """Standard deviation of a separation power S, and the floor under it, in closed form.

    S is expanded to second order in the fluctuations of p and q, taken as Gaussian. With
    g = dS/dp, h = dS/dq and the curvature D = diag(1 / (p + q)) along p - q::

        first    = g' C_p g + h' C_q h
        second   = tr[(D (C_p + C_q))^2] / 2
        floor    = tr[D (C_p + C_q)] / 2

    The first order vanishes for equal distributions; what the fluctuations of p and q make of it
    there is 2 second on average. With that subtracted, variance = first - 2 second + second, and
    not less than second alone. Then S is a chi-squared: for n and m independent entries in k bins
    the floor is (k - 1) (1/n + 1/m) / 4 and the deviation that times sqrt(2 / (k - 1)).

    Args:
      p: fractions of one sample, [k].
      q: fractions of the other, [k].
      p_covariance: covariance of p, [k, k].
      q_covariance: covariance of q, [k, k].
    """
    filled = p + q > 0
    p, q = p[filled], q[filled]
    c_p, c_q = (c[np.ix_(filled, filled)] for c in (p_covariance, q_covariance))
    g = 0.5 * (p - q) * (p + 3 * q) / (p + q) ** 2
    h = 0.5 * (q - p) * (q + 3 * p) / (p + q) ** 2
    curved = (c_p + c_q) / (p + q)[:, None]
    first = g @ c_p @ g + h @ c_q @ h
    second = 0.5 * np.sum(curved * curved.T)
    return float(np.sqrt(max(first - second, second, 0.0))), float(0.5 * np.trace(curved))


def compare(generated: Features, reference: Features, detector: Detector) -> list[Histogram]:
    """Every histogram of features: all but the voxels', which take a `Spectrum`.

    Args:
      generated: features of the generated showers (`features.stream`).
      reference: features of the reference showers; layer energies' bins end at their maxima.
      detector: the geometry.
    """
    return [
        _histogram(name, family, label, edges, x, y, log_x=family == E_LAYER)
        for name, family, label, edges, x, y in _quantities(generated, reference, detector)
    ]


class Spectrum:
    """The voxel spectrum of chosen showers, summed over batches.

    Voxels of one shower are not independent entries: the covariance of their fractions comes from
    the spread of the counts between showers.

    Attributes:
      edges: bin edges in MeV, [k + 1].
      entries: voxels below all bins, in each bin and above all bins, [k + 2].
      products: sum over showers of the products of the shower's entries, [k + 2, k + 2].
    """

    def __init__(self, edges: np.ndarray, events: np.ndarray | None = None):
        """An empty spectrum.

        Args:
          edges: bin edges in MeV, [k + 1].
          events: mask of the showers to count, [n]; all by default.
        """
        self.edges = edges
        self.entries = np.zeros(len(edges) + 1, np.int64)
        self.products = np.zeros((len(edges) + 1, len(edges) + 1))
        self._events = events
        # The last bin includes its upper edge.
        self._upper_edges = np.append(edges[:-1], np.nextafter(edges[-1], np.inf))

    def add(self, start: int, size: int, shower: np.ndarray, energies: np.ndarray) -> None:
        """Counts the voxels of one batch.

        Args:
          start: index of the batch's first shower.
          size: showers in the batch.
          shower: which shower of the batch a voxel belongs to, [m].
          energies: energies of the voxels in MeV, [m] float64.
        """
        if self._events is not None:
            chosen = self._events[start : start + size][shower]
            shower, energies = shower[chosen], energies[chosen]
        columns = len(self.entries)
        cell = shower * columns + np.searchsorted(self._upper_edges, energies, side="right")
        counts = np.bincount(cell, minlength=size * columns).reshape(size, columns)
        self.entries += counts.sum(axis=0)
        counts = counts.astype(np.float64)
        self.products += counts.T @ counts


def voxel_edges(detector: Detector, maximum: float) -> np.ndarray:
    """Edges in MeV of the voxel spectrum's 49 bins, for the reference's largest voxel in MeV."""
    return _log_edges(detector, maximum, 50)


def count_voxels(
    spectra: Sequence[Spectrum], detector: Detector, start: int, showers: np.ndarray
) -> None:
    """Adds showers [b, v] in MeV, the first of which has index ``start``, to all spectra."""
    flat = np.ascontiguousarray(showers).reshape(-1)
    # Few voxels are hit: binning those alone is many times as fast as binning all.
    hit = np.flatnonzero((flat >= detector.evaluation_threshold) & (flat > 0))
    energies = flat[hit].astype(np.float64)
    shower = hit // detector.n_voxels
    for spectrum in spectra:
        spectrum.add(start, len(showers), shower, energies)


def spectrum(source: ShowerSource, edges: np.ndarray, *, batch: int = 1000) -> Spectrum:
    """The voxel spectrum of a whole source, in a pass of its own."""
    result, start = Spectrum(edges), 0
    for _, showers in source.batches(batch):
        count_voxels([result], source.detector, start, showers)
        start += len(showers)
    return result


def compare_voxels(generated: Spectrum, reference: Spectrum) -> Histogram:
    """The histogram of voxel energies of two spectra with the same edges."""
    return _result(
        "voxel distribution",
        VOXEL,
        "voxel energy [MeV]",
        reference.edges,
        (generated.entries, generated.products),
        (reference.entries, reference.products),
        log_x=True,
    )


def means(histograms: Iterable[Histogram]) -> dict[str, tuple[float, float, float]]:
    """Mean separation power of each family, its error and floor: {family: (value, error, floor)}.

    This is what the published tables give for quantities that every layer has. Layers see the same
    showers; their errors are taken as fully correlated, which makes the mean's an upper bound.
    """
    families: dict[str, list[Histogram]] = {}
    for histogram in histograms:
        families.setdefault(histogram.family, []).append(histogram)
    return {
        family: tuple(
            float(np.mean([getattr(member, what) for member in members]))
            for what in ("separation", "error", "floor")
        )
        for family, members in families.items()
    }


def outside_warnings(histograms: Sequence[Histogram]) -> tuple[str, ...]:
    """A sentence on histograms whose entries outside of the range count, if there are any."""
    counted: dict[str, list[Histogram]] = {}
    for histogram in histograms:
        if histogram.outside_counts:
            counted.setdefault(histogram.family, []).append(histogram)
    if not counted:
        return ()
    texts = []
    for members in counted.values():
        worst = max(members, key=lambda one: abs(one.generated_outside - one.reference_outside))
        more = f" and {len(members) - 1} like it" if len(members) > 1 else ""
        texts.append(
            f"{worst.name} ({100 * worst.generated_outside:.3g} % of the generated and "
            f"{100 * worst.reference_outside:.3g} % of the reference's entries){more}"
        )
    return (
        "Entries outside of a histogram's range differ by more than chance and count in the "
        f"separation power, which the CaloChallenge's ignores: {'; '.join(texts)}.",
    )


@dataclasses.dataclass(frozen=True)
class _Ranges:
    """Upper ends in mm of the bins of layers up to an outer radius in mm."""

    radius: float
    center: float
    width: float
    center_r: float
    width_r: float


# Datasets 2 and 3; the inner layers of dataset 1; its layers 12 to 14.
_PUBLISHED_RANGES = (
    _Ranges(radius=42.0, center=30.0, width=30.0, center_r=42.0, width_r=20.0),
    _Ranges(radius=600.0, center=100.0, width=100.0, center_r=500.0, width_r=500.0),
    _Ranges(radius=2000.0, center=500.0, width=400.0, center_r=1500.0, width_r=1500.0),
)


def has_published_ranges(detector: Detector) -> bool:
    """Whether the layers are those of a geometry of the CaloChallenge, whatever its name."""
    return scoreboard.dataset_of(detector) is not None


def _length(
    detector: Detector,
    layer: Layer,
    what: Literal["center", "width", "center_r", "width_r"],
    reference: np.ndarray,
) -> float:
    """Upper end in mm of the range of a length in a layer; ``reference`` [n] are its values."""
    if has_published_ranges(detector):
        return getattr(next(r for r in _PUBLISHED_RANGES if layer.r_edges[-1] <= r.radius), what)
    positive = np.abs(reference[np.isfinite(reference) & (reference != 0)])
    radius = layer.r_edges[-1]
    return min(1.2 * float(np.quantile(positive, 0.999)), radius) if positive.size else radius


def _response_range(
    detector: Detector, low: float, high: float, reference: np.ndarray
) -> tuple[float, float]:
    """Ends of the range of E_tot / E_inc: the published ones, or from the reference's values."""
    reference = reference[np.isfinite(reference)]
    if has_published_ranges(detector) or not reference.size:
        return low, high
    low, high = np.quantile(reference, [0.001, 0.999]).tolist()
    margin = max(0.2 * (high - low), 0.01 * high, 1e-6)
    return max(low - margin, 0.0), high + margin


_Quantity = tuple[str, str, str, np.ndarray, np.ndarray, np.ndarray]


def _quantities(
    generated: Features, reference: Features, detector: Detector
) -> Iterator[_Quantity]:
    """(name, family, label, edges, generated values, reference values) of every histogram."""
    response = generated.total / generated.energy, reference.total / reference.energy
    label = r"$E_\mathrm{tot}\,/\,E_\mathrm{inc}$"
    edges = np.linspace(*_response_range(detector, 0.5, 1.5, response[1]), 101)
    yield "Etot / Einc", E_TOTAL, label, edges, *response

    for position, layer in enumerate(detector.layers):
        x, y = generated.layer_energy[:, position], reference.layer_energy[:, position]
        edges = _log_edges(detector, y.max(initial=0.0), 40)
        yield f"E layer {layer.id}", E_LAYER, f"$E$ in layer {layer.id} [MeV]", edges, x, y

    for title, family, what, text in (
        ("EC Eta", EC_ETA, "center_eta", r"centre of energy in $\Delta\eta$"),
        ("EC Phi", EC_PHI, "center_phi", r"centre of energy in $\Delta\phi$"),
        ("Width Eta", WIDTH_ETA, "width_eta", r"width in $\Delta\eta$"),
        ("Width Phi", WIDTH_PHI, "width_phi", r"width in $\Delta\phi$"),
    ):
        kind, _, _ = what.partition("_")
        for position, layer in enumerate(alpha_layers(detector)):
            x, y = (getattr(sample, what)[:, position] for sample in (generated, reference))
            end = _length(detector, layer, kind, y)
            edges = np.linspace(-end if kind == "center" else 0.0, end, 101)
            yield f"{title} layer {layer.id}", family, f"{text}, layer {layer.id} [mm]", edges, x, y

    for position, layer in enumerate(detector.layers):
        label = f"fraction of empty voxels, layer {layer.id}"
        x, y = generated.sparsity[:, position], reference.sparsity[:, position]
        yield f"Sparsity layer {layer.id}", SPARSITY, label, np.linspace(0.0, 1.0, 21), x, y
    for title, family, what, text in (
        ("EC r", EC_R, "center_r", "centre of energy in $r$"),
        ("Width r", WIDTH_R, "width_r", "width in $r$"),
    ):
        for position, layer in enumerate(detector.layers):
            x, y = (getattr(sample, what)[:, position] for sample in (generated, reference))
            edges = np.linspace(0.0, _length(detector, layer, what, y), 101)
            yield f"{title} layer {layer.id}", family, f"{text}, layer {layer.id} [mm]", edges, x, y

    yield from _response_at_energies(generated, reference, detector, response)


def _response_at_energies(
    generated: Features,
    reference: Features,
    detector: Detector,
    response: tuple[np.ndarray, np.ndarray],
) -> Iterator[_Quantity]:
    """E_tot / E_inc at each discrete incident energy that the reference has (dataset 1)."""
    energies = detector.energies
    for index, energy in enumerate(energies):
        end = energies[index + 1] if index + 1 < len(energies) else 2 * energy
        low, high = (0.9, 1.1) if detector.particle == "photon" and index > 3 else (0.4, 1.4)
        x, y = (
            values[(sample.energy >= energy) & (sample.energy < end)]
            for sample, values in zip((generated, reference), response, strict=True)
        )
        if y.size:
            low, high = _response_range(detector, low, high, y)
            yield (
                f"Etot / Einc at E = {float(energy)}",
                E_TOTAL_AT_ENERGY,
                rf"$E_\mathrm{{tot}}\,/\,E_\mathrm{{inc}}$ at {_energy_text(energy)}",
                np.linspace(low, high, 21),
                x,
                y,
            )


def _energy_text(energy: float) -> str:
    """An incident energy in MeV for people: 256 MeV, 1.0 GeV, 4.2 TeV."""
    if energy < 1e3:
        return f"{energy:.0f} MeV"
    return f"{energy / 1e3:.1f} GeV" if energy < 1e6 else f"{energy / 1e6:.1f} TeV"


def _log_edges(detector: Detector, maximum: float, number: int) -> np.ndarray:
    """``number`` edges in MeV from the threshold to the reference's maximum in MeV."""
    low = detector.evaluation_threshold or detector.readout_threshold or _DECADES * float(maximum)
    # A reference that is empty there has no maximum; any edges serve.
    low = low or 1.0
    maximum = float(maximum) if maximum > low else 10.0 * low
    return np.logspace(np.log10(low), np.log10(maximum), number)


def _histogram(
    name: str,
    family: str,
    label: str,
    edges: np.ndarray,
    generated: np.ndarray,
    reference: np.ndarray,
    *,
    log_x: bool,
) -> Histogram:
    samples = []
    for values in (generated, reference):
        within, below = np.histogram(values, edges)[0], np.sum(values < edges[0])
        # What is not a number counts as above.
        entries = np.array([below, *within, len(values) - below - within.sum()])
        samples.append((entries, np.diag(entries)))
    return _result(name, family, label, edges, *samples, log_x=log_x)


# Entries below, in and above the bins [k + 2], and their products as `covariance` takes them.
_Entries = tuple[np.ndarray, np.ndarray]


def _result(
    name: str,
    family: str,
    label: str,
    edges: np.ndarray,
    generated: _Entries,
    reference: _Entries,
    *,
    log_x: bool,
) -> Histogram:
    both = generated, reference
    inside = [(entries[1:-1], products[1:-1, 1:-1]) for entries, products in both]
    p, q = (counts / max(counts.sum(), 1) for counts, _ in inside)
    densities = p / np.diff(edges), q / np.diff(edges)
    separation, covariances = separation_power(p, q), [covariance(*one) for one in inside]

    # A sample without entries has all of them outside.
    nothing = np.eye(len(edges) + 1)[0]
    all_p, all_q = (n / n.sum() if n.sum() else nothing for n, _ in both)
    outside = [float(fractions[0] + fractions[-1]) for fractions in (all_p, all_q)]
    variance = 0.0
    for (entries, products), share in zip(both, outside, strict=True):
        direction = np.full(len(entries), -share)
        direction[[0, -1]] += 1.0
        variance += direction @ products @ direction / max(entries.sum(), 1) ** 2
    counts = abs(outside[0] - outside[1]) > _CHANCE * np.sqrt(variance) + 1e-9
    counts = bool(counts and separation_power(all_p, all_q) > separation)
    if counts:
        separation = separation_power(all_p, all_q)
        p, q, covariances = all_p, all_q, [covariance(*one) for one in both]
    error, floor = statistics(p, q, *covariances)
    return Histogram(
        name=name,
        family=family,
        label=label,
        edges=edges,
        generated=densities[0],
        reference=densities[1],
        generated_counts=inside[0][0],
        reference_counts=inside[1][0],
        generated_outside=outside[0],
        reference_outside=outside[1],
        outside_counts=counts,
        separation=separation,
        error=error,
        floor=floor,
        log_x=log_x,
    )
