"""The released transformer: its cache against none."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from calojax import rng
from calojax.nn.priors import categorical
from calojax.nn.priors.autoregressive import Autoregressive
from calojax.nn.priors.gpt import GPT

pytestmark = pytest.mark.usefixtures("strict_ranks")

CONTEXT = jax.random.normal(jax.random.key(0), (3, 2))
CELL = GPT(size=7, length=24, layers=2, heads=2, width=24, conditions=2, stretch=10)


@functools.cache
def start(module):
    variables = jax.device_get(jax.jit(module.init)(jax.random.key(1), CONTEXT))
    return jax.tree.map(lambda x: 2 * x, variables)


def draw_without_cache(cell, variables, keys, context):
    """What `Autoregressive.draw` draws, by running the whole sequence for every code."""
    u = rng.uniform(keys, (cell.length,))

    def step(tokens, position):
        logits = cell.apply(variables, tokens[:, :-1], context, method="logits")
        code = categorical.choose(u[:, position], logits[:, position])
        return tokens.at[:, position + 1].set(code), None

    # Places not drawn yet hold a code that would be seen if the cell looked ahead.
    tokens = jnp.full((len(context), cell.length + 1), cell.size).at[:, 1:].set(3)
    return lax.scan(step, tokens, jnp.arange(cell.length))[0][:, 1:]


def test_with_a_cache_as_without():
    cell = CELL
    variables = start(cell)
    keys = rng.per_item(rng.root(0), np.arange(3))
    noise = {"uniform": rng.uniform(keys, (cell.length,))}
    cached = jax.jit(Autoregressive(cell).draw)(variables, noise, CONTEXT)
    whole = jax.jit(lambda *arguments: draw_without_cache(cell, *arguments))
    np.testing.assert_array_equal(cached, whole(variables, keys, CONTEXT))


def test_cache_holds_what_has_been_and_zeros():
    cell = CELL
    variables = start(cell)
    step = jax.jit(functools.partial(cell.apply, method="step"))
    caches = cell.apply(variables, CONTEXT, method="start")
    for t, room in enumerate([2, 2, 4, 4, 24]):
        caches = cell.apply(variables, caches, room, method="grow")
        caches, _ = step(variables, caches, jnp.full(3, t), (jnp.asarray(t), CONTEXT))
    assert len(caches) == 2
    for cache in caches:
        for buffer in cache:
            assert buffer.shape == (3, 24, 2, 12)
            assert (np.asarray(buffer[:, :5]) != 0).any((2, 3)).all()
            assert not np.any(buffer[:, 5:])


def test_double_precision_elsewhere_changes_nothing():
    cell = CELL
    variables, prior = start(cell), Autoregressive(cell)
    keys = rng.per_item(rng.root(0), np.arange(3))

    def draw(variables, keys, context):
        return prior.draw(variables, prior.noise(keys), context)

    single = jax.jit(draw)(variables, keys, CONTEXT)
    with jax.enable_x64(True):
        double = jax.jit(lambda *inputs: draw(*inputs))(variables, keys, CONTEXT)
        forced = jax.eval_shape(prior.log_probs, variables, double, CONTEXT)
        assert forced.dtype == jnp.float32
    np.testing.assert_array_equal(single, double)
    assert double.dtype == jnp.int32
