"""The recurrent prior: a gated recurrent unit (GRU) over codes.

Steps are sequential, so everything that does not depend on the state is computed before: a code's
share of the input layer is a row of a table, and the three gates are one matrix. The tables save 6
to 19 % of the time of a prior on a CPU (docs/speed.md).
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from calojax.errors import CalojaxError
from calojax.nn.priors.autoregressive import Autoregressive
from calojax.nn.priors.prior import Grid, Settings
from calojax.nn.recurrence import gru_states, gru_step


def build(settings: Settings, size: int, grid: Grid, width: int) -> Autoregressive:
    """The recurrent prior, which sees the codes before on each axis.

    Raises:
      CalojaxError: if the codes of a step do not divide the grid, or have too many combinations.
    """
    together = settings.codes_per_step
    steps, k = _steps(grid, together), size**together
    if k > max(_MOST_TOKENS, size):
        raise CalojaxError(
            f"{together} codes of {size} have {k} combinations, more than {_MOST_TOKENS}; "
            "lower --prior.codes-per-step."
        )
    cell = GRU(k, math.prod(steps), settings.width, settings.embedding, neighbours(steps))
    return Autoregressive(cell, together)


# Largest number of combinations of the codes of a step.
_MOST_TOKENS = 4096


def _steps(grid: Grid, together: int) -> Grid:
    """The grid of steps that draw so many consecutive codes."""
    left, steps = together, []
    for number in reversed(grid):
        part = math.gcd(number, left)
        left //= part
        steps.append(number // part)
        if part < number and left > 1:
            break
    if left > 1:
        raise CalojaxError(
            f"{together} consecutive codes do not divide the grid of {grid} codes (z, alpha, r), r "
            "first; change --prior.codes-per-step."
        )
    r, alpha, z = steps
    return z, alpha, r


def neighbours(grid: Grid) -> tuple[int, ...]:
    """Distances back in the sequence to the code before on each axis; equal ones count once."""
    _, alpha, r = grid
    return tuple(sorted({1, r, r * alpha}))


class Tables(NamedTuple):
    """Products of the parameters, for k codes and a width w."""

    # Contribution of a code to the input layer, for every lag a table [k + 1, w].
    codes: tuple[jax.Array, ...]
    # Kernel [w, 3 w] and bias [3 w] from the input layer to the gates (reset, update, new).
    input: tuple[jax.Array, jax.Array]
    # Kernel [w, 3 w] from the state to the gates, and bias [1, w] of the new state.
    state: tuple[jax.Array, jax.Array]


class Carry(NamedTuple):
    """The carry of a step."""

    state: jax.Array  # recurrent state [b, w]
    recent: jax.Array  # last codes, the newest last, [b, largest lag]
    tables: Tables  # the same for all steps


class GRU(nn.Module):
    """Gated recurrent unit over codes, conditioned on a context vector at every step.

    Cho et al. 2014 (arXiv:1406.1078). A cell of `Autoregressive`.
    """

    size: int  # number of codes k
    length: int  # number of positions t
    width: int  # size of the recurrent state w
    embedding: int  # size of the code and position embeddings
    # Distances back to the codes in the input of a step; on a grid, to its neighbours.
    lags: tuple[int, ...] = (1,)

    def setup(self):
        self.tokens = nn.Embed(self.size + 1, self.embedding)
        # At least two: a flax embedding of one row fails for scalar indices.
        self.positions = nn.Embed(max(self.length, 2), self.embedding)
        self.initial = nn.Dense(self.width)
        self.input = nn.Dense(self.width)
        self.cell = nn.GRUCell(self.width)
        self.output = nn.Dense(self.size)

    def start(self, context: jax.Array) -> Carry:
        nothing = jnp.full((context.shape[0], max(self.lags)), self.size, jnp.int32)
        return Carry(self._initial(context), nothing, self._tables())

    def grow(self, carry: Carry, length: int) -> Carry:
        return carry

    @property
    def stretch(self) -> int:
        return self.length

    def inputs(self, context: jax.Array) -> jax.Array:
        """Contribution of place and context to the input layer, [t, b, w]."""
        of_codes, *_, of_context = self._kernels()
        places = self.positions.embedding[: self.length] @ of_codes
        places += self.input.variables["params"]["bias"][None]
        x = context @ of_context
        return places[:, None] + (x[None] if x.ndim == 2 else x.swapaxes(0, 1))

    def step(self, carry: Carry, token: jax.Array, inputs: jax.Array) -> tuple[Carry, jax.Array]:
        tables = carry.tables
        recent = jnp.concatenate([carry.recent[:, 1:], token[:, None]], 1)
        codes = [recent[:, -lag] for lag in self.lags]
        gates = _gates(tables, codes, inputs)
        state = gru_step(carry.state, gates, *tables.state)
        return Carry(state, recent, tables), self.output(state)

    def logits(self, tokens: jax.Array, context: jax.Array) -> jax.Array:
        """`step` over a whole sequence: tokens [b, t], context [b, c] or [b, t, c] -> [b, t, k]."""
        state, recent, tables = self.start(context)
        t, before = tokens.shape[1], recent.shape[1] + 1
        known = jnp.concatenate([recent, tokens], 1)
        codes = [known[:, before - lag : before - lag + t] for lag in self.lags]
        gates = _gates(tables, codes, self.inputs(context)[:t].swapaxes(0, 1))
        states = gru_states(state, gates.swapaxes(0, 1), *tables.state)
        return self.output(states.swapaxes(0, 1))

    def __call__(self, context: jax.Array) -> jax.Array:
        """Uses every parameter, for ``init``: context [b, c] or [b, t, c] -> logits [b, k]."""
        nothing = jnp.full(len(context), self.size)
        token = self.tokens(nothing) + self.positions(jnp.zeros_like(nothing))
        here = context if context.ndim == 2 else context[:, 0]
        x = self.input(jnp.concatenate([*[token] * len(self.lags), here], -1))
        return self.output(self.cell(self._initial(context), nn.silu(x))[1])

    def _initial(self, context: jax.Array) -> jax.Array:
        whole = context if context.ndim == 2 else context.mean(1)
        return nn.tanh(self.initial(whole))

    def _kernels(self) -> list[jax.Array]:
        """Kernels of the input layer: one [e, w] for every lag, and that of the context [c, w]."""
        bounds = [self.embedding * number for number in range(1, len(self.lags) + 1)]
        return jnp.split(self.input.variables["params"]["kernel"], bounds)

    def _tables(self) -> Tables:
        cell = self.cell.variables["params"]
        kernel, bias = (
            jnp.concatenate([cell[gate][part] for gate in ("ir", "iz", "in")], -1)
            for part in ("kernel", "bias")
        )
        recurrent = jnp.concatenate([cell[gate]["kernel"] for gate in ("hr", "hz", "hn")], -1)
        return Tables(
            tuple(self.tokens.embedding @ kernel for kernel in self._kernels()[:-1]),
            (kernel, bias),
            (recurrent, cell["hn"]["bias"][None]),
        )


def _gates(tables: Tables, codes: list[jax.Array], x: jax.Array) -> jax.Array:
    """The contribution of the input to the gates, [..., 3 w].

    From codes [...] for every lag, and the contribution x [..., w] of place and context to the
    input layer.
    """
    for table, code in zip(tables.codes, codes, strict=True):
        x += table[code]
    kernel, bias = tables.input
    return nn.silu(x) @ kernel + jnp.expand_dims(bias, range(x.ndim - 1))
