"""FPD and KPD: official numbers, closed forms, extrapolation."""

import types

import jax
import numpy as np
import official
import pytest

from calojax.errors import CalojaxError
from calojax.evaluation import distances, features
from calojax.evaluation.distances import Distance, Gaussian


@pytest.fixture(scope="module")
def vectors():
    return [
        features.vector(features.stream(official.showers(f"ds1_photons_{side}")))
        for side in ("reference", "generated")
    ]


@pytest.mark.parametrize("metric", ["fpd", "kpd"])
def test_values_and_errors_are_the_official_ones(metric, vectors):
    settings = dict(official.numbers()[metric])
    value, error = settings.pop("value_error")
    found = getattr(distances, metric)(*vectors, **settings)
    np.testing.assert_allclose([found.value, found.error], [value, error], rtol=1e-4)


def test_closed_forms_of_the_frechet_distance():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(6, 6))
    covariance, shift = mixing @ mixing.T, rng.normal(size=6)
    distance = distances.frechet_distance(
        Gaussian(np.zeros(6), covariance), Gaussian(shift, covariance)
    )
    assert distance == pytest.approx(shift @ shift)
    # That of independent axes is that of their deviations, also where they are zero.
    for x, y in (([1, 2, 0.5], [3, 2, 0.1]), ([2, 0, 0], [1, 1, 0])):
        both = (Gaussian(np.zeros(3), np.diag(np.square(one))) for one in (x, y))
        assert distances.frechet_distance(*both) == pytest.approx(np.sum(np.subtract(x, y) ** 2))


def test_squared_discrepancy_is_the_estimator_written_out():
    rng = np.random.default_rng(0)
    # More rows than a block, and no multiple of it.
    x, y = rng.normal(size=(1203, 4)), rng.normal(0.1, 1, size=(1100, 4))

    def kernel(a, b):
        return (a @ b.T / 4 + 1) ** 4

    xx, yy, n, m = kernel(x, x), kernel(y, y), len(x), len(y)
    expected = (xx.sum() - np.trace(xx)) / (n * (n - 1))
    expected += (yy.sum() - np.trace(yy)) / (m * (m - 1)) - 2 * kernel(x, y).mean()
    with jax.enable_x64(True):
        found = float(distances.squared_discrepancy(x, y))
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("line", "expected"), [((0.3, 2.0), 0.3), ((-0.1, 2.0), 0.0), ((0.3, -1.0), None)]
)
def test_intercept_of_the_line_that_bounds_allow(line, expected):
    x = np.linspace(0.01, 0.1, 10)
    y = line[0] + line[1] * x
    found = distances._intercept(x, y)
    assert found.value == pytest.approx(y.mean() if expected is None else expected)
    if expected == line[0]:
        assert found.error == pytest.approx(0, abs=1e-12)


def test_intercept_error_is_that_of_least_squares():
    x, noise = np.linspace(0.01, 0.1, 10), np.resize([0.01, -0.01], 10)
    found = distances._intercept(x, 0.3 + 2 * x + noise)
    coefficients, covariance = np.polyfit(x, 0.3 + 2 * x + noise, 1, cov=True)
    assert found == pytest.approx(Distance(coefficients[1], np.sqrt(covariance[1, 1])))


@pytest.mark.parametrize(
    ("size", "expected"), [(100_000, (10_000, 50_000, 10_000)), (3000, (1000, 3000, 1000))]
)
def test_settings_are_official_where_showers_suffice(size, expected):
    samples = types.SimpleNamespace(size=size)
    fpd, kpd = (distances.PhysicsDistance(kind).settings(samples, None) for kind in ("fpd", "kpd"))
    settings = fpd | kpd
    assert tuple(settings.values()) == expected


@pytest.mark.parametrize("metric", [distances.fpd, distances.kpd])
@pytest.mark.parametrize("rounding", [0.0, 3.6e-17])
def test_a_reference_column_that_is_zero_but_for_rounding_is_no_scale(metric, rounding):
    rng = np.random.default_rng(0)
    real, generated = rng.normal(3, 1, size=(2, 300, 4))
    real[:, 2] = rounding * rng.choice([-1, 0, 1], 300)
    still = generated.copy()
    still[:, 2] = rounding
    generated[:, 2] = 0.3 * rng.random(300)
    np.testing.assert_array_equal(
        distances.became_variable(real, generated), [False, False, True, False]
    )
    assert not distances.became_variable(real, still).any()
    small = {"min_samples": 100, "max_samples": 300, "num_batches": 2}
    small = small if metric is distances.fpd else {"batch_size": 100}
    values = [metric(real, sample, **small).value for sample in (still, generated)]
    assert values[1] < 0.2
    if metric is distances.fpd:
        assert values[1] > values[0] + 0.01  # the mean alone is 0.15 away


@pytest.mark.parametrize("metric", [distances.fpd, distances.kpd])
def test_bad_samples_are_refused_in_one_sentence(metric):
    good = np.ones((10, 2))
    with pytest.raises(CalojaxError, match="at least two showers in each sample, got 1"):
        metric(good, good[:1])
    with pytest.raises(CalojaxError, match="1 reference showers"):
        metric(np.where(np.arange(20).reshape(10, 2) == 3, np.nan, good), good)
