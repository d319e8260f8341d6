"""Hits of showers, packed on the device: a tenth of the bytes that dense showers have.

The link from an accelerator to its host may be slower than the model. So the hits are put into
buffers, whose sizes are fixed as XLA needs it, and only the parts that are filled are copied.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calojax.io.sparse import Hits, voxel_type

# Parts of a buffer. Each holds 1/32 of the voxels, all together half of them; showers of datasets 2
# and 3 have hits in 8 and 3 % on average.
_PARTS = 16

# Numbers of voxels of a block that is worth packing on an accelerator. Below about a million the
# launches take longer than the copy (H200), and places in the buffers are 32-bit numbers.
SMALLEST, LARGEST = 2**20, 2**30 - 1


class Packed(NamedTuple):
    """Hits of b showers on a device, in the order of showers and voxels."""

    counts: jax.Array  # number of hits of each shower, int32 [b]
    # Voxels of the hits, parts of a buffer, each [p]; what is not filled is 0.
    voxels: tuple[jax.Array, ...]
    energies: tuple[jax.Array, ...]  # energies of the hits in MeV, float32, in the same way


# A program of its own: within that of the model, XLA could compute energies twice, and round them
# differently for the buffer and for the dense showers.
@jax.jit
def pack(showers: jax.Array) -> Packed:
    """The hits of showers [b, v]; those that the buffers cannot hold are left out."""
    b, v = showers.shape
    capacity = _PARTS * -(-b * v // (2 * _PARTS))
    hit = showers != 0
    counts = hit.sum(1, dtype=jnp.int32)
    before = jnp.cumsum(counts) - counts
    place = before[:, None] + jnp.cumsum(hit, axis=1, dtype=jnp.int32) - 1
    # The other voxels get places behind the buffer, where nothing is written: each its own, because
    # a GPU writes by atomic operations where places may be equal.
    place = jnp.where(hit, place, capacity + jnp.arange(b * v, dtype=jnp.int32).reshape(b, v))

    def placed(values: jax.Array) -> tuple[jax.Array, ...]:
        buffer = jnp.zeros(capacity, values.dtype)
        buffer = buffer.at[place].set(values, mode="drop", unique_indices=True)
        return tuple(jnp.split(buffer, _PARTS))

    voxels = jnp.broadcast_to(jnp.arange(v, dtype=voxel_type(v)), (b, v))
    return Packed(counts, placed(voxels), placed(showers))


def fetch(packed: Packed, showers: jax.Array) -> Hits | np.ndarray:
    """The packed hits of ``showers`` on the host; if the buffers were too small, the showers."""
    counts = jax.device_get(packed.counts)
    total = int(counts.sum(dtype=np.int64))
    parts = slice(max(1, -(-total // len(packed.voxels[0]))))
    if parts.stop > _PARTS:
        return jax.device_get(showers)
    voxels, energies = jax.device_get((packed.voxels[parts], packed.energies[parts]))
    return Hits(counts, np.concatenate(voxels)[:total], np.concatenate(energies)[:total])
