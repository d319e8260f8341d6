"""Totals of showers: exact through the numbers of the flow, and always possible."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calojax.models.pointflow.totals import EveryLayer, WholeShower
from calojax.models.voxels import layer_sums


@pytest.fixture(scope="module")
def data(showers, tiny):
    """Hits and energies [n, l] of layers, with some layers and one shower empty."""
    voxels = showers.showers.copy()
    voxels[:40, 100:] = 0.0
    voxels[20:60, :30] = 0.0
    voxels[10, 12:] = 0.0
    voxels[11] = 0.0
    hits = np.asarray(layer_sums((voxels > 0).astype(np.int32), tiny))
    energy = np.asarray(layer_sums(voxels, tiny))
    return hits, energy, showers.energies


@pytest.fixture(scope="module", params=[WholeShower, EveryLayer])
def encoding(request, tiny):
    return request.param(tiny)


@pytest.fixture(scope="module")
def scales(encoding, data):
    hits, energy, incident = data
    return encoding.fit(hits, energy.astype(np.float64), incident)


def test_totals_come_back(encoding, scales, data):
    hits, energy, incident = data
    totals = encoding.totals(jnp.asarray(hits), jnp.asarray(energy))
    forward, inverse = jax.jit(encoding.forward), jax.jit(encoding.inverse)
    for seed in range(3):
        x = forward(jax.random.key(seed), totals, incident, scales)
        assert x.shape == (len(hits), encoding.features)
        assert np.isfinite(x).all()
        back = inverse(x, incident, scales)
        np.testing.assert_array_equal(back.hits, totals.hits)
        np.testing.assert_allclose(back.energy, totals.energy, rtol=2e-5)


def test_numbers_are_standardised(encoding, scales, data):
    hits, energy, incident = data
    totals = encoding.totals(jnp.asarray(hits), jnp.asarray(energy))
    # Without the empty shower, whose logarithms are far away.
    x = np.delete(jax.jit(encoding.forward)(jax.random.key(0), totals, incident, scales), 11, 0)
    assert np.abs(x.mean(0)).max() < 0.35
    assert x.std(0).max() < 1.3
    description = jax.jit(encoding.describe)(totals, incident, scales)
    assert description.shape == (len(hits), encoding.context)
    assert np.isfinite(description).all()


def test_any_numbers_are_possible_totals(encoding, scales, tiny):
    x = 6.0 * jax.random.normal(jax.random.key(0), (500, encoding.features))
    totals = jax.jit(encoding.inverse)(x, jnp.full(500, 1e3), scales)
    most = tiny.n_voxels if isinstance(encoding, WholeShower) else 12
    assert (totals.hits >= 0).all()
    assert (totals.hits <= most).all()
    assert np.isfinite(totals.energy).all()
    assert (totals.energy >= totals.hits * tiny.readout_threshold).all()
    assert ((totals.energy > 0) == (totals.hits > 0)).all()


def test_layers_hold_the_visible_energy(tiny, data):
    hits, energy, incident = data
    encoding = EveryLayer(tiny)
    scales = encoding.fit(hits, energy.astype(np.float64), incident)
    x = jax.random.normal(jax.random.key(0), (len(hits), encoding.features))
    totals = jax.jit(encoding.inverse)(x, incident, scales)
    visible = x[:, 10] * scales["visible_std"][0] + scales["visible_mean"][0]
    some = np.asarray(totals.hits.sum(1) > 0)
    # No shower has more than e times its incident energy.
    expected = jnp.exp(jnp.minimum(visible, 1.0)) * incident
    # What is below the threshold is raised to it.
    np.testing.assert_allclose(totals.energy.sum(1)[some], expected[some], rtol=1e-3)
