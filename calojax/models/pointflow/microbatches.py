"""Work on batches of showers in chunks of a bounded number of hits, with static shapes.

A batch of b showers of dataset 3 could have b x 40,500 hits and has 3 % of them. So showers are
taken in chunks of whole successive showers, as many as fit a buffer: memory is that of a chunk, and
the number of chunks, a number of the loop and not of a shape, follows the hits that there are.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def over_showers(
    function: Callable[..., jax.Array],
    hits: jax.Array,
    *arrays: jax.Array,
    showers: int,
    points: int,
) -> jax.Array:
    """Applies a function to chunks of showers and puts its results together.

    Args:
      function: takes ``inside`` [showers] and rows [showers, ...] of every array, returns rows
        [showers, ...]. Only the rows where ``inside`` is true are of the chunk; other results are
        thrown away. What it makes of a row must not depend on other rows.
      hits: of each shower, [b], none above ``points``.
      *arrays: [b, ...] each.
      showers: most showers of a chunk.
      points: most hits of a chunk.

    Returns:
      The rows of all showers, [b, ...].
    """
    num = len(hits)
    ends = jnp.cumsum(hits, dtype=jnp.int32)

    def rows(first):
        before = jnp.where(first > 0, ends[first - 1], 0)
        fit = jnp.searchsorted(ends, before + points, side="right").astype(jnp.int32)
        stop = jnp.minimum(fit, first + showers)
        index = first + jnp.arange(showers, dtype=jnp.int32)
        own = [array[jnp.minimum(index, num - 1)] for array in arrays]
        return stop, function(index < stop, *own)

    def chunk(state):
        first, out = state
        stop, result = rows(first)
        # What sticks out behind ``stop`` is written over by the next chunk, or cut off at the end.
        return stop, jax.lax.dynamic_update_slice_in_dim(out, result, first, 0)

    shape = jax.eval_shape(lambda: rows(jnp.zeros((), jnp.int32))[1])
    out = jnp.zeros((num + showers, *shape.shape[1:]), shape.dtype)
    _, out = jax.lax.while_loop(
        lambda state: state[0] < num, chunk, (jnp.zeros((), jnp.int32), out)
    )
    return out[:num]
