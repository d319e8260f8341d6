"""Dequantisation: every bin comes back, and what the flow sees is normal."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from calojax.models.pointflow.dequantisation import (
    DEQUANTISATIONS,
    HIT_ENERGIES,
    Spectrum,
    plane_forward,
    plane_inverse,
)

UNIFORM, CDF = DEQUANTISATIONS["uniform"], DEQUANTISATIONS["cdf"]

# Frequencies of bins: as radial bins, with empty bins everywhere, all in one bin, and the hardest
# for float32: rare bins far from and close to the middle.
COUNTS = {
    "falling": np.round(1e6 * 0.6 ** np.arange(18)) + 1,
    "gaps": [0, 0, 5, 0, 3, 0, 0, 8, 1, 0, 0],
    "one": [0, 0, 7, 0],
    "alone": [3],
    "rare": [1, 0, 1, 10**9, 0, 1, 1, 10**9, 1, 0, 10**9, 1, 0, 1],
    "layers": np.round(1e5 * np.exp(-(((np.arange(45) - 12) / 9.0) ** 2))),
}
# The ends of the noise and what is in between.
NOISE = np.concatenate(
    [[0.0, 1 - 2.0**-24, 2.0**-24, 0.5], np.random.default_rng(0).random(200)]
).astype(np.float32)


# One program for each shape, instead of one for each operation.
METHODS = DEQUANTISATIONS | HIT_ENERGIES
FORWARD = {name: jax.jit(method.forward) for name, method in METHODS.items()}
INVERSE = {name: jax.jit(method.inverse) for name, method in METHODS.items()}


def every_bin(num):
    """Every bin with every noise, [num, noise]."""
    return np.broadcast_arrays(np.arange(num)[:, None], NOISE)


@pytest.mark.parametrize(
    ("counts", "x64"),
    [(counts, False) for counts in COUNTS.values()] + [(COUNTS["rare"], True)],
    ids=[*COUNTS, "rare in float64"],
)
@pytest.mark.parametrize("name", DEQUANTISATIONS)
def test_every_bin_comes_back(name, counts, x64):
    method = DEQUANTISATIONS[name]
    with jax.enable_x64(x64):
        statistics = method.fit(counts)
        assert {array.dtype for array in statistics.values()} == {np.dtype("float32")}
        index, noise = every_bin(len(counts))
        x = FORWARD[name](index, noise, statistics)
        again = INVERSE[name](x, statistics)
    assert x.dtype == jnp.float32
    assert again.dtype == jnp.int32
    assert np.abs(np.asarray(x)).max() <= method.limit * (1 + 1e-5)
    np.testing.assert_array_equal(again, index)


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
@pytest.mark.parametrize("name", DEQUANTISATIONS)
def test_every_number_is_in_a_bin(name, counts):
    method = DEQUANTISATIONS[name]
    x = np.array([-np.inf, -1e9, -7, 0, 7, 1e9, np.inf, np.nan], np.float32)
    index = np.asarray(INVERSE[name](x, method.fit(counts)))
    assert (index[:2] == 0).all()
    assert (index[5:7] == len(counts) - 1).all()
    assert ((index >= 0) & (index < len(counts))).all()


def test_the_inverse_is_that_of_the_talk():
    # min{x | u <= cdf(x + 1)}, in float64.
    counts = np.array([4, 0, 3, 2, 0, 1])
    cdf = np.concatenate([[0], np.cumsum(counts) / counts.sum()])
    x = np.linspace(-4, 4, 1001).astype(np.float32)
    u = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x.astype(np.float64)])
    expected = np.argmax(u[:, None] <= cdf[None, 1:], axis=1)
    np.testing.assert_array_equal(INVERSE["cdf"](x, CDF.fit(counts)), expected)


def test_cdf_is_the_formula_where_float32_can_say_it():
    counts = np.array([4, 0, 3, 2, 0, 1])
    pmf = counts / counts.sum()
    index = np.repeat([0, 2, 3, 5], len(NOISE) - 4)
    noise = np.tile(NOISE[4:], 4)
    u = np.concatenate([[0], np.cumsum(pmf)])[index] + pmf[index] * noise.astype(np.float64)
    x = np.asarray(FORWARD["cdf"](index, noise, CDF.fit(counts)), np.float64)
    normal = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x])
    np.testing.assert_allclose(normal, u, rtol=2e-6)


def test_uniform_is_the_logit_of_even_bins():
    index, noise = every_bin(9)
    index, noise = index[:, 4:], noise[:, 4:]
    x = np.asarray(FORWARD["uniform"](index, noise, UNIFORM.fit(np.arange(9))), np.float64)
    np.testing.assert_allclose(9 / (1 + np.exp(-x)), index + noise, rtol=3e-6)


def distance(x):
    """Kolmogorov and Smirnov's distance to the standard normal."""
    return stats.kstest(np.asarray(x), "norm").statistic


# One sample in 10^4 is farther (Kolmogorov's distribution: 2 exp(-2 t^2) = 1e-4).
FAR = 2.23


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
def test_cdf_makes_marginals_standard_normal(counts):
    num = 40_000
    generator = np.random.default_rng(1)
    counts = np.asarray(counts)
    index = generator.choice(len(counts), num, p=counts / counts.sum())
    noise = generator.random(num, np.float32)
    x = FORWARD["cdf"](index, noise, CDF.fit(counts))
    assert distance(x) < FAR / math.sqrt(num)


def test_tails_keep_their_digits_at_both_ends():
    counts = np.array([1, 10**8, 1])
    x = np.asarray(FORWARD["cdf"](np.array([0, 2]), np.float32(0.5), CDF.fit(counts)))
    assert x[0] == pytest.approx(-5.7307, abs=2e-4)  # Phi^-1(0.5e-8)
    assert x[1] == -x[0]


@pytest.mark.parametrize("shape", [(16, 9), (50, 18), (1, 5)])
def test_every_bin_of_the_plane_comes_back(shape):
    ends = np.array([0.0, 1 - 2.0**-24, 0.5], np.float32)
    noise = np.stack(np.meshgrid(ends, ends), -1).reshape(-1, 2)
    noise = np.concatenate([noise, np.random.default_rng(0).random((60, 2), np.float32)])
    alpha, r = (axis.reshape(-1, 1) for axis in np.indices(shape))
    x = jax.jit(plane_forward, static_argnums=3)(alpha, r, noise[None], shape)
    assert x.dtype == jnp.float32
    assert np.isfinite(x).all()
    inverse = jax.jit(plane_inverse, static_argnums=1)(x, shape)
    for found, expected in zip(inverse, (alpha, r), strict=True):
        np.testing.assert_array_equal(found, np.broadcast_to(expected, found.shape))


def test_the_plane_is_that_of_the_voxels():
    # eta = r cos(alpha), phi = r sin(alpha), with alpha from -pi.
    x = np.tanh(np.asarray(plane_forward(0, 2, np.array([0.5, 0.5], np.float32), (4, 3))) / 2)
    np.testing.assert_allclose(x, 2.5 / 3 * np.cos(np.pi / 4) * np.array([-1, -1]), rtol=1e-6)
    alpha, r = plane_inverse(np.array([[50.0, 50.0], [-np.inf, 1.0]]), (4, 3))
    np.testing.assert_array_equal(r, 2)
    assert ((np.asarray(alpha) >= 0) & (np.asarray(alpha) < 4)).all()


# --- hit energies ---------------------------------------------------------------------------------

THRESHOLD = 0.5e-3 / 0.033


def hits(num=20_000, seed=0):
    """Energies and E_sum in MeV: showers of 1 GeV to 1 TeV, hits from the threshold on."""
    generator = np.random.default_rng(seed)
    total = np.exp(generator.uniform(np.log(1e3), np.log(1e6), num))
    energy = THRESHOLD * np.exp(generator.gamma(9.0, 0.8, num))
    return np.minimum(energy, total).astype(np.float32), total.astype(np.float32)


def fitted(name, energy, total, chunks=7):
    method = HIT_ENERGIES[name]
    spectrum = Spectrum.empty()
    for part in zip(np.array_split(energy, chunks), np.array_split(total, chunks), strict=True):
        spectrum = spectrum.add(method.counted(*part))
    return method.fit(spectrum, THRESHOLD)


@pytest.mark.parametrize("name", HIT_ENERGIES)
def test_hit_energies_come_back_and_are_standardised(name):
    energy, total = hits()
    statistics = fitted(name, energy, total)
    x = np.asarray(FORWARD[name](energy, total, statistics))
    assert x.dtype == np.float32
    assert x.mean() == pytest.approx(0, abs=5e-3)
    assert x.std() == pytest.approx(1, abs=5e-3)
    again = np.asarray(INVERSE[name](x, total, statistics))
    # The logit loses what is small against 1e-6 of the shower.
    slack = {"log": 0.0, "fraction": 1e-11}[name]
    assert (np.abs(again - energy) <= 4e-6 * energy + slack * total).all()


@pytest.mark.parametrize("name", HIT_ENERGIES)
def test_a_fit_does_not_depend_on_its_chunks(name):
    energy, total = hits(3000)
    one = fitted(name, energy, total, chunks=1)
    many = fitted(name, energy, total, chunks=41)
    for key, value in one.items():
        assert many[key] == value


def test_soft_hits_of_hard_showers_stay_distinct_in_the_logarithm_only():
    energy, total = hits()
    soft = THRESHOLD * np.array([1.1, 2.2, 4.4], np.float32)
    apart = {}
    for name in HIT_ENERGIES:
        statistics = fitted(name, energy, total)
        for sum_ in (1e3, 1e6):
            apart[name, sum_] = np.diff(FORWARD[name](soft, np.float32(sum_), statistics)).min()
    assert apart["log", 1e6] == apart["log", 1e3] > 0.25
    assert apart["fraction", 1e3] > 0.1
    assert apart["fraction", 1e6] < 0.01


def test_no_hit_is_below_the_threshold_or_above_its_shower():
    energy, total = hits()
    name = "log"
    statistics = fitted(name, energy, total)
    x = np.array([-1e9, -8, -3, 0, 3, 40, 1e9, np.inf], np.float32)
    for sum_ in (20.0, 1e3, 1e6):
        decoded = np.asarray(INVERSE[name](x, np.float32(sum_), statistics))
        assert (decoded >= np.float32(THRESHOLD)).all()
        assert (decoded <= sum_ * (1 + 1e-6)).all()
        assert (np.diff(decoded) >= 0).all()


@pytest.mark.parametrize("name", HIT_ENERGIES)
def test_extremes_are_finite_both_ways(name):
    energy, total = hits()
    statistics = fitted(name, energy, total)
    extremes = np.array([1e-9, THRESHOLD, 1e3, 1e9], np.float32)
    x = FORWARD[name](extremes, np.float32(1e3), statistics)
    assert np.isfinite(x).all()
    decoded = INVERSE[name](np.array([-1e30, 1e30], np.float32), np.float32(1e3), statistics)
    assert np.isfinite(decoded).all()


@pytest.mark.parametrize("name", HIT_ENERGIES)
def test_hits_that_are_all_alike_can_be_fitted(name):
    energy, total = np.full(5, 2.0, np.float32), np.full(5, 10.0, np.float32)
    statistics = fitted(name, energy, total, chunks=1)
    again = INVERSE[name](FORWARD[name](energy, total, statistics), total, statistics)
    np.testing.assert_allclose(again, energy, rtol=2e-3)


def test_without_a_threshold_the_softest_hit_is_the_limit():
    method = HIT_ENERGIES["log"]
    spectrum = Spectrum.empty().add(np.array([0.25, 3.0])).add(np.array([]))
    statistics = method.fit(spectrum, 0.0)
    assert INVERSE["log"](np.float32(-50), np.float32(10), statistics) == 0.25
