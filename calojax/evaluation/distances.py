"""Frechet and kernel physics distances between the feature vectors of two samples (FPD, KPD).

Definitions: Kansal et al., arXiv:2211.10295. The estimators, their constants and the random draws
are those of JetNet 0.2.5, which the CaloChallenge used, so that values and errors agree with it to
many digits. Both work in float64: they are small differences of large sums.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from calojax.errors import CalojaxError

# Rows of a kernel matrix at a time: 10,000 columns of float64 make 80 MB.
_KERNEL_ROWS = 1000
_KERNEL_DEGREE = 4
# Percentiles between which a Gaussian has two standard deviations.
_ONE_SIGMA = (16.275, 83.725)
# Spread below which a feature, of order one, is a constant but for rounding.
_ROUNDING = 1e-9


class Score(NamedTuple):
    """A distance and its error, as computed: tables print 1000 times that."""

    value: float
    error: float


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sample sizes of the estimators.

    Attributes:
      min_samples: smallest draw for FPD.
      max_samples: largest draw for FPD.
      kernel_samples: draw for KPD.
    """

    min_samples: int
    max_samples: int
    kernel_samples: int


# What evaluate.py of the CaloChallenge passes, or leaves, for its samples of 100,000.
OFFICIAL = Settings(min_samples=10_000, max_samples=50_000, kernel_samples=10_000)


def settings_for(n: int) -> Settings:
    """The official settings where n showers suffice; else draws of at most n, and a third of it."""
    third = max(n // 3, 2)
    return Settings(
        min_samples=min(OFFICIAL.min_samples, third),
        max_samples=min(OFFICIAL.max_samples, max(n, 3)),
        kernel_samples=min(OFFICIAL.kernel_samples, third),
    )


def fpd(
    real: np.ndarray,
    generated: np.ndarray,
    *,
    min_samples: int = OFFICIAL.min_samples,
    max_samples: int = OFFICIAL.max_samples,
    num_batches: int = 20,
    num_points: int = 10,
    seed: int = 42,
) -> Score:
    """Frechet distance between Gaussians fitted to both samples, extrapolated to infinite size.

    The distance of finite samples is biased by a term in 1/N. Means over ``num_batches`` draws
    (with replacement) at ``num_points`` sizes, even in 1/N, are fitted with a straight line in 1/N
    whose intercept and slope are not negative (arXiv:1911.07023); the intercept is the score.

    Args:
      real: features of the reference, [n, f].
      generated: features of the generated sample, [m, f].
      min_samples: smallest draw.
      max_samples: largest draw.
      num_batches: draws of each size.
      num_points: sizes.
      seed: of the draws.

    Raises:
      CalojaxError: if a sample is too small or not finite.
    """
    real, generated = _normalised(real, generated)
    sizes = (1 / np.linspace(1 / min_samples, 1 / max_samples, num_points)).astype(np.int32)
    rng = np.random.default_rng(seed)
    distances = np.zeros(num_points)
    with jax.enable_x64(True):
        x, y = jnp.asarray(real), jnp.asarray(generated)
        for point, size in enumerate(sizes):
            for _ in range(num_batches):
                fits = [_gaussian(sample, rng.choice(len(sample), size=size)) for sample in (x, y)]
                distance = frechet_distance(*(Gaussian(*map(np.asarray, fit)) for fit in fits))
                distances[point] += distance / num_batches
    return _intercept(1 / sizes, distances)


def check(showers: int) -> None:
    """Refuses samples of one shower.

    Raises:
      CalojaxError: if the smaller sample, of so many showers, is too small.
    """
    if showers < 2:
        raise CalojaxError(
            f"FPD and KPD need at least two showers in each sample, got {showers}: generate more."
        )


def became_variable(real: np.ndarray, generated: np.ndarray) -> np.ndarray:
    """Which features [f] vary in the generated sample [m, f] and not in the reference [n, f].

    Rounding does not count. Distances compare such a feature in its own unit, by no scale of the
    reference's.
    """
    constant, other = (np.ptp(sample, axis=0) < _ROUNDING for sample in (real, generated))
    return constant & ~other


class Gaussian(NamedTuple):
    """Mean [f] and covariance [f, f]."""

    mean: np.ndarray
    covariance: np.ndarray


def frechet_distance(x: Gaussian, y: Gaussian) -> float:
    """|mu_x - mu_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)).

    With any C_x = L L', C_x C_y has the eigenvalues of the symmetric L' C_y L, whose roots are
    real, where the root of the product itself need not be to rounding. On the host: LAPACK is
    faster at these small matrices than anything that a device has.
    """
    try:
        root = np.linalg.cholesky(x.covariance)
    except np.linalg.LinAlgError:  # singular: some feature is constant, or follows from others
        values, vectors = np.linalg.eigh(x.covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
    squares = np.linalg.eigvalsh(root.T @ y.covariance @ root)
    overlap = np.sqrt(np.maximum(squares, 0.0)).sum()
    traces = np.trace(x.covariance) + np.trace(y.covariance)
    return float(np.sum((x.mean - y.mean) ** 2) + traces - 2 * overlap)


def kpd(
    real: np.ndarray,
    generated: np.ndarray,
    *,
    batch_size: int = OFFICIAL.kernel_samples,
    num_batches: int = 10,
    seed: int = 42,
) -> Score:
    """Maximum mean discrepancy with the kernel (x.y / f + 1)^4: median of draws, half 68 % range.

    The estimator is unbiased, so that it may be negative.

    Args:
      real: features of the reference, [n, f].
      generated: features of the generated sample, [m, f].
      batch_size: size of a draw (with replacement).
      num_batches: draws.
      seed: of the draws.

    Raises:
      CalojaxError: if a sample is too small or not finite.
    """
    real, generated = _normalised(real, generated)
    values = []
    with jax.enable_x64(True):
        x, y = jnp.asarray(real), jnp.asarray(generated)
        for batch in range(num_batches):
            rng = np.random.default_rng(seed + 1000 * batch)
            first, second = (rng.choice(len(sample), size=batch_size) for sample in (x, y))
            values.append(float(squared_discrepancy(x[first], y[second])))
    low, high = np.percentile(values, _ONE_SIGMA)
    return Score(float(np.median(values)), float(high - low) / 2)


@jax.jit
def squared_discrepancy(x: jax.Array, y: jax.Array) -> jax.Array:
    """Unbiased estimate of the squared maximum mean discrepancy of [n, f] and [m, f]."""
    n, m = len(x), len(y)
    same_x = _kernel_sum(x, x) - _kernel(jnp.sum(x * x, axis=1), x.shape[1]).sum()
    same_y = _kernel_sum(y, y) - _kernel(jnp.sum(y * y, axis=1), y.shape[1]).sum()
    cross = _kernel_sum(x, y)
    return same_x / (n * (n - 1)) + same_y / (m * (m - 1)) - 2 * cross / (n * m)


def _kernel(product: jax.Array, features: int) -> jax.Array:
    return (product / features + 1.0) ** _KERNEL_DEGREE


def _kernel_sum(x: jax.Array, y: jax.Array) -> jax.Array:
    """Sum of the kernel over all pairs, some rows of the matrix at a time."""

    def row_sum(row: jax.Array) -> jax.Array:
        return _kernel(y @ row, x.shape[1]).sum()

    return jax.lax.map(row_sum, x, batch_size=_KERNEL_ROWS).sum()


@jax.jit
def _gaussian(sample: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean [f] and unbiased covariance [f, f] of some rows of a sample [n, f]."""
    x = sample[rows]
    mean = x.mean(axis=0)
    centred = x - mean
    return mean, centred.T @ centred / (len(x) - 1)


def _normalised(real: np.ndarray, generated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both samples over the largest absolute value of each real feature, in float64.

    Features are of order one. One that the reference has as zero but for rounding keeps its unit,
    as the official code keeps those that are exactly zero.
    """
    real, generated = (np.asarray(sample, np.float64) for sample in (real, generated))
    check(min(len(real), len(generated)))
    for name, sample in (("reference", real), ("generated", generated)):
        if not np.isfinite(sample).all():
            raise CalojaxError(
                f"FPD and KPD need finite features, but {np.sum(~np.isfinite(sample).all(axis=1))} "
                f"{name} showers have others; check the file with calojax check."
            )
    scale = np.abs(real).max(axis=0)
    scale[scale < _ROUNDING] = 1.0
    return real / scale, generated / scale


def _intercept(x: np.ndarray, y: np.ndarray) -> Score:
    """Least squares of y = a + b x with a, b >= 0: a, and its standard error from the residuals."""
    design = np.stack([np.ones_like(x), x], axis=1)
    (a, _), residual = scipy.optimize.nnls(design, y)
    variance = residual**2 / (len(x) - 2) * np.linalg.inv(design.T @ design)[0, 0]
    return Score(float(a), float(np.sqrt(variance)))
