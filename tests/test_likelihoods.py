"""Likelihoods of voxels: a density that integrates to one, and draws that follow it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from calojax import rng
from calojax.geometry import DETECTORS, Layer
from calojax.models.calovq.likelihoods import Density, Point

N = 40_000
# A voxel beside one that is always hit, so that nothing is forced on it.
TWO_VOXELS = dataclasses.replace(DETECTORS["tiny"], layers=(Layer(0, (0.0, 1.0, 2.0), 1, 1.0),))
SURE = [50.0, 0.5, 0.0]


def draw(out, lower, n=N):
    """``n`` draws of y of one voxel, zeros for empty ones."""
    keys = rng.per_item(rng.root(0), np.arange(n))
    out = jnp.broadcast_to(jnp.asarray([out, SURE], jnp.float32), (n, 2, 3))
    lower = jnp.full((n, 2), lower, jnp.float32)
    y, hit = Density().draw(keys, out, lower, TWO_VOXELS)
    return np.where(hit, y, 0.0)[:, 0]


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
    expected = scipy.stats.truncnorm((lower - mean) / scale, np.inf, mean, scale)
    values = y[hit]
    assert scipy.stats.kstest(values, expected.cdf).pvalue > 1e-3
    assert values.min() >= lower - 1e-6


def test_layers_are_never_left_without_a_hit():
    # Hits so rare that almost every layer would draw none: one voxel three times as likely.
    n = 4000
    out = jnp.array([[-9.0 + np.log(3.0), 0.3, 0.0], [-9.0, 0.3, 0.0]], jnp.float32)
    keys = rng.per_item(rng.root(1), np.arange(n))
    out, lower = jnp.broadcast_to(out, (n, 2, 3)), jnp.full((n, 2), 0.1)
    _, hit = Density().draw(keys, out, lower, TWO_VOXELS)
    assert (hit.sum(1) == 1).all()
    assert hit[:, 0].mean() == pytest.approx(0.75, abs=4 * np.sqrt(0.75 * 0.25 / n))


def test_density_integrates_to_one():
    logit, mean, raw, lower = 0.5, 0.1, 1.0, 0.15
    y = np.linspace(lower, 3.0, 20_000, dtype=np.float32)[:, None]
    out = jnp.broadcast_to(jnp.array([logit, mean, raw], jnp.float32), (len(y), 1, 3))
    edge = jnp.full((len(y), 1), lower, jnp.float32)
    density = np.exp(-np.asarray(Density().loss(out, y, y == y, edge)))
    empty = np.exp(-np.asarray(Density().loss(out[:1], y[:1], y[:1] != y[:1], edge[:1])))
    total = np.sum((density[1:] + density[:-1]) / 2 * np.diff(y[:, 0])) + empty[0]
    # Of the last, 3 is more than twenty widths away.
    assert total == pytest.approx(1, abs=2e-3)


def test_density_gradients_are_finite_far_from_the_data():
    out = jnp.array([[[50.0, -30.0, -30.0], [-50.0, 30.0, 30.0], [0.0, 0.0, 0.0]]])
    y, lower = jnp.array([[0.5, 1e-8, 0.0]]), jnp.full((1, 3), 0.2)
    gradient = jax.grad(lambda o: Density().loss(o, y, y > 0, lower).sum())(out)
    assert np.isfinite(gradient).all()


def test_point_fits_empty_voxels_too():
    y = jnp.array([[0.0, 0.4, 0.3]])
    loss = Point().loss(jnp.array([[[0.1], [0.4], [0.5]]]), y, y > 0, y)
    assert loss == pytest.approx(0.1**2 + 0.2**2)
    found, hit = Point().draw(rng.per_item(rng.root(0), np.arange(1)), y[..., None], y, None)
    np.testing.assert_array_equal(found, y)
    assert hit.all()
