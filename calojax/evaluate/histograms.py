"""Histograms of features and voxels, and how well they separate generated from reference showers.

Bins, ranges and the separation power are those of the CaloChallenge's evaluation
(arXiv:2410.21611, section 4; its ``evaluate_plotting_helper``), names too, so that every number
stands beside its official one. Sums are float64 on the host: the official numbers are, and an
event in the wrong bin costs more than any other rounding.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from calojax.data.challenge import ShowerSource
from calojax.evaluate.features import Features, alpha_layers
from calojax.geometry import Detector, Layer

# The official guard of empty bins in the denominator.
_EMPTY_BIN = 1e-16

# Names of the families of histograms, one per published separation power (`METRICS` in `suite`).
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
      generated: density of the generated sample, [k]: integrates to one over the bins, so that
        entries outside of them do not count; zeros if all are outside.
      reference: the same for the reference, [k].
      generated_counts: entries, [k].
      reference_counts: entries, [k].
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


def multinomial_covariance(counts: np.ndarray) -> np.ndarray:
    """Covariance [k, k] of the fractions that independent entries of these counts [k] give."""
    total = max(counts.sum(), 1)
    p = counts / total
    return (np.diag(p) - np.outer(p, p)) / total


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
      counts: voxels in each bin, [k].
    """

    def __init__(self, edges: np.ndarray, events: np.ndarray | None = None):
        """An empty spectrum.

        Args:
          edges: bin edges in MeV, [k + 1].
          events: mask of the showers to count, [n]; all by default.
        """
        bins = len(edges) - 1
        self.edges = edges
        self.counts = np.zeros(bins, np.int64)
        self._events = events
        # The last bin includes its upper edge.
        self._upper_edges = np.append(edges[:-1], np.nextafter(edges[-1], np.inf))
        self._products = np.zeros((bins, bins))

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
        # 0 below all bins, 1 to k within, k + 1 above: no masks.
        columns = len(self.counts) + 2
        cell = shower * columns + np.searchsorted(self._upper_edges, energies, side="right")
        counts = np.bincount(cell, minlength=size * columns).reshape(size, columns)[:, 1:-1]
        self.counts += counts.sum(axis=0)
        counts = counts.astype(np.float64)
        self._products += counts.T @ counts

    def covariance(self) -> np.ndarray:
        """Covariance [k, k] of the fractions, from the counts' spread between showers."""
        total = max(self.counts.sum(), 1)
        p = self.counts / total
        # sum_e (c_e - p t_e)(c_e - p t_e)' with t_e the shower's number of voxels.
        centred = np.eye(len(p)) - np.outer(p, np.ones_like(p))
        return centred @ self._products @ centred.T / total**2


def voxel_edges(detector: Detector, maximum: float) -> np.ndarray:
    """Edges in MeV of the voxel spectrum's 49 bins, for the reference's largest voxel in MeV."""
    return _log_edges(detector, maximum, 50)


def count_voxels(
    spectra: Sequence[Spectrum], detector: Detector, start: int, showers: np.ndarray
) -> None:
    """Adds showers [b, v] in MeV, the first of which has index ``start``, to all spectra."""
    flat = np.ascontiguousarray(showers).reshape(-1)
    # Few voxels are hit: binning those alone is many times as fast as binning all.
    hit = np.flatnonzero(flat >= detector.evaluation_threshold)
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
        generated.counts,
        reference.counts,
        generated.covariance(),
        reference.covariance(),
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


@dataclasses.dataclass(frozen=True)
class _Ranges:
    """Upper ends in mm of the bins of layers up to an outer radius in mm."""

    radius: float
    center: float
    width: float
    center_r: float
    width_r: float


# Datasets 2 and 3; the inner layers of dataset 1; its layers 12 to 14. Other geometries take the
# first row that is wide enough for the layer, or the last.
_RANGES = (
    _Ranges(radius=42.0, center=30.0, width=30.0, center_r=42.0, width_r=20.0),
    _Ranges(radius=600.0, center=100.0, width=100.0, center_r=500.0, width_r=500.0),
    _Ranges(radius=2000.0, center=500.0, width=400.0, center_r=1500.0, width_r=1500.0),
)


def _ranges(layer: Layer) -> _Ranges:
    return next((row for row in _RANGES if layer.r_edges[-1] <= row.radius), _RANGES[-1])


_Quantity = tuple[str, str, str, np.ndarray, np.ndarray, np.ndarray]


def _quantities(
    generated: Features, reference: Features, detector: Detector
) -> Iterator[_Quantity]:
    """(name, family, label, edges, generated values, reference values) of every histogram."""
    response = generated.total / generated.energy, reference.total / reference.energy
    label = r"$E_\mathrm{tot}\,/\,E_\mathrm{inc}$"
    yield "Etot / Einc", E_TOTAL, label, np.linspace(0.5, 1.5, 101), *response

    for position, layer in enumerate(detector.layers):
        x, y = generated.layer_energy[:, position], reference.layer_energy[:, position]
        edges = _log_edges(detector, y.max(initial=0.0), 40)
        yield f"E layer {layer.id}", E_LAYER, f"$E$ in layer {layer.id} [MeV]", edges, x, y

    along = {"Eta": (EC_ETA, WIDTH_ETA, r"\eta"), "Phi": (EC_PHI, WIDTH_PHI, r"\phi")}
    for title, (center, _, symbol) in along.items():
        attribute = f"center_{title.lower()}"
        for position, layer in enumerate(alpha_layers(detector)):
            end = _ranges(layer).center
            yield (
                f"EC {title} layer {layer.id}",
                center,
                rf"centre of energy in $\Delta{symbol}$, layer {layer.id} [mm]",
                np.linspace(-end, end, 101),
                getattr(generated, attribute)[:, position],
                getattr(reference, attribute)[:, position],
            )
    for title, (_, width, symbol) in along.items():
        attribute = f"width_{title.lower()}"
        for position, layer in enumerate(alpha_layers(detector)):
            yield (
                f"Width {title} layer {layer.id}",
                width,
                rf"width in $\Delta{symbol}$, layer {layer.id} [mm]",
                np.linspace(0.0, _ranges(layer).width, 101),
                getattr(generated, attribute)[:, position],
                getattr(reference, attribute)[:, position],
            )

    for position, layer in enumerate(detector.layers):
        label = f"fraction of empty voxels, layer {layer.id}"
        x, y = generated.sparsity[:, position], reference.sparsity[:, position]
        yield f"Sparsity layer {layer.id}", SPARSITY, label, np.linspace(0.0, 1.0, 21), x, y
    for position, layer in enumerate(detector.layers):
        label = f"centre of energy in $r$, layer {layer.id} [mm]"
        edges = np.linspace(0.0, _ranges(layer).center_r, 101)
        x, y = generated.center_r[:, position], reference.center_r[:, position]
        yield f"EC r layer {layer.id}", EC_R, label, edges, x, y
    for position, layer in enumerate(detector.layers):
        label = f"width in $r$, layer {layer.id} [mm]"
        edges = np.linspace(0.0, _ranges(layer).width_r, 101)
        x, y = generated.width_r[:, position], reference.width_r[:, position]
        yield f"Width r layer {layer.id}", WIDTH_R, label, edges, x, y

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
    """``number`` edges in MeV from the evaluation threshold to the reference's maximum in MeV."""
    threshold = detector.evaluation_threshold
    # A reference that is empty there has no maximum; any edges serve.
    maximum = float(maximum) if maximum > threshold else 10.0 * threshold
    return np.logspace(np.log10(threshold), np.log10(maximum), number)


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
    x, y = (np.histogram(values, edges)[0] for values in (generated, reference))
    covariances = multinomial_covariance(x), multinomial_covariance(y)
    return _result(name, family, label, edges, x, y, *covariances, log_x=log_x)


def _result(
    name: str,
    family: str,
    label: str,
    edges: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    x_covariance: np.ndarray,
    y_covariance: np.ndarray,
    *,
    log_x: bool,
) -> Histogram:
    p, q = (counts / max(counts.sum(), 1) for counts in (x, y))
    error, floor = statistics(p, q, x_covariance, y_covariance)
    widths = np.diff(edges)
    return Histogram(
        name=name,
        family=family,
        label=label,
        edges=edges,
        generated=p / widths,
        reference=q / widths,
        generated_counts=x,
        reference_counts=y,
        separation=separation_power(p, q),
        error=error,
        floor=floor,
        log_x=log_x,
    )
