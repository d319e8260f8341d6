"""Features: official numbers, closed forms, symmetries and streaming."""

import jax
import jax.numpy as jnp
import numpy as np
import official
import pytest

from calojax.evaluation import features
from calojax.geometry import detector
from calojax.io import ShowerArrays

COLUMNS = {"ds1-photons": 30, "ds1-pions": 46, "ds2": 362, "ds3": 362}


def of(showers, geometry, energies=None) -> features.Features:
    """Features of showers [n, v] in float64."""
    energies = np.full(len(showers), 1e4) if energies is None else energies
    return features.stream(ShowerArrays(geometry, energies, np.asarray(showers, np.float32)))


def one_voxel(geometry, layer, alpha, r, energy=100.0) -> np.ndarray:
    showers = np.zeros((1, geometry.n_voxels))
    showers[0, geometry.voxel_index(layer, alpha, r)] = energy
    return showers


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_are_as_many_as_the_official_ones(name):
    geometry = detector(name)
    names = features.names(geometry)
    assert len(names) == len(set(names)) == COLUMNS[name]
    vector = features.vector(of(np.ones((2, geometry.n_voxels)), geometry))
    assert vector.shape == (2, COLUMNS[name])


@pytest.mark.parametrize("name", ["ds1_photons_generated", "ds1_pions", "ds2", "ds3"])
def test_float64_features_are_the_official_ones(name):
    source, expected = official.showers(name), np.array(official.numbers()["features"][name])
    vector = features.vector(features.stream(source))[: len(expected)]
    # The source holds incident energies in float32.
    np.testing.assert_allclose(vector[:, 0], expected[:, 0], rtol=1e-7)
    # Where one voxel holds a layer's energy its width is zero; the official code then returns
    # the root of rounding errors, up to 1e-5 mm.
    np.testing.assert_allclose(vector[:, 1:], expected[:, 1:], rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("name", ["ds1_photons_generated", "ds2", "ds3"])
def test_float32_features_are_the_official_ones_to_1e_5(name):
    source, expected = official.showers(name), np.array(official.numbers()["features"][name])
    showers = source.showers[: len(expected)]
    found = features.compute(
        jnp.asarray(showers), jnp.asarray(source.energies[: len(showers)]), source.detector
    )
    assert found.width_r.dtype == jnp.float32
    scale = np.sqrt((expected**2).mean(axis=0)) + 1e-2
    assert np.max(np.abs(np.asarray(features.vector(found)) - expected) / scale) < 1e-5


@pytest.mark.parametrize("name", ["tiny", "ds1-pions"])
def test_one_voxel_is_its_own_centre_and_has_no_width(name):
    geometry = detector(name)
    found = of(one_voxel(geometry, 1, 2, 1, energy=70.0), geometry)
    voxel = geometry.voxel_index(1, 2, 1)
    divided = [i for i, layer in enumerate(geometry.layers) if layer.n_alpha > 1].index(1)
    np.testing.assert_allclose(found.center_eta[0, divided], geometry.voxels.eta[voxel])
    np.testing.assert_allclose(found.center_phi[0, divided], geometry.voxels.phi[voxel])
    np.testing.assert_allclose(found.center_r[0, 1], geometry.voxels.r_center[voxel])
    for width in (found.width_eta[0], found.width_phi[0], found.width_r[0]):
        np.testing.assert_allclose(width, 0.0, atol=1e-12)
    assert found.total[0] == found.layer_energy[0, 1] == 70.0
    assert found.sparsity[0, 1] == 1 - 1 / geometry.layers[1].n_voxels
    assert found.sparsity[0, 0] == 1
    # What an empty layer counts as in the official vector.
    assert features.vector(found)[0, features.names(geometry).index("log10 E layer 0")] == -8


def test_a_uniform_ring_is_centred_and_as_wide_as_its_radius_over_root_two(tiny):
    showers = sum(one_voxel(tiny, 3, alpha, 1) for alpha in range(4))
    found = of(showers, tiny)
    radius = (4.65 + 13.95) / 2
    np.testing.assert_allclose([found.center_eta[0, 3], found.center_phi[0, 3]], 0, atol=1e-12)
    np.testing.assert_allclose(found.width_eta[0, 3], radius / np.sqrt(2))
    np.testing.assert_allclose(found.width_phi[0, 3], radius / np.sqrt(2))
    np.testing.assert_allclose([found.center_r[0, 3], found.width_r[0, 3]], [radius, 0], atol=1e-12)


def test_two_rings_have_the_weighted_mean_and_deviation_of_their_radii(tiny):
    showers = one_voxel(tiny, 3, 0, 0, energy=30.0) + one_voxel(tiny, 3, 2, 2, energy=10.0)
    found = of(showers, tiny)
    radii, weights = np.array([2.325, 27.9]), np.array([0.75, 0.25])
    mean = radii @ weights
    np.testing.assert_allclose(found.center_r[0, 3], mean)
    np.testing.assert_allclose(found.width_r[0, 3], np.sqrt((radii - mean) ** 2 @ weights))


def test_scaling_all_energies_moves_energies_and_nothing_else(showers, tiny):
    # Above the threshold by far, so that no voxel crosses it.
    base = np.where(showers.showers > 0.5, showers.showers, 0).astype(np.float32)
    before, after = of(base, tiny), of(base * np.float32(1.05), tiny)
    for name in ("layer_energy", "total"):
        np.testing.assert_allclose(getattr(after, name), 1.05 * getattr(before, name), rtol=1e-6)
    np.testing.assert_array_equal(after.sparsity, before.sparsity)
    for name in ("center_eta", "center_phi", "center_r", "width_eta", "width_phi", "width_r"):
        np.testing.assert_allclose(
            getattr(after, name), getattr(before, name), rtol=1e-6, atol=2e-6
        )


def test_a_quarter_turn_rotates_centres_and_swaps_widths(showers, tiny):
    cells = showers.showers.reshape(-1, *tiny.grid)
    before, after = (
        of(x.reshape(len(cells), -1), tiny) for x in (cells, np.roll(cells, 1, axis=2))
    )
    near = {"rtol": 1e-9, "atol": 1e-9}
    np.testing.assert_allclose(after.center_eta, -before.center_phi, **near)
    np.testing.assert_allclose(after.center_phi, before.center_eta, **near)
    np.testing.assert_allclose(after.width_eta, before.width_phi, **near)
    for name in ("layer_energy", "center_r", "width_r"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), **near)
    np.testing.assert_array_equal(after.sparsity, before.sparsity)


def test_threshold_keeps_what_is_not_below_it_in_float64():
    geometry = detector("ds2")
    threshold = geometry.evaluation_threshold
    below = np.float32(threshold)
    below = below if below < threshold else np.nextafter(below, np.float32(0))
    above = np.nextafter(below, np.float32(1))
    assert below < threshold <= above
    kept = features.apply_threshold(np.array([[below, above, 0.0, 1.0]], np.float32), geometry)
    np.testing.assert_array_equal(kept, np.array([[0.0, above, 0.0, 1.0]], np.float32))
    with jax.enable_x64(True):
        double = features.apply_threshold(
            jnp.array([[threshold, threshold * (1 - 1e-12)]]), geometry
        )
    np.testing.assert_array_equal(double, [[threshold, 0.0]])


def test_streaming_does_not_depend_on_the_batch_and_shows_every_shower_to_the_hook(showers, tiny):
    source = ShowerArrays(tiny, showers.energies, showers.showers)
    seen = np.zeros_like(showers.showers)

    def hook(start, batch):
        seen[start : start + len(batch)] = batch

    small, large = features.stream(source, batch=77, hook=hook), features.stream(source)
    np.testing.assert_array_equal(seen, showers.showers)
    for one, other in zip(small, large, strict=True):
        assert one.dtype == np.float64
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
    chosen = large.take(large.energy > 1e4)
    assert len(chosen.total) == len(chosen.width_r) == np.sum(showers.energies > 1e4)
