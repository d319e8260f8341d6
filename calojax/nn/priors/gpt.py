"""The causal transformer of the released Calo-VQ, with a key/value cache.

It is the released configuration (arXiv:2405.06605) without its dropout of 0.1: positions have
learnt embeddings, the last components of a token's embedding are the condition, code 0 precedes the
first code, and the last layer has no bias.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp


class Cache(NamedTuple):
    """Keys and values [b, n, h, d] of a block for positions 0..n-1; zeros at later positions."""

    keys: jax.Array
    values: jax.Array


class Block(nn.Module):
    """A pre-LN transformer block: causal attention, a GELU MLP, and residual connections."""

    width: int
    heads: int

    def setup(self):
        self.attention_norm = nn.LayerNorm()
        self.projection = nn.Dense(3 * self.width)
        self.attention_output = nn.Dense(self.width)
        self.mlp_norm = nn.LayerNorm()
        self.mlp_input = nn.Dense(4 * self.width)
        self.mlp_output = nn.Dense(self.width)

    def __call__(self, x: jax.Array) -> jax.Array:
        """All positions: [b, t, width] -> [b, t, width]."""
        query, key, value = self._project(x)
        return self._finish(x, jax.nn.dot_product_attention(query, key, value, is_causal=True))

    def step(self, x: jax.Array, cache: Cache, position: jax.Array) -> tuple[jax.Array, Cache]:
        """One position [], given the cache: [b, 1, width] -> ([b, 1, width], cache)."""
        query, key, value = self._project(x)
        at = (0, position, 0, 0)
        cache = Cache(
            jax.lax.dynamic_update_slice(cache.keys, key, at),
            jax.lax.dynamic_update_slice(cache.values, value, at),
        )
        return self._finish(x, _attend(query, cache, position)), cache

    def _project(self, x):
        projected = self.projection(self.attention_norm(x))
        return jnp.split(projected.reshape(*x.shape[:2], 3 * self.heads, -1), 3, 2)

    def _finish(self, x, mixed):
        x = x + self.attention_output(mixed.reshape(x.shape))
        return x + self.mlp_output(nn.gelu(self.mlp_input(self.mlp_norm(x))))


class GPT(nn.Module):
    """The released transformer, a cell of `Autoregressive`.

    Attributes:
      size: number of codes k.
      length: number of positions t.
      layers: number of blocks.
      heads: number of attention heads, a divisor of the width.
      width: width of the residual stream.
      conditions: number of components of the context c.
      stretch: largest number of positions by which the cache grows at a time. Every step reads the
        whole cache, so growing it is faster than a full cache from the start (1.4 times for 417
        positions on CPU), but each size is compiled.
    """

    size: int
    length: int
    layers: int
    heads: int
    width: int
    conditions: int
    stretch: int = 128

    def setup(self):
        self.tokens = nn.Embed(self.size, self.width - self.conditions)
        # At least two: a flax embedding of one row fails for scalar indices.
        self.places = nn.Embed(max(self.length, 2), self.width)
        self.blocks = [Block(self.width, self.heads) for _ in range(self.layers)]
        self.norm = nn.LayerNorm()
        # Small, so that training starts near the uniform distribution.
        small = nn.initializers.normal(0.02)
        self.output = nn.Dense(self.size, use_bias=False, kernel_init=small)

    def logits(self, tokens: jax.Array, context: jax.Array) -> jax.Array:
        """All positions: tokens [b, t] (or a prefix), context -> logits [b, t, k]."""
        place, context = self.inputs(context)
        t = tokens.shape[1]
        x = self._embed(tokens, place[:t], context[:t].swapaxes(0, 1))
        for block in self.blocks:
            x = block(x)
        return self.output(self.norm(x))

    def inputs(self, context: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Places [t] and their contexts [t, b, c]."""
        context = context[None] if context.ndim == 2 else context.swapaxes(0, 1)
        shape = self.length, *context.shape[1:]
        return jnp.arange(self.length), jnp.broadcast_to(context, shape)

    def start(self, context: jax.Array) -> tuple[Cache, ...]:
        shape = context.shape[0], 0, self.heads, self.width // self.heads
        nothing = jnp.zeros(shape, jnp.float32)
        return (Cache(nothing, nothing),) * self.layers

    def grow(self, caches: tuple[Cache, ...], length: int) -> tuple[Cache, ...]:
        more = length - caches[0].keys.shape[1]
        return jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))), caches)

    def step(
        self, caches: tuple[Cache, ...], token: jax.Array, inputs: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[Cache, ...], jax.Array]:
        place, context = inputs
        x = self._embed(token[:, None], place[None], context[:, None])
        after = []
        for block, cache in zip(self.blocks, caches, strict=True):
            x, cache = block.step(x, cache, place)
            after.append(cache)
        return tuple(after), self.output(self.norm(x))[:, 0]

    def __call__(self, context: jax.Array) -> jax.Array:
        """Uses every parameter, for ``init``: context [b, c] -> logits [b, t, k]."""
        return self.logits(jnp.full((len(context), self.length), self.size), context)

    def _embed(self, tokens, places, context):
        tokens = self.tokens(jnp.where(tokens < self.size, tokens, 0))
        return jnp.concatenate([tokens, context], -1) + self.places(places)[None]


def _attend(query: jax.Array, cache: Cache, position: jax.Array) -> jax.Array:
    """Attention of one query [b, 1, h, d] to the cache up to a position [] -> [b, 1, h, d].

    XLA fuses these products and sums into one pass over the cache. Before a matrix product it would
    copy the cache into another layout, at every step (three times as slow on CPU).
    """
    scores = jnp.sum(query * cache.keys, axis=-1) / query.shape[-1] ** 0.5
    seen = jnp.arange(cache.keys.shape[1])[None, :, None] <= position
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=1)
    return jnp.sum(weights[..., None] * cache.values, axis=1, keepdims=True)
