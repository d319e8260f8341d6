"""Voxel heads: a density that integrates to one, and draws that follow it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from calojax import rng, transforms
from calojax.geometry import DETECTORS, Layer
from calojax.models import heads

N = 40_000
# A voxel beside one that is always hit, so that nothing is forced on it.
TWO_VOXELS = dataclasses.replace(DETECTORS["tiny"], layers=(Layer(0, (0.0, 1.0, 2.0), 1, 1.0),))
SURE = [50.0, 0.5, 0.0]


def draw(out, lower, n=N):
    """``n`` draws of the compressed energies of one voxel, zeros for empty ones."""
    keys = rng.per_item(rng.root(0), np.arange(n))
    out = jnp.broadcast_to(jnp.asarray([out, SURE], jnp.float32), (n, 2, 3))
    fractions = heads.Density().fractions(
        keys, out, jnp.full((n, 2), lower, jnp.float32), TWO_VOXELS
    )
    return np.asarray(transforms.arctanh_compress(fractions))[:, 0]


def scale_of(raw):
    return np.log1p(np.exp(raw - 2.0)) + 0.01


@pytest.mark.parametrize(
    ("logit", "mean", "raw", "lower"),
    [(0.0, 0.4, 1.0, 0.05), (2.0, 0.05, 1.0, 0.2), (-1.0, 0.3, 0.0, 0.0)],
)
def test_draws_follow_the_truncated_normal(logit, mean, raw, lower):
    y = draw([logit, mean, raw], lower)
    hit = y > 0
    p = 1 / (1 + np.exp(-logit))
    assert hit.mean() == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / N))
    scale = scale_of(raw)
    # Draws above 1 (more than the whole layer) are held there; keep the test below.
    expected = scipy.stats.truncnorm((lower - mean) / scale, (0.95 - mean) / scale, mean, scale)
    values = y[hit & (y < 0.95)]
    assert scipy.stats.kstest(values, expected.cdf).pvalue > 1e-3
    assert values.min() >= lower - 1e-6


def test_layers_are_never_left_without_a_hit():
    # Hits so rare that almost every layer would draw none: one voxel three times as likely.
    n = 4000
    out = jnp.array([[-9.0 + np.log(3.0), 0.3, 0.0], [-9.0, 0.3, 0.0]], jnp.float32)
    keys = rng.per_item(rng.root(1), np.arange(n))
    fractions = np.asarray(
        heads.Density().fractions(
            keys, jnp.broadcast_to(out, (n, 2, 3)), jnp.full((n, 2), 0.1), TWO_VOXELS
        )
    )
    assert ((fractions > 0).sum(1) == 1).all()
    assert (fractions[:, 0] > 0).mean() == pytest.approx(0.75, abs=4 * np.sqrt(0.75 * 0.25 / n))


def test_density_integrates_to_one():
    logit, mean, raw, lower = 0.5, 0.1, 1.0, 0.15
    y = np.linspace(lower, 0.999, 20_000)
    x = np.asarray(transforms.arctanh_expand(y.astype(np.float32)))
    out = jnp.broadcast_to(jnp.array([logit, mean, raw], jnp.float32), (len(x), 1, 3))
    edge = jnp.full((len(x), 1), lower, jnp.float32)
    density = np.exp(-np.asarray(heads.Density().loss(out, x[:, None], edge)))
    empty = np.exp(-np.asarray(heads.Density().loss(out[:1], np.zeros((1, 1)), edge[:1])))
    total = np.sum((density[1:] + density[:-1]) / 2 * np.diff(y)) + empty[0]
    tail = scipy.stats.norm.sf((0.999 - mean) / scale_of(raw))
    tail /= scipy.stats.norm.sf((lower - mean) / scale_of(raw)) * (1 + np.exp(-logit))
    assert total + tail == pytest.approx(1, abs=2e-3)


def test_density_gradients_are_finite_far_from_the_data():
    out = jnp.array([[[50.0, -30.0, -30.0], [-50.0, 30.0, 30.0], [0.0, 0.0, 0.0]]])
    fractions = jnp.array([[0.5, 1e-8, 0.0]])
    lower = jnp.full((1, 3), 0.2)
    gradient = jax.grad(lambda o: heads.Density().loss(o, fractions, lower).sum())(out)
    assert np.isfinite(gradient).all()


def test_point_head_is_the_talks_activation():
    fractions = jnp.array([[0.0, 1e-4, 0.3, 0.9]])
    lower = jnp.zeros((1, 4))
    out = transforms.arctanh_compress(fractions)[..., None]
    assert heads.Point().loss(out, fractions, lower) == pytest.approx(0)
    keys = rng.per_item(rng.root(0), np.arange(1))
    np.testing.assert_allclose(
        heads.Point().fractions(keys, out, lower, TWO_VOXELS), fractions, rtol=1e-4
    )
    below = heads.Point().fractions(keys, out - 1.0, lower, TWO_VOXELS)
    assert (below == 0).all()


def test_lower_edge_is_the_threshold_of_each_layer():
    detector = DETECTORS["tiny"]
    layer_energy = jnp.full((1, 10), 100.0).at[0, 3].set(0.0)
    lower = heads.lower_edge(layer_energy, detector)
    expected = transforms.arctanh_compress(jnp.float32(detector.readout_threshold / 100))
    assert lower[0, 0] == pytest.approx(float(expected), rel=1e-5)
    assert lower[0, detector.layer_slices[3]] == pytest.approx(1.0, abs=1e-4)
    assert (heads.lower_edge(jnp.ones((1, 5)), DETECTORS["ds1-photons"]) == 0).all()
