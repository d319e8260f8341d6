"""Autoregressive sequences of codes: one cell, run with given codes or with codes it draws.

A cell is a linen module with ``start(context) -> carry`` and ``step(carry, token, position,
context) -> (carry, logits)``. `log_probs` and `draw` run the same ``step`` under `lax.scan`, so
teacher-forced and stepped probabilities agree by construction.
"""

from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

Carry = Any


class Cell(Protocol):
    """What `log_probs` and `draw` ask of a sequence model."""

    def apply(self, variables: Any, *args: Any, method: str) -> Any:
        """Runs ``start`` or ``step`` with the given parameters."""
        ...


class GRU(nn.Module):
    """Gated recurrent unit over codes, conditioned on a context vector at every step.

    Cho et al. 2014 (arXiv:1406.1078). Tokens are codes 0..k-1 and k for "before the first".

    Attributes:
      size: number of codes k.
      length: number of positions t.
      width: size of the recurrent state.
      embedding: size of the code and position embeddings.
    """

    size: int
    length: int
    width: int
    embedding: int

    def setup(self):
        self.tokens = nn.Embed(self.size + 1, self.embedding)
        self.positions = nn.Embed(self.length, self.embedding)
        self.initial = nn.Dense(self.width)
        self.input = nn.Dense(self.width)
        self.cell = nn.GRUCell(self.width)
        self.output = nn.Dense(self.size)

    def start(self, context: jax.Array) -> Carry:
        """Recurrent state before the first code: context [b, c] -> [b, width]."""
        return nn.tanh(self.initial(context))

    def step(
        self, carry: Carry, token: jax.Array, position: jax.Array, context: jax.Array
    ) -> tuple[Carry, jax.Array]:
        """One step: token [b], position [], context [b, c] -> (carry, logits [b, k])."""
        embedded = self.tokens(token) + self.positions(position)
        x = nn.silu(self.input(jnp.concatenate([embedded, context], -1)))
        carry, x = self.cell(carry, x)
        return carry, self.output(x)

    def __call__(self, context: jax.Array) -> jax.Array:
        """Touches every parameter, for ``init``: context [b, c] -> logits [b, k]."""
        token = jnp.full(len(context), self.size)
        return self.step(self.start(context), token, jnp.zeros((), int), context)[1]


def log_probs(cell: GRU, variables: Any, codes: jax.Array, context: jax.Array) -> jax.Array:
    """log p(code_t | codes before t, context): codes [b, t], context [b, c] -> [b, t]."""
    first = jnp.full_like(codes[:, :1], cell.size)
    tokens = jnp.concatenate([first, codes[:, :-1]], axis=1)

    def step(carry, inputs):
        token, target, position = inputs
        carry, logits = cell.apply(variables, carry, token, position, context, method="step")
        log_p = jax.nn.log_softmax(logits)
        return carry, jnp.take_along_axis(log_p, target[:, None], axis=-1)[:, 0]

    carry = cell.apply(variables, context, method="start")
    _, out = jax.lax.scan(step, carry, (tokens.T, codes.T, jnp.arange(codes.shape[1])))
    return out.T


def draw(
    cell: GRU,
    variables: Any,
    keys: jax.Array,
    context: jax.Array,
    *,
    temperature: float = 1.0,
) -> jax.Array:
    """Draws codes [b, t] with one key for each sequence: keys [b], context [b, c]."""

    def step(state, position):
        carry, token = state
        carry, logits = cell.apply(variables, carry, token, position, context, method="step")
        position_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, position)
        token = jax.vmap(jax.random.categorical)(position_keys, logits / temperature)
        token = token.astype(jnp.int32)
        return (carry, token), token

    carry = cell.apply(variables, context, method="start")
    first = jnp.full(len(context), cell.size, jnp.int32)
    _, codes = jax.lax.scan(step, (carry, first), jnp.arange(cell.length))
    return codes.T
