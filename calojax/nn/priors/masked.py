"""Masked parallel decoding: every pass fills in some of the unknown codes.

After MaskGIT (Chang et al. 2022, arXiv:2202.04200), with its cosine schedule and two differences:

- Positions are filled in random order, by draws from the conditional distributions. MaskGIT keeps
  the most confident draws, which makes samples less diverse than the data. With one position per
  pass, random order draws from the joint distribution exactly; with fewer passes, codes of the same
  pass are drawn independently.
- In training the number of masked positions is uniform in 1..t. The mean loss is then the bound of
  an order-agnostic autoregressive model (Hoogeboom et al. 2022, arXiv:2110.02037): an upper bound
  in nats per code, comparable with the likelihood of other priors.
"""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from calojax import rng
from calojax.nn.priors import categorical, transformer
from calojax.nn.priors.positions import Positions
from calojax.nn.priors.prior import Network, Noise, Settings


def build(settings: Settings, size: int, positions: Positions, width: int) -> "Masked":
    """The prior that fills in codes in parallel."""
    network = transformer.from_settings(settings, size, positions, causal=False)
    return Masked(network, settings.passes)


class Filler(Network, Protocol):
    """The interface of networks in `Masked`; tokens are codes 0..k-1, or k for unknown codes."""

    def logits_at(self, tokens: jax.Array, context: jax.Array, chosen: jax.Array, /) -> jax.Array:
        """`logits` at chosen positions: [b, n] -> [b, n, k]."""
        ...


@dataclasses.dataclass(frozen=True)
class Masked:
    """A prior that fills in many codes at once.

    Attributes:
      network: network of the distribution of unknown codes given the known ones.
      passes: number of evaluations of the network per sequence, at most one per position.
    """

    network: Filler
    passes: int

    def init(self, key: jax.Array, context: jax.Array) -> Any:
        return self.network.init(key, context)

    def loss(
        self, variables: Any, keys: jax.Array, codes: jax.Array, context: jax.Array
    ) -> jax.Array:
        """Mean of -log p(code | unmasked codes) over masked codes."""
        masked = masks(keys, self.network.length)
        tokens = jnp.where(masked, self.network.size, codes)
        log_p = categorical.log_prob(self.network.bind(variables).logits(tokens, context), codes)
        return -jnp.sum(log_p, axis=-1, where=masked) / jnp.sum(masked, axis=-1)

    def noise(self, keys: jax.Array) -> Noise:
        """Quantiles of the codes, and the order of filling, [b, t] each."""
        length = self.network.length
        order = jax.vmap(lambda key: jax.random.permutation(key, length))
        return {
            "uniform": categorical.uniforms(rng.streams(keys, "codes"), length),
            "order": order(rng.streams(keys, "order")).astype(jnp.int32),
        }

    def draw(
        self, variables: Any, noise: Noise, context: jax.Array, *, temperature: float = 1.0
    ) -> jax.Array:
        size, number = self.network.size, context.shape[0]
        u = noise["uniform"]
        rows = jnp.arange(number)[:, None]

        def fill(tokens, chosen):
            logits = self.network.bind(variables).logits_at(tokens, context, chosen)
            at = jnp.take_along_axis(u, chosen, axis=1, mode="clip")
            codes = categorical.choose(at, logits / temperature)
            return tokens.at[rows, chosen].set(codes, mode="drop"), None

        unknown = jnp.full((number, self.network.length), size, jnp.int32)
        return jax.lax.scan(fill, unknown, chosen_by_pass(noise["order"], self.passes))[0]


def known_after(length: int, passes: int) -> np.ndarray:
    """Numbers of known positions after 0, 1, ... passes: int [passes + 1], from 0 to length.

    length x cos(pi/2 x pass / passes) positions are unknown (MaskGIT, section 3.3), but every pass
    fills at least one position, and there are at most as many passes as positions.
    """
    passes = min(passes, length)
    done = np.arange(passes + 1)
    by_cosine = np.ceil(length * (1 - np.cos(np.pi / 2 * done / passes)))
    # Rounding may make the last one larger than length.
    return np.clip(by_cosine, done, length).astype(int)


def chosen_by_pass(order: jax.Array, passes: int) -> jax.Array:
    """Positions to fill in every pass, int32 [passes, b, n], from the order of filling [b, t].

    Passes with fewer than n positions are padded by t, which is not a position.
    """
    length = order.shape[1]
    known = known_after(length, passes)
    nth = known[:-1, None] + np.arange(np.diff(known).max())
    chosen = order[:, np.minimum(nth, length - 1)]
    return jnp.where(nth[None] < known[1:, None], chosen, length).transpose(1, 0, 2)


def masks(keys: jax.Array, length: int) -> jax.Array:
    """Masks of a uniformly random number of positions, at least 1: keys [b] -> bool [b, length]."""

    def mask(key):
        number = jax.random.randint(rng.stream(key, "number"), (), 1, length + 1)
        return jax.random.permutation(rng.stream(key, "order"), length) < number

    return jax.vmap(mask)(keys)
