"""Priors over codes: teacher forcing against stepping, causality, draws, their place in Calo-VQ.

What is asked of every prior runs for all of them; what is peculiar to one has a file of its own.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calojax import rng
from calojax.nn.priors import categorical
from calojax.nn.priors.autoregressive import Autoregressive
from calojax.nn.priors.gpt import GPT
from calojax.nn.priors.gru import GRU
from calojax.nn.priors.masked import Masked
from calojax.nn.priors.positions import Cylinder, Line
from calojax.nn.priors.transformer import Transformer

pytestmark = pytest.mark.usefixtures("strict_ranks")

# Five codes in six places.
CELLS = {
    "gru": GRU(size=5, length=6, width=8, embedding=4),
    "gru with neighbours": GRU(size=5, length=6, width=8, embedding=4, lags=(1, 2, 4)),
    "transformer": Transformer(5, Cylinder(1, 3, 2), layers=2, heads=2, width=16, causal=True),
    "gpt": GPT(5, Line(6), layers=2, heads=2, width=16, causal=True, conditions=2),
}
FILLING = Transformer(5, Line(6), layers=1, heads=2, width=16, causal=False)
PRIORS = {name: Autoregressive(cell) for name, cell in CELLS.items()} | {
    "masked": Masked(FILLING, passes=3)
}
CODES = jax.random.randint(jax.random.key(2), (3, 6), 0, 5)
CONTEXT = jax.random.normal(jax.random.key(0), (3, 2))


@functools.cache
def variables_of(prior):
    """Far enough from the start that codes differ in probability."""
    variables = jax.jit(prior.init)(jax.random.key(1), CONTEXT)
    return jax.tree.map(
        lambda x: x + 0.3 * np.random.default_rng(x.size).normal(size=x.shape).astype(np.float32),
        variables,
    )


def keys_of(number):
    return rng.per_item(rng.root(0), np.arange(number))


cells = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
priors = pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)


@cells
def test_teacher_forced_equals_stepped(cell):
    prior = Autoregressive(cell)
    variables = variables_of(prior)
    forced = jax.jit(prior.log_probs)(variables, CODES, CONTEXT)
    carry = cell.apply(variables, CONTEXT, method="start")
    carry = cell.apply(variables, carry, 6, method="grow")
    token = jnp.full(3, 5)
    take = jax.jit(functools.partial(cell.apply, method="step"))
    for t in range(6):
        carry, logits = take(variables, carry, token, jnp.asarray(t), CONTEXT)
        token = CODES[:, t]
        stepped = jax.nn.log_softmax(logits)[jnp.arange(3), token]
        np.testing.assert_allclose(forced[:, t], stepped, rtol=1e-5, atol=1e-5)


@cells
def test_probabilities_of_all_sequences_sum_to_one(cell):
    prior = Autoregressive(cell)
    every = jnp.stack(jnp.meshgrid(*[jnp.arange(5)] * 6, indexing="ij"), -1).reshape(-1, 6)
    context = jnp.broadcast_to(CONTEXT[0], (len(every), 2))
    log_p = jax.jit(prior.log_probs)(variables_of(prior), every, context).sum(-1)
    assert jnp.exp(log_p).sum() == pytest.approx(1, rel=1e-4)


@cells
def test_no_gradient_from_later_positions(cell):
    variables = variables_of(Autoregressive(cell))
    name = "positions" if isinstance(cell, GRU) else "places"

    def logits(embedding):
        params = variables["params"] | {name: {"embedding": embedding}}
        tokens = jnp.concatenate([jnp.full((3, 1), 5), CODES[:, :-1]], axis=1)
        return cell.apply({"params": params}, tokens, CONTEXT, method="logits")[0, :, 0]

    embedding = variables["params"][name]["embedding"]
    seen = (jax.jit(jax.jacrev(logits))(embedding) != 0).any(-1)
    np.testing.assert_array_equal(seen, np.tril(np.ones((6, 6), bool)))


@cells
def test_a_code_does_not_see_itself_or_later_ones(cell):
    prior = Autoregressive(cell)
    log_probs = jax.jit(prior.log_probs)
    before = log_probs(variables_of(prior), CODES, CONTEXT)
    changed = CODES.at[:, 4].set((CODES[:, 4] + 1) % 5)
    after = log_probs(variables_of(prior), changed, CONTEXT)
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (before[:, 5] != after[:, 5]).all()


@cells
def test_context_changes_every_position(cell):
    prior = Autoregressive(cell)
    log_probs = jax.jit(prior.log_probs)
    here = log_probs(variables_of(prior), CODES, CONTEXT)
    assert (here != log_probs(variables_of(prior), CODES, CONTEXT + 1)).all()


@cells
def test_draws_follow_the_probabilities(cell):
    prior = Autoregressive(cell)
    n = 20_000
    context = jnp.broadcast_to(CONTEXT[0], (n, 2))
    drawn = jax.jit(prior.draw)(variables_of(prior), keys_of(n), context)
    # All codes drawn, against what the prior says of the codes that were drawn before.
    logits = jax.jit(functools.partial(cell.apply, method="logits"))
    tokens = jnp.concatenate([jnp.full((n, 1), 5), drawn[:, :-1]], axis=1)
    expected = jax.nn.softmax(logits(variables_of(prior), tokens, context)).mean(0)
    frequency = jax.nn.one_hot(drawn, 5).mean(0)
    # Five standard deviations of a binomial of p <= 1/2.
    np.testing.assert_allclose(frequency, expected, atol=5 * 0.5 / n**0.5)
    # Not uniform: the test would see a wrong distribution.
    assert expected.max() > 0.3


@priors
def test_a_sequence_drawn_alone_equals_the_same_in_a_batch(prior):
    keys = keys_of(16)
    context = jax.random.normal(jax.random.key(5), (16, 2))
    draw = jax.jit(prior.draw)
    together = draw(variables_of(prior), keys, context)
    alone = draw(variables_of(prior), keys[9:10], context[9:10])
    np.testing.assert_array_equal(together[9:10], alone)
    assert together.dtype == jnp.int32
    assert len(np.unique(together, axis=0)) > 8


@priors
def test_low_temperature_forgets_the_key(prior):
    draw = jax.jit(prior.draw)
    context = jnp.broadcast_to(CONTEXT[0], (8, 2))
    cold = draw(variables_of(prior), keys_of(8), context, temperature=1e-6)
    if isinstance(prior, Autoregressive):
        np.testing.assert_array_equal(cold, jnp.repeat(cold[:1], len(cold), 0))
        tokens = jnp.concatenate([jnp.full((8, 1), 5), cold[:, :-1]], axis=1)
        logits = prior.cell.apply(variables_of(prior), tokens, context, method="logits")
        np.testing.assert_array_equal(cold, logits.argmax(-1))
    else:
        # The order of filling is still random; whatever is filled last is its conditional's mode.
        whole = dataclasses.replace(prior, passes=6)
        cold = jax.jit(whole.draw)(variables_of(prior), keys_of(8), context, temperature=1e-6)
        hot = jax.jit(whole.draw)(variables_of(prior), keys_of(8), context, temperature=1e6)
        assert len(np.unique(cold, axis=0)) < len(np.unique(hot, axis=0)) == 8


@priors
def test_loss_is_a_number_for_each_sequence_and_has_gradients_everywhere(prior):
    def loss(variables):
        return prior.loss(variables, keys_of(3), CODES, CONTEXT)

    variables = variables_of(prior)
    assert jax.jit(loss)(variables).shape == (3,)
    gradients = jax.jit(jax.grad(lambda variables: loss(variables).sum()))(variables)
    assert all(np.any(x) for x in jax.tree.leaves(gradients))


@priors
def test_a_new_prior_knows_nothing(prior):
    variables = jax.jit(prior.init)(jax.random.key(1), CONTEXT)
    loss = jax.jit(prior.loss)(variables, keys_of(3), CODES, CONTEXT)
    assert loss.mean() == pytest.approx(np.log(5), rel=0.3)


def test_codes_at_quantiles():
    p = jnp.array([0.25, 0.0, 0.5, 0.25, 0.0])
    u = jnp.array([0.0, 0.249, 0.251, 0.749, 0.751, 1 - 2**-23])
    drawn = categorical.choose(u, jnp.broadcast_to(jnp.log(p), (6, 5)))
    np.testing.assert_array_equal(drawn, [0, 0, 2, 2, 3, 3])


@pytest.mark.parametrize("size", [32, 33, 70, 1024])
def test_codes_of_many_are_at_their_quantiles(size):
    generator = np.random.default_rng(size)
    p = generator.exponential(size=size) * (generator.random(size) < 0.5)
    p[[0, -1]] = 0.0
    ends = np.cumsum(p) / p.sum()
    u = np.float32([*generator.random(5000), 0.0, 1 - 2**-23])
    logits = jnp.broadcast_to(jnp.log(jnp.float32(p)), (len(u), size))
    drawn = np.asarray(categorical.choose(jnp.asarray(u), logits))
    assert (p[drawn] > 0).all()
    # Where the quantile is not an edge up to rounding, there is one answer.
    clear = np.abs(ends - u[:, None]).min(1) > 1e-6
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(drawn[clear], np.searchsorted(ends, u, side="right")[clear])


@pytest.mark.parametrize("cell", [GRU(4, 1, 8, 4), Transformer(4, Line(1), 1, 2, 8, True)])
def test_a_sequence_may_be_one_code(cell):
    prior = Autoregressive(cell)
    context = jnp.zeros((3, 2))
    variables = jax.jit(prior.init)(jax.random.key(0), context)
    codes = jax.jit(prior.draw)(variables, keys_of(3), context)
    assert codes.shape == (3, 1)
    assert np.isfinite(jax.jit(prior.log_probs)(variables, codes, context)).all()


@priors
def test_a_context_for_every_position_may_be_the_same_everywhere(prior):
    variables = variables_of(prior)
    everywhere = jnp.broadcast_to(CONTEXT[:, None], (3, 6, 2))
    for function in (jax.jit(prior.loss), jax.jit(lambda v, k, _, c: prior.draw(v, k, c))):
        np.testing.assert_allclose(
            function(variables, keys_of(3), CODES, everywhere),
            function(variables, keys_of(3), CODES, CONTEXT),
            rtol=1e-5,
        )


@cells
def test_a_context_of_a_position_is_seen_there(cell):
    prior = Autoregressive(cell)
    variables = variables_of(prior)
    context = jax.random.normal(jax.random.key(5), (3, 6, 2))
    log_probs = jax.jit(prior.log_probs)
    together = log_probs(variables, CODES, context)
    changed = log_probs(variables, CODES, context.at[:, 4].add(1.0))
    assert (changed[:, 4] != together[:, 4]).all()
    # Teacher-forced and stepped still agree: draws have the probabilities of `log_probs`.
    draws = jax.jit(prior.draw)(variables, keys_of(3), context, temperature=1e-4)
    again = log_probs(variables, draws, context)
    other = log_probs(variables, draws.at[:, 5].set((draws[:, 5] + 1) % 5), context)
    assert (again[:, 5] > other[:, 5]).all()


def test_neighbours_of_a_grid_are_behind():
    assert Cylinder(3, 4, 2).neighbours == (1, 2, 8)
    assert Cylinder(3, 1, 1).neighbours == (1,)
    assert Line(7).neighbours == (1,)
