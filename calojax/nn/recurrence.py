"""Loops over the steps of a sequence, and the gated recurrent unit (GRU)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# Steps of a turn of the loop on a GPU. XLA fuses them: the 16 kernels of a step of the GRU prior
# become 11 (for an H100, one shower), and each waits for the one before. More steps compile longer.
_ON_GPU = 8


def scan(step: Callable[..., Any], start: Any, inputs: Any) -> Any:
    """`jax.lax.scan`; on a GPU with several steps in a turn of the loop."""
    unroll = _ON_GPU if jax.default_backend() == "gpu" else 1
    return jax.lax.scan(step, start, inputs, unroll=unroll)


@jax.jit  # Under its own name, so that `calojax.export` finds it.
def gru_step(state: jax.Array, gates: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """The state [b, w] after one step, as in `flax.linen.GRUCell`, from gates [b, 3 w]."""
    return _cell(state, gates, state @ kernel, bias)


def _cell(state: jax.Array, gates: jax.Array, product: jax.Array, bias: jax.Array) -> jax.Array:
    """`gru_step`, given the product of state and kernel [b, 3 w]."""
    reset, update, new = jnp.split(gates, 3, -1)
    of_reset, of_update, of_new = jnp.split(product, 3, -1)
    reset, update = nn.sigmoid(reset + of_reset), nn.sigmoid(update + of_update)
    new = nn.tanh(new + reset * (of_new + bias))
    return (1.0 - update) * new + update * state


@jax.custom_vjp
def gru_states(state: jax.Array, gates: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """The states [t, b, w] after each of t steps of `gru_step`, from gates [t, b, 3 w].

    The gradient of the kernel is one product over all steps after the loop. Automatic
    differentiation would add it up in the loop, where devices that share a batch would exchange it
    at every step.
    """

    def step(state, gates):
        state = gru_step(state, gates, kernel, bias)
        return state, state

    return jax.lax.scan(step, state, gates)[1]


def _forward(state, gates, kernel, bias):
    def step(state, gates):
        def cell(state, gates, product):
            return _cell(state, gates, product, bias)

        after, pull = jax.vjp(cell, state, gates, state @ kernel)
        return after, (after, state, pull)

    states, before, pulls = jax.lax.scan(step, state, gates)[1]
    return states, (before, pulls, kernel, bias)


def _backward(kept, of_states):
    before, pulls, kernel, bias = kept

    def step(of_state, given):
        of_output, pull = given
        of_state, of_gates, of_product = pull(of_state + of_output)
        return of_state + of_product @ kernel.T, (of_gates, of_product)

    start = jnp.zeros_like(before[0])
    of_state, (of_gates, of_products) = jax.lax.scan(step, start, (of_states, pulls), reverse=True)
    # No reshape of steps and sequences into one axis, which would gather a batch on all devices.
    of_kernel = jnp.einsum("tbw,tbg->wg", before, of_products)
    of_bias = of_products[..., -before.shape[-1] :].sum((0, 1)).reshape(bias.shape)
    return of_state, of_gates, of_kernel, of_bias


gru_states.defvjp(_forward, _backward)
