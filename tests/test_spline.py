"""Splines: exact both ways in float32, the same as distrax's, smooth at their ends."""

import functools

import distrax
import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from calojax.nn import spline

pytestmark = pytest.mark.usefixtures("strict_ranks")

BOUND = 5.0
BINS = 8

forward = jax.jit(functools.partial(spline.forward, bound=BOUND))
inverse = jax.jit(functools.partial(spline.inverse, bound=BOUND))


def parameters(scale: float, num: int = 1, seed: int = 0, dtype=jnp.float32) -> jax.Array:
    shape = (num, spline.num_parameters(BINS))
    return scale * jax.random.normal(jax.random.key(seed), shape, dtype).T


def points(num: int = 400) -> jax.Array:
    return jnp.linspace(-7.0, 7.0, num)


# A gentle spline, a wild one, and one whose bins and slopes reach the limits.
SCALES = [0.5, 2.0, 8.0]


def wide(array) -> jax.Array:
    """The same numbers in float64, where x64 is on."""
    return jnp.asarray(np.asarray(array), jnp.float64)


@pytest.mark.parametrize("scale", SCALES)
def test_float32_is_accurate(scale):
    """But what the edges, which are sums, lose where the spline is steep.

    What the inverse finds maps onto y, up to the last bits of x and of y.
    """
    given = points()
    p = parameters(scale, len(given), seed=1)
    (y, log_slope), (x, log_back) = forward(given, p), inverse(given, p)
    with jax.enable_x64(True):
        for start, end, log in ((given, y, log_slope), (x, given, -log_back)):
            exact, exact_log = map(np.asarray, forward(wide(start), wide(p)))
            assert exact.dtype == np.float64
            assert (np.abs(np.asarray(end) - exact) < 4e-6 * (1 + np.exp(exact_log))).all()
            if scale < 2:
                np.testing.assert_allclose(np.asarray(log), exact_log, atol=2e-5)


def test_steep_bins_are_inverted_where_the_textbook_root_is_not(monkeypatch):
    """A flat bin between steep knots: b < 0 in the quadratic, and 2c / (-b - sqrt) cancels."""
    y = jnp.linspace(-0.0099, 0.0099, 50)
    steep = [jnp.full_like(y, value) for value in (-1.0, 1.0, -0.01, 0.01, 1.0, 200.0)]
    monkeypatch.setattr(
        spline, "_bin_of", lambda value, *_: spline._Bin(*(a.astype(value.dtype) for a in steep))
    )
    x, _ = jax.jit(lambda y, p: spline.inverse(y, p, bound=BOUND))(y, parameters(0.0, len(y)))
    up, slope = (y + 0.01) / 0.02, 0.01
    excess = up * (1.0 + 200.0 - 2 * slope)
    a, b, c = slope - 1.0 + excess, 1.0 - excess, -slope * up
    textbook = 4.0 * c / (-b - jnp.sqrt(b * b - 4 * a * c)) - 1.0

    def misses(x):
        # The spline in the middle bin, in float64.
        p, q = (np.asarray(x, np.float64) + 1) / 2, (1 - np.asarray(x, np.float64)) / 2
        denominator = slope * (p * p + q * q) + 201 * p * q
        back = -0.01 + 0.02 * (slope * p * p + p * q) / denominator
        rise = slope**2 * (200 * p * p + 2 * slope * p * q + q * q) / denominator**2
        return (np.abs(back - np.asarray(y)) / (1 + rise)).max()

    assert misses(x) < 3e-7
    assert misses(textbook) > 10 * misses(x)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("function", [forward, inverse])
def test_log_slope_is_that_of_autodiff(scale, function):
    x = points(200)
    p = parameters(scale, len(x), seed=2)
    _, log_slope = function(x, p)
    with jax.enable_x64(True):
        slope = jax.jit(jax.vmap(jax.grad(lambda x, p: function(x, p)[0]), (0, 1)))(
            wide(x), wide(p)
        )
        exact = np.log(np.asarray(slope))
    np.testing.assert_allclose(log_slope, exact, atol=1e-3)


@pytest.mark.parametrize("function", [forward, inverse])
def test_gradients_are_those_of_differences(function):
    """Of values and parameters alike; those of parameters are written out by hand."""
    with jax.enable_x64(True):
        x = jnp.linspace(-5.4, 5.3, 24)
        p = parameters(1.0, len(x), seed=6, dtype=jnp.float64)

        def total(x, p):
            y, log_slope = function(x, p)
            return (jnp.sin(y) + log_slope**2).sum()

        jax.test_util.check_grads(total, (x, p), order=1, modes=["rev"], eps=1e-7, rtol=1e-5)


def test_agrees_with_distrax():
    with jax.enable_x64(True):
        x = jnp.linspace(-7.0, 7.0, 400)
        flat = parameters(2.0, len(x), dtype=jnp.float64)
        width, height, slope = jnp.split(flat.T, [BINS, 2 * BINS], -1)
        # distrax takes K + 1 slopes, of which "identity" boundaries leave out the ends.
        padded = jnp.pad(slope, [(0, 0), (1, 1)])
        theirs = distrax.RationalQuadraticSpline(
            jnp.concatenate([width, height, padded], -1),
            -BOUND,
            BOUND,
            boundary_slopes="identity",
            min_bin_size=spline.MIN_BIN * 2 * BOUND,
            min_knot_slope=spline.MIN_SLOPE,
        )
        for mine, reference in (
            (forward, theirs.forward_and_log_det),
            (inverse, theirs.inverse_and_log_det),
        ):
            for found, expected in zip(mine(x, flat), jax.jit(reference)(x), strict=True):
                np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=1e-9)


def test_zeros_are_the_identity():
    x = points()
    p = jnp.zeros((3 * BINS - 1, len(x)))
    for function in (forward, inverse):
        y, log_slope = function(x, p)
        np.testing.assert_allclose(y, x, atol=2e-6)
        np.testing.assert_allclose(log_slope, 0.0, atol=2e-6)


def test_tails_are_the_identity_and_meet_the_spline_smoothly():
    far = jnp.array([-1e6, -13.8, -5.1, 5.1, 13.8, 1e6])
    p = jnp.repeat(parameters(2.0, 1), 6, 1)
    for function in (forward, inverse):
        y, log_slope = function(far, p)
        np.testing.assert_array_equal(y, far)
        np.testing.assert_array_equal(log_slope, 0.0)
        end, log_end = function(jnp.array([-BOUND, BOUND]), p[:, :2])
        np.testing.assert_allclose(end, [-BOUND, BOUND], atol=1e-6)
        np.testing.assert_allclose(log_end, 0.0, atol=1e-5)


@pytest.mark.parametrize("scale", SCALES)
def test_splines_increase(scale):
    x = jnp.linspace(-6, 6, 500)
    y, _ = forward(x, jnp.repeat(parameters(scale, 1, seed=4), 500, 1))
    assert (jnp.diff(y) >= 0).all()


def test_gradients_are_finite_everywhere():
    x = jnp.concatenate([points(50), jnp.array([-BOUND, 0.0, BOUND, 1e8])])
    flat = parameters(8.0, len(x), seed=5)

    def total(function):
        def value(flat, x):
            y, log_slope = function(x, flat)
            return y.sum() + log_slope.sum()

        return value

    for function in (forward, inverse):
        for gradient in jax.jit(jax.grad(total(function), (0, 1)))(flat, x):
            assert np.isfinite(gradient).all()
