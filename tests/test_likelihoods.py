"""Likelihoods of voxels: a density that integrates to one, and draws that follow it."""

import dataclasses
import functools

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


KEYS = rng.per_item(rng.root(0), np.arange(N))
ONE = Density(components=1)
NOISE = ONE.noise(KEYS, 2)
draws = jax.jit(functools.partial(ONE.draw, detector=TWO_VOXELS))


def draw(out, lower):
    """Draws of y of one voxel, zeros for empty ones."""
    out = np.broadcast_to(np.float32([out, SURE]), (N, 2, 3))
    y, hit = draws(NOISE, out, np.full((N, 2), lower, np.float32))
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


# Logit, log weight of the second normal, means (offsets are added), raw scales.
MIXTURE = [0.5, -0.7, 0.35, 0.3, -1.0, 0.5]


def mixture(lower):
    """Weight, mean and scale of the truncated normals of `MIXTURE`, and the share of each."""
    weights = 1 / (1 + np.exp([-MIXTURE[1], MIXTURE[1]]))[::-1]
    means, scales = np.add(MIXTURE[2:4], [-0.1, 0.1]), scale_of(np.array(MIXTURE[4:]))
    shares = weights * scipy.stats.norm.sf(lower, means, scales)
    return means, scales, shares / shares.sum()


def test_draws_follow_the_mixture():
    lower = 0.3
    out = np.broadcast_to(np.float32([MIXTURE, [50.0, 0.0, 0.5, 0.5, 0.0, 0.0]]), (N, 2, 6))
    model = Density(components=2)
    y, hit = jax.jit(functools.partial(model.draw, detector=TWO_VOXELS))(
        NOISE, out, np.full((N, 2), lower, np.float32)
    )
    means, scales, shares = mixture(lower)

    def cdf(x):
        parts = scipy.stats.truncnorm.cdf(
            x[:, None], (lower - means) / scales, np.inf, means, scales
        )
        return parts @ shares

    assert 0.2 < shares[0] < 0.8
    values = np.asarray(y)[np.asarray(hit)[:, 0], 0]
    assert scipy.stats.kstest(values, cdf).pvalue > 1e-3


def test_layers_are_never_left_without_a_hit():
    # Hits so rare that almost every layer would draw none: one voxel three times as likely.
    out = np.float32([[-9.0 + np.log(3.0), 0.3, 0.0], [-9.0, 0.3, 0.0]])
    lower = np.full((N, 2), 0.1, np.float32)
    hit = np.asarray(draws(NOISE, np.broadcast_to(out, (N, 2, 3)), lower)[1])
    one = hit.sum(1) == 1
    assert hit.any(1).all()
    assert one.mean() > 0.99
    assert hit[one, 0].mean() == pytest.approx(0.75, abs=4 * np.sqrt(0.75 * 0.25 / N))


@pytest.mark.parametrize("outputs", [[0.5, 0.1, 1.0], MIXTURE])
def test_density_integrates_to_one(outputs):
    lower = 0.15
    y = np.linspace(lower, 3.0, 20_000, dtype=np.float32)[:, None]
    out = np.broadcast_to(np.float32(outputs), (len(y), 1, len(outputs)))
    edge = np.full((len(y), 1), lower, np.float32)
    loss = jax.jit(Density(len(outputs) // 3).loss)
    density, empty = (np.exp(-np.asarray(loss(out, y, hit, edge))) for hit in (y == y, y != y))
    total = np.sum((density[1:] + density[:-1]) / 2 * np.diff(y[:, 0])) + empty[0]
    # 3 is more than eight standard deviations away.
    assert total == pytest.approx(1, abs=2e-3)


def test_density_gradients_are_finite_far_from_the_data():
    out = np.float32([[[50.0, -30.0, -30.0], [-50.0, 30.0, 30.0], [0.0, 0.0, 0.0]]])
    y, lower = np.float32([[0.5, 1e-8, 0.0]]), np.full((1, 3), 0.2, np.float32)
    gradient = jax.jit(jax.grad(lambda o: ONE.loss(o, y, y > 0, lower).sum()))(out)
    assert np.isfinite(gradient).all()


def test_point_fits_empty_voxels_too():
    y = jnp.array([[0.0, 0.4, 0.3]])
    loss = Point().loss(jnp.array([[[0.1], [0.4], [0.5]]]), y, y > 0, y)
    assert loss == pytest.approx(0.1**2 + 0.2**2)
    found, hit = Point().draw({}, y[..., None], y, None)
    np.testing.assert_array_equal(found, y)
    assert hit.all()
