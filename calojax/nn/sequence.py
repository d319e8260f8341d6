"""Priors over sequences of codes: what all have in common, and those that go code by code.

A `Prior` describes codes [b, t] in 0..k-1 given a context, [b, c] or one for each position,
[b, t, c]: it has a training loss and draws,
with one key for each sequence. Here is `Autoregressive`, with `calojax.nn.gru.GRU` or a causal
`calojax.nn.transformer.Transformer` as its cell; `calojax.nn.masked.Masked` fills in codes in
parallel. Variables are the linen variables of the network inside.
"""

import dataclasses
import itertools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

Variables = Any
Carry = Any


class Prior(Protocol):
    """See the module's docstring."""

    def init(self, key: jax.Array, context: jax.Array) -> Variables:
        """Random variables for contexts [b, c]."""
        ...

    def loss(
        self, variables: Variables, keys: jax.Array, codes: jax.Array, context: jax.Array
    ) -> jax.Array:
        """Nats a code: keys [b], codes [b, t], context [b, c] -> [b].

        Either -log p(codes) / t or, on average over keys, an upper bound of it.
        """
        ...

    def draw(
        self, variables: Variables, keys: jax.Array, context: jax.Array, *, temperature: float = 1.0
    ) -> jax.Array:
        """Codes int32 [b, t] from one key for each sequence [b] and context [b, c].

        Logits are divided by the temperature; 1 is the distribution that was learnt.
        """
        ...


class Cell(Protocol):
    """What `Autoregressive` asks of a linen module.

    Tokens are codes 0..k-1, and k for "before the first". Methods, through ``apply``:

    - ``start(context) -> carry``, before the first code;
    - ``grow(carry, length) -> carry``, with room for steps at positions below ``length``;
    - ``step(carry, token [b], position [], context) -> (carry, logits [b, k])``;
    - ``logits(tokens [b, t], context) -> [b, t, k]``, all steps at once.

    Attributes:
      size: number of codes k.
      length: number of positions t.
      stretch: positions to make room for at a time, at most.
    """

    size: int
    length: int
    stretch: int

    def init(self, key: jax.Array, context: jax.Array) -> Variables:
        """Random variables."""
        ...

    def apply(self, variables: Variables, *args: Any, method: str) -> Any:
        """Runs a method with the given variables."""
        ...


@dataclasses.dataclass(frozen=True)
class Autoregressive:
    """p(codes | context) as the product of p(code | codes before, context); a `Prior`.

    Attributes:
      cell: the network that gives a code's distribution.
    """

    cell: Cell

    def init(self, key: jax.Array, context: jax.Array) -> Variables:
        """See `Prior`."""
        return self.cell.init(key, context)

    def loss(
        self, variables: Variables, keys: jax.Array, codes: jax.Array, context: jax.Array
    ) -> jax.Array:
        """Negative log-likelihood; the keys are not needed."""
        return -self.log_probs(variables, codes, context).mean(-1)

    def log_probs(self, variables: Variables, codes: jax.Array, context: jax.Array) -> jax.Array:
        """log p(code_t | codes before t, context) in nats: codes [b, t] -> [b, t]."""
        first = jnp.full_like(codes[:, :1], self.cell.size)
        tokens = jnp.concatenate([first, codes[:, :-1]], axis=1)
        return log_prob(self.cell.apply(variables, tokens, context, method="logits"), codes)

    def draw(
        self, variables: Variables, keys: jax.Array, context: jax.Array, *, temperature: float = 1.0
    ) -> jax.Array:
        """See `Prior`."""

        def step(state, inputs):
            carry, token = state
            position, u = inputs
            carry, logits = self.cell.apply(
                variables, carry, token, position, context, method="step"
            )
            token = choose(u, logits / temperature)
            return (carry, token), token

        length = self.cell.length
        carry = self.cell.apply(variables, context, method="start")
        token = jnp.full(len(context), self.cell.size, jnp.int32)
        inputs = jnp.arange(length), uniforms(keys, length).T
        ends = np.linspace(0, length, -(-length // self.cell.stretch) + 1).astype(int)
        codes = []
        for start, end in itertools.pairwise(ends.tolist()):
            carry = self.cell.apply(variables, carry, end, method="grow")
            piece = jax.tree.map(lambda x, start=start, end=end: x[start:end], inputs)
            (carry, token), drawn = jax.lax.scan(step, (carry, token), piece)
            codes.append(drawn)
        return jnp.concatenate(codes).T


def context_at(context: jax.Array, position: jax.Array) -> jax.Array:
    """The context of a position []: [b, c] or [b, t, c] -> [b, c]."""
    return context if context.ndim == 2 else context[:, position]


def log_prob(logits: jax.Array, codes: jax.Array) -> jax.Array:
    """Log-probability of codes [...] under softmax(logits [..., k])."""
    chosen = jnp.take_along_axis(logits, codes[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def uniforms(keys: jax.Array, length: int) -> jax.Array:
    """Numbers in [0, 1) for `choose`: keys [b] -> [b, length]."""
    return jax.vmap(lambda key: jax.random.uniform(key, (length,), jnp.float32))(keys)


def choose(u: jax.Array, logits: jax.Array) -> jax.Array:
    """The code at quantile u [...] of softmax(logits [..., k]) -> int32 [...].

    One random number a code instead of Gumbel noise for each of k. Of many codes first a group is
    found and then one of the group, so that few numbers are summed up one after the other. Codes
    whose p is zero are never chosen.
    """
    p = jax.nn.softmax(logits)
    size = p.shape[-1]
    if size <= 2 * _GROUP:
        return _at(u * p.sum(-1), p)[0]
    missing = -size % _GROUP
    p = jnp.pad(p, [(0, 0)] * (p.ndim - 1) + [(0, missing)])
    p = p.reshape(*p.shape[:-1], -1, _GROUP)
    groups = p.sum(-1)
    group, before = _at(u * groups.sum(-1), groups)
    mine = group[..., None] == jnp.arange(groups.shape[-1])
    inside = jnp.where(mine[..., None], p, 0).sum(-2)
    return group * _GROUP + _at(u * groups.sum(-1) - before, inside)[0]


# Codes of a group.
_GROUP = 16


def _at(value: jax.Array, p: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where the sum of p [..., k] passes a value [...], and what it is before: int32 [...], [...].

    Compared with the sum itself, a rounded value could lie at its end, behind all p; it is held
    below it. Where p is zero the sum does not rise, and so nothing is found there.
    """
    cumulative = jnp.cumsum(p, axis=-1)
    end = cumulative[..., -1]
    value = jnp.clip(value, 0, end * (1 - 2**-23))
    passed = cumulative <= value[..., None]
    return jnp.sum(passed, -1, dtype=jnp.int32), jnp.max(jnp.where(passed, cumulative, 0), -1)
