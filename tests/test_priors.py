"""Priors over codes: teacher forcing against stepping, causality, and draws.

Tests of every prior; each kind has a file of its own too. For each prior the log-probabilities
of all 5^6 sequences are computed once, by one program.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import depends, moved

from calojax import rng
from calojax.errors import CalojaxError
from calojax.nn import recurrence
from calojax.nn.priors import PRIORS as PRIOR_KINDS
from calojax.nn.priors import categorical
from calojax.nn.priors.autoregressive import Autoregressive
from calojax.nn.priors.flow import Flow, Trunk
from calojax.nn.priors.gpt import GPT
from calojax.nn.priors.gru import GRU, neighbours
from calojax.nn.priors.prior import Settings

pytestmark = pytest.mark.usefixtures("strict_ranks")

# Five codes in six places.
CELLS = {
    "gru": GRU(size=5, length=6, width=8, embedding=4),
    "gru with neighbours": GRU(size=5, length=6, width=8, embedding=4, lags=(1, 2, 4)),
    "gpt": GPT(size=5, length=6, layers=2, heads=2, width=16, conditions=2),
}
PRIORS = {name: Autoregressive(cell) for name, cell in CELLS.items()} | {
    "flow": Flow(Trunk(5, (1, 3, 2), (1, 1, 2), 3, layers=1, heads=2, width=16), 3, spacing=0.4),
}
CODEBOOK = {"vectors": np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)}
EVERY = np.stack(np.meshgrid(*[np.arange(5)] * 6, indexing="ij"), -1).reshape(-1, 6)
CONTEXT = np.broadcast_to(np.float32([0.7, -1.1]), (len(EVERY), 2))
ROWS = np.array([0, 4321, 15000])
KEYS = rng.per_item(rng.root(0), np.arange(len(EVERY)))

cells = pytest.mark.parametrize("name", CELLS)
priors = pytest.mark.parametrize("name", PRIORS)


@functools.cache
def start(name):
    return jax.jit(PRIORS[name].init)(jax.random.key(1), CONTEXT[:3])


@functools.cache
def variables(name):
    """Far enough from the start that codes differ in probability."""
    return moved(start(name), 0.3) | {"codebook": CODEBOOK}


@functools.cache
def program(name, method):
    return jax.jit(getattr(PRIORS[name], method))


@functools.cache
def drawer(name):
    """Draws from keys."""
    prior = PRIORS[name]
    return jax.jit(
        lambda variables, keys, context, temperature: prior.draw(
            variables, prior.noise(keys), context, temperature=temperature
        )
    )


@functools.cache
def table(name):
    """log p(code | earlier codes) of every sequence [5, ..., 5, 6]."""
    return np.asarray(program(name, "log_probs")(variables(name), EVERY, CONTEXT)).reshape(
        *[5] * 6, 6
    )


@functools.cache
def drawn(name):
    n = len(EVERY) if name in CELLS else 16
    draw = drawer(name)
    return np.asarray(draw(variables(name), KEYS[:n], CONTEXT[:n], temperature=1.0))


@cells
def test_teacher_forced_equals_stepped(name):
    cell = CELLS[name]
    carry = cell.apply(variables(name), CONTEXT[:3], method="start")
    carry = cell.apply(variables(name), carry, 6, method="grow")
    inputs = cell.apply(variables(name), CONTEXT[:3], method="inputs")
    token = np.full(3, 5)
    take = jax.jit(functools.partial(cell.apply, method="step"))
    forced = table(name).reshape(-1, 6)[ROWS]
    for t in range(6):
        here = jax.tree.map(lambda x, t=t: x[t], inputs)
        carry, logits = take(variables(name), carry, token, here)
        token = EVERY[ROWS, t]
        stepped = np.asarray(logits) - np.logaddexp.reduce(logits, -1, keepdims=True)
        np.testing.assert_allclose(forced[:, t], stepped[[0, 1, 2], token], rtol=1e-5, atol=1e-5)


@cells
def test_probabilities_of_all_sequences_sum_to_one(name):
    assert np.exp(table(name).sum(-1)).sum() == pytest.approx(1, rel=1e-4)


@cells
def test_a_code_depends_on_all_earlier_ones_and_on_no_later_one(name):
    for t in range(6):
        log_p = table(name)[..., t]
        for later in range(t + 1, 6):
            np.testing.assert_allclose(np.ptp(log_p, later), 0, atol=1e-6)
        for earlier in range(t):
            assert np.ptp(log_p, earlier).max() > 1e-3


@cells
def test_context_changes_every_position(name):
    other = program(name, "log_probs")(variables(name), EVERY, CONTEXT + 1)
    assert (np.abs(np.asarray(other) - table(name).reshape(-1, 6)).max(0) > 1e-3).all()


@cells
def test_draws_follow_the_probabilities(name):
    p = np.exp(table(name).sum(-1))
    expected = np.stack([p.sum(tuple({*range(6)} - {t})) for t in range(6)])
    frequency = np.stack([np.bincount(codes, minlength=5) for codes in drawn(name).T]) / len(EVERY)
    # Five standard deviations of a binomial of p <= 1/2.
    error = 5 * 0.5 / len(EVERY) ** 0.5
    np.testing.assert_allclose(frequency, expected, atol=error)
    # Neighbours too, which are not independent.
    pairs = np.bincount(drawn(name)[:, 4:] @ [5, 1], minlength=25).reshape(5, 5) / len(EVERY)
    np.testing.assert_allclose(pairs, p.sum((0, 1, 2, 3)), atol=error)
    # Not uniform: the test would see a wrong distribution.
    assert expected.max() > 0.3


@priors
def test_a_sequence_does_not_depend_on_the_others(name):
    codes = drawn(name)
    order = np.random.default_rng(0).permutation(len(codes))
    again = drawer(name)(
        variables(name), KEYS[: len(codes)][order], CONTEXT[: len(codes)], temperature=1.0
    )
    np.testing.assert_array_equal(again, codes[order])
    assert again.dtype == jnp.int32
    assert len(np.unique(codes, axis=0)) > 8


def test_the_gradient_of_the_states_is_that_of_the_steps():
    generator = np.random.default_rng(0)
    shapes = (5, 4), (7, 5, 12), (4, 12), (1, 4)
    arguments = [jnp.float32(generator.normal(size=shape)) for shape in shapes]
    weights = jnp.float32(generator.normal(size=(7, 5, 4)))

    def stepped(state, gates, kernel, bias):
        states = []
        for step in gates:
            states.append(state := recurrence.gru_step(state, step, kernel, bias))
        return jnp.stack(states)

    def gradient(states):
        return jax.grad(lambda arrays: (states(*arrays) * weights).sum())(arguments)

    for found, expected in zip(gradient(recurrence.gru_states), gradient(stepped), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_several_steps_in_a_turn_draw_the_same_codes(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(recurrence, "_ON_GPU", 4)
    draw = jax.jit(functools.partial(PRIORS["gru"].draw, temperature=1.0))
    given = variables("gru"), PRIORS["gru"].noise(KEYS[:64]), CONTEXT[:64]
    assert "unroll=4" in str(jax.make_jaxpr(draw)(*given))
    np.testing.assert_array_equal(draw(*given), drawn("gru")[:64])


@priors
def test_draws_at_low_temperature_are_the_most_probable(name):
    n = len(drawn(name))
    draw = functools.partial(drawer(name), variables(name), KEYS[:n], CONTEXT[:n])
    cold = np.asarray(draw(temperature=1e-6))
    if name in CELLS:
        assert (cold == cold[0]).all()
        for t, code in enumerate(cold[0]):
            log_p = table(name)[*cold[0, :t]].reshape(5, -1, 6)[:, 0, t]
            assert code == log_p.argmax()
    else:
        # The noise is still random.
        hot = np.asarray(draw(temperature=1e6))
        assert len(np.unique(cold, axis=0)) < len(np.unique(hot, axis=0)) == 16


@priors
def test_loss_has_gradients_everywhere(name):
    codes = jnp.asarray(EVERY[ROWS])

    def loss(variables):
        each = PRIORS[name].loss(variables, KEYS[:3], codes, CONTEXT[:3])
        assert each.shape == (3,)
        return each.sum()

    reached = depends(jax.grad(loss), variables(name))
    assert all(jax.tree.leaves(reached["params"]))
    # The codebook belongs to another stage.
    assert not reached["codebook"]["vectors"]


@cells
def test_a_new_prior_is_nearly_uniform(name):
    loss = -np.asarray(program(name, "log_probs")(start(name), EVERY, CONTEXT))
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


@pytest.mark.parametrize("cell", [GRU(4, 1, 8, 4), GPT(4, 1, 1, 2, 8, 2)])
def test_a_sequence_may_be_one_code(cell):
    def codes(key, keys):
        prior, context = Autoregressive(cell), jnp.zeros((3, 2))
        variables = prior.init(key, context)
        codes = prior.draw(variables, prior.noise(keys), context)
        return codes, prior.log_probs(variables, codes, context)

    shapes = jax.eval_shape(codes, jax.random.key(0), KEYS[:3])
    assert [x.shape for x in shapes] == [(3, 1)] * 2


@cells
def test_every_position_may_have_its_own_context(name):
    everywhere = np.broadcast_to(CONTEXT[:16, None], (16, 6, 2))
    rows = np.arange(0, len(EVERY), 1000)
    log_probs = program(name, "log_probs")
    together = np.asarray(log_probs(variables(name), EVERY[rows], everywhere))
    np.testing.assert_allclose(together, table(name).reshape(-1, 6)[rows], rtol=1e-5, atol=1e-6)
    codes = drawer(name)(variables(name), KEYS[:16], everywhere, temperature=1.0)
    np.testing.assert_array_equal(codes, drawn(name)[:16])
    # It acts at its position; draws at a low temperature have the largest log-probability there.
    other = everywhere + 2.0 * (np.arange(6) == 5)[None, :, None].astype(np.float32)
    cold = np.asarray(drawer(name)(variables(name), KEYS[:16], other, temperature=1e-4))
    last = np.repeat(cold[:1], 16, 0)
    last[:, 5] = np.arange(16) % 5
    log_p = np.asarray(log_probs(variables(name), last, other))[:5, 5]
    assert cold[0, 5] == log_p.argmax()
    unchanged = np.asarray(log_probs(variables(name), last, everywhere))[:5, 5]
    assert np.abs(log_p - unchanged).max() > 1e-3


def test_steps_of_several_codes_have_a_joint_distribution():
    # Two steps of three codes of three.
    prior = Autoregressive(GRU(size=27, length=2, width=8, embedding=4), together=3)
    every = np.stack(np.meshgrid(*[np.arange(3)] * 6, indexing="ij"), -1).reshape(-1, 6)
    # A context at every code; a step has that of its first.
    context = np.broadcast_to(np.repeat(np.float32([0.3, -1.0]), 3)[None, :, None], (729, 6, 1))

    @jax.jit
    def codes(params, keys, context):
        noise, first = prior.noise(keys), jnp.broadcast_to(context[:1], (len(keys), 6, 1))
        log_probs = prior.log_probs(params, jnp.asarray(every), context)
        return (
            log_probs,
            prior.loss(params, keys, jnp.asarray(every), context),
            prior.draw(params, noise, first),
        )

    params = moved(jax.jit(prior.init)(jax.random.key(1), context[:1]), 0.3)
    found = codes(params, rng.per_item(rng.root(0), np.arange(20_000)), context)
    log_probs, loss, drawn = map(np.asarray, found)
    p = np.exp(log_probs.sum(1))
    assert p.sum() == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(loss, -np.log(p) / 6, rtol=1e-5)
    frequency = np.bincount(drawn @ 3 ** np.arange(6)[::-1], minlength=729) / len(drawn)
    np.testing.assert_allclose(frequency, p, atol=5 * (p.max() / len(drawn)) ** 0.5)
    # Codes of a step are not independent: the test would see wrong combinations.
    of_step = p.reshape(27, 27).sum(1).reshape(3, 3, 3)
    apart = np.einsum("i,j,k", *(of_step.sum(tuple({0, 1, 2} - {i})) for i in range(3)))
    assert np.abs(of_step - apart).max() > 0.01


@pytest.mark.parametrize(
    ("together", "steps"),
    [(1, (3, 4, 2)), (2, (3, 4, 1)), (4, (3, 2, 1)), (8, (3, 1, 1)), (24, (1, 1, 1))],
)
def test_the_grid_of_steps(together, steps):
    settings = Settings(codes_per_step=together)
    prior = PRIOR_KINDS["gru"](settings, 1, (3, 4, 2), 3)
    assert prior.cell.length == math.prod(steps)
    assert prior.cell.lags == neighbours(steps)


@pytest.mark.parametrize(
    ("together", "size", "message"),
    [
        (3, 2, "3 consecutive codes do not divide the grid of (3, 4, 2)"),
        (16, 1, "do not divide"),
        (8, 4, "8 codes of 4 have 65536 combinations, more than 4096"),
        (0, 2, "must be at least 1, got 0"),
    ],
)
def test_codes_of_a_step_that_do_not_fit_are_refused(together, size, message):
    with pytest.raises(CalojaxError, match=re.escape(message)):
        PRIOR_KINDS["gru"](Settings(codes_per_step=together), size, (3, 4, 2), 3)


def test_neighbours_of_a_grid_are_behind():
    assert neighbours((3, 4, 2)) == (1, 2, 8)
    assert neighbours((3, 1, 1)) == (1,)
