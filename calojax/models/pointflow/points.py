"""Showers as points: the hits of a group of showers in one flat buffer, and back on the grid.

A shower of dataset 3 fills 3 % of its 40,500 voxels. So the g showers of a group share a buffer of
a fixed number of points: the hits of one shower after the other, each with the number of its
shower, then padding. `calojax.training.balanced_batches` bounds the number of hits of a group.
Groups are independent, so a batch is a ``vmap`` over groups.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from calojax.errors import CalojaxError
from calojax.geometry import Detector


class Points(NamedTuple):
    """The hits of g showers in a buffer of p points."""

    layer: Int[Array, " p"]  # layer of the hit; 0 for padding
    alpha: Int[Array, " p"]  # angular bin; 0 for padding
    r: Int[Array, " p"]  # radial bin; 0 for padding
    energy: Float[Array, " p"]  # energy in MeV; 0 for padding
    owner: Int[Array, " p"]  # shower of the hit, sorted; g for padding


def grid_of(detector: Detector) -> tuple[int, int, int]:
    """The (z, alpha, r) shape of a detector with equal layers.

    Raises:
      CalojaxError: if the layers differ.
    """
    if detector.grid is None:
        raise CalojaxError(
            f"{detector.name}: its layers are not all alike, so its showers cannot be points; "
            "train Calo-VQ on this geometry."
        )
    return detector.grid


def to_points(
    showers: Float[Array, "g v"], detector: Detector, size: int
) -> tuple[Points, Int[Array, ""]]:
    """Gathers the hits of showers in MeV into a buffer of p = ``size`` points.

    Returns:
      Points, ordered by shower and voxel, and the number of last hits that did not fit.
    """
    _, n_alpha, n_r = grid_of(detector)
    n_voxels = showers.shape[1]
    energy = showers.reshape(-1)
    found = jnp.cumsum(energy > 0, dtype=jnp.int32)
    # The k-th hit is where the count first reaches k. This gathers, whereas `jnp.nonzero` scatters
    # (2.5 times slower on a CPU for dataset 3). Beyond the last hit it is the end of the showers.
    index = jnp.searchsorted(found, jnp.arange(1, size + 1, dtype=jnp.int32)).astype(jnp.int32)
    owner, voxel = index // n_voxels, index % n_voxels
    ring, r = voxel // n_r, voxel % n_r
    points = Points(
        layer=ring // n_alpha,
        alpha=ring % n_alpha,
        r=r,
        energy=jnp.take(energy, index, mode="fill", fill_value=0),
        owner=owner,
    )
    return points, jnp.maximum(found[-1] - size, 0)


def to_showers(points: Points, detector: Detector, num: int) -> Float[Array, "num v"]:
    """Adds up the points of each voxel to showers in MeV; inverse of `to_points`.

    Padding (points whose owner is ``num``) adds nothing.
    """
    _, n_alpha, n_r = grid_of(detector)
    voxel = (points.layer * n_alpha + points.alpha) * n_r + points.r
    index = points.owner * detector.n_voxels + voxel
    empty = jnp.zeros(num * detector.n_voxels, points.energy.dtype)
    # Indices of padding are beyond the end.
    return empty.at[index].add(points.energy, mode="drop").reshape(num, -1)


def place(uniform: Float[Array, " p"], points: Points, num: int, detector: Detector) -> Points:
    """Puts the points of every (layer, r) ring on uniformly random distinct angular bins.

    So does version II of CaloPointFlow (talk at CERN, November 2023). If a ring has more than
    n_alpha hits, the next n_alpha of them are again put on distinct bins and added to the hits
    there, as in the released code. The result for a shower depends only on its own numbers and
    points, not on the buffer.

    The work is proportional to the points, not to the voxels: the hit of rank i in its ring draws
    c_i from 0 .. n_alpha - 1 - i, the Lehmer code of a permutation (Knuth, The Art of Computer
    Programming, vol. 3, section 5.1.1). Its i-th element is found from right to left: x = c_i, and
    for j = i - 1, ..., 0: x += (x >= c_j).

    From random numbers uniform in [0, 1), and points without ``alpha``, of ``num`` showers.

    Returns:
      Points with ``alpha``, ordered by shower, layer and r.
    """
    n_z, n_alpha, n_r = grid_of(detector)
    size = len(points.owner)
    ring = (points.owner * n_z + points.layer) * n_r + points.r
    # Stable, so that ranks do not depend on the buffer.
    ring, uniform, energy = jax.lax.sort((ring, uniform, points.energy), num_keys=1, is_stable=True)
    first = jnp.concatenate([jnp.ones(1, bool), ring[1:] != ring[:-1]])
    position = jnp.arange(size, dtype=jnp.int32)
    start = jax.lax.cummax(jnp.where(first, position, 0))
    rank = (position - start) % n_alpha
    # 24 bits of a number divided into at most n_alpha parts: uniform to 1e-7 n_alpha.
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


# --- arrays over the points of a buffer -----------------------------------------------------------


def starts(owner: Int[Array, " p"], num: int) -> Int[Array, " num+1"]:
    """The first point of each of ``num`` showers, and the number of points."""
    return jnp.searchsorted(owner, jnp.arange(num + 1, dtype=owner.dtype)).astype(jnp.int32)


def count(owner: Int[Array, " p"], num: int) -> Int[Array, " num"]:
    """The number of points of each of ``num`` showers."""
    return jnp.diff(starts(owner, num))


def noise(
    draw: Callable[[PRNGKeyArray], jax.Array], keys: PRNGKeyArray, owner: Int[Array, " p"]
) -> Shaped[Array, "p ..."]:
    """Random numbers of points from one key for each shower [g], the same in any buffer."""
    own, number = _numbered(owner, len(keys))
    return jax.vmap(lambda key, i: draw(jax.random.fold_in(key, i)))(keys[own], number)


def of_showers(values: Shaped[Array, "g n ..."], owner: Int[Array, " p"]) -> Shaped[Array, "p ..."]:
    """The i-th value of a shower for its i-th point; any value for padding."""
    own, number = _numbered(owner, len(values))
    return values[own, jnp.minimum(number, values.shape[1] - 1)]


def _numbered(owner: Int[Array, " p"], num: int) -> tuple[jax.Array, jax.Array]:
    """Shower of each point, and its number among the points of the shower."""
    first = starts(owner, num)
    own = jnp.minimum(owner, num - 1)
    return own, jnp.arange(len(owner), dtype=jnp.int32) - first[own]


def sums(values: Float[Array, " p"], part: Int[Array, " p"], num: int) -> Float[Array, " num"]:
    """Sums of the values of each of ``num`` parts; ``part`` is sorted.

    Pairs of neighbours are added, then pairs of pairs: the order is fixed, unlike that of atomic
    additions on a GPU, and precision is full, unlike in differences of cumulative sums.
    """

    def add(left, right):
        (a, of_a), (b, of_b) = left, right
        return b + jnp.where(of_a == of_b, a, 0), of_b

    upto, _ = jax.lax.associative_scan(add, (values, part))
    ends = starts(part, num)
    return jnp.where(ends[1:] > ends[:-1], upto[ends[1:] - 1], 0.0)


def at(values: Shaped[Array, "n ..."], index: Int[Array, " p"], *, fill: float = 0.0) -> jax.Array:
    """The values at an index; ``fill`` beyond the end."""
    return values.at[index].get(mode="fill", fill_value=fill)
