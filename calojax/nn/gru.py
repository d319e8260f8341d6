"""The recurrent prior's cell: a gated recurrent unit over codes."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class GRU(nn.Module):
    """Gated recurrent unit over codes, conditioned on a context vector at every step.

    Cho et al. 2014 (arXiv:1406.1078). A cell of `calojax.nn.sequence.Autoregressive`.

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
        # Two at least: flax's table of one row fails for scalar indices.
        self.positions = nn.Embed(max(self.length, 2), self.embedding)
        self.initial = nn.Dense(self.width)
        self.input = nn.Dense(self.width)
        self.cell = nn.GRUCell(self.width)
        self.output = nn.Dense(self.size)

    def start(self, context: jax.Array) -> jax.Array:
        """Recurrent state before the first code: context [b, c] -> [b, width]."""
        return nn.tanh(self.initial(context))

    def grow(self, carry: jax.Array, length: int) -> jax.Array:
        """The state as it is: it has the same size at every position."""
        return carry

    @property
    def stretch(self) -> int:
        """All positions."""
        return self.length

    def step(
        self, carry: jax.Array, token: jax.Array, position: jax.Array, context: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """One step: token [b], position [], context [b, c] -> (carry, logits [b, k])."""
        embedded = self.tokens(token) + self.positions(position)
        x = nn.silu(self.input(jnp.concatenate([embedded, context], -1)))
        carry, x = self.cell(carry, x)
        return carry, self.output(x)

    def logits(self, tokens: jax.Array, context: jax.Array) -> jax.Array:
        """`step` over a whole sequence: tokens [b, t], context [b, c] -> logits [b, t, k]."""
        steps = nn.scan(
            GRU.step,
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=(1, 0, nn.broadcast),
            out_axes=1,
        )
        return steps(self, self.start(context), tokens, jnp.arange(tokens.shape[1]), context)[1]

    def __call__(self, context: jax.Array) -> jax.Array:
        """Touches every parameter, for ``init``: context [b, c] -> logits [b, k]."""
        token = jnp.full(len(context), self.size)
        return self.step(self.start(context), token, jnp.zeros((), int), context)[1]
