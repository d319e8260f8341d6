"""Splines: exact both ways in float32, the same as distrax's, smooth at knots and at their ends."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calojax.nn import spline

BOUND = 5.0
BINS = 8


def parameters(scale: float, num: int = 1, seed: int = 0, dtype=jnp.float32) -> jax.Array:
    shape = (num, spline.num_parameters(BINS))
    return scale * jax.random.normal(jax.random.key(seed), shape, dtype)


def points(num: int = 400) -> jax.Array:
    return jnp.linspace(-7.0, 7.0, num)


# A gentle spline, a wild one, and one whose bins and slopes reach the limits.
SCALES = [0.5, 2.0, 8.0]


def wide(array) -> jax.Array:
    """The same numbers in float64, where x64 is on."""
    return jnp.asarray(np.asarray(array), jnp.float64)


@pytest.mark.parametrize("scale", SCALES)
def test_forward_in_float32_loses_nothing(scale):
    x = points()
    s = spline.knots(parameters(scale, len(x), seed=1), bound=BOUND)
    y, log_slope = spline.forward(x, s)
    with jax.enable_x64(True):
        exact, exact_log = spline.forward(wide(x), spline.Spline(*map(wide, s)))
        assert exact.dtype == jnp.float64
        np.testing.assert_allclose(np.asarray(y), np.asarray(exact), atol=1e-6)
        np.testing.assert_allclose(np.asarray(log_slope), np.asarray(exact_log), atol=1e-5)


@pytest.mark.parametrize("scale", SCALES)
def test_inverse_in_float32_is_the_inverse_of_a_neighbour(scale):
    """What is found maps onto y exactly, up to the last bits of x and of y."""
    y = points()
    s = spline.knots(parameters(scale, len(y), seed=1), bound=BOUND)
    x, log_slope = spline.inverse(y, s)
    with jax.enable_x64(True):
        again, exact_log = spline.forward(wide(x), spline.Spline(*map(wide, s)))
        again, slope = np.asarray(again), np.exp(np.asarray(exact_log))
    assert (np.abs(again - y) < 1e-6 * (1 + slope)).all()
    if scale < 2:
        np.testing.assert_allclose(log_slope, -np.log(slope), atol=2e-5)


def test_steep_bins_are_inverted_where_the_textbook_root_is_not():
    """A flat bin between steep knots: b < 0 in the quadratic, and 2c / (-b - sqrt) cancels."""
    s = spline.Spline(
        jnp.array([[-5.0, -1.0, 1.0, 5.0]]),
        jnp.array([[-5.0, -0.01, 0.01, 5.0]]),
        jnp.array([[1.0, 1.0, 200.0, 1.0]]),
    )
    y = jnp.linspace(-0.0099, 0.0099, 50)
    s = spline.Spline(*(jnp.repeat(a, 50, 0) for a in s))
    x, _ = spline.inverse(y, s)
    up, slope = (y + 0.01) / 0.02, 0.01
    excess = up * (1.0 + 200.0 - 2 * slope)
    a, b, c = slope - 1.0 + excess, 1.0 - excess, -slope * up
    textbook = 4.0 * c / (-b - jnp.sqrt(b * b - 4 * a * c)) - 1.0

    def misses(x):
        with jax.enable_x64(True):
            back, log_slope = spline.forward(wide(x), spline.Spline(*map(wide, s)))
            error = np.abs(np.asarray(back) - np.asarray(y)) / (1 + np.exp(np.asarray(log_slope)))
        return error.max()

    assert misses(x) < 3e-7
    assert misses(textbook) > 10 * misses(x)


def test_float64_round_trip_is_exact():
    with jax.enable_x64(True):
        x = jnp.linspace(-7.0, 7.0, 500)
        s = spline.knots(parameters(2.0, 500, dtype=jnp.float64), bound=BOUND)
        y, log_slope = spline.forward(x, s)
        back, log_back = spline.inverse(y, s)
        assert y.dtype == jnp.float64
        np.testing.assert_allclose(np.asarray(back), np.asarray(x), atol=1e-10)
        np.testing.assert_allclose(np.asarray(log_back), -np.asarray(log_slope), atol=1e-8)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_log_slope_is_that_of_autodiff(scale, direction):
    x = points(200)
    s = spline.knots(parameters(scale, len(x), seed=2), bound=BOUND)
    function = getattr(spline, direction)
    _, log_slope = function(x, s)
    slope = jax.vmap(jax.grad(lambda x, s: function(x, s)[0]))(x, s)
    np.testing.assert_allclose(log_slope, jnp.log(slope), atol=1e-3)


def test_agrees_with_distrax():
    with jax.enable_x64(True):
        x = jnp.linspace(-7.0, 7.0, 400)
        flat = parameters(2.0, len(x), dtype=jnp.float64)
        width, height, slope = jnp.split(flat, [BINS, 2 * BINS], -1)
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
        ours = spline.knots(flat, bound=BOUND)
        for mine, reference in (
            (spline.forward, theirs.forward_and_log_det),
            (spline.inverse, theirs.inverse_and_log_det),
        ):
            for found, expected in zip(mine(x, ours), reference(x), strict=True):
                np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=1e-9)


def test_zeros_are_the_identity():
    x = points()
    s = spline.knots(jnp.zeros((len(x), 3 * BINS - 1)), bound=BOUND)
    for function in (spline.forward, spline.inverse):
        y, log_slope = function(x, s)
        np.testing.assert_allclose(y, x, atol=1e-6)
        np.testing.assert_allclose(log_slope, 0.0, atol=1e-6)


def test_tails_are_the_identity_and_meet_the_spline_smoothly():
    s = spline.knots(parameters(2.0, 1), bound=BOUND)
    far = jnp.array([-1e6, -13.8, -5.1, 5.1, 13.8, 1e6])
    for function in (spline.forward, spline.inverse):
        y, log_slope = function(far, s)
        np.testing.assert_array_equal(y, far)
        np.testing.assert_array_equal(log_slope, 0.0)
        end, log_end = function(jnp.array([-BOUND, BOUND]), s)
        np.testing.assert_allclose(end, [-BOUND, BOUND], atol=1e-6)
        np.testing.assert_allclose(log_end, 0.0, atol=1e-5)


@pytest.mark.parametrize("scale", SCALES)
def test_knots_are_hit_with_their_slopes(scale):
    s = spline.knots(parameters(scale, 1, seed=3), bound=BOUND)
    each = spline.Spline(*(jnp.repeat(a, BINS + 1, 0) for a in s))
    y, log_slope = spline.forward(s.x[0], each)
    np.testing.assert_allclose(y, s.y[0], atol=1e-6)
    np.testing.assert_allclose(jnp.exp(log_slope), s.slope[0], rtol=1e-5)
    x, log_slope = spline.inverse(s.y[0], each)
    np.testing.assert_allclose(x, s.x[0], atol=1e-6)
    np.testing.assert_allclose(jnp.exp(-log_slope), s.slope[0], rtol=1e-5)


@pytest.mark.parametrize("scale", SCALES)
def test_increases_within_its_limits(scale):
    s = spline.knots(parameters(scale, 1, seed=4), bound=BOUND)
    assert (jnp.diff(s.x) > 0.9 * spline.MIN_BIN * 2 * BOUND).all()
    assert (jnp.diff(s.y) > 0.9 * spline.MIN_BIN * 2 * BOUND).all()
    assert (s.slope >= spline.MIN_SLOPE).all()
    x = jnp.linspace(-6, 6, 500)
    y, _ = spline.forward(x, spline.Spline(*(jnp.repeat(a, 500, 0) for a in s)))
    assert (jnp.diff(y) >= 0).all()


def test_gradients_are_finite_everywhere():
    x = jnp.concatenate([points(50), jnp.array([-BOUND, 0.0, BOUND, 1e8])])
    flat = parameters(8.0, len(x), seed=5)

    def total(function):
        def value(flat, x):
            y, log_slope = function(x, spline.knots(flat, bound=BOUND))
            return y.sum() + log_slope.sum()

        return value

    for function in (spline.forward, spline.inverse):
        for gradient in jax.grad(total(function), (0, 1))(flat, x):
            assert np.isfinite(gradient).all()
