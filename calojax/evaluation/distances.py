"""Frechet and kernel physics distances between the feature vectors of two samples (FPD, KPD).

Definitions: Kansal et al., arXiv:2211.10295. The estimators, their constants and the random draws
are those of JetNet 0.2.5, which the CaloChallenge used: values and errors agree to many digits.
Both work in float64, because they are small differences of large sums.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from calojax.errors import CalojaxError
from calojax.evaluation import features
from calojax.evaluation.metric import Found, Options, Score, SliceMetric, with_error
from calojax.evaluation.samples import Samples
from calojax.geometry import Detector

# Rows of a kernel matrix at a time: 10,000 columns of float64 make 80 MB.
_KERNEL_ROWS = 1000
_KERNEL_DEGREE = 4
# Percentiles between which a Gaussian has two standard deviations.
_ONE_SIGMA = (16.275, 83.725)
# Spread below which a feature, of order one, is constant up to rounding.
_ROUNDING = 1e-9
# What evaluate.py of the CaloChallenge uses for its samples of 100,000 showers.
_MIN_SAMPLES, _MAX_SAMPLES, _KERNEL_SAMPLES = 10_000, 50_000, 10_000


class Distance(NamedTuple):
    """A distance and its error; tables show both times 1000."""

    value: float
    error: float


class PhysicsDistance(SliceMetric):
    """FPD or KPD, with the official sizes where there are enough showers."""

    def __init__(self, kind: Literal["fpd", "kpd"]):
        self.kind: Literal["fpd", "kpd"] = kind
        name = {"fpd": "Frechet", "kpd": "kernel"}[kind]
        what = f"{name} physics distance of the features"
        self.scores = {kind: Score(f"{kind.upper()} * 1e3", what, scale=1e3)}

    def check(self, detector: Detector, showers: int, options: Options) -> None:
        _check(showers)

    def warnings(self, samples: Samples) -> tuple[str, ...]:
        sentences, columns = [], features.names(samples.detector)
        if samples.size <= len(columns):
            sentences.append(
                f"FPD and KPD of {samples.size} showers with {len(columns)} features each mean "
                "little; they need many times more showers than features."
            )
        vectors = _vectors(samples)
        if all(np.isfinite(vector).all() for vector in vectors):
            names = [columns[i] for i in np.flatnonzero(became_variable(*vectors))]
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                sentences.append(
                    f"{len(names)} of {len(columns)} features vary in the generated sample alone "
                    f"and may dominate FPD and KPD: {', '.join(names[:3])}{more}."
                )
        return tuple(sentences)

    def settings(self, samples: Samples, options: Options) -> dict[str, Any]:
        third = max(samples.size // 3, 2)
        if self.kind == "kpd":
            return {"batch_size": min(_KERNEL_SAMPLES, third)}
        most = min(_MAX_SAMPLES, max(samples.size, 3))
        return {"min_samples": min(_MIN_SAMPLES, third), "max_samples": most}

    def compute(self, samples: Samples, options: Options) -> Found:
        function = fpd if self.kind == "fpd" else kpd
        distance = function(*_vectors(samples), **self.settings(samples, options))
        return Found(with_error(self.kind, *distance))


def _vectors(samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Feature vectors [n, f] of the reference and of the generated sample."""
    ours, theirs = samples
    return features.vector(theirs.features), features.vector(ours.features)


def fpd(
    real: np.ndarray,
    generated: np.ndarray,
    *,
    min_samples: int = _MIN_SAMPLES,
    max_samples: int = _MAX_SAMPLES,
    num_batches: int = 20,
    num_points: int = 10,
    seed: int = 42,
) -> Distance:
    """Frechet distance between Gaussians fitted to both samples, extrapolated to infinite size.

    The distance of finite samples, features [n, f] and [m, f], is biased by a term in 1/N. Means
    over ``num_batches`` draws (with replacement) at ``num_points`` sizes from ``min_samples`` to
    ``max_samples``, even in 1/N, are fitted with a straight line in 1/N whose intercept and slope
    are not negative (arXiv:1911.07023); the intercept is the score.

    Raises:
      CalojaxError: if a sample is too small or not finite.
    """
    real, generated = _normalised(real, generated)
    sizes = (1 / np.linspace(1 / min_samples, 1 / max_samples, num_points)).astype(np.int32)
    rng = np.random.default_rng(seed)
    distances = np.zeros(num_points)
    for point, size in enumerate(sizes):
        for _ in range(num_batches):
            draws = [x[rng.choice(len(x), size=size)] for x in (real, generated)]
            distances[point] += frechet_distance(*map(_gaussian, draws)) / num_batches
    return _intercept(1 / sizes, distances)


def became_variable(real: np.ndarray, generated: np.ndarray) -> np.ndarray:
    """Which features [f] vary in the generated sample [m, f] but not in the reference [n, f].

    Rounding does not count. The reference gives no scale for such a feature.
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
    real; the root of the product itself may not be, because of rounding. On the host: LAPACK is
    faster than a device at these small matrices.
    """
    try:
        root = np.linalg.cholesky(x.covariance)
    except np.linalg.LinAlgError:  # singular: a feature is constant, or follows from others
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
    batch_size: int = _KERNEL_SAMPLES,
    num_batches: int = 10,
    seed: int = 42,
) -> Distance:
    """Maximum mean discrepancy with the kernel (x.y / f + 1)^4: median of draws, half 68 % range.

    The features [n, f], [m, f] are drawn with replacement, ``batch_size`` of each. The estimator is
    unbiased, so it may be negative. Errors are those of `fpd`.
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
    return Distance(float(np.median(values)), float(high - low) / 2)


@jax.jit
def squared_discrepancy(x: jax.Array, y: jax.Array) -> jax.Array:
    """Unbiased estimate of the squared maximum mean discrepancy of [n, f] and [m, f]."""
    n, m = len(x), len(y)
    same_x = _kernel_sum(x, x) - _kernel(jnp.sum(x * x, axis=1), x.shape[1]).sum()
    same_y = _kernel_sum(y, y) - _kernel(jnp.sum(y * y, axis=1), y.shape[1]).sum()
    cross = _kernel_sum(x, y)
    return same_x / (n * (n - 1)) + same_y / (m * (m - 1)) - 2 * cross / (n * m)


def _kernel(product: jax.Array, width: int) -> jax.Array:
    return (product / width + 1.0) ** _KERNEL_DEGREE


def _kernel_sum(x: jax.Array, y: jax.Array) -> jax.Array:
    """Sum of the kernel over all pairs, some rows of the matrix at a time."""

    def row_sum(row: jax.Array) -> jax.Array:
        return _kernel(y @ row, x.shape[1]).sum()

    return jax.lax.map(row_sum, x, batch_size=_KERNEL_ROWS).sum()


def _gaussian(x: np.ndarray) -> Gaussian:
    """Mean and unbiased covariance of a sample [n, f].

    On the host, in float64: BLAS computes half of a symmetric product, and XLA would compile a
    program for every n.
    """
    mean = x.mean(axis=0)
    centred = x - mean
    return Gaussian(mean, centred.T @ centred / (len(x) - 1))


def _check(showers: int) -> None:
    if showers < 2:
        raise CalojaxError(
            f"FPD and KPD need at least two showers in each sample, got {showers}: generate more."
        )


def _normalised(real: np.ndarray, generated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both samples over the largest absolute value of each real feature, in float64.

    Features are of order one. One that is zero up to rounding in the reference is not scaled, as
    the official code does not scale those that are exactly zero.
    """
    real, generated = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    _check(min(len(real), len(generated)))
    for name, sample in (("reference", real), ("generated", generated)):
        if not np.isfinite(sample).all():
            raise CalojaxError(
                f"FPD and KPD need finite features, but {np.sum(~np.isfinite(sample).all(axis=1))} "
                f"{name} showers have others; check the file with calojax check."
            )
    scale = np.abs(real).max(axis=0)
    scale[scale < _ROUNDING] = 1.0
    return real / scale, generated / scale


def _intercept(x: np.ndarray, y: np.ndarray) -> Distance:
    """Least squares of y = a + b x with a, b >= 0: a, and its standard error from the residuals."""
    design = np.stack([np.ones_like(x), x], axis=1)
    (a, _), residual = scipy.optimize.nnls(design, y)
    variance = residual**2 / (len(x) - 2) * np.linalg.inv(design.T @ design)[0, 0]
    return Distance(float(a), float(np.sqrt(variance)))
