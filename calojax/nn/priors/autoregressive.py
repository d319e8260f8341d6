"""Autoregressive priors: a network predicts every code from the codes before it."""

import dataclasses
import itertools
from typing import Any, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np

from calojax import rng
from calojax.nn.priors import categorical
from calojax.nn.priors.prior import Noise, Variables
from calojax.nn.recurrence import scan


class Cell(Protocol):
    """The interface of networks in `Autoregressive`: linen modules, of k codes at t positions.

    Tokens are codes 0..k-1, or k before the first code. `step` computes one position at a time, and
    `logits` all at once.
    """

    @property
    def size(self) -> int: ...  # k

    @property
    def length(self) -> int: ...  # t

    @property
    def stretch(self) -> int: ...  # largest number of positions to make room for at a time

    def init(self, key: jax.Array, context: jax.Array, /) -> Variables: ...

    def bind(self, variables: Variables, /) -> Self: ...

    def logits(self, tokens: jax.Array, context: jax.Array, /) -> jax.Array:
        """Logits of all positions: tokens [b, t], context -> [b, t, k]."""
        ...

    def inputs(self, context: jax.Array, /) -> Any:
        """What steps take from their places and the context: arrays [t, b, ...]."""
        ...

    def start(self, context: jax.Array, /) -> Any:
        """The carry before the first code."""
        ...

    def grow(self, carry: Any, length: int, /) -> Any:
        """The carry with room for positions below ``length``."""
        ...

    def step(self, carry: Any, token: jax.Array, inputs: Any, /) -> tuple[Any, jax.Array]:
        """One step: token [b], its inputs [b, ...] -> (carry, logits [b, k])."""
        ...


@dataclasses.dataclass(frozen=True)
class Autoregressive:
    """p(codes | context) as the product of p(code | earlier codes, context).

    A step may draw several consecutive codes together: its token is then one of all their
    combinations, of which the cell has k. Their context is that of the first.
    """

    cell: Cell
    together: int = 1  # codes of a step

    def init(self, key: jax.Array, context: jax.Array) -> Variables:
        """Random variables for contexts of this shape."""
        return self.cell.init(key, self.of_steps(context))

    def loss(
        self, variables: Variables, keys: jax.Array, codes: jax.Array, context: jax.Array
    ) -> jax.Array:
        """-log p(codes) / t in nats, [b]; the keys are not used."""
        return -self.log_probs(variables, codes, context).sum(-1) / codes.shape[1]

    def log_probs(self, variables: Variables, codes: jax.Array, context: jax.Array) -> jax.Array:
        """log p(codes of a step | earlier codes, context) in nats: codes [b, t] -> [b, steps]."""
        codes = self.joined(codes)
        first = jnp.full_like(codes[:, :1], self.cell.size)
        tokens = jnp.concatenate([first, codes[:, :-1]], axis=1)
        logits = self.cell.bind(variables).logits(tokens, self.of_steps(context))
        return categorical.log_prob(logits, codes)

    def noise(self, keys: jax.Array) -> Noise:
        """The random numbers of `draw` from keys [b]: quantiles of the tokens, [b, steps]."""
        return {"uniform": rng.uniform(keys, (self.cell.length,))}

    def draw(
        self, variables: Variables, noise: Noise, context: jax.Array, *, temperature: float = 1.0
    ) -> jax.Array:
        """Codes int32 [b, t]; logits are divided by the temperature."""

        def step(state, inputs):
            carry, token = state
            here, u = inputs
            carry, logits = self.cell.bind(variables).step(carry, token, here)
            token = categorical.choose(u, logits / temperature)
            return (carry, token), token

        length = self.cell.length
        cell = self.cell.bind(variables)
        context = self.of_steps(context)
        carry = cell.start(context)
        token = jnp.full(context.shape[:1], self.cell.size, jnp.int32)
        inputs = cell.inputs(context), noise["uniform"].T
        ends = np.linspace(0, length, -(-length // self.cell.stretch) + 1).astype(int)
        codes = []
        for start, end in itertools.pairwise(ends.tolist()):
            carry = cell.grow(carry, end)
            piece = jax.tree.map(lambda x, start=start, end=end: x[start:end], inputs)
            (carry, token), drawn = scan(step, (carry, token), piece)
            codes.append(drawn)
        return self.apart(jnp.concatenate(codes).T)

    def of_steps(self, context: jax.Array) -> jax.Array:
        """The context of every step, [b, c] or [b, steps, c]."""
        return context if context.ndim == 2 else context[:, :: self.together]

    def joined(self, codes: jax.Array) -> jax.Array:
        """Tokens [b, steps] of codes [b, t]."""
        codes = codes.reshape(codes.shape[0], -1, self.together)
        return (codes * self._place_values()).sum(-1)

    def apart(self, tokens: jax.Array) -> jax.Array:
        """Codes [b, t] of tokens [b, steps]; inverse of `joined`."""
        codes = tokens[..., None] // self._place_values() % self._size
        return codes.reshape(tokens.shape[0], -1)

    @property
    def _size(self) -> int:
        """Number of different codes."""
        return round(self.cell.size ** (1 / self.together))

    def _place_values(self) -> np.ndarray:
        """What each code of a step counts in its token, [1, 1, together]."""
        return self._size ** np.arange(self.together, dtype=np.int32)[None, None]
