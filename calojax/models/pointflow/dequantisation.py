"""Dequantisation: maps between bins or hit energies and real numbers.

Flows need densities, but a hit's layer and radial bin are whole numbers. Noise within the bin makes
them continuous. A map to the real line follows:

- ``uniform``: all bins have the same width, u = (x + eps) / k, and the logit maps (0, 1) to the
  real line, as in CaloPointFlow I and other flows. Where the frequencies of bins differ much, the
  density has steps.
- ``cdf``: the width of a bin is its frequency, u = cdf(x) + pmf(x) eps, which is uniform on (0, 1),
  and the normal quantile makes it standard normal (CDF dequantisation, talk on CaloPointFlow II,
  November 2023). The inverse is min{x | u <= cdf(x + 1)}, with cdf(x) the probability of the bins
  before x.

Both are the same map with other bin edges and another quantile function. Fitted statistics are a
dict of arrays that is stored in the checkpoint. Noise is uniform on [0, 1).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from calojax import rng

Statistics = dict[str, jax.Array]


# --- bins -----------------------------------------------------------------------------------------
#
# Near u = 1 float32 has steps of 6e-8, and a quantile function loses all digits. Both quantile
# functions are odd about u = 1/2, so above it -quantile(1 - u) is taken, with 1 - u summed up from
# the far end. The inverse compares with bin edges that were mapped in float64, and the forward map
# stays between the edges of its bin. So every index is recovered exactly, even that of an empty
# bin, which has a width of one float32 step.


_NEARLY_ZERO = 2.0**-100


@dataclasses.dataclass(frozen=True)
class Dequantisation:
    """A map from bins 0 .. k - 1 to the real line."""

    # Quantile function for float32 arrays in [0, 1/2]; odd about 1/2, increasing.
    quantile: Callable[[jax.Array], jax.Array]
    exact: Callable[[np.ndarray], np.ndarray]  # the same function for float64 arrays
    limit: float  # largest absolute value
    by_frequency: bool  # whether the width of a bin is its frequency

    def fit(self, counts: np.ndarray) -> Statistics:
        """Fits to counts [k] of the bins, not all zero."""
        counts = np.asarray(counts, np.float64)
        pmf = counts / counts.sum() if self.by_frequency else np.full(len(counts), 1 / len(counts))
        # Each sum from its own end, so that small probabilities keep their digits.
        cdf = np.concatenate([[0.0], np.cumsum(pmf)])
        survival = np.concatenate([np.cumsum(pmf[::-1])[::-1], [0.0]])
        return {
            "pmf": jnp.asarray(pmf, jnp.float32),
            "cdf": jnp.asarray(cdf[:-1], jnp.float32),
            "survival": jnp.asarray(survival[1:], jnp.float32),
            "edges": jnp.asarray(self._edges(cdf, survival), jnp.float32),
        }

    def forward(self, index: jax.Array, noise: jax.Array, statistics: Statistics) -> jax.Array:
        """Real numbers [...] of bins [...] with noise [...] in [0, 1)."""
        pmf, edges = statistics["pmf"][index], statistics["edges"]
        below = statistics["cdf"][index] + pmf * noise
        above = statistics["survival"][index] + pmf * (1 - noise)
        tail = self.quantile(jnp.minimum(jnp.minimum(below, above), 0.5))
        x = jnp.where(below < above, tail, -tail)
        return jnp.clip(x, jnp.nextafter(edges, jnp.float32(np.inf))[index], edges[index + 1])

    def inverse(self, x: jax.Array, statistics: Statistics) -> jax.Array:
        """Bins, int32 [...], of any real numbers [...]."""
        inner = statistics["edges"][1:-1]
        return jnp.searchsorted(inner, x, side="left").astype(jnp.int32)

    def _edges(self, cdf: np.ndarray, survival: np.ndarray) -> np.ndarray:
        """Quantiles of cdf [k + 1] (survival = 1 - cdf), strictly increasing as float32."""
        x = self.exact(np.minimum(np.minimum(cdf, survival), 0.5))
        x = np.clip(np.where(cdf < survival, x, -x), -self.limit, self.limit)
        edges = x.astype(np.float32)
        # The numbers next to 0 are subnormal, which accelerators round to 0.
        edges[np.abs(edges) < _NEARLY_ZERO] = -_NEARLY_ZERO
        for i in range(1, len(edges)):
            edges[i] = max(edges[i], np.nextafter(edges[i - 1], np.float32(np.inf)))
        return edges


DequantisationName = Literal["uniform", "cdf"]
# The limit of the logit is that of CaloPointFlow (1e-6 from the ends). That of the normal quantile
# (1e-9 from the ends) is beyond the reach of 10^8 hits.
DEQUANTISATIONS: dict[DequantisationName, Dequantisation] = {
    "uniform": Dequantisation(
        jax.scipy.special.logit, scipy.special.logit, 13.8, by_frequency=False
    ),
    "cdf": Dequantisation(rng.normal_quantile, scipy.special.ndtri, 6.0, by_frequency=True),
}


# --- the transverse plane -------------------------------------------------------------------------
#
# CaloPointFlow I maps angle and radius to the plane, x = r cos(alpha), y = r sin(alpha) with r in
# (0, 1), and to the real line by logit((1 + x) / 2) = 2 artanh(x). The left side loses all digits
# near the axis; the right side keeps them.

# Margin at the edges of a bin, as a fraction: several times the rounding error of a point.
_MARGIN = 2.0**-10


def plane_forward(
    alpha: jax.Array, r: jax.Array, noise: jax.Array, shape: tuple[int, int]
) -> jax.Array:
    """Coordinates [..., 2] of bins alpha, r [...] of ``shape`` (n_alpha, n_r), noise [..., 2]."""
    n_alpha, n_r = shape
    noise = _MARGIN + (1 - 2 * _MARGIN) * noise
    angle = (alpha + noise[..., 0]) * (2 * math.pi / n_alpha) - math.pi
    radius = (r + noise[..., 1]) / n_r
    return 2 * jnp.arctanh(
        jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle)], -1).astype(noise.dtype)
    )


def plane_inverse(x: jax.Array, shape: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Bins alpha and r, int32 [...], of coordinates [..., 2]; larger r are in the last bin."""
    n_alpha, n_r = shape
    plane = jnp.tanh(x / 2)
    radius = jnp.hypot(plane[..., 0], plane[..., 1])
    turn = jnp.arctan2(plane[..., 1], plane[..., 0]) / (2 * math.pi) + 0.5
    alpha = jnp.floor(turn * n_alpha).astype(jnp.int32) % n_alpha
    return alpha, jnp.clip(jnp.floor(radius * n_r).astype(jnp.int32), 0, n_r - 1)


# --- hit energies ---------------------------------------------------------------------------------


class Spectrum(NamedTuple):
    """A histogram of log x of positive numbers x, for fits in one pass over the data."""

    counts: np.ndarray  # counts of the bins, int64 [bins]
    low: float  # smallest number
    high: float  # largest number

    @staticmethod
    def empty() -> "Spectrum":
        """The spectrum of no numbers."""
        return Spectrum(np.zeros(_SPECTRUM_BINS, np.int64), math.inf, 0.0)

    def add(self, values: np.ndarray) -> "Spectrum":
        """The spectrum with values [n] > 0 added."""
        if not len(values):
            return self
        scaled = (np.log(values) / _SPECTRUM_RANGE + 1) * (_SPECTRUM_BINS / 2)
        index = np.clip(scaled.astype(np.int64), 0, _SPECTRUM_BINS - 1)
        counts = self.counts + np.bincount(index, minlength=_SPECTRUM_BINS)
        return Spectrum(
            counts, min(self.low, float(values.min())), max(self.high, float(values.max()))
        )

    def moments(self, function: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
        """Mean and standard deviation of a function of the numbers."""
        centers = (np.arange(_SPECTRUM_BINS) + 0.5) * (2 / _SPECTRUM_BINS) - 1
        filled = self.counts > 0
        # The first and last bins reach beyond the numbers.
        values = np.clip(np.exp(_SPECTRUM_RANGE * centers[filled]), self.low, self.high)
        y, weights = function(values), self.counts[filled]
        mean = np.average(y, weights=weights)
        return float(mean), float(np.sqrt(np.average((y - mean) ** 2, weights=weights)))


# e^-32 .. e^32 holds energies in MeV and their fractions of a shower; bins are 0.8 % wide.
_SPECTRUM_RANGE = 32.0
_SPECTRUM_BINS = 2**13
# Smallest standard deviation, for hits that are all alike.
_MIN_STD = 1e-3
# Distance of fractions from both ends before the logit.
_SHRINK = 1e-6


@dataclasses.dataclass(frozen=True)
class LogEnergy:
    """The logarithm of the energy, standardised.

    Soft hits of hard showers stay distinct, and the flow is conditioned on E_sum. Decoded hits are
    between the threshold and E_sum. (A form with a soft edge, log(E / threshold - 1), has a tail of
    13 standard deviations on Geant4 showers, where 4e-5 of the hits lie at the edge.)
    """

    def counted(self, energy: np.ndarray, total: np.ndarray) -> np.ndarray:
        """Numbers for a `Spectrum`, from energies and E_sum [n] in MeV of hits."""
        return energy

    def fit(self, spectrum: Spectrum, threshold: float) -> Statistics:
        """Fits to a spectrum and the readout threshold in MeV (if 0, the smallest hit)."""
        mean, std = spectrum.moments(np.log)
        low = threshold if threshold > 0 else spectrum.low
        return _float32(mean=mean, std=max(std, _MIN_STD), low=low)

    def forward(self, energy: jax.Array, total: jax.Array, statistics: Statistics) -> jax.Array:
        """Real numbers of hit energies, raised to the threshold, and E_sum in MeV."""
        energy = jnp.maximum(energy, statistics["low"])
        return (jnp.log(energy) - statistics["mean"]) / statistics["std"]

    def inverse(self, x: jax.Array, total: jax.Array, statistics: Statistics) -> jax.Array:
        """Hit energies in MeV, from the threshold to E_sum."""
        high = jnp.log(jnp.maximum(total, statistics["low"]))
        # Clipped before the exponential, to avoid overflow, and after it, because it rounds.
        energy = jnp.exp(jnp.minimum(x * statistics["std"] + statistics["mean"], high))
        return jnp.maximum(energy, statistics["low"])


@dataclasses.dataclass(frozen=True)
class FractionEnergy:
    """The logit of the fraction of E_sum, scaled to [0, 1] over the training hits; standardised.

    As in CaloPointFlow. The logit keeps a distance of 1e-6 from both ends to stay finite. In a
    shower of 1 TeV that is 1 MeV, and softer hits are hardly distinguished.
    """

    def counted(self, energy: np.ndarray, total: np.ndarray) -> np.ndarray:
        """Fractions of E_sum."""
        return energy / total

    def fit(self, spectrum: Spectrum, threshold: float) -> Statistics:
        """Fits to the range of the fractions; the threshold is not used."""
        low, high = spectrum.low, spectrum.high
        high = max(high, low * (1 + 1e-3))
        mean, std = spectrum.moments(
            lambda f: (
                np.log(_shrunk((f - low) / (high - low)))
                - np.log(_shrunk((high - f) / (high - low)))
            )
        )
        return _float32(mean=mean, std=max(std, _MIN_STD), low=low, high=high)

    def forward(self, energy: jax.Array, total: jax.Array, statistics: Statistics) -> jax.Array:
        """Real numbers of hit energies, clipped to the fitted range of fractions of E_sum."""
        low, high = statistics["low"], statistics["high"]
        fraction = jnp.clip(energy / total, low, high)
        # 1 - p from the other end keeps its digits where p is near 1.
        p, q = (fraction - low) / (high - low), (high - fraction) / (high - low)
        logit = jnp.log(_shrunk(p)) - jnp.log(_shrunk(q))
        return (logit - statistics["mean"]) / statistics["std"]

    def inverse(self, x: jax.Array, total: jax.Array, statistics: Statistics) -> jax.Array:
        """Hit energies in MeV; they may be below the threshold."""
        low, high = statistics["low"], statistics["high"]
        p = jax.nn.sigmoid(x * statistics["std"] + statistics["mean"])
        p = jnp.clip((p - _SHRINK) / (1 - 2 * _SHRINK), 0.0, 1.0)
        return (low + (high - low) * p) * total


def _shrunk(p):
    return _SHRINK + (1 - 2 * _SHRINK) * p


HitEnergiesName = Literal["log", "fraction"]
HitEnergies = LogEnergy | FractionEnergy
HIT_ENERGIES: dict[HitEnergiesName, HitEnergies] = {
    "log": LogEnergy(),
    "fraction": FractionEnergy(),
}


def _float32(**values: float) -> Statistics:
    return {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}
