"""Correlations: official number, NumPy, and shower properties straight from voxels."""

import numpy as np
import official
import pytest

from calojax.evaluation import correlations, features
from calojax.geometry import detector


def test_layer_correlations_differ_by_the_official_amount():
    both = [
        features.stream(official.showers(f"ds1_photons_{side}"))
        for side in ("generated", "reference")
    ]
    expected = official.numbers()["layer_energy_pearson_mean_abs_difference"]
    found = correlations.layers(*both)
    assert found.mean_difference() == pytest.approx(expected, abs=1e-10)
    assert found.max_difference() >= found.mean_difference()


def test_pearson_is_numpys_where_that_is_defined():
    columns = np.random.default_rng(0).normal(size=(50, 4)) @ np.triu(np.ones((4, 4)))
    np.testing.assert_allclose(
        correlations.pearson(columns), np.corrcoef(columns, rowvar=False), atol=1e-12
    )
    columns[:, 2] = 3.0
    found = correlations.pearson(columns)
    np.testing.assert_array_equal(found[2], [0, 0, 1, 0])
    assert correlations.pearson(columns[:1]).tolist() == np.eye(4).tolist()


def test_neighbours_are_the_first_off_diagonal():
    matrix = np.array([[1, 0.5, 0.0], [0.5, 1, 0.1], [0.0, 0.1, 1]])
    assert correlations.neighbours(matrix) == pytest.approx(0.3)


@pytest.mark.parametrize("name", ["ds1_pions", "ds2"])
def test_shower_properties_are_those_of_the_voxels(name):
    source = official.showers(name)
    geometry = detector(official.DETECTORS[name])
    voxels = geometry.voxels
    found = correlations.shower_properties(features.stream(source), geometry)
    energy = features.apply_threshold(source.showers.astype(np.float64), geometry)
    divided = voxels.n_alpha > 1

    def moments(weights, x):
        mean = weights @ x / weights.sum(axis=1)
        square = (weights * (x - mean[:, None]) ** 2).sum(axis=1) / weights.sum(axis=1)
        return [mean, np.sqrt(square)]

    expected = [
        *moments(energy, voxels.z_center),
        *moments(energy * divided, voxels.eta),
        *moments(energy * divided, voxels.phi),
        *moments(energy, voxels.r_center),
        (energy > 0).sum(axis=1),
        energy.sum(axis=1),
    ]
    assert len(correlations.SHOWER_QUANTITIES) == len(expected)
    np.testing.assert_allclose(found, np.stack(expected, axis=1), rtol=1e-9, atol=1e-9)
