"""The recurrent prior's cell: a gated recurrent unit over codes.

A step waits for the code before it, so what a step takes is what a shower takes. Everything that
need not wait is done before the first step: what an embedded code contributes to the input layer is
a row of a table, and the three gates, which see the same, are one matrix.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from calojax.nn.priors.autoregressive import Autoregressive
from calojax.nn.priors.positions import Positions
from calojax.nn.priors.prior import Settings


def build(settings: Settings, size: int, positions: Positions) -> Autoregressive:
    """The recurrent prior."""
    lags = positions.neighbours
    return Autoregressive(GRU(size, positions.length, settings.width, settings.embedding, lags))


class Weights(NamedTuple):
    """What all steps share, for k codes, a width w and contexts of c numbers.

    Attributes:
      of_code: input layer's share of the code so far back: for every lag, matrices whose product is
        the table of all codes [k + 1, w]. They are multiplied where the table has fewer rows than
        will be looked up.
      of_position: of the position, with the bias, [t, w].
      of_context: kernel for the context [c, w].
      of_input: kernel of the gates (reset, update, new) for the input [w, 3 w] and bias [3 w].
      of_state: kernel for the state [w, 3 w], and the bias of the new one [w].
    """

    of_code: tuple[tuple[jax.Array, ...], ...]
    of_position: jax.Array
    of_context: jax.Array
    of_input: tuple[jax.Array, jax.Array]
    of_state: tuple[jax.Array, jax.Array]


class Carry(NamedTuple):
    """What a step leaves to the next.

    Attributes:
      state: of the recurrent cell [b, width].
      recent: the last codes, the newest last [b, largest lag].
      weights: the same for all steps.
    """

    state: jax.Array
    recent: jax.Array
    weights: Weights


class GRU(nn.Module):
    """Gated recurrent unit over codes, conditioned on a context vector at every step.

    Cho et al. 2014 (arXiv:1406.1078). A cell of `calojax.nn.priors.autoregressive.Autoregressive`.

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
        tabled = len(context) * self.length > self.size
        return Carry(self._initial(context), self._nothing(context), self._weights(tabled))

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
        """One step: token [b], position [], its context [b, c] -> (carry, logits [b, k])."""
        weights = carry.weights
        recent = jnp.concatenate([carry.recent[:, 1:], token[:, None]], 1)
        x = weights.of_position[position]
        x += context @ weights.of_context
        for lag, (table, *others) in zip(self.lags, weights.of_code, strict=True):
            x += functools.reduce(jnp.matmul, others, table[recent[:, -lag]])
        kernel, bias = weights.of_input
        state = _next(carry.state, nn.silu(x) @ kernel + bias, weights)
        return Carry(state, recent, weights), self.output(state)

    def logits(self, tokens: jax.Array, context: jax.Array) -> jax.Array:
        """`step` over a whole sequence: tokens [b, t], context [b, c] or [b, t, c] -> [b, t, k]."""
        steps = nn.scan(
            GRU._learning_step,
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=(1, 0, nn.broadcast),
            out_axes=1,
        )
        start = self._initial(context), self._nothing(context)
        return steps(self, start, tokens, jnp.arange(tokens.shape[1]), context)[1]

    def __call__(self, context: jax.Array) -> jax.Array:
        """Touches every parameter, for ``init``: context as of `start` -> logits [b, k]."""
        start = self._initial(context), self._nothing(context)
        token = jnp.full(len(context), self.size)
        return self._learning_step(start, token, jnp.zeros((), int), context)[1]

    def _learning_step(self, carry, token, position, context):
        """`step` by the layers as they are.

        Their gradients are sums over rows of embeddings, and of single gates: on a CPU a step of
        training takes a fifth less time than with what generation has ready beforehand.
        """
        state, recent = carry
        recent = jnp.concatenate([recent[:, 1:], token[:, None]], 1)
        first, *others = (self.tokens(recent[:, -lag]) for lag in self.lags)
        here = context if context.ndim == 2 else context[:, position]
        seen = [first + self.positions(position), *others, here]
        state, x = self.cell(state, nn.silu(self.input(jnp.concatenate(seen, -1))))
        return (state, recent), self.output(x)

    def _nothing(self, context: jax.Array) -> jax.Array:
        """The codes before the first."""
        return jnp.full((len(context), max(self.lags)), self.size, jnp.int32)

    def _initial(self, context: jax.Array) -> jax.Array:
        whole = context if context.ndim == 2 else context.mean(1)
        return nn.tanh(self.initial(whole))

    def _weights(self, tabled: bool) -> Weights:
        layer, cell = (module.variables["params"] for module in (self.input, self.cell))
        bounds = [self.embedding * number for number in range(1, len(self.lags) + 1)]
        *of_codes, of_context = jnp.split(layer["kernel"], bounds)
        pairs = tuple((self.tokens.embedding, kernel) for kernel in of_codes)
        return Weights(
            tuple((table @ kernel,) for table, kernel in pairs) if tabled else pairs,
            self.positions.embedding @ of_codes[0] + layer["bias"],
            of_context,
            tuple(_beside(cell["ir"][part], cell["iz"][part], cell["in"][part]) for part in _PARTS),
            (_beside(*(cell[gate]["kernel"] for gate in ("hr", "hz", "hn"))), cell["hn"]["bias"]),
        )


_PARTS = ("kernel", "bias")


def _beside(*arrays: jax.Array) -> jax.Array:
    return jnp.concatenate(arrays, -1)


def _next(state: jax.Array, of_input: jax.Array, weights: Weights) -> jax.Array:
    """The state [b, w] after one step, as `flax.linen.GRUCell` has it, from gates [b, 3 w]."""
    kernel, bias = weights.of_state
    reset, update, new = jnp.split(of_input, 3, -1)
    of_reset, of_update, of_new = jnp.split(state @ kernel, 3, -1)
    reset, update = nn.sigmoid(reset + of_reset), nn.sigmoid(update + of_update)
    new = nn.tanh(new + reset * (of_new + bias))
    return (1.0 - update) * new + update * state
