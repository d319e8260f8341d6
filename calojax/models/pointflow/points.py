"""Showers as points: the hits of a group of showers in one flat buffer, and back on the grid.

A shower of dataset 3 fills 3 % of its 40,500 voxels. So a group of g showers is a buffer of a fixed
number of points, its hits one after the other, each with the number of the shower that owns it, and
padding at the end. How many hits a group can hold at most is a matter of how batches are put
together, see `calojax.data.strata`; groups are independent, so a batch is a ``vmap`` over groups.

Points without an angle, as version II of CaloPointFlow draws them (talk at CERN, November 2023),
are put on distinct voxels of their (layer, r) ring by `place`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from calojax.errors import CalojaxError
from calojax.geometry import Detector


class Points(NamedTuple):
    """The hits of g showers in a buffer of p places.

    Attributes:
      layer: layer of the hit, int32 [p]; 0 for padding.
      alpha: angular bin, int32 [p]; 0 for padding.
      r: radial bin, int32 [p]; 0 for padding.
      energy: in MeV, float32 [p]; 0 for padding.
      owner: the shower that the hit is of, int32 [p], sorted; g for padding.
    """

    layer: jax.Array
    alpha: jax.Array
    r: jax.Array
    energy: jax.Array
    owner: jax.Array


def to_points(showers: jax.Array, detector: Detector, budget: int) -> tuple[Points, jax.Array]:
    """Gathers the hits of showers [g, v] in MeV, in the order of showers and their voxels.

    Args:
      showers: voxels of energy 0 (or below) are no hits.
      detector: with layers that are all alike.
      budget: places in the buffer; hits that find none are left out, the last first.

    Returns:
      The points [budget], and the number of hits that were left out, int32 [].

    Raises:
      CalojaxError: if the layers differ.
    """
    _, n_alpha, n_r = _grid(detector)
    n_voxels = showers.shape[1]
    energy = showers.reshape(-1)
    found = jnp.cumsum(energy > 0, dtype=jnp.int32)
    # The k-th hit is where the count first reaches k: gathers, where `jnp.nonzero` scatters (2.5
    # times faster on a CPU for dataset 3). Beyond the last hit this is the end of the showers.
    index = jnp.searchsorted(found, jnp.arange(1, budget + 1, dtype=jnp.int32)).astype(jnp.int32)
    owner, voxel = index // n_voxels, index % n_voxels
    ring, r = voxel // n_r, voxel % n_r
    points = Points(
        layer=ring // n_alpha,
        alpha=ring % n_alpha,
        r=r,
        energy=jnp.take(energy, index, mode="fill", fill_value=0),
        owner=owner,
    )
    return points, jnp.maximum(found[-1] - budget, 0)


def starts(owner: jax.Array, num: int) -> jax.Array:
    """Where each shower has its first point, and the number of points: int32 [num + 1]."""
    return jnp.searchsorted(owner, jnp.arange(num + 1, dtype=owner.dtype)).astype(jnp.int32)


def to_showers(points: Points, detector: Detector, num: int) -> jax.Array:
    """Adds up the points of each voxel -> showers [num, v] in MeV; inverse of `to_points`.

    Padding, that is points whose owner is ``num``, adds nothing.

    Raises:
      CalojaxError: if the detector's layers differ.
    """
    _, n_alpha, n_r = _grid(detector)
    voxel = (points.layer * n_alpha + points.alpha) * n_r + points.r
    index = points.owner * detector.n_voxels + voxel
    empty = jnp.zeros(num * detector.n_voxels, points.energy.dtype)
    # Indices beyond the end are those of padding.
    return empty.at[index].add(points.energy, mode="drop").reshape(num, -1)


def place(keys: jax.Array, points: Points, detector: Detector) -> Points:
    """Puts the points of every (layer, r) ring on uniformly random distinct angular bins.

    When a ring has more than n_alpha hits, the next n_alpha of them begin again on distinct bins,
    so that surplus hits are added to voxels that have one and no energy is lost (the released
    CaloPointFlow II does the same on the CPU). What becomes of a shower depends on its own key and
    points only, not on the buffer they lie in.

    A random k-subset takes work in proportion to the points, not to the voxels: the hit of rank i
    in its ring draws c_i from 0 .. n_alpha - 1 - i, the Lehmer code of a permutation (Knuth, The
    Art of Computer Programming, vol. 3, section 5.1.1), of which the i-th element is found from
    right to left: x = c_i, and for j = i - 1, ..., 0: x += (x >= c_j).

    Args:
      keys: one a shower, [g].
      points: of g showers; their ``alpha`` is not used.
      detector: with layers that are all alike.

    Returns:
      The points with their ``alpha``, in the order of showers, layers and r.

    Raises:
      CalojaxError: if the layers differ.
    """
    n_z, n_alpha, n_r = _grid(detector)
    num, size = len(keys), len(points.owner)
    position = jnp.arange(size, dtype=jnp.int32)
    # The i-th point of a shower takes the i-th number of its key.
    own = position - starts(points.owner, num)[points.owner]
    # 24 bits of a number divided into at most n_alpha parts: uniform to 1e-7 n_alpha.
    point_keys = jax.vmap(jax.random.fold_in)(keys[jnp.minimum(points.owner, num - 1)], own)
    uniform = jax.vmap(lambda key: jax.random.uniform(key, dtype=jnp.float32))(point_keys)

    ring = (points.owner * n_z + points.layer) * n_r + points.r
    # Stable, so that ranks do not depend on the buffer either.
    ring, uniform, energy = jax.lax.sort((ring, uniform, points.energy), num_keys=1, is_stable=True)
    first = jnp.concatenate([jnp.ones(1, bool), ring[1:] != ring[:-1]])
    start = jax.lax.cummax(jnp.where(first, position, 0))
    rank = (position - start) % n_alpha
    code = jnp.minimum((uniform * (n_alpha - rank)).astype(jnp.int32), n_alpha - 1 - rank)
    padded = jnp.pad(code, (n_alpha, 0))

    def pass_predecessor(distance: jax.Array, alpha: jax.Array) -> jax.Array:
        before = jax.lax.dynamic_slice(padded, (n_alpha - distance,), (size,))
        return alpha + ((distance <= rank) & (alpha >= before))

    alpha = jax.lax.fori_loop(1, n_alpha, pass_predecessor, code)
    owner, layer_r = ring // (n_z * n_r), ring % (n_z * n_r)
    return Points(
        layer=layer_r // n_r,
        alpha=jnp.where(owner < num, alpha, 0),
        r=layer_r % n_r,
        energy=energy,
        owner=owner,
    )


def _grid(detector: Detector) -> tuple[int, int, int]:
    """(z, alpha, r) shape of a detector whose layers are all alike."""
    if detector.grid is None:
        raise CalojaxError(
            f"{detector.name}: its layers are not all alike, so its showers cannot be points; "
            "train Calo-VQ on this geometry."
        )
    return detector.grid
