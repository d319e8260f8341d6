"""Mean showers, profiles and the response curve against what can be worked out by hand."""

import dataclasses

import numpy as np
import pytest

from calojax.evaluation import averages, resolution
from calojax.geometry import Layer, detector
from calojax.io import ShowerArrays

TINY = detector("tiny")


@pytest.mark.parametrize(
    ("energies", "edges"),
    [
        ([2e3, 6e4], [1e3, 1e4, 1e5]),
        ([1e3, 1e4], [1e3, 1e4, 1e5]),
        ([5.0], [1.0, 10.0]),
        ([np.float32(999_999.9)], [1e5, 1e6]),
    ],
)
def test_decades_enclose_all_energies(energies, edges):
    np.testing.assert_allclose(averages.decades(np.array(energies)), edges)


@pytest.mark.parametrize("name", ["tiny", "ds1-photons", "ds1-pions", "ds2"])
def test_voxels_are_shared_out_completely_among_rings(name):
    edges, weights = averages.ring_weights(detector(name))
    assert (np.diff(edges) > 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)


def test_a_wide_ring_is_shared_by_area():
    layers = (Layer(0, (0.0, 1.0, 2.0), 1, 1.0), Layer(1, (0.0, 2.0), 1, 1.0))
    edges, weights = averages.ring_weights(dataclasses.replace(TINY, layers=layers))
    np.testing.assert_array_equal(edges, [0, 1, 2])
    np.testing.assert_allclose(weights, [[1, 0], [0, 1], [0.25, 0.75]])


def test_averages_by_slice_do_not_depend_on_the_batch():
    rng = np.random.default_rng(0)
    energies = np.array([2e3, 3e3, 2e4, 4e6], np.float32)  # the last is in no slice
    voxels = rng.exponential(size=(4, TINY.n_voxels)).astype(np.float32)
    voxels[0, 0] = TINY.evaluation_threshold / 2  # counts as nothing
    source = ShowerArrays(TINY, energies, voxels)
    edges = np.array([1e3, 1e4, 1e5, 1e6])
    found = averages.average(source, edges, batch=3)
    np.testing.assert_array_equal(found.counts, [2, 1, 0])

    kept = np.where(voxels < TINY.evaluation_threshold, 0, voxels)
    np.testing.assert_allclose(found.voxels[0], kept[:2].mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(found.voxels[2], 0)
    layers = kept.reshape(4, TINY.n_layers, -1).sum(axis=2) / energies[:, None]
    np.testing.assert_allclose(found.longitudinal[0], layers[:2].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.longitudinal_spread[0], layers[:2].std(axis=0), rtol=1e-3)
    # All energy is in some ring.
    area = np.pi * np.diff(found.radii**2)
    np.testing.assert_allclose((found.radial * area).sum(1), found.longitudinal.sum(1), rtol=1e-5)
    for one, other in zip(found, averages.average(source, edges, batch=1000), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-9)


def test_showers_are_chosen_by_energy_alone():
    first = ShowerArrays(TINY, np.geomspace(1e3, 1e5, 9), np.zeros((9, TINY.n_voxels)))
    marked = np.zeros((4, TINY.n_voxels))
    marked[:, 7] = [1, 2, 3, 4]
    second = ShowerArrays(TINY, np.array([9e4, 1.1e3, 9e3, 3e4]), marked)
    rows = averages.alike({"a": first, "b": second}, count=3)
    assert [row["a"].energy for row in rows] == pytest.approx([1e3 * 10**0.25, 1e4, 1e5 / 10**0.25])
    assert [row["b"].voxels[7] for row in rows] == [2, 3, 1]
    alone = ShowerArrays(TINY, np.array([5e3]), np.zeros((1, TINY.n_voxels)))
    assert len(averages.alike({"a": alone, "b": second}, count=3)) == 1


def test_bins_hold_all_energies():
    energies = np.geomspace(1.3e3, 6.4e4, 100)
    edges = resolution.bins(energies)
    assert np.histogram(energies, edges)[0].sum() == 100
    assert len(edges) == 4  # 30 showers a bin are wanted
    assert len(resolution.bins(np.repeat(energies, 100))) == 12  # six bins a decade at most
    discrete = detector("ds1-photons").energies
    edges = resolution.bins(np.array(discrete), discrete)
    np.testing.assert_array_equal(np.histogram(discrete, edges)[0], 1)


def test_response_of_known_showers():
    rng = np.random.default_rng(1)
    energies = np.repeat([1e3, 1e4, 1e5], 20_000)
    sigma = np.hypot(0.10 / np.sqrt(energies / 1e3), 0.01)
    total = 0.9 * energies * (1 + sigma * rng.normal(size=len(energies)))
    found = resolution.measure(energies, total, resolution.bins(energies, (1e3, 1e4, 1e5)))
    np.testing.assert_allclose(found.energy, [1e3, 1e4, 1e5])
    np.testing.assert_allclose(found.linearity, 0.9, atol=4 * found.linearity_error.max())
    expected = np.hypot(0.10 / np.sqrt([1, 10, 100]), 0.01)
    assert (np.abs(found.resolution - expected) < 4 * found.resolution_error).all()
    a, c = resolution.terms(found)
    assert a == pytest.approx(0.10, rel=0.03)
    assert c == pytest.approx(0.01, rel=0.05)


def test_bins_with_few_showers_are_left_out():
    energies = np.array([1e3] * 20 + [1e5] * 3)
    found = resolution.measure(energies, energies * 0.9, np.array([500, 5e3, 5e5]))
    assert len(found.energy) == 1
    assert found.resolution[0] == pytest.approx(0.0, abs=1e-12)
