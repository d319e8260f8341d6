"""Microbatches: pieces of a batch of showers with a bounded number of hits and static shapes.

A batch of b showers of dataset 3 could have b x 40,500 hits and has 3 % of them. So the batch is
cut into microbatches of consecutive showers, as many as fit a buffer. The memory is that of one
microbatch. The number of microbatches depends on the hits; it is the length of a loop, not a shape.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from calojax.models.base import Model
from calojax.models.pointflow.config import GenerationConfig, PointFlowConfig


class Size(NamedTuple):
    """The largest numbers of showers and of points of a microbatch."""

    showers: int
    points: int


# Small buffers for the caches of a CPU, large ones for the thousands of cores of an accelerator.
CPU = Size(showers=64, points=32_768)
# Sums over more showers would not always be added up in the same order (see `calojax.nn.tiles`).
ACCELERATOR = Size(showers=256, points=262_144)


def size(config: GenerationConfig, showers: int, voxels: int) -> Size:
    """Size for a batch of ``showers`` with ``voxels`` each, on the default device."""
    default = CPU if jax.default_backend() == "cpu" else ACCELERATOR
    points = min(config.points or default.points, showers * voxels)
    return Size(min(config.showers or default.showers, showers), max(points, voxels))


def with_size(model: Model, size: Size) -> Model:
    """The model with that size where its settings leave it to this machine's devices."""
    config = model.config
    if not isinstance(config, PointFlowConfig):
        return model
    own = config.generation
    generation = GenerationConfig(own.showers or size.showers, own.points or size.points)
    config = dataclasses.replace(config, generation=generation)
    return dataclasses.replace(model, config=config)  # pyright: ignore[reportArgumentType]


def apply(
    function: Callable[..., jax.Array],
    hits: Int[Array, " b"],
    *arrays: Any,
    size: Size,
) -> jax.Array:
    """The rows of all showers, [b, ...], by a function of microbatches.

    Args:
      function: function of ``inside`` [showers] and rows [showers, ...] of every array, to rows
        [showers, ...]. Results of rows outside the microbatch (``inside`` is false) are discarded.
        The result of a row must not depend on other rows.
      hits: number of hits of each shower, at most ``size.points``.
      *arrays: arrays over showers, [b, ...] each, or trees of them.
      size: size of a microbatch.
    """
    num = len(hits)
    ends = jnp.cumsum(hits, dtype=jnp.int32)

    def rows(first):
        before = jnp.where(first > 0, ends[first - 1], 0)
        fit = jnp.searchsorted(ends, before + size.points, side="right").astype(jnp.int32)
        stop = jnp.minimum(fit, first + size.showers)
        index = first + jnp.arange(size.showers, dtype=jnp.int32)
        own = jax.tree.map(lambda array: array[jnp.minimum(index, num - 1)], arrays)
        return stop, function(index < stop, *own)

    def step(state):
        first, out = state
        stop, result = rows(first)
        # The next microbatch overwrites rows after ``stop``; the last ones are cut off.
        return stop, jax.lax.dynamic_update_slice_in_dim(out, result, first, 0)

    shape = jax.eval_shape(lambda: rows(jnp.zeros((), jnp.int32))[1])
    out = jnp.zeros((num + size.showers, *shape.shape[1:]), shape.dtype)
    _, out = jax.lax.while_loop(lambda state: state[0] < num, step, (jnp.zeros((), jnp.int32), out))
    return out[:num]
