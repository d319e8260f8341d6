"""Linearity and energy resolution of the calorimeter against incident energy."""

from typing import NamedTuple

import numpy as np
import scipy.optimize

# Most bins in a decade of energy, and fewest showers in a bin.
_PER_DECADE, _LEAST = 6, 10


class Resolution(NamedTuple):
    """Mean and relative width of the visible energy in b bins of incident energy.

    Attributes:
      energy: geometric mean of the incident energies of a bin in MeV, [b].
      linearity: mean of E_tot / E_inc, [b].
      linearity_error: standard error of the linearity, [b].
      resolution: standard deviation of E_tot / E_inc over its mean, [b].
      resolution_error: its standard error for a normal distribution, [b].
    """

    energy: np.ndarray
    linearity: np.ndarray
    linearity_error: np.ndarray
    resolution: np.ndarray
    resolution_error: np.ndarray


def bins(energies: np.ndarray, discrete: tuple[float, ...] = ()) -> np.ndarray:
    """Edges in MeV: around each of the ``discrete`` energies, else even in log E, [b + 1]."""
    if discrete:
        levels = np.log(discrete)
        half = np.diff(levels).min() / 2 if len(levels) > 1 else 0.5
        middles = (levels[1:] + levels[:-1]) / 2
        return np.exp(np.concatenate([[levels[0] - half], middles, [levels[-1] + half]]))
    low, high = np.log10(np.min(energies)), np.log10(np.max(energies))
    # The estimate of a width needs about thirty showers.
    count = max(1, min(int(np.ceil((high - low) * _PER_DECADE)), len(energies) // 30))
    # Rounding must not put the outermost energies outside.
    return 10.0 ** np.linspace(low - 1e-6, high + 1e-6, count + 1)


def measure(energies: np.ndarray, total: np.ndarray, edges: np.ndarray) -> Resolution:
    """Linearity and resolution of showers in bins of incident energy with edges [b + 1].

    Incident and visible energies [n] are in MeV. Bins with fewer than ten showers are left out.
    """
    energies, total = np.ravel(energies).astype(float), np.ravel(total).astype(float)
    which = np.searchsorted(edges, energies, side="right") - 1
    rows = []
    for index in range(len(edges) - 1):
        inside = which == index
        n = np.count_nonzero(inside)
        if n < _LEAST:
            continue
        ratio = total[inside] / energies[inside]
        mean, spread = ratio.mean(), ratio.std(ddof=1)
        relative = spread / mean if mean > 0 else 0.0
        energy = np.exp(np.log(energies[inside]).mean())
        rows.append((energy, mean, spread / n**0.5, relative, relative / (2 * (n - 1)) ** 0.5))
    return Resolution(*np.array(rows).reshape(-1, 5).T)


def terms(measured: Resolution) -> tuple[float, float]:
    """Stochastic and constant term (a, c) of sigma/E = a / sqrt(E/GeV) + c, added in quadrature.

    The square of the curve is linear in 1/E: a weighted least-squares fit with a^2, c^2 >= 0 of the
    bins that have a width, at least two.
    """
    use = measured.resolution > 0
    y = measured.resolution[use]
    weight = 1.0 / (2 * y * measured.resolution_error[use])
    design = np.stack([1e3 / measured.energy[use], np.ones_like(y)], axis=1) * weight[:, None]
    squares, _ = scipy.optimize.nnls(design, y**2 * weight)
    a, c = np.sqrt(squares).tolist()
    return a, c
