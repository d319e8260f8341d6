"""Sequences: teacher forcing against stepping, causality, and draws against probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calojax import rng
from calojax.nn import sequence


@pytest.fixture(scope="module")
def cell():
    return sequence.GRU(size=5, length=6, width=8, embedding=4)


@pytest.fixture(scope="module")
def context():
    return jax.random.normal(jax.random.key(0), (3, 2))


@pytest.fixture(scope="module")
def variables(cell, context):
    return cell.init(jax.random.key(1), context)


def test_teacher_forced_equals_stepped(cell, variables, context):
    codes = jax.random.randint(jax.random.key(2), (3, 6), 0, 5)
    forced = sequence.log_probs(cell, variables, codes, context)
    carry = cell.apply(variables, context, method="start")
    token = jnp.full(3, 5)
    for t in range(6):
        carry, logits = cell.apply(variables, carry, token, jnp.asarray(t), context, method="step")
        token = codes[:, t]
        stepped = jax.nn.log_softmax(logits)[jnp.arange(3), token]
        np.testing.assert_allclose(forced[:, t], stepped, rtol=1e-5)


def test_probabilities_of_all_sequences_sum_to_one():
    cell = sequence.GRU(size=3, length=4, width=8, embedding=4)
    context = jnp.ones((1, 2))
    variables = cell.init(jax.random.key(1), context)
    every = jnp.stack(jnp.meshgrid(*[jnp.arange(3)] * 4, indexing="ij"), -1).reshape(-1, 4)
    log_p = sequence.log_probs(cell, variables, every, jnp.ones((81, 2))).sum(-1)
    assert jnp.exp(log_p).sum() == pytest.approx(1, rel=1e-5)


def test_a_code_does_not_see_itself_or_later_ones(cell, variables, context):
    codes = jax.random.randint(jax.random.key(2), (3, 6), 0, 5)
    before = sequence.log_probs(cell, variables, codes, context)
    changed = codes.at[:, 4].set((codes[:, 4] + 1) % 5)
    after = sequence.log_probs(cell, variables, changed, context)
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (before[:, 5] != after[:, 5]).all()


def test_context_changes_every_position(cell, variables, context):
    codes = jnp.zeros((3, 6), int)
    other = sequence.log_probs(cell, variables, codes, context + 1)
    assert (sequence.log_probs(cell, variables, codes, context) != other).all()


def test_draws_follow_the_probabilities():
    cell = sequence.GRU(size=3, length=2, width=8, embedding=4)
    variables = cell.init(jax.random.key(1), jnp.ones((1, 2)))
    n = 20_000
    keys = rng.per_item(rng.root(0), np.arange(n))
    drawn = sequence.draw(cell, variables, keys, jnp.ones((n, 2)))
    frequency = jnp.zeros((3, 3)).at[drawn[:, 0], drawn[:, 1]].add(1 / n)
    every = jnp.stack(jnp.meshgrid(jnp.arange(3), jnp.arange(3), indexing="ij"), -1)
    log_p = sequence.log_probs(cell, variables, every.reshape(9, 2), jnp.ones((9, 2))).sum(-1)
    # Four standard deviations of a binomial of p <= 1/2.
    np.testing.assert_allclose(frequency.reshape(-1), jnp.exp(log_p), atol=4 * 0.5 / n**0.5)


def test_a_sequence_drawn_alone_equals_the_same_in_a_batch(cell, variables):
    keys = rng.per_item(rng.root(0), np.arange(16))
    context = jax.random.normal(jax.random.key(5), (16, 2))
    together = sequence.draw(cell, variables, keys, context)
    alone = sequence.draw(cell, variables, keys[9:10], context[9:10])
    np.testing.assert_array_equal(together[9:10], alone)


def test_low_temperature_takes_the_most_probable(cell, variables, context):
    keys = rng.per_item(rng.root(0), np.arange(3))
    codes = sequence.draw(cell, variables, keys, context, temperature=1e-6)
    carry = cell.apply(variables, context, method="start")
    _, logits = cell.apply(variables, carry, jnp.full(3, 5), jnp.asarray(0), context, method="step")
    np.testing.assert_array_equal(codes[:, 0], logits.argmax(-1))
