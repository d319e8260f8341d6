"""Transformers over codes: causal ones with a key/value cache, and bidirectional ones."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from calojax.errors import CalojaxError
from calojax.nn.priors.autoregressive import Autoregressive
from calojax.nn.priors.positions import Positions, rotate
from calojax.nn.priors.prior import Settings


def build(settings: Settings, size: int, positions: Positions, width: int) -> Autoregressive:
    """The causal transformer prior."""
    return Autoregressive(from_settings(settings, size, positions, causal=True))


def from_settings(
    settings: Settings, size: int, positions: Positions, *, causal: bool
) -> "Transformer":
    """A transformer over ``size`` codes.

    Raises:
      CalojaxError: if the heads do not divide the width.
    """
    s = settings
    if s.width % (2 * s.heads):
        raise CalojaxError(
            f"--prior.width must be a multiple of twice --prior.heads, got {s.width} and "
            f"{s.heads}; change one of them."
        )
    return Transformer(size, positions, s.layers, s.heads, s.width, causal, jnp.dtype(s.dtype))


class Cache(NamedTuple):
    """Keys and values of one block for positions 0..n-1; zeros at later positions.

    Attributes:
      keys: keys [b, n, h, d].
      values: values [b, n, h, d].
    """

    keys: jax.Array
    values: jax.Array


class Angles(NamedTuple):
    """Rotary angles of t slots.

    Attributes:
      query: angles of the position that a slot predicts, [t, d/2].
      key: angles of the position of the code that a slot holds, [t, d/2].
    """

    query: jax.Array
    key: jax.Array


class Block(nn.Module):
    """A pre-LN transformer block: attention and a GELU MLP, each with a residual connection.

    Attributes:
      width: width of the residual stream.
      heads: number of attention heads.
      causal: whether a slot attends only to itself and earlier slots.
      dtype: type of the computation; parameters are float32.
    """

    width: int
    heads: int
    causal: bool
    dtype: jnp.dtype

    def setup(self):
        self.attention_norm = nn.LayerNorm(dtype=self.dtype)
        self.projection = nn.Dense(3 * self.width, dtype=self.dtype)
        self.attention_output = nn.Dense(self.width, dtype=self.dtype)
        self.mlp_norm = nn.LayerNorm(dtype=self.dtype)
        self.mlp_input = nn.Dense(4 * self.width, dtype=self.dtype)
        self.mlp_output = nn.Dense(self.width, dtype=self.dtype)

    def __call__(self, x: jax.Array, angles: Angles) -> jax.Array:
        """All slots: [b, t, width] -> [b, t, width]."""
        query, key, value = self._project(x, angles)
        mixed = jax.nn.dot_product_attention(query, key, value, is_causal=self.causal)
        return self._finish(x, mixed)

    def step(
        self, x: jax.Array, angles: Angles, cache: Cache, position: jax.Array
    ) -> tuple[jax.Array, Cache]:
        """One slot at a position [], given the cache: [b, 1, width] -> ([b, 1, width], cache)."""
        query, key, value = self._project(x, angles)
        at = (0, position, 0, 0)
        cache = Cache(
            jax.lax.dynamic_update_slice(cache.keys, key, at),
            jax.lax.dynamic_update_slice(cache.values, value, at),
        )
        return self._finish(x, _attend(query, cache, position)), cache

    def _project(self, x, angles):
        projected = self.projection(self.attention_norm(x))
        query, key, value = jnp.split(projected.reshape(*x.shape[:2], 3 * self.heads, -1), 3, 2)
        return rotate(query, angles.query), rotate(key, angles.key), value

    def _finish(self, x, mixed):
        x = x + self.attention_output(mixed.reshape(x.shape))
        return x + self.mlp_output(nn.gelu(self.mlp_input(self.mlp_norm(x))))


class Transformer(nn.Module):
    """A transformer over codes, conditioned on a context vector at every position.

    Vaswani et al. 2017 (arXiv:1706.03762). A causal transformer is a cell of `Autoregressive`: slot
    i holds code i - 1 (k before the first code) and predicts code i. Otherwise it is a network of
    `calojax.nn.priors.masked.Masked`: slot i holds code i (k if unknown) and predicts it.

    Rotary attention depends only on differences of positions, so an embedding is added: of the
    position if causal; otherwise of the ring, so that a rotation of the known codes rotates the
    predictions.

    Attributes:
      size: number of codes k.
      positions: positions of the codes.
      layers: number of blocks.
      heads: number of attention heads; twice that number must divide the width.
      width: width of the residual stream.
      causal: whether a code depends only on earlier ones.
      dtype: type of the computation; parameters and logits are float32.
      stretch: largest number of positions by which the cache grows at a time. Every step reads the
        whole cache, so growing it is faster than a full cache from the start (1.4 times for 417
        positions on CPU), but each size is compiled.
    """

    size: int
    positions: Positions
    layers: int
    heads: int
    width: int
    causal: bool
    dtype: jnp.dtype = jnp.float32
    stretch: int = 128

    def setup(self):
        self.tokens = nn.Embed(self.size + 1, self.width, dtype=self.dtype)
        # At least two: a flax embedding of one row fails for scalar indices.
        places = max(int(self._place.max()) + 1, 2)
        self.places = nn.Embed(places, self.width, dtype=self.dtype)
        self.condition = nn.Dense(self.width, dtype=self.dtype)
        self.blocks = self._blocks()
        self.norm = nn.LayerNorm(dtype=self.dtype)
        # Small, so that training starts near the uniform distribution.
        self.output = nn.Dense(
            self.size, dtype=jnp.float32, kernel_init=nn.initializers.normal(0.02)
        )

    @property
    def length(self) -> int:
        """Number of positions t."""
        return self.positions.length

    def logits(self, tokens: jax.Array, context: jax.Array) -> jax.Array:
        """All positions: tokens [b, t] (or a prefix), context -> logits [b, t, k]."""
        return self._head(self._stream(tokens, context))

    def logits_at(self, tokens: jax.Array, context: jax.Array, chosen: jax.Array) -> jax.Array:
        """`logits` at chosen positions [b, n] -> [b, n, k]; a position beyond t is the last one."""
        x = self._stream(tokens, context)
        return self._head(jnp.take_along_axis(x, chosen[..., None], axis=1, mode="clip"))

    def start(self, context: jax.Array) -> tuple[Cache, ...]:
        nothing = jnp.zeros((context.shape[0], 0, self.heads, self.width // self.heads), self.dtype)
        return (Cache(nothing, nothing),) * self.layers

    def grow(self, caches: tuple[Cache, ...], length: int) -> tuple[Cache, ...]:
        more = length - caches[0].keys.shape[1]
        return jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))), caches)

    def step(
        self,
        caches: tuple[Cache, ...],
        token: jax.Array,
        position: jax.Array,
        context: jax.Array,
    ) -> tuple[tuple[Cache, ...], jax.Array]:
        place = jnp.asarray(self._place)[position][None]
        x = self._embed(token[:, None], place, context[:, None])
        angles = Angles(*(a[position][None] for a in self._angles()))
        after = []
        for block, cache in zip(self.blocks, caches, strict=True):
            x, cache = block.step(x, angles, cache, position)
            after.append(cache)
        return tuple(after), self._head(x)[:, 0]

    def __call__(self, context: jax.Array) -> jax.Array:
        """Uses every parameter, for ``init``: context [b, c] -> logits [b, t, k]."""
        return self.logits(jnp.full((len(context), self.length), self.size), context)

    def _blocks(self) -> list[Block]:
        block = (self.width, self.heads, self.causal, self.dtype)
        return [Block(*block) for _ in range(self.layers)]

    @property
    def _place(self) -> np.ndarray:
        """Index of the embedding of each position: int [t]."""
        return np.arange(self.length) if self.causal else self.positions.rings

    def _angles(self) -> Angles:
        angles = self.positions.angles(self.width // self.heads // 2)
        # Slot i holds code i - 1, which may be far away on the grid. The first slot holds no code.
        key = np.concatenate([angles[:1], angles[:-1]]) if self.causal else angles
        return Angles(jnp.asarray(angles, jnp.float32), jnp.asarray(key, jnp.float32))

    def _embed(self, tokens, places, context):
        return self.tokens(tokens) + self.places(places)[None] + self.condition(context)

    def _stream(self, tokens, context):
        n = tokens.shape[1]
        angles = Angles(*(a[:n] for a in self._angles()))
        context = context[:, None] if context.ndim == 2 else context[:, :n]
        x = self._embed(tokens, jnp.asarray(self._place)[:n], context)
        for block in self.blocks:
            x = block(x, angles)
        return x

    def _head(self, x):
        return self.output(self.norm(x).astype(jnp.float32))


def _attend(query: jax.Array, cache: Cache, position: jax.Array) -> jax.Array:
    """Attention of one query [b, 1, h, d] to the cache up to a position [] -> [b, 1, h, d].

    XLA fuses these products and sums into one pass over the cache. Before a matrix product it would
    copy the cache into another layout, at every step (three times as slow on CPU).
    """
    scores = jnp.sum(query.astype(jnp.float32) * cache.keys, axis=-1) / query.shape[-1] ** 0.5
    seen = jnp.arange(cache.keys.shape[1])[None, :, None] <= position
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=1)
    return jnp.sum(weights[..., None] * cache.values, axis=1, keepdims=True).astype(query.dtype)
