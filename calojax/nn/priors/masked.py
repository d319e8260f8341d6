"""Masked parallel decoding: all codes unknown at first, a few more known after every pass.

After MaskGIT (Chang et al. 2022, arXiv:2202.04200), with its cosine schedule. Two things differ, so
that the prior is a distribution and not a search for likely codes:

- the order in which positions are filled is random, and codes are drawn from their conditionals.
  MaskGIT keeps the draws it is most confident of, which favours probable codes and makes samples
  less diverse than the data. With one position a pass, the random order draws from the joint
  distribution exactly; the fewer passes, the more codes are drawn without regard to each other;
- in training the number of masked positions is uniform in 1..t. The mean loss is then the bound
  of an order-agnostic autoregressive model (Hoogeboom et al. 2022, arXiv:2110.02037),
  an upper bound in nats a code, to be compared with the likelihood of other priors.
"""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from calojax import rng
from calojax.nn.priors import categorical, transformer
from calojax.nn.priors.positions import Positions
from calojax.nn.priors.prior import Settings


def build(settings: Settings, size: int, positions: Positions) -> "Masked":
    """The prior that fills in codes in parallel."""
    network = transformer.from_settings(settings, size, positions, causal=False)
    return Masked(network, settings.passes)


class Network(Protocol):
    """What `Masked` asks of a linen module.

    Tokens are codes 0..k-1, and k for "not known". Methods, through ``apply``:

    - ``logits(tokens [b, t], context [b, c]) -> [b, t, k]``;
    - ``logits_at(tokens, context, chosen [b, n]) -> [b, n, k]``, of chosen positions alone.

    Attributes:
      size: number of codes k.
      length: number of positions t.
    """

    size: int
    length: int

    def init(self, key: jax.Array, context: jax.Array) -> Any:
        """Random variables."""
        ...

    def apply(self, variables: Any, *args: Any, method: str) -> Any:
        """Runs a method with the given variables."""
        ...


@dataclasses.dataclass(frozen=True)
class Masked:
    """A `calojax.nn.priors.prior.Prior` that fills in many codes at once.

    Attributes:
      network: gives the distribution of every code not known, given those known.
      passes: runs of the network for a sequence, at most one a position.
    """

    network: Network
    passes: int

    def init(self, key: jax.Array, context: jax.Array) -> Any:
        """See `Prior`."""
        return self.network.init(key, context)

    def loss(
        self, variables: Any, keys: jax.Array, codes: jax.Array, context: jax.Array
    ) -> jax.Array:
        """Mean of -log p(code | codes not masked) over masked codes."""
        masked = masks(keys, self.network.length)
        tokens = jnp.where(masked, self.network.size, codes)
        logits = self.network.apply(variables, tokens, context, method="logits")
        log_p = categorical.log_prob(logits, codes)
        return -jnp.sum(log_p, axis=-1, where=masked) / jnp.sum(masked, axis=-1)

    def draw(
        self, variables: Any, keys: jax.Array, context: jax.Array, *, temperature: float = 1.0
    ) -> jax.Array:
        """See `Prior`."""
        size, length = self.network.size, self.network.length
        u = categorical.uniforms(rng.streams(keys, "codes"), length)
        rows = jnp.arange(len(context))[:, None]

        def fill(tokens, chosen):
            logits = self.network.apply(variables, tokens, context, chosen, method="logits_at")
            at = jnp.take_along_axis(u, chosen, axis=1, mode="clip")
            codes = categorical.choose(at, logits / temperature)
            return tokens.at[rows, chosen].set(codes, mode="drop"), None

        unknown = jnp.full((len(context), length), size, jnp.int32)
        order = fill_order(rng.streams(keys, "order"), length, self.passes)
        return jax.lax.scan(fill, unknown, order)[0]


def known_after(length: int, passes: int) -> np.ndarray:
    """Positions known after 0, 1, ... passes: int [passes + 1], from 0 to length.

    Those unknown follow length x cos(pi/2 x pass / passes) (MaskGIT, section 3.3), but every pass
    fills at least one; more passes than positions count as one a position.
    """
    passes = min(passes, length)
    done = np.arange(passes + 1)
    by_cosine = np.ceil(length * (1 - np.cos(np.pi / 2 * done / passes)))
    # Rounding may lift the last one above length.
    return np.clip(by_cosine, done, length).astype(int)


def fill_order(keys: jax.Array, length: int, passes: int) -> jax.Array:
    """Positions to fill in every pass: keys [b] -> int32 [passes, b, n], n of the largest pass.

    Smaller passes end with the number ``length``, which is no position.
    """
    known = known_after(length, passes)
    order = jax.vmap(lambda key: jax.random.permutation(key, length))(keys).astype(jnp.int32)
    nth = known[:-1, None] + np.arange(np.diff(known).max())
    chosen = order[:, np.minimum(nth, length - 1)]
    return jnp.where(nth < known[1:, None], chosen, length).transpose(1, 0, 2)


def masks(keys: jax.Array, length: int) -> jax.Array:
    """A uniform number 1..length of masked positions, anywhere: keys [b] -> bool [b, length]."""

    def mask(key):
        number = jax.random.randint(rng.stream(key, "number"), (), 1, length + 1)
        return jax.random.permutation(rng.stream(key, "order"), length) < number

    return jax.vmap(mask)(keys)
