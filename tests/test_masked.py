"""Masked parallel decoding: the schedule, each position once, and the joint of a toy model."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calojax import rng
from calojax.nn.priors.masked import Masked, chosen_by_pass, known_after, masks

pytestmark = pytest.mark.usefixtures("strict_ranks")


def keys_of(number):
    return rng.per_item(rng.root(0), np.arange(number))


@dataclasses.dataclass(frozen=True)
class Exact:
    """The conditionals of a joint distribution of three codes in 0..2, by enumeration.

    ``variables`` is the table [3, 3, 3] of the joint.
    """

    variables: jax.Array | None = None
    size: int = 3
    length: int = 3

    def bind(self, variables):
        return Exact(variables)

    def logits(self, tokens, context):
        every = jnp.asarray(list(itertools.product(range(3), repeat=3)))[None]
        agrees = (tokens[:, None] == every) | (tokens[:, None] == 3)
        weight = jnp.where(agrees.all(-1), self.variables.reshape(1, -1), 0.0)
        return jnp.log(jnp.einsum("bn,ntk->btk", weight, jax.nn.one_hot(every[0], 3)))

    def logits_at(self, tokens, context, chosen):
        logits = self.logits(tokens, context)
        return jnp.take_along_axis(logits, chosen[..., None], axis=1, mode="clip")


# Far from a product of its marginals.
JOINT = jax.random.dirichlet(jax.random.key(7), jnp.full(27, 0.3)).reshape(3, 3, 3)


def frequencies(passes, n=20_000):
    prior = Masked(Exact(), passes)
    drawn = jax.jit(prior.draw)(JOINT, jax.jit(prior.noise)(keys_of(n)), jnp.zeros((n, 1)))
    return np.bincount(np.asarray(drawn) @ [9, 3, 1], minlength=27).reshape(3, 3, 3) / n


def test_one_position_per_pass_gives_the_joint():
    n = 20_000
    error = np.sqrt(JOINT * (1 - JOINT) / n)
    # Of 27 frequencies none is off by five standard deviations, and on average by one.
    deviation = np.abs(frequencies(3) - JOINT) / np.maximum(error, 1 / n)
    assert deviation.max() < 5
    assert np.mean(deviation**2) < 2


def test_one_pass_gives_the_product_of_marginals():
    a, b, c = (JOINT.sum(axes) for axes in ((1, 2), (0, 2), (0, 1)))
    product = jnp.einsum("i,j,k->ijk", a, b, c)
    found = frequencies(1)
    np.testing.assert_allclose(found, product, atol=5 * 0.5 / 20_000**0.5)
    # So the test above can fail.
    assert np.abs(found - JOINT).max() > 0.05


def test_mean_loss_of_the_exact_network_is_the_likelihood():
    n = 20_000
    codes = jnp.array([0, 1, 2])
    loss = jax.jit(Masked(Exact(), 3).loss)(
        JOINT, keys_of(n), jnp.broadcast_to(codes, (n, 3)), jnp.zeros((n, 1))
    )
    expected = float(-jnp.log(JOINT[0, 1, 2]) / 3)
    assert loss.std() > 0.01
    assert loss.mean() == pytest.approx(expected, abs=5 * float(loss.std()) / n**0.5)


@pytest.mark.parametrize(("length", "passes"), [(416, 10), (417, 12), (16, 8), (7, 7), (3, 10)])
def test_every_position_is_filled_once(length, passes):
    noise = Masked(Exact(length=length), passes).noise(keys_of(5))
    order = np.asarray(chosen_by_pass(noise["order"], passes))
    assert len(order) == min(passes, length)
    for one in order.transpose(1, 0, 2):
        assert (one < length).any(-1).all()
        np.testing.assert_array_equal(np.sort(one[one < length]), np.arange(length))
    assert not np.array_equal(order[:, 0], order[:, 1])


@pytest.mark.parametrize("length", [1, 2, 7, 16, 104, 417])
def test_schedule_grows_from_none_to_all(length):
    for passes in range(1, min(length, 40) + 1):
        known = known_after(length, passes)
        assert known[0] == 0
        assert known[-1] == length
        assert (np.diff(known) >= 1).all()
    np.testing.assert_array_equal(known_after(length, length), np.arange(length + 1))
    np.testing.assert_array_equal(known_after(length, length + 5), np.arange(length + 1))


def test_schedule_is_a_cosine():
    # 100 (1 - cos(s pi / 8)), rounded up.
    np.testing.assert_array_equal(known_after(100, 4), [0, 8, 30, 62, 100])


def test_numbers_of_masked_positions_are_uniform():
    n = 8_000
    masked = np.asarray(jax.jit(masks, static_argnums=1)(keys_of(n), 4))
    share = np.bincount(masked.sum(1), minlength=5) / n
    np.testing.assert_allclose(share, [0, 0.25, 0.25, 0.25, 0.25], atol=5 * 0.5 / n**0.5)
    np.testing.assert_allclose(masked.mean(0), 0.625, atol=5 * 0.5 / n**0.5)
