"""Convolution on the cylinder: its definition bin by bin, its adjoint, and resampling.

Arrays hold small integers, whose sums and products are exact in float32: equal means equal.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calojax.nn import cylinder

pytestmark = pytest.mark.usefixtures("strict_ranks")


def integers(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32)


# --- a reference that does what the definition says, bin by bin -----------------------------------


def windows_of(n: int, k: int, s: int, padding: str) -> list[int]:
    """First bins of the windows."""
    if padding == "valid":
        return list(range(0, n - k + 1, s))
    return list(range(-max((k - s) // 2, 0), n - max((k - s) // 2, 0), s))


def connections(shape, kernel, strides, z_padding, r_padding, across_axis):
    """(window, place in the kernel, bin) wherever a window sees a bin."""
    strides = (strides,) * len(shape) if isinstance(strides, int) else strides
    paddings = (z_padding, "same", r_padding)
    starts = [windows_of(*a) for a in zip(shape, kernel, strides, paddings, strict=False)]
    for window in itertools.product(*(range(len(start)) for start in starts)):
        for place in itertools.product(*map(range, kernel)):
            where = [a[w] + p for a, w, p in zip(starts, window, place, strict=True)]
            if len(shape) == 3 and across_axis and where[2] < 0:
                where[1], where[2] = where[1] + shape[1] // 2, -1 - where[2]
            where[1] %= shape[1]
            if all(0 <= i < n for i, n in zip(where, shape, strict=True)):
                yield window, place, tuple(where)


# Bins, kernel and options: both forms, odd and even kernels, strides that divide and do not, grids
# smaller than the kernel.
CATALOGUE = {
    "2d": ((5, 4), (3, 3), {}),
    "2d even": ((5, 6), (4, 2), {}),
    "2d valid": ((6, 5), (3, 3), {"z_padding": "valid"}),
    "2d stride of the paper": ((7, 4), (5, 3), {"strides": (3, 1)}),
    "2d stride": ((6, 6), (3, 4), {"strides": 2}),
    "2d stride does not divide": ((7, 5), (4, 3), {"strides": (3, 2)}),
    "2d stride does not divide, valid": ((8, 7), (3, 2), {"strides": 3, "z_padding": "valid"}),
    "2d kernel shorter than stride": ((7, 7), (1, 2), {"strides": 3}),
    "2d kernel longer than circle": ((3, 2), (3, 7), {}),
    "2d one bin of alpha": ((4, 1), (3, 3), {}),
    "3d": ((3, 4, 3), (3, 3, 3), {}),
    "3d across": ((3, 4, 3), (3, 3, 3), {"across_axis": True}),
    "3d even across": ((4, 6, 4), (2, 4, 4), {"across_axis": True}),
    "3d far across": ((2, 4, 2), (1, 3, 7), {"across_axis": True}),
    "3d stride": ((6, 4, 5), (3, 4, 3), {"strides": (3, 2, 2)}),
    "3d stride across": ((5, 4, 5), (3, 2, 5), {"strides": (2, 2, 2), "across_axis": True}),
    "3d stride three across": ((4, 6, 7), (2, 5, 6), {"strides": 3, "across_axis": True}),
    "3d no stride divides, across": (
        (5, 4, 4),
        (4, 5, 5),
        {"strides": (2, 3, 3), "across_axis": True},
    ),
    "3d valid z across": ((5, 4, 3), (2, 3, 3), {"z_padding": "valid", "across_axis": True}),
    "3d all valid": (
        (8, 4, 9),
        (3, 4, 3),
        {"strides": (3, 2, 2), "z_padding": "valid", "r_padding": "valid"},
    ),
}


@functools.cache
def both(name):
    """One program for a convolution and its adjoint, and integers to apply it to."""
    shape, size, options = CATALOGUE[name]
    x, kernel = integers(0, (2, *shape, 3)), integers(1, (*size, 3, 2))
    conv = functools.partial(cylinder.conv, **options)
    y = integers(2, jax.eval_shape(conv, x, kernel).shape)

    def function(x, y, kernel):
        back = cylinder.conv_transpose(y, kernel, shape=shape, **options)
        return conv(x, kernel), back

    return jax.jit(function), x, y, kernel


@pytest.mark.parametrize("name", CATALOGUE)
def test_convolution_and_adjoint_are_those_of_the_definition(name):
    shape, size, options = CATALOGUE[name]
    function, x, y, kernel = both(name)
    result, back = map(np.asarray, function(x, y, kernel))
    given = {"strides": 1, "z_padding": "same", "r_padding": "same", "across_axis": False}
    expected, expected_back = np.zeros_like(result), np.zeros_like(x)
    for window, place, where in connections(shape, size, **given | options):
        expected[:, *window] += x[:, *where] @ kernel[place]
        expected_back[:, *where] += y[:, *window] @ kernel[place].T
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(back, expected_back)
    assert np.vdot(result, y) == np.vdot(x, back)


def test_double_precision_is_kept():
    shape, size, options = CATALOGUE["3d stride across"]
    x, kernel = integers(0, (2, *shape, 3)), integers(1, (*size, 3, 2))
    single, _ = both("3d stride across")[0](x, both("3d stride across")[2], kernel)
    with jax.enable_x64(True):
        wide = x.astype(np.float64), kernel.astype(np.float64) / 3
        double = jax.jit(functools.partial(cylinder.conv, **options))(*wide)
        assert double.dtype == jnp.float64
        np.testing.assert_allclose(3 * np.asarray(double), single, rtol=1e-12, atol=1e-12)
        resampled = jax.eval_shape(lambda x: cylinder.resample_alpha(x, 6), wide[0])
        assert resampled.dtype == jnp.float64


# --- resampling -----------------------------------------------------------------------------------


def wave(n: int, frequency: int) -> np.ndarray:
    angle = 2 * np.pi * np.arange(n) / n
    return (1.5 + np.cos(frequency * angle) - 0.5 * np.sin(frequency * angle)).astype(np.float32)


@pytest.mark.parametrize(("n", "m"), [(4, 8), (8, 12), (5, 9), (6, 9), (5, 8), (34, 50)])
def test_resampling_keeps_means_and_waves_that_both_grids_hold(n, m):
    finer, coarser = cylinder._resampling(n, m), cylinder._resampling(m, n)
    for frequency in range((n + 1) // 2):
        np.testing.assert_allclose(wave(n, frequency) @ finer, wave(m, frequency), atol=1e-5)
        np.testing.assert_allclose(wave(m, frequency) @ coarser, wave(n, frequency), atol=1e-5)
    np.testing.assert_allclose(finer @ coarser, np.eye(n), atol=1e-12)
    np.testing.assert_allclose(finer.mean(1), 1 / n, atol=1e-12)
    np.testing.assert_allclose(coarser.mean(1), 1 / m, atol=1e-12)


def test_resampling_commutes_with_turns_and_drops_what_is_too_fine():
    x = integers(0, (1, 2, 16, 3))
    resample = jax.jit(lambda x: cylinder.resample_alpha(x, 8))
    coarse = np.asarray(resample(x))
    np.testing.assert_allclose(coarse, np.einsum("bzac,an->bznc", x, cylinder._resampling(16, 8)),
                               atol=1e-5)  # fmt: skip
    np.testing.assert_allclose(
        resample(np.roll(x, 2, axis=2)), np.roll(coarse, 1, axis=2), atol=1e-5
    )
    too_fine = np.broadcast_to((wave(16, 5) - 1.5)[:, None], x.shape)
    np.testing.assert_allclose(resample(too_fine), 0.0, atol=1e-5)
    np.testing.assert_allclose(cylinder._resampling(16, 16), np.eye(16), atol=1e-12)


# --- modules --------------------------------------------------------------------------------------


def test_layers_are_the_functions_with_a_bias():
    options = {"strides": (2, 2, 3), "z_padding": "valid"}
    x, weights = integers(0, (2, 7, 4, 5, 3)), integers(1, (3, 3, 4, 3, 4))
    across = cylinder.Conv(4, (3, 3, 4), **options, across_axis=True)
    up = cylinder.ConvTranspose(3, (3, 3, 4), **options)
    exact = up.clone(shape=(8, 3, 5))

    @jax.jit
    def results(x, weights):
        down, back = ({"params": {"weights": weights, "bias": integers(n, (n,))}} for n in (4, 3))
        y = across.apply(down, x)
        back_again = exact.apply(back, y), up.apply(back, y)
        return (
            y,
            cylinder.conv(x, weights, **options, across_axis=True),
            *back_again,
            (cylinder.conv_transpose(y, weights, **options, shape=(8, 3, 5))),
        )

    y, expected, exact_back, back, expected_back = map(np.asarray, results(x, weights))
    np.testing.assert_array_equal(y, expected + integers(4, (4,)))
    np.testing.assert_array_equal(exact_back, expected_back + integers(3, (3,)))
    assert back.shape == (2, 7, 4, 6, 3)


@pytest.mark.parametrize(
    ("shape", "kernel", "options", "message"),
    [
        ((4, 5, 3), (3, 3, 3), {"across_axis": True}, "5 bins of alpha .* even number"),
        ((2, 4), (3, 3), {"z_padding": "valid"}, "2 bins are too few"),
        ((4, 4), (3, 3, 3), {}, "does not fit"),
        ((4, 4, 4), (3, 3, 3), {"strides": (2, 2)}, "shorter"),
    ],
)
def test_shapes_and_options_that_do_not_fit_are_refused(shape, kernel, options, message):
    with pytest.raises(ValueError, match=message):
        cylinder.conv(np.ones((1, *shape, 2)), np.ones((*kernel, 2, 2)), **options)


def test_transpose_to_a_shape_with_other_windows_is_refused():
    y, kernel = np.ones((1, 3, 4, 2)), np.ones((3, 3, 2, 2))
    with pytest.raises(ValueError, match=r"of \(8, 4\) bins needs \(4, 4\) bins, got \(3, 4\)"):
        cylinder.conv_transpose(y, kernel, shape=(8, 4), strides=(2, 1))
