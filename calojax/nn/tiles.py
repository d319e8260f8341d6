"""Points in tiles that belong to one shower each: sums over a shower's points, and copies to them.

The points of showers, one after the other, are laid into tiles of a fixed size, so that every
shower begins with a new tile; the last one of each may have places left over. A sum over a shower's
points is then a sum within its tiles, which is a sum over an axis, and one over its tiles, of which
there are as many times fewer as a tile has places. What all points of a shower share is read once a
tile. (Without tiles, every point takes part in a product with the matrix of who owns what, which
for 64 showers is a quarter of all operations of CaloPointFlow's networks.) A shower's sums do not
depend on where in the buffer it lies, but for the order in which its tiles are added up.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# Up to so many showers a product with the matrix of which tile is whose is faster than scatter and
# gather, and the sum on a GPU does not depend on the order of atomic additions.
_MATRIX = 256


class Tiling(NamedTuple):
    """How points lie in t tiles of s places.

    Attributes:
      owner: the shower of each tile, int32 [t], sorted; a tile that holds no point has a number
        that is no shower's.
      inside: which places hold points, bool [t, s].
    """

    owner: jax.Array
    inside: jax.Array

    @property
    def size(self) -> int:
        """Places of a tile."""
        return self.inside.shape[1]


def lay(hits: jax.Array, tiles: int, size: int) -> tuple[Tiling, jax.Array]:
    """Lays the points of showers, which follow each other, into tiles.

    Args:
      hits: points of each shower, int32 [g].
      tiles: number of tiles t; points for which there is none are left out.
      size: places of a tile s.

    Returns:
      The tiling, and the number of the point at every place, int32 [t s]: with it points [p, ...]
      become ``points[number]``. At places without a point it is that of some other one.
    """
    ends, last = _ends(hits, size), jnp.cumsum(hits, dtype=jnp.int32)
    tile = jnp.arange(tiles, dtype=jnp.int32)
    owner = jnp.searchsorted(ends, tile, side="right").astype(jnp.int32)
    own = jnp.minimum(owner, len(hits) - 1)
    within = (tile - (ends - -(-hits // size))[own])[:, None] * size + jnp.arange(size)
    inside = (owner < len(hits))[:, None] & (within < hits[own][:, None])
    number = jnp.where(inside, (last - hits)[own][:, None] + within, 0)
    return Tiling(owner, inside), number.reshape(-1)


def place(owner: jax.Array, hits: jax.Array, size: int) -> jax.Array:
    """Where `lay` puts points: int32 [p], for their showers [p] and the hits [g] of these."""
    own = jnp.minimum(owner, len(hits) - 1)
    first = (_ends(hits, size) - -(-hits // size)) * size
    shift = first - (jnp.cumsum(hits, dtype=jnp.int32) - hits)
    return jnp.arange(len(owner), dtype=jnp.int32) + shift[own]


def total(values: jax.Array, tiling: Tiling, num: int) -> jax.Array:
    """Sums values [t s, c] over the points of each of ``num`` showers -> [num, c]."""
    values = values.reshape(*tiling.inside.shape, -1)
    of_tiles = jnp.where(tiling.inside[..., None], values, 0).sum(1)
    if num <= _MATRIX:
        # In full precision: it is a sum, also where products are rounded.
        return jnp.matmul(_membership(tiling, num, values.dtype).T, of_tiles, precision="highest")
    return jax.ops.segment_sum(of_tiles, tiling.owner, num, indices_are_sorted=True, mode="drop")


def mean(values: jax.Array, tiling: Tiling, num: int) -> jax.Array:
    """Averages values [t s, c] over the points of each shower -> [num, c]; 0 for those of none."""
    count = total(tiling.inside.reshape(-1, 1).astype(values.dtype), tiling, num)
    return total(values, tiling, num) / jnp.maximum(count, 1)


def spread(values: jax.Array, tiling: Tiling) -> jax.Array:
    """Gives every tile its shower's values: [num, c] -> [t, 1, c]."""
    if len(values) <= _MATRIX:
        membership = _membership(tiling, len(values), values.dtype)
        copies = jnp.matmul(membership, values, precision="highest")
    else:
        copies = values.at[tiling.owner].get(mode="fill", fill_value=0)
    return copies[:, None]


def _ends(hits: jax.Array, size: int) -> jax.Array:
    """The tile behind the last one of each shower, int32 [g]."""
    return jnp.cumsum(-(-hits // size), dtype=jnp.int32)


def _membership(tiling: Tiling, num: int, dtype) -> jax.Array:
    """Whether a tile is a shower's, [t, num]."""
    return (tiling.owner[:, None] == jnp.arange(num, dtype=tiling.owner.dtype)).astype(dtype)
