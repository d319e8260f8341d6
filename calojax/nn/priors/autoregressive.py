"""Autoregressive priors: a network predicts every code from the codes before it."""

import dataclasses
import itertools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from calojax.nn.priors import categorical
from calojax.nn.priors.prior import Variables


class Cell(Protocol):
    """What `Autoregressive` asks of a linen module.

    Tokens are codes 0..k-1, and k for "before the first". Methods, through ``apply``:

    - ``start(context) -> carry``, before the first code;
    - ``grow(carry, length) -> carry``, with room for steps at positions below ``length``;
    - ``step(carry, token [b], position [], context [b, c]) -> (carry, logits [b, k])``;
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
        return categorical.log_prob(
            self.cell.apply(variables, tokens, context, method="logits"), codes
        )

    def draw(
        self, variables: Variables, keys: jax.Array, context: jax.Array, *, temperature: float = 1.0
    ) -> jax.Array:
        """See `Prior`."""

        def step(state, inputs):
            carry, token = state
            position, u = inputs
            here = context if context.ndim == 2 else context[:, position]
            carry, logits = self.cell.apply(variables, carry, token, position, here, method="step")
            token = categorical.choose(u, logits / temperature)
            return (carry, token), token

        length = self.cell.length
        carry = self.cell.apply(variables, context, method="start")
        token = jnp.full(len(context), self.cell.size, jnp.int32)
        inputs = jnp.arange(length), categorical.uniforms(keys, length).T
        ends = np.linspace(0, length, -(-length // self.cell.stretch) + 1).astype(int)
        codes = []
        for start, end in itertools.pairwise(ends.tolist()):
            carry = self.cell.apply(variables, carry, end, method="grow")
            piece = jax.tree.map(lambda x, start=start, end=end: x[start:end], inputs)
            (carry, token), drawn = jax.lax.scan(step, (carry, token), piece)
            codes.append(drawn)
        return jnp.concatenate(codes).T
