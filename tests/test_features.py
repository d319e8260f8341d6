"""Features: official numbers, showers of one voxel, the threshold and streaming."""

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
    voxel = geometry.voxel_index(1, 2, 1)
    found = of(np.eye(1, geometry.n_voxels, voxel) * 70.0, geometry)
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
