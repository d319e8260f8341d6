"""Autoregressive priors: a network predicts every code from the codes before it."""

import dataclasses
import itertools
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from calojax.nn.priors import categorical
from calojax.nn.priors.prior import Network, Variables


class Cell(Network, Protocol):
    """The interface of the linen modules in `Autoregressive`.

    Tokens are codes 0..k-1, or k before the first code. Methods, called through ``apply``:

    - ``start(context) -> carry`` before the first code;
    - ``grow(carry, length) -> carry`` with room for positions below ``length``;
    - ``step(carry, token [b], position [], context [b, c]) -> (carry, logits [b, k])``;
    - ``logits(tokens [b, t], context) -> [b, t, k]``, all steps at once.
    """

    @property
    def stretch(self) -> int:
        """Largest number of positions to make room for at a time."""
        ...


@dataclasses.dataclass(frozen=True)
class Autoregressive:
    """p(codes | context) as the product of p(code | earlier codes, context).

    Attributes:
      cell: network of the distribution of the next code.
    """

    cell: Cell

    def init(self, key: jax.Array, context: jax.Array) -> Variables:
        """See `Prior`."""
        return self.cell.init(key, context)

    def loss(
        self, variables: Variables, keys: jax.Array, codes: jax.Array, context: jax.Array
    ) -> jax.Array:
        """Negative log-likelihood per code; the keys are not used."""
        return -self.log_probs(variables, codes, context).mean(-1)

    def log_probs(self, variables: Variables, codes: jax.Array, context: jax.Array) -> jax.Array:
        """log p(code | earlier codes, context) in nats: codes [b, t] -> [b, t]."""
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
