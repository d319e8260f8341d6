"""The calorimeter's response against incident energy: linearity and resolution."""

from typing import NamedTuple

import numpy as np


class Response(NamedTuple):
    """Mean and relative width of the visible energy in b bins of incident energy.

    Attributes:
      energy: geometric mean of the incident energies of a bin in MeV, [b].
      linearity: mean of E_tot / E_inc, [b].
      linearity_error: its standard error, [b].
      resolution: standard deviation of E_tot / E_inc over its mean, [b].
      resolution_error: its standard error, sigma / sqrt(2 (n - 1)) (normal approximation), [b].
    """

    energy: np.ndarray
    linearity: np.ndarray
    linearity_error: np.ndarray
    resolution: np.ndarray
    resolution_error: np.ndarray


def bins(energies: np.ndarray, discrete: tuple[float, ...] = (), *, per_decade: int = 6):
    """Edges in MeV: around each of the ``discrete`` energies, else even in log E, [b + 1]."""
    if discrete:
        levels = np.log(np.asarray(discrete))
        half = np.diff(levels).min() / 2 if len(levels) > 1 else 0.5
        return np.exp(
            np.concatenate(
                [[levels[0] - half], (levels[1:] + levels[:-1]) / 2, [levels[-1] + half]]
            )
        )
    low, high = np.log10(np.min(energies)), np.log10(np.max(energies))
    # Small samples take wider bins: an estimated width wants some thirty showers.
    count = max(1, min(int(np.ceil((high - low) * per_decade)), len(energies) // 30))
    # Widened by what rounding may take, so that all energies are inside.
    return 10.0 ** np.linspace(low - 1e-6, high + 1e-6, count + 1)


def response(
    energies: np.ndarray, total: np.ndarray, edges: np.ndarray, *, least: int = 10
) -> Response:
    """Linearity and resolution of showers in bins of incident energy.

    Args:
      energies: incident energies in MeV, [n].
      total: visible energies in MeV, [n].
      edges: bin edges in MeV, [b + 1].
      least: bins with fewer showers are left out, since their width means nothing.
    """
    energies, total = np.ravel(energies).astype(float), np.ravel(total).astype(float)
    of_bin = np.searchsorted(edges, energies, side="right") - 1
    rows = []
    for index in range(len(edges) - 1):
        inside = of_bin == index
        n = int(inside.sum())
        if n < max(least, 2):
            continue
        ratio = total[inside] / energies[inside]
        mean, spread = ratio.mean(), ratio.std(ddof=1)
        relative = spread / mean if mean > 0 else 0.0
        rows.append(
            (
                np.exp(np.log(energies[inside]).mean()),
                mean,
                spread / np.sqrt(n),
                relative,
                relative / np.sqrt(2 * (n - 1)),
            )
        )
    return Response(*np.array(rows).reshape(-1, 5).T)


def resolution_terms(measured: Response) -> tuple[float, float]:
    """(a, c) of sigma/E = a / sqrt(E/GeV) + c in quadrature, by weighted least squares.

    The square of the curve is linear in 1/E, so the fit has a closed form; a negative square is
    reported as zero.

    Raises:
      ValueError: if fewer than two bins have a width.
    """
    use = measured.resolution > 0
    if use.sum() < 2:
        raise ValueError("a resolution curve needs two bins of energy")
    x = 1e3 / measured.energy[use]
    y = measured.resolution[use] ** 2
    weight = 1.0 / (2 * measured.resolution[use] * measured.resolution_error[use])
    design = np.stack([x, np.ones_like(x)], axis=1) * weight[:, None]
    (a2, c2), *_ = np.linalg.lstsq(design, y * weight, rcond=None)
    return float(np.sqrt(max(a2, 0.0))), float(np.sqrt(max(c2, 0.0)))
