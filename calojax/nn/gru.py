"""The recurrent prior's cell: a gated recurrent unit over codes."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from calojax.nn import sequence


class Carry(NamedTuple):
    """What a step leaves to the next.

    Attributes:
      state: of the recurrent cell [b, width].
      recent: the last codes, the newest last [b, largest lag].
    """

    state: jax.Array
    recent: jax.Array


class GRU(nn.Module):
    """Gated recurrent unit over codes, conditioned on a context vector at every step.

    Cho et al. 2014 (arXiv:1406.1078). A cell of `calojax.nn.sequence.Autoregressive`.

    Attributes:
      size: number of codes k.
      length: number of positions t.
      width: size of the recurrent state.
      embedding: size of the code and position embeddings.
      lags: how far back the codes are that a step sees besides its state; on a grid, those of the
        neighbours on each axis.
    """

    size: int
    length: int
    width: int
    embedding: int
    lags: tuple[int, ...] = (1,)

    def setup(self):
        self.tokens = nn.Embed(self.size + 1, self.embedding)
        # Two at least: flax's table of one row fails for scalar indices.
        self.positions = nn.Embed(max(self.length, 2), self.embedding)
        self.initial = nn.Dense(self.width)
        self.input = nn.Dense(self.width)
        self.cell = nn.GRUCell(self.width)
        self.output = nn.Dense(self.size)

    def start(self, context: jax.Array) -> Carry:
        """Before the first code: context [b, c] or [b, t, c]."""
        whole = context if context.ndim == 2 else context.mean(1)
        recent = jnp.full((len(context), max(self.lags)), self.size, jnp.int32)
        return Carry(nn.tanh(self.initial(whole)), recent)

    def grow(self, carry: Carry, length: int) -> Carry:
        """As it is: it has the same size at every position."""
        return carry

    @property
    def stretch(self) -> int:
        """All positions."""
        return self.length

    def step(
        self, carry: Carry, token: jax.Array, position: jax.Array, context: jax.Array
    ) -> tuple[Carry, jax.Array]:
        """One step: token [b], position [], context as of `start` -> (carry, logits [b, k])."""
        recent = jnp.concatenate([carry.recent[:, 1:], token[:, None]], 1)
        first, *others = (self.tokens(recent[:, -lag]) for lag in self.lags)
        here = sequence.context_at(context, position)
        seen = [first + self.positions(position), *others, here]
        x = nn.silu(self.input(jnp.concatenate(seen, -1)))
        state, x = self.cell(carry.state, x)
        return Carry(state, recent), self.output(x)

    def logits(self, tokens: jax.Array, context: jax.Array) -> jax.Array:
        """`step` over a whole sequence: tokens [b, t], context [b, c] or [b, t, c] -> [b, t, k]."""
        steps = nn.scan(
            GRU.step,
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=(1, 0, nn.broadcast),
            out_axes=1,
        )
        return steps(self, self.start(context), tokens, jnp.arange(tokens.shape[1]), context)[1]

    def __call__(self, context: jax.Array) -> jax.Array:
        """Touches every parameter, for ``init``: context as of `start` -> logits [b, k]."""
        token = jnp.full(len(context), self.size)
        return self.step(self.start(context), token, jnp.zeros((), int), context)[1]
