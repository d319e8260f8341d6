"""The flow prior: exact joint of a toy, turns of the cylinder, one pass, times, settings."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import drawn_variables

from calojax import rng
from calojax.errors import CalojaxError
from calojax.nn.priors import categorical, flow
from calojax.nn.priors.flow import Flow, Trunk
from calojax.nn.priors.prior import Settings

pytestmark = pytest.mark.usefixtures("strict_ranks")


def keys_of(number):
    return rng.per_item(rng.root(0), np.arange(number))


# Three symbols at two positions that tend to be equal, as vectors in a plane.
JOINT = jnp.array([[0.30, 0.02, 0.03], [0.01, 0.20, 0.04], [0.05, 0.05, 0.30]])
TOY = {"params": {}, "codebook": {"vectors": jnp.array([[0.0, 1.0], [2.0, 0.5], [1.0, -2.0]])}}


@dataclasses.dataclass(frozen=True)
class Exact:
    """Logits of p(code | x_t) of the toy, in closed form."""

    size = 3
    length = 2
    dimensions = 2

    def init(self, key, context):
        return {"params": {}}

    def bind(self, variables):
        return self

    def logits(self, noisy, time, context):
        vectors, t = flow.standardised(TOY), time[:, None, None, None]
        # log p(x_t | code) of both positions, [b, 2, 3].
        seen = -(((noisy[:, :, None] - t * vectors[None, None]) / (1 - t)) ** 2).sum(-1) / 2
        joint = jnp.log(JOINT)[None] + seen[:, 0][:, :, None] + seen[:, 1][:, None]
        return jnp.stack([jax.nn.logsumexp(joint, 2), jax.nn.logsumexp(joint, 1)], 1)


def drawn_joint(passes, number=20_000):
    prior = Flow(Exact(), passes, 0.4)
    noise = jax.jit(prior.noise)(keys_of(number))
    codes = jax.jit(prior.draw)(TOY, noise, jnp.zeros((number, 1)))
    return np.bincount(codes[:, 0] * 3 + codes[:, 1], minlength=9).reshape(3, 3) / number


def test_many_passes_draw_the_exact_joint():
    found = drawn_joint(100)
    # Five standard deviations, and what a hundred passes leave.
    np.testing.assert_allclose(found, JOINT, atol=5 * 0.5 / 20_000**0.5)


def test_one_pass_draws_positions_independently():
    independent = JOINT.sum(1)[:, None] * JOINT.sum(0)[None]
    np.testing.assert_allclose(drawn_joint(1), independent, atol=5 * 0.5 / 20_000**0.5)
    assert np.abs(independent - JOINT).max() > 0.1


# A cylinder of 2 x 6 x 2 codes in patches of 1 x 2 x 1: there are patches in z, alpha and r.
TURNING = Trunk(5, (2, 6, 2), (1, 2, 1), 3, layers=2, heads=2, width=16)


@pytest.fixture(scope="module")
def turning():
    """Variables far from the start, where blocks are the identity."""
    variables = drawn_variables(TURNING.init, jax.random.key(1), np.zeros((2, 24, 4)))
    return variables | {"codebook": {"vectors": jax.random.normal(jax.random.key(2), (5, 3))}}


def turned(x, by):
    return np.roll(x.reshape(len(x), 2, 6, 2, -1), by, axis=2).reshape(x.shape)


def test_turned_noise_has_turned_logits(turning):
    generator = np.random.default_rng(0)
    noisy = generator.normal(size=(2, 24, 3)).astype(np.float32)
    # The context differs in z, not around the axis.
    context = np.repeat(generator.normal(size=(2, 2, 4)).astype(np.float32), 12, axis=1)
    program = jax.jit(functools.partial(TURNING.apply, method="logits"))

    def logits(noisy):
        return np.asarray(program(turning, noisy, np.float32([0.2, 0.7]), context))

    before = logits(noisy)
    np.testing.assert_allclose(logits(turned(noisy, 2)), turned(before, 2), rtol=1e-4, atol=1e-4)
    # By half a patch, or along z, things differ.
    assert np.abs(logits(turned(noisy, 1)) - turned(before, 1)).max() > 0.1
    along = np.roll(noisy, 12, axis=1)
    assert np.abs(logits(along) - np.roll(before, 12, axis=1)).max() > 0.1


def test_one_pass_draws_from_the_logits_at_pure_noise(turning):
    prior = Flow(TURNING, 1, 0.4)
    keys, context = keys_of(3), jax.random.normal(jax.random.key(4), (3, 4))

    @jax.jit
    def both(turning, keys, context):
        noise = jax.vmap(lambda key: jax.random.normal(key, (24, 3)))(rng.streams(keys, "noise"))
        logits = TURNING.apply(turning, noise, jnp.zeros(3), context, method="logits")
        u = rng.uniform(rng.streams(keys, "codes"), (24,))
        return prior.draw(turning, prior.noise(keys), context), categorical.choose(u, logits)

    drawn, expected = both(turning, keys, context)
    np.testing.assert_array_equal(drawn, expected)
    assert len(np.unique(drawn)) == 5


def test_patches_and_back():
    x = jnp.arange(2 * 24 * 3.0).reshape(2, 24, 3)
    patches = TURNING._to_patches(x)
    assert patches.shape == (2, 12, 6)
    grid = x.reshape(2, 2, 6, 2, 3)
    np.testing.assert_array_equal(patches[0, 3], grid[0, 0, 2:4, 1].ravel())
    np.testing.assert_array_equal(TURNING._from_patches(patches), x)


def test_relative_places_do_not_change_around_the_axis():
    which = flow.relative_places((3, 4, 2)).reshape(3, 4, 2, 3, 4, 2)
    np.testing.assert_array_equal(np.roll(which, (1, 1), (1, 4)), which)
    # Five differences in z, four around, and four pairs in r.
    assert len(np.unique(which)) == 5 * 4 * 4


def test_training_times_are_stratified():
    times = np.asarray(jax.jit(flow.training_times)(keys_of(64)))
    logit = np.sort(np.log(times / (1 - times)))
    edges = np.asarray(jax.scipy.special.ndtri(np.arange(1, 64) / 64)) + 0.3
    assert (logit[:-1] <= edges).all()
    assert (logit[1:] >= edges).all()
    assert (np.diff(times) < 0).any()


def test_sampling_times_go_from_noise_to_codes():
    even, late = flow.sampling_times(4, 1.0), flow.sampling_times(4, 0.5)
    np.testing.assert_allclose(even, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(late, [0, 0.4, 2 / 3, 6 / 7, 1], rtol=1e-6)


def test_patches_fit_or_are_refused():
    settings = Settings(width=16, heads=2, layers=1)
    assert flow.build(settings, 4, (3, 4, 4), 2).network.patches == (3, 2, 1)
    # Smaller grids have smaller patches.
    assert flow.build(settings, 4, (3, 4, 2), 2).network.patches == (3, 2, 1)
    assert flow.build(settings, 4, (6, 1, 1), 2).network.patches == (6, 1, 1)
    with pytest.raises(CalojaxError, match=r"\(1, 2, 4\) codes .* grid of \(3, 5, 4\)"):
        flow.build(settings, 4, (3, 5, 4), 2)
