"""Learnt angles: an exact likelihood without replacement, which depends only on earlier layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calojax.models.pointflow.angular_placement import Placement, log_prob

SHAPE = (5, 8, 3)  # z, alpha, r


@pytest.fixture(scope="module")
def showers():
    """Four showers, about a third of whose voxels are hit."""
    generator = np.random.default_rng(0)
    energy = generator.exponential(3.0, (4, *SHAPE)) * (generator.random((4, *SHAPE)) < 0.35)
    return jnp.asarray(energy, jnp.float32)


@pytest.fixture(scope="module")
def placement():
    return Placement(n_r=SHAPE[2], unit=0.01, hidden=16, window=2)


@pytest.fixture(scope="module")
def variables(placement, showers):
    start = jax.jit(placement.init)(jax.random.key(0), showers)
    generator = np.random.default_rng(1)
    return jax.tree.map(
        lambda a: a + 0.5 * generator.normal(size=a.shape).astype(np.float32), start
    )


@functools.partial(jax.jit, static_argnums=0)
def drawn(placement, variables, showers):
    gumbel = jax.random.gumbel(jax.random.key(0), showers.shape)
    return placement.apply(variables, gumbel, showers, method="draw")


@functools.partial(jax.jit, static_argnums=0)
def apply(placement, variables, showers):
    return placement.apply(variables, showers)


def test_closed_form_of_one_ring():
    scores = jnp.log(jnp.array([1.0, 2.0, 3.0, 4.0]))[:, None]
    energy = jnp.array([0.0, 5.0, 0.0, 7.0])[:, None]
    # The most energetic hit first: 4 of 10, then 2 of the 6 that are left.
    assert float(log_prob(scores, energy)[0]) == pytest.approx(np.log(4 / 10 * 2 / 6), rel=1e-5)
    assert float(log_prob(scores, jnp.zeros((4, 1)))[0]) == 0.0
    full = jnp.array([1.0, 4.0, 3.0, 2.0])[:, None]
    expected = np.log(2 / 10 * 3 / 8 * 4 / 5 * 1.0)
    assert float(log_prob(scores, full)[0]) == pytest.approx(expected, rel=1e-5)


def test_all_bins_are_alike_at_the_start(placement, showers):
    start = jax.jit(placement.init)(jax.random.key(0), showers)
    hits = np.asarray((showers > 0).sum(2))
    ways = [sum(np.log(8 - i) for i in range(k)) for k in range(9)]
    expected = -np.asarray(ways)[hits].sum((1, 2))
    np.testing.assert_allclose(apply(placement, start, showers), expected, rtol=1e-5)


def test_draws_keep_the_energies_of_every_ring(placement, variables, showers):
    placed = drawn(placement, variables, showers)
    np.testing.assert_array_equal(jnp.sort(placed, 2), jnp.sort(showers, 2))
    assert (placed != showers).any()


def test_old_angles_do_not_matter(placement, variables, showers):
    mixed = jax.random.permutation(jax.random.key(5), showers, axis=2, independent=True)
    np.testing.assert_allclose(
        drawn(placement, variables, mixed), drawn(placement, variables, showers), rtol=1e-6
    )


def test_draws_follow_the_density(placement, variables):
    """One hit in each of two layers: frequencies of all 8 x 8 angles against the density."""
    one = jnp.zeros((1, *SHAPE)).at[0, 0, 0, 1].set(2.0).at[0, 1, 0, 2].set(5.0)
    n = 40_000
    placed = drawn(placement, variables, jnp.repeat(one, n, 0))
    first, second = (jnp.argmax(placed[:, z, :, r], 1) for z, r in ((0, 1), (1, 2)))
    found = np.bincount(np.asarray(8 * first + second), minlength=64) / n
    every = jnp.zeros((64, *SHAPE))
    number = jnp.arange(64)
    every = every.at[number, 0, number // 8, 1].set(2.0).at[number, 1, number % 8, 2].set(5.0)
    expected = jnp.exp(apply(placement, variables, every))
    assert float(expected.sum()) == pytest.approx(1.0, rel=1e-4)
    assert expected.max() > 2 * expected.min()
    np.testing.assert_allclose(found, expected, atol=5 * np.sqrt(0.05 / n))


def test_the_density_is_invariant_under_rotations(placement, variables, showers):
    turned = jnp.roll(showers, 3, 2)
    np.testing.assert_allclose(
        apply(placement, variables, turned), apply(placement, variables, showers), rtol=1e-5
    )


def test_layers_depend_only_on_earlier_ones(placement, variables, showers):
    """Turning the last layer changes its own term alone, by what turning all of it would."""

    @jax.jit
    def of_layers(showers):
        bound = placement.bind(variables)
        seen = bound._seen(showers, jnp.cumsum(showers, 1))
        before = jnp.pad(seen[:, :-1], ((0, 0), (2, 0), (0, 0), (0, 0)))
        return log_prob(bound._scores(before, bound._rings(showers)), showers).sum(-1)

    changed = showers.at[:, 3].set(jnp.roll(showers[:, 3], 1, 1))
    before, after = of_layers(showers), of_layers(changed)
    np.testing.assert_allclose(after[:, :3], before[:, :3], rtol=1e-5)
    assert (np.abs(after[:, 3:] - before[:, 3:]) > 1e-4).any(0).all()
