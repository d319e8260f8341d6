"""Histograms of features and voxels, and how well they separate generated from reference showers.

Names, bins, ranges and the separation power are those of the CaloChallenge's evaluation
(arXiv:2410.21611, section 4; its ``evaluate_plotting_helper``). For other geometries the ranges
come from the reference. Sums are float64 on the host, as in the official code: an event in the
wrong bin changes a score more than any other rounding does.

The official separation power ignores entries outside of the range. Here they count, as two further
bins, where their shares in the two samples differ by more than chance and that raises the
separation power; otherwise it is the official one.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from calojax.evaluation import features
from calojax.evaluation.features import Features, alpha_layers, apply_threshold
from calojax.evaluation.metric import Found, Metric, Options, Score, with_error
from calojax.evaluation.samples import Samples, inside
from calojax.evaluation.scoreboard import dataset_of
from calojax.geometry import Detector, Layer
from calojax.io import ShowerSource
from calojax.io.findings import energy_text

# The official code adds this to the denominator, for empty bins.
_EMPTY_BIN = 1e-16
# Standard deviations by which shares outside of a range may differ by chance. There are hundreds of
# histograms; those of the official pairs of samples reach 2.9.
_CHANCE = 5.0
# Without a threshold, histograms of energies begin at this fraction of the reference's largest.
_DECADES = 1e-6

# Family of histograms: column of the published tables, and what is separated.
_FAMILIES = {
    "e_total": ("sep E total", "E_tot / E_inc"),
    "e_total_at_energy": ("sep E total per energy", "E_tot / E_inc at each incident energy, mean"),
    "e_layer": ("sep E layer", "layer energies, mean over layers"),
    "voxel": ("sep cell", "voxel energies"),
    "ec_eta": ("sep EC eta", "centres of energy in eta, mean over layers"),
    "ec_phi": ("sep EC phi", "centres of energy in phi, mean over layers"),
    "ec_r": ("sep EC r", "centres of energy in r, mean over layers"),
    "width_eta": ("sep EC eta std", "widths in eta, mean over layers"),
    "width_phi": ("sep EC phi std", "widths in phi, mean over layers"),
    "width_r": ("sep EC r std", "widths in r, mean over layers"),
    "sparsity": ("sep sparsity", "empty voxels, mean over layers"),
}

# Lengths of a layer: (official name, family, attribute of `Features`, axis label, column of
# `_PUBLISHED_RANGES`).
_ALPHA_LENGTHS = (
    ("EC Eta", "ec_eta", "center_eta", r"centre of energy in $\Delta\eta$", 1),
    ("EC Phi", "ec_phi", "center_phi", r"centre of energy in $\Delta\phi$", 1),
    ("Width Eta", "width_eta", "width_eta", r"width in $\Delta\eta$", 2),
    ("Width Phi", "width_phi", "width_phi", r"width in $\Delta\phi$", 2),
)
_RADIAL_LENGTHS = (
    ("EC r", "ec_r", "center_r", "centre of energy in $r$", 3),
    ("Width r", "width_r", "width_r", "width in $r$", 4),
)
# Upper ends in mm of the published ranges: (outer radius of the layer, centre in eta or phi, width
# in eta or phi, centre in r, width in r). Datasets 2 and 3; the inner layers of dataset 1; its
# layers 12 to 14.
_PUBLISHED_RANGES = (
    (42.0, 30.0, 30.0, 42.0, 20.0),
    (600.0, 100.0, 100.0, 500.0, 500.0),
    (2000.0, 500.0, 400.0, 1500.0, 1500.0),
)


@dataclasses.dataclass(frozen=True, repr=False)
class Histogram:
    """One quantity of both samples in the same k bins.

    Attributes:
      name: official name, such as ``EC Eta layer 12``.
      family: name that the histograms of all layers share, such as ``ec_eta``.
      label: label of the horizontal axis, with units; mathtext. All of a family have the same.
      part: layer or incident energy within the family, such as ``layer 12``.
      edges: bin edges, [k + 1]. The last bin includes its upper edge.
      generated_counts: entries of the generated sample in each bin, [k].
      reference_counts: entries of the reference in each bin, [k].
      generated_outside: share of the generated sample's entries outside of the bins.
      reference_outside: share of the reference's entries outside of the bins.
      outside_counts: whether entries outside count in the separation power.
      separation: separation power, 0 for equal and 1 for disjoint histograms.
      error: statistical standard deviation of the separation power (`statistics`).
      floor: expectation of the separation power for samples of these sizes from equal
        distributions.
      log_x: whether the bins are even in the logarithm.
    """

    name: str
    family: str
    label: str
    part: str
    edges: np.ndarray
    generated_counts: np.ndarray
    reference_counts: np.ndarray
    generated_outside: float
    reference_outside: float
    outside_counts: bool
    separation: float
    error: float
    floor: float
    log_x: bool

    def __repr__(self) -> str:
        return (
            f"<Histogram {self.name!r}: separation power {self.separation:.3g} ± {self.error:.2g}, "
            f"by chance {self.floor:.2g}>"
        )


class Histograms(Metric):
    """Separation powers."""

    scores: Mapping[str, Score] = {
        f"separation_{family}": Score(name, f"separation power of {what}")
        for family, (name, what) in _FAMILIES.items()
    }
    reusable = False

    def compute_all(
        self, samples: Samples, slices: Sequence[tuple[float, float]], options: Options
    ) -> list[Found]:
        parts = [samples, *(samples.within(*ends) for ends in slices)]
        edges = [voxel_edges(p.detector, p.reference.maxima.max(initial=0.0)) for p in parts]
        spectra = [
            voxel_entries(
                sample.source, edges, [None, *(inside(sample.source, *ends) for ends in slices)]
            )
            for sample in samples
        ]
        found = []
        for part, bins, *both in zip(parts, edges, *spectra, strict=True):
            if part is not samples and not part.is_enough:
                found.append(Found())
                continue
            ours, theirs = part.generated.features, part.reference.features
            compared = [*compare(ours, theirs, part.detector), compare_voxels(bins, *both)]
            scores: dict[str, float] = {}
            for family, (value, error, chance) in means(compared).items():
                key = f"separation_{family}"
                scores |= with_error(key, value, error) | {f"{key}_chance": chance}
            details = {"histograms": tuple(compared)}
            found.append(Found(scores, details, outside_warnings(compared)))
        return found

    def settings(self, samples: Samples, options: Options) -> dict[str, str]:
        published = dataset_of(samples.detector) is not None
        return {"ranges": "CaloChallenge" if published else "from the reference"}


def separation_power(p: np.ndarray, q: np.ndarray) -> float:
    """Half the triangular discrimination, sum (p - q)^2 / (p + q) / 2 (arXiv:2009.03796, eq. 15).

    p and q [k] are the fractions of the entries of two samples in each bin, of sum one.
    """
    return float(0.5 * np.sum((p - q) ** 2 / (p + q + _EMPTY_BIN)))


def covariance(counts: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Covariance [k, k] of the fractions of entries in bins, from their numbers [k].

    ``products`` [k, k] is the sum over showers of c c', with c the shower's entries in each bin.
    For independent entries that is the diagonal matrix of the counts.
    """
    total = max(counts.sum(), 1)
    p, sums = counts / total, products.sum(axis=1)
    # sum_e (c_e - p t_e)(c_e - p t_e)' with t_e the shower's number of entries, multiplied out.
    mixed = np.outer(p, sums)
    return (products - mixed - mixed.T + sums.sum() * np.outer(p, p)) / total**2


def statistics(
    p: np.ndarray, q: np.ndarray, p_covariance: np.ndarray, q_covariance: np.ndarray
) -> tuple[float, float]:
    """Standard deviation and chance level of a separation power S, in closed form.

    From the fractions p, q [k] of both samples and their covariances C_p, C_q [k, k]. S is
    expanded to second order in the fluctuations of p and q, taken as Gaussian. With g = dS/dp,
    h = dS/dq and the curvature D = diag(1 / (p + q)) along p - q::

        first    = g' C_p g + h' C_q h
        second   = tr[(D (C_p + C_q))^2] / 2
        floor    = tr[D (C_p + C_q)] / 2

    For equal distributions the true first order is zero, but its estimate is 2 second on average.
    With that subtracted, variance = first - 2 second + second, and not less than second alone.
    Then S is a chi-squared: for n and m independent entries in k bins the floor is
    (k - 1) (1/n + 1/m) / 4 and the deviation that times sqrt(2 / (k - 1)).
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


class Entries(NamedTuple):
    """Numbers of entries of a sample below the bins, in each of k bins, and above them, [k + 2].

    ``products`` [k + 2, k + 2] are sums over showers of the products of the shower's numbers.
    """

    counts: np.ndarray
    products: np.ndarray


def voxel_edges(detector: Detector, maximum: float) -> np.ndarray:
    """Edges in MeV of the voxel spectrum's 49 bins, for the reference's largest voxel in MeV."""
    return _log_edges(detector, maximum, 50)


def voxel_entries(
    source: ShowerSource,
    edges: Sequence[np.ndarray],
    chosen: Sequence[np.ndarray | None] = (None,),
    *,
    batch: int | None = None,
) -> list[Entries]:
    """Voxel spectra of a source, all in one pass, ``batch`` showers at a time.

    Each spectrum has its bin ``edges`` [k + 1] in MeV and the mask [n] of its ``chosen`` showers
    (None: all). Voxels of one shower are not independent entries: the covariance of their
    fractions comes from the spread of the counts between showers.
    """
    detector, start = source.detector, 0
    # The last bin includes its upper edge.
    upper = [np.append(bins[:-1], np.nextafter(bins[-1], np.inf)) for bins in edges]
    columns = [len(bins) + 1 for bins in edges]
    found = [Entries(np.zeros(k, np.int64), np.zeros((k, k))) for k in columns]
    for _, showers in source.batches(batch or features.batch_size(detector)):
        size, flat = len(showers), apply_threshold(showers, detector).reshape(-1)
        # Few voxels are hit: it is much faster to bin those alone.
        hit = np.flatnonzero(flat)
        every, energies = hit // detector.n_voxels, flat[hit].astype(np.float64)
        for bins, k, mask, (counts, products) in zip(upper, columns, chosen, found, strict=True):
            keep = slice(None) if mask is None else mask[start : start + size][every]
            cell = every[keep] * k + np.searchsorted(bins, energies[keep], side="right")
            table = np.bincount(cell, minlength=size * k).reshape(size, k)
            counts += table.sum(axis=0)
            products += table.T.astype(np.float64) @ table
        start += size
    return found


def compare_voxels(edges: np.ndarray, generated: Entries, reference: Entries) -> Histogram:
    """The histogram of voxel energies, from `voxel_entries` in the same bins."""
    label = "voxel energy [MeV]"
    return _histogram("voxel distribution", "voxel", label, "", edges, generated, reference)


def means(histograms: Iterable[Histogram]) -> dict[str, tuple[float, float, float]]:
    """Mean separation power of each family, its error and chance level.

    All layers see the same showers: their errors are taken as fully correlated, which makes the
    error of the mean an upper bound.
    """
    families: dict[str, list[tuple[float, float, float]]] = {}
    for item in histograms:
        families.setdefault(item.family, []).append((item.separation, item.error, item.floor))
    found = {}
    for family, members in families.items():
        value, error, floor = (float(np.mean(column)) for column in zip(*members, strict=True))
        found[family] = value, error, floor
    return found


def outside_warnings(histograms: Sequence[Histogram]) -> tuple[str, ...]:
    """A sentence on histograms whose entries outside of the range count, if there are any."""
    texts = []
    for _, members in itertools.groupby(
        (one for one in histograms if one.outside_counts), key=lambda one: one.family
    ):
        members = list(members)
        worst = max(members, key=lambda one: abs(one.generated_outside - one.reference_outside))
        more = f" and {len(members) - 1} like it" if len(members) > 1 else ""
        texts.append(
            f"{worst.name} ({100 * worst.generated_outside:.3g} % of the generated and "
            f"{100 * worst.reference_outside:.3g} % of the reference's entries){more}"
        )
    if not texts:
        return ()
    return (
        "Entries outside of a histogram's range differ by more than chance and count in the "
        f"separation power, which the CaloChallenge's ignores: {'; '.join(texts)}.",
    )


def _length_end(detector: Detector, layer: Layer, column: int, reference: np.ndarray) -> float:
    """Upper end in mm of the range of a length in a layer; ``reference`` [n] are its values."""
    outer = layer.r_edges[-1]
    if dataset_of(detector):
        return next(ends[column] for ends in _PUBLISHED_RANGES if outer <= ends[0])
    positive = np.abs(reference[np.isfinite(reference) & (reference != 0)])
    return min(1.2 * float(np.quantile(positive, 0.999)), outer) if positive.size else outer


def _ratio_range(
    detector: Detector, low: float, high: float, reference: np.ndarray
) -> tuple[float, float]:
    """Ends of the range of E_tot / E_inc: the published ones, or from the reference's values."""
    reference = reference[np.isfinite(reference)]
    if dataset_of(detector) or not reference.size:
        return low, high
    low, high = np.quantile(reference, [0.001, 0.999]).tolist()
    margin = max(0.2 * (high - low), 0.01 * high, 1e-6)
    return max(low - margin, 0.0), high + margin


def compare(generated: Features, reference: Features, detector: Detector) -> list[Histogram]:
    """Every histogram of features: all but that of the voxels (`compare_voxels`)."""
    found: list[Histogram] = []

    def add(name: str, family: str, label: str, edges: np.ndarray, x, y, part: str = "") -> None:
        both = _entries(x, edges), _entries(y, edges)
        found.append(_histogram(name, family, label, part, edges, *both))

    def lengths(table: Sequence[tuple], layers: Sequence[Layer]) -> None:
        for title, family, attribute, text, column in table:
            for position, layer in enumerate(layers):
                x, y = (getattr(s, attribute)[:, position] for s in (generated, reference))
                end = _length_end(detector, layer, column, y)
                edges = np.linspace(-end if column == 1 else 0.0, end, 101)
                part = f"layer {layer.id}"
                add(f"{title} {part}", family, f"{text} [mm]", edges, x, y, part)

    ratios = generated.total / generated.energy, reference.total / reference.energy
    ratio_label = r"$E_\mathrm{tot}\,/\,E_\mathrm{inc}$"
    edges = np.linspace(*_ratio_range(detector, 0.5, 1.5, ratios[1]), 101)
    add("Etot / Einc", "e_total", ratio_label, edges, *ratios)
    for position, layer in enumerate(detector.layers):
        x, y = generated.layer_energy[:, position], reference.layer_energy[:, position]
        edges, part = _log_edges(detector, y.max(initial=0.0), 40), f"layer {layer.id}"
        add(f"E {part}", "e_layer", "layer energy [MeV]", edges, x, y, part)
    lengths(_ALPHA_LENGTHS, alpha_layers(detector))
    for position, layer in enumerate(detector.layers):
        x, y = generated.sparsity[:, position], reference.sparsity[:, position]
        edges, part = np.linspace(0.0, 1.0, 21), f"layer {layer.id}"
        add(f"Sparsity {part}", "sparsity", "fraction of empty voxels", edges, x, y, part)
    lengths(_RADIAL_LENGTHS, detector.layers)

    # E_tot / E_inc at each discrete incident energy that the reference has (dataset 1).
    ends = (*detector.energies[1:], *(2 * energy for energy in detector.energies[-1:]))
    for index, (energy, end) in enumerate(zip(detector.energies, ends, strict=True)):
        x, y = (
            values[(sample.energy >= energy) & (sample.energy < end)]
            for sample, values in zip((generated, reference), ratios, strict=True)
        )
        if y.size:
            narrow = detector.particle == "photon" and index > 3
            low, high = _ratio_range(detector, *((0.9, 1.1) if narrow else (0.4, 1.4)), y)
            edges, part = np.linspace(low, high, 21), energy_text(energy)
            name = f"Etot / Einc at E = {float(energy)}"
            add(name, "e_total_at_energy", ratio_label, edges, x, y, part)
    return found


def _log_edges(detector: Detector, maximum: float, number: int) -> np.ndarray:
    """``number`` edges in MeV from the threshold to the reference's maximum in MeV."""
    low = detector.evaluation_threshold or detector.readout_threshold or _DECADES * float(maximum)
    # An empty reference has no maximum; any edges will do.
    low = low or 1.0
    maximum = float(maximum) if maximum > low else 10.0 * low
    return np.logspace(np.log10(low), np.log10(maximum), number)


def _entries(values: np.ndarray, edges: np.ndarray) -> Entries:
    """Entries of independent values [n]; NaN counts as above the bins."""
    within, below = np.histogram(values, edges)[0], np.sum(values < edges[0])
    counts = np.array([below, *within, len(values) - below - within.sum()])
    return Entries(counts, np.diag(counts))


def _histogram(
    name: str,
    family: str,
    label: str,
    part: str,
    edges: np.ndarray,
    generated: Entries,
    reference: Entries,
) -> Histogram:
    both = generated, reference
    inner = [Entries(one.counts[1:-1], one.products[1:-1, 1:-1]) for one in both]
    p, q = (one.counts / max(one.counts.sum(), 1) for one in inner)
    separation, covariances = separation_power(p, q), [covariance(*one) for one in inner]

    # A sample without entries has all of them outside.
    nothing = np.eye(len(edges) + 1)[0]
    all_p, all_q = (n / n.sum() if n.sum() else nothing for n, _ in both)
    outside = [float(fractions[0] + fractions[-1]) for fractions in (all_p, all_q)]
    variance = 0.0
    for (counts, products), share in zip(both, outside, strict=True):
        direction = np.full(len(counts), -share)
        direction[[0, -1]] += 1.0
        variance += direction @ products @ direction / max(counts.sum(), 1) ** 2
    differ = abs(outside[0] - outside[1]) > _CHANCE * np.sqrt(variance) + 1e-9
    with_outside = separation_power(all_p, all_q)
    outside_counts = bool(differ and with_outside > separation)
    if outside_counts:
        separation = with_outside
        p, q, covariances = all_p, all_q, [covariance(*one) for one in both]
    error, floor = statistics(p, q, *covariances)
    return Histogram(
        name=name,
        family=family,
        label=label,
        part=part,
        edges=edges,
        generated_counts=inner[0].counts,
        reference_counts=inner[1].counts,
        generated_outside=outside[0],
        reference_outside=outside[1],
        outside_counts=outside_counts,
        separation=separation,
        error=error,
        floor=floor,
        log_x=family in ("e_layer", "voxel"),
    )
