"""Vector quantisation: a codebook, the nearest code, the gradient through it, and its learning.

van den Oord et al. 2017 (arXiv:1711.00937), equations 1-3; exponential moving averages after its
appendix A.1; revival of dead codes after Jukebox (arXiv:2005.00341, section 3.1).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Codebook(NamedTuple):
    """A codebook that follows the encoder by moving averages.

    Attributes:
      vectors: the codes [k, d].
      count: moving average of how many latents a batch gave each code [k].
      total: moving average of the sum of those latents [k, d].
    """

    vectors: jax.Array
    count: jax.Array
    total: jax.Array


def nearest(latents: jax.Array, vectors: jax.Array) -> jax.Array:
    """Index of the code nearest to each latent: [..., d], [k, d] -> [...] int32."""
    # |z - e|^2 without |z|^2, which is the same for all codes.
    distance = (vectors**2).sum(-1) - 2.0 * latents @ vectors.T
    return jnp.argmin(distance, axis=-1).astype(jnp.int32)


def straight_through(latents: jax.Array, codes: jax.Array) -> jax.Array:
    """The value of ``codes`` with the gradient of ``latents``; both [..., d]."""
    return latents + jax.lax.stop_gradient(codes - latents)


def codebook_loss(latents: jax.Array, codes: jax.Array) -> jax.Array:
    """||sg[z] - e||^2: draws the codes to the latents; mean over all elements."""
    return jnp.mean((jax.lax.stop_gradient(latents) - codes) ** 2)


def commitment_loss(latents: jax.Array, codes: jax.Array) -> jax.Array:
    """||z - sg[e]||^2: keeps the encoder near its codes; mean over all elements."""
    return jnp.mean((latents - jax.lax.stop_gradient(codes)) ** 2)


def start(key: jax.Array, latents: jax.Array, size: int) -> Codebook:
    """A codebook of ``size`` latents drawn from latents [n, d]; the key is consumed.

    Codes that start on data are all in reach of the encoder from the first step.
    """
    vectors = _draw(key, latents, size)
    count = jnp.full((size,), len(latents) / size, latents.dtype)
    return Codebook(vectors, count, vectors * count[:, None])


def update(
    codebook: Codebook,
    latents: jax.Array,
    codes: jax.Array,
    key: jax.Array,
    *,
    decay: float,
    revive_below: float,
) -> Codebook:
    """Moves the codes towards the means of their latents and revives those that died.

    Args:
      codebook: before the step.
      latents: encoder outputs of the batch [n, d], on all devices together.
      codes: their nearest codes [n].
      key: consumed, for the choice of latents that revive dead codes.
      decay: of the moving averages, a step.
      revive_below: a code whose moving count is below this fraction of an even share
        (n latents / k codes) is put on a random latent of the batch.
    """
    size = len(codebook.vectors)
    latents = jax.lax.stop_gradient(latents)
    batch_count = jax.ops.segment_sum(jnp.ones(len(codes), latents.dtype), codes, size)
    batch_total = jax.ops.segment_sum(latents, codes, size)
    count = decay * codebook.count + (1 - decay) * batch_count
    total = decay * codebook.total + (1 - decay) * batch_total

    share = len(latents) / size
    dead = count < revive_below * share
    # A revived code starts with an even share, so it has as long to live as any other.
    reborn = _draw(key, latents, size)
    count = jnp.where(dead, share, count)
    total = jnp.where(dead[:, None], reborn * share, total)
    return Codebook(total / count[:, None], count, total)


def perplexity(frequency: jax.Array) -> jax.Array:
    """exp of the entropy of code frequencies [k] that sum to one: the effective number of codes."""
    safe = jnp.where(frequency > 0, frequency, 1.0)
    return jnp.exp(-jnp.sum(frequency * jnp.log(safe)))


def _draw(key: jax.Array, latents: jax.Array, size: int) -> jax.Array:
    """``size`` of latents [n, d], no two alike while there are enough."""
    index = jax.random.choice(key, len(latents), (size,), replace=size > len(latents))
    return latents[index]
