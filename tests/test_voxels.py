"""Transforms: inverses, conserved energies, and the activation of the talk in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calojax.geometry import DETECTORS
from calojax.models import voxels
from calojax.models.calovq import transforms
from calojax.models.voxels import energy_condition, random_rotations, rotation_table

# One program for each shape, instead of one for each operation.
layer_sums = jax.jit(voxels.layer_sums, static_argnums=1)
split_layers = jax.jit(transforms.split_layers, static_argnums=1)
join_layers = jax.jit(transforms.join_layers, static_argnums=2)
compress, expand = jax.jit(transforms.arctanh_compress), jax.jit(transforms.arctanh_expand)

# The formulas of the talk as written, in float64.
S, T = 1e-4, 0.2
K = 2 - S
B = T * S - 1
A = 1 / (np.arctanh(K + B) - np.arctanh(B))
C = -A * np.arctanh(B)


def talk_f(x):
    return A * np.arctanh(K * np.asarray(x, np.float64) + B) + C


def talk_g(y):
    return (np.tanh((np.asarray(y, np.float64) - C) / A) - B) / K


def test_published_values():
    x = np.array([1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9], np.float32)
    expected = [0.0044, 0.032, 0.111, 0.213, 0.320, 0.431, 0.532, 0.634]
    np.testing.assert_allclose(compress(x), expected, atol=1e-3)


X = np.concatenate([np.geomspace(1e-12, 0.5, 400), 1 - np.geomspace(1e-7, 0.5, 400), [0.0, 1.0]])


def test_compress_agrees_with_float64_at_both_ends():
    x = X.astype(np.float32)
    # The reference needs more than float64 near 0, where 1 + K x + B cancels: log1p form.
    exact = (
        A
        / 2
        * (
            np.log1p(K * x.astype(np.float64) / (1 + B))
            - np.log((1 - B - K * x.astype(np.float64)) / (1 - B))
        )
    )
    ours = np.asarray(compress(x), np.float64)
    np.testing.assert_allclose(ours, exact, rtol=3e-6, atol=1e-12)
    np.testing.assert_allclose(ours[x > 1e-3], talk_f(x[x > 1e-3]), rtol=3e-6)
    assert ours[-2] == 0
    assert ours[-1] == pytest.approx(1, abs=3e-7)


def test_expand_agrees_with_float64():
    y = np.linspace(-0.5, 1.5, 4001).astype(np.float32)
    ours = np.asarray(expand(y), np.float64)
    np.testing.assert_allclose(ours, talk_g(y), rtol=2e-5, atol=1e-9)
    assert expand(np.float32(0)) == 0
    assert (ours[y < 0] < 0).all()


def test_round_trips():
    x = X[X < 0.999].astype(np.float32)
    again = expand(compress(x))
    np.testing.assert_allclose(again, x, rtol=3e-5, atol=1e-14)
    y = np.linspace(0, 1, 1001).astype(np.float32)
    # Near 1 one ulp of x is worth 7e-5 of y: f'(1) = A K / (2 (S - T S)) = 1155.
    np.testing.assert_allclose(compress(expand(y)), y, atol=1.5e-4)


def test_extreme_outputs_stay_finite_with_finite_gradients():
    y = jnp.array([-1e4, -1.0, 0.0, 1.0, 1.5, 50.0, 1e4], jnp.float32)
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(transforms.arctanh_expand)))(y)
    assert np.isfinite(values).all()
    assert np.isfinite(gradients).all()
    x = jnp.array([0.0, 1e-30, 0.5, 1.0])
    assert np.isfinite(jax.jit(jax.vmap(jax.grad(transforms.arctanh_compress)))(x)).all()


def random_showers(detector, n=50, seed=0):
    rng = np.random.default_rng(seed)
    energy = rng.exponential(1.0, (n, detector.n_voxels)) + detector.readout_threshold * 1.01
    energy *= rng.random((n, detector.n_voxels)) < 0.3
    energy[0] = 0
    energy[1, detector.layer_slices[1]] = 0
    return energy.astype(np.float32)


@pytest.mark.parametrize("name", ["tiny", "ds1-photons"])
def test_split_and_join_are_inverses(name):
    detector = DETECTORS[name]
    showers = random_showers(detector)
    fractions, layer_energy = split_layers(showers, detector)
    for position, where in enumerate(detector.layer_slices):
        np.testing.assert_allclose(
            layer_energy[:, position], showers[:, where].sum(1), rtol=1e-5, atol=1e-6
        )
    again = join_layers(fractions, layer_energy, detector)
    np.testing.assert_allclose(again, showers, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["tiny", "ds1-photons"])
def test_join_cuts_at_the_threshold_and_keeps_layer_energies(name):
    detector = DETECTORS[name]
    rng = np.random.default_rng(1)
    fractions = rng.exponential(1.0, (200, detector.n_voxels)).astype(np.float32) ** 6
    layer_energy = np.geomspace(1e-3, 1e4, 200)[:, None] * np.ones(detector.n_layers)
    showers = np.asarray(join_layers(fractions, layer_energy.astype(np.float32), detector))
    sums = np.asarray(layer_sums(showers, detector))
    readable = layer_energy > detector.readout_threshold
    np.testing.assert_allclose(sums[readable], layer_energy[readable], rtol=1e-5)
    assert (sums[~readable] == 0).all()
    hits = showers[showers > 0]
    assert (hits >= detector.readout_threshold * (1 - 1e-6)).all()


def test_layer_shares_are_inverted():
    detector = DETECTORS["ds1-pions"]
    showers = random_showers(detector)
    layer_energy = np.asarray(layer_sums(showers, detector))
    energies = layer_energy.sum(1) * np.linspace(1.0, 1.5, 50) + 1
    halves = [(energies[:20], showers[:20]), (energies[20:], showers[20:])]
    statistics = transforms.fit(halves, detector)
    share, present, visible = jax.jit(transforms.layer_shares)(layer_energy, energies, statistics)
    again = jax.jit(transforms.layer_energies)(share, present, visible, energies, statistics)
    np.testing.assert_allclose(again, layer_energy, rtol=1e-4, atol=1e-4)
    # Standardised: each layer has mean 0 and spread 1 over the showers that reach it.
    share, present = np.asarray(share), np.asarray(present)
    for layer in range(detector.n_layers):
        values = share[present[:, layer], layer]
        assert values.mean() == pytest.approx(0, abs=1e-3)
        assert values.std() == pytest.approx(1, abs=1e-3)
    assert float(jnp.mean(visible)) == pytest.approx(0, abs=1e-4)


def test_drawn_shares_keep_the_visible_energy():
    statistics = {
        "share_mean": np.full(3, np.log(0.25)),
        "share_std": np.ones(3),
        "share_low": np.full(3, -2.0),
        "share_high": np.full(3, 2.0),
        "visible_mean": 0.75,
        "visible_std": 1.0,
    }
    energies = np.array([100.0, 200.0, 300.0])
    present = np.array([[1, 1, 0], [0, 0, 0], [1, 1, 1]], bool)
    of = jax.jit(transforms.layer_energies)
    layer_energy = of(np.zeros((3, 3)), present, np.zeros(3), energies, statistics)
    np.testing.assert_allclose(layer_energy.sum(1), [75, 0, 225], rtol=1e-5)
    assert (np.asarray(layer_energy)[~present] == 0).all()
    # A draw from a tail that no shower has does not take the energy of all other layers.
    wild = of(np.array([[9.0, 0.0, 0.0]]), present[2:], np.zeros(1), energies[2:], statistics)
    np.testing.assert_allclose(wild[0, 0] / wild[0, 1], np.exp(2.0), rtol=1e-5)


def test_energy_condition_spans_the_range():
    detector = DETECTORS["ds2"]
    condition = energy_condition(np.array([1e3, 10**4.5, 1e6]), detector)
    np.testing.assert_allclose(condition[:, 0], [-1, 0, 1], atol=1e-5)


@pytest.mark.parametrize("name", ["tiny", "ds1-photons", "ds2"])
def test_rotations_turn_rings_and_nothing_else(name):
    detector = DETECTORS[name]
    table = rotation_table(detector)
    shower = random_showers(detector)[5]
    for turns in (0, 1, len(table) - 1):
        turned = shower[table[turns]]
        for layer, where in zip(detector.layers, detector.layer_slices, strict=True):
            ring = shower[where].reshape(layer.n_alpha, layer.n_r)
            expected = np.roll(ring, turns, axis=0) if layer.n_alpha > 1 else ring
            np.testing.assert_array_equal(turned[where].reshape(ring.shape), expected)


def test_random_rotations_keep_layer_energies():
    detector = DETECTORS["tiny"]
    showers = random_showers(detector)
    rotate = jax.jit(lambda key, showers: random_rotations(key, showers, rotation_table(detector)))
    turned = np.asarray(rotate(jax.random.key(0), showers))
    assert not np.array_equal(turned, showers)
    np.testing.assert_allclose(
        layer_sums(turned, detector),
        layer_sums(showers, detector),
        rtol=1e-5,
    )
