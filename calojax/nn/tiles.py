"""Ragged sets of points in tiles of fixed size: sums over the points of a set, and copies to them.

The points of all sets lie one after the other in tiles of a fixed number of places. Every set
begins with a new tile; places of its last tile may be empty. A sum over the points of a set is then
a sum over the places of its tiles (an axis of an array), and a sum over its few tiles. Numbers of a
set are read once per tile. (Without tiles every point would take part in a product with the
membership matrix, a quarter of all operations of CaloPointFlow's networks for 64 sets.) Except for
the order in which tiles are added up, the sums of a set do not depend on its place.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Up to this number of sets a product with the membership matrix is faster than scatter and gather,
# and on a GPU it is deterministic, unlike atomic additions.
_MATRIX = 256


class Tiling(NamedTuple):
    """The layout of points in t tiles of s places."""

    # Set of each tile, sorted; for tiles without points a number that no set has.
    owner: Int[Array, " t"]
    inside: Bool[Array, "t s"]  # which places hold points

    @property
    def size(self) -> int:
        """Places of a tile."""
        return self.inside.shape[1]


def lay(hits: Int[Array, " g"], tiles: int, size: int) -> tuple[Tiling, Int[Array, " places"]]:
    """Lays the points of sets, ``hits`` each, which follow each other, into t tiles of s places.

    Points beyond the last tile are left out.

    Returns:
      The tiling, and the index of the point at each of the t s places, so that points [p, ...]
      become ``points[index]``. At empty places it is the index of any other point.
    """
    ends, last = _ends(hits, size), jnp.cumsum(hits, dtype=jnp.int32)
    tile = jnp.arange(tiles, dtype=jnp.int32)
    owner = jnp.searchsorted(ends, tile, side="right").astype(jnp.int32)
    own = jnp.minimum(owner, len(hits) - 1)
    within = (tile - (ends - -(-hits // size))[own])[:, None] * size + jnp.arange(size)[None]
    inside = (owner < len(hits))[:, None] & (within < hits[own][:, None])
    number = jnp.where(inside, (last - hits)[own][:, None] + within, 0)
    return Tiling(owner, inside), number.reshape(-1)


def place(owner: Int[Array, " p"], hits: Int[Array, " g"], size: int) -> Int[Array, " p"]:
    """Places where `lay` puts points, given the set of each point and the hits of each set."""
    own = jnp.minimum(owner, len(hits) - 1)
    first = (_ends(hits, size) - -(-hits // size)) * size
    shift = first - (jnp.cumsum(hits, dtype=jnp.int32) - hits)
    return jnp.arange(len(owner), dtype=jnp.int32) + shift[own]


def total(values: Float[Array, "places c"], tiling: Tiling, num: int) -> Float[Array, "{num} c"]:
    """Sums values over the points of each of ``num`` sets."""
    values = values.reshape(*tiling.inside.shape, -1)
    of_tiles = jnp.where(tiling.inside[..., None], values, 0).sum(1)
    if num <= _MATRIX:
        # A sum: in full precision even where products are rounded.
        return jnp.matmul(_membership(tiling, num, values.dtype).T, of_tiles, precision="highest")
    return jax.ops.segment_sum(of_tiles, tiling.owner, num, indices_are_sorted=True, mode="drop")


def mean(values: Float[Array, "places c"], tiling: Tiling, num: int) -> Float[Array, "{num} c"]:
    """Averages values over the points of each set; 0 for sets without points."""
    count = total(tiling.inside.reshape(-1, 1).astype(values.dtype), tiling, num)
    return total(values, tiling, num) / jnp.maximum(count, 1)


def spread(values: Float[Array, "num c"], tiling: Tiling) -> Float[Array, "t 1 c"]:
    """Copies the values of every set to its tiles."""
    if len(values) <= _MATRIX:
        membership = _membership(tiling, len(values), values.dtype)
        copies = jnp.matmul(membership, values, precision="highest")
    else:
        copies = values.at[tiling.owner].get(mode="fill", fill_value=0)
    return copies[:, None]


def _ends(hits: jax.Array, size: int) -> jax.Array:
    """End (exclusive) of the tiles of each set, int32 [g]."""
    return jnp.cumsum(-(-hits // size), dtype=jnp.int32)


def _membership(tiling: Tiling, num: int, dtype) -> jax.Array:
    """1 where a tile belongs to a set, else 0: [t, num]."""
    sets = jnp.arange(num, dtype=tiling.owner.dtype)
    return (tiling.owner[:, None] == sets[None]).astype(dtype)
