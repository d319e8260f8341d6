"""Voxel transforms: there and back, the threshold, layer energies, and edges of the spectrum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calojax.geometry import DETECTORS
from calojax.models.calovq import transforms, voxel_transforms
from calojax.models.voxels import layer_sums


@pytest.fixture(scope="module")
def statistics(showers, tiny):
    return transforms.fit([(showers.energies, showers.showers)], tiny)


@pytest.mark.parametrize("name", voxel_transforms.VOXEL_TRANSFORMS)
def test_numbers_of_showers_give_the_showers_back(name, tiny, showers, statistics):
    transform = voxel_transforms.VOXEL_TRANSFORMS[name](tiny)
    voxels = showers.showers
    layer_energy = jax.jit(layer_sums, static_argnums=1)(voxels, tiny)

    @jax.jit
    def numbers(voxels, layer_energy):
        lower = transform.lower(layer_energy, statistics)
        return transform.numbers(voxels, layer_energy, statistics), lower

    y, lower = map(np.asarray, numbers(voxels, layer_energy))
    back = jax.jit(transform.showers)
    again = np.asarray(back(y, voxels > 0, layer_energy, statistics))
    np.testing.assert_array_equal(again > 0, voxels > 0)
    np.testing.assert_allclose(again, voxels, rtol=2e-3)
    assert (y >= lower - 1e-6)[voxels > 0].all()
    # If all voxels are hits, those below the threshold are still empty.
    below = np.where(voxels > 0, y, y - 0.1)
    everywhere = back(below, voxels == voxels, layer_energy, statistics)
    np.testing.assert_array_equal(np.asarray(everywhere) > 0, voxels > 0)


@pytest.mark.parametrize("name", voxel_transforms.VOXEL_TRANSFORMS)
def test_any_numbers_make_showers_with_the_energies_of_their_layers(name, tiny, statistics):
    transform = voxel_transforms.VOXEL_TRANSFORMS[name](tiny)
    generator = np.random.default_rng(0)
    y = generator.uniform(-1, 1, (50, tiny.n_voxels)).astype(np.float32)
    hit = generator.random(y.shape) < 0.3
    layer_energy = generator.lognormal(2.0, 2.0, (50, tiny.n_layers)).astype(np.float32)
    showers = np.asarray(jax.jit(transform.showers)(y, hit, layer_energy, statistics))
    assert np.isfinite(showers).all()
    filled = np.asarray(layer_sums(showers, tiny))
    some = filled > 0
    assert some.mean() > 0.8
    np.testing.assert_allclose(filled[some], layer_energy[some], rtol=1e-4)
    assert (showers[showers > 0] >= tiny.readout_threshold * (1 - 1e-5)).all()


def test_numbers_are_computed_once(tiny, statistics):
    # XLA fused a copy of them into every step of the match with the layer energies.
    transform = voxel_transforms.Quantile(tiny)

    def showers(x, hit, layer_energy):
        return transform.showers(jnp.cos(x), hit, layer_energy, statistics)

    x, layer_energy = np.ones((2, tiny.n_voxels), np.float32), np.ones((2, tiny.n_layers))
    program = jax.jit(showers).lower(x, x > 0, layer_energy).compile().as_text()
    assert program.count(" cosine(") == 1


def test_threshold_of_fractions_is_that_of_each_layer():
    detector, ds1 = DETECTORS["tiny"], DETECTORS["ds1-photons"]
    energies = np.full((1, 10), 100.0, np.float32)
    energies[0, 3] = 0.0

    @jax.jit
    def results(energies):
        expected = transforms.arctanh_compress(detector.readout_threshold / 100)
        without = voxel_transforms.Arctanh(ds1).lower(energies[:, :5], {})
        return voxel_transforms.Arctanh(detector).lower(energies, {}), expected, without

    lower, expected, without = map(np.asarray, results(energies))
    assert lower[0, 0] == pytest.approx(float(expected), rel=1e-5)
    assert lower[0, detector.layer_slices[3]] == pytest.approx(1.0, abs=1e-4)
    assert (without == 0).all()


def test_quantiles_of_hits_are_normal_and_keep_an_edge(tiny):
    # Hits with a wall at 2 MeV: none between 1 and 2, many just above.
    generator = np.random.default_rng(1)
    soft, hard = generator.uniform(0.1, 1, 30_000), 2 + generator.exponential(2.0, 70_000)
    showers = np.concatenate([soft, hard]).astype(np.float32)
    generator.shuffle(showers)
    showers = np.append(showers, np.zeros(tiny.n_voxels - len(showers) % tiny.n_voxels))
    showers = showers.reshape(-1, tiny.n_voxels).astype(np.float32)
    statistics = transforms.fit([(showers.sum(1), showers)], tiny)
    y = np.asarray(jax.jit(transforms.hit_quantile)(showers[showers > 0], statistics))
    for q in (0.1, 0.5, 0.9):
        assert np.quantile(4 * y, q) == pytest.approx(
            {0.1: -1.2816, 0.5: 0.0, 0.9: 1.2816}[q], abs=0.05
        )
    # A smooth density of y has the wall in E.
    numbers = np.linspace(-0.9, 0.9, 50_000, dtype=np.float32)
    energy, slope = map(np.asarray, jax.jit(transforms.hit_energy)(numbers, statistics))
    assert ((energy > 1.03) & (energy < 1.97)).mean() < 0.005
    step = np.diff(np.log(energy)) / np.diff(np.linspace(-0.9, 0.9, 50_000))
    np.testing.assert_allclose(np.median(slope), np.median(step), rtol=0.05)


def test_layers_that_lack_energy_are_filled_in_quantiles_not_by_a_factor(tiny, showers):
    # All hits but a few of 3 MeV: drawn hits of twice the energy asked for move to the wall, and
    # not through it.
    voxels = np.where(showers.showers > 0, 3.0 + showers.showers % 1.0, 0.0).astype(np.float32)
    statistics = transforms.fit([(showers.energies, voxels)], tiny)
    transform = voxel_transforms.Quantile(tiny)

    @jax.jit
    def results(voxels):
        layer_energy = layer_sums(voxels, tiny)
        y = transform.numbers(voxels, layer_energy, statistics)
        less = transform.showers(y, voxels > 0, 0.9 * layer_energy, statistics)
        return layer_energy, less, layer_sums(less, tiny)

    layer_energy, less, found = map(np.asarray, results(voxels))
    np.testing.assert_allclose(found, 0.9 * layer_energy, rtol=1e-4, atol=1e-5)
    hits = less[less > 0]
    assert (hits > 2.95).mean() > 0.9
    assert (0.9 * voxels[voxels > 0] > 2.95).mean() < 0.8
