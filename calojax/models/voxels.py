"""Operations on showers that models share: sums over layers, rotations, scaled energies."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from calojax.errors import CalojaxError
from calojax.geometry import Detector


def layer_sums(voxels: Shaped[Array, "b v"], detector: Detector) -> Shaped[Array, "b l"]:
    """Sums over the voxels of each layer."""
    return _reduced(jnp.sum, voxels, detector)


def layer_max(voxels: Shaped[Array, "b v"], detector: Detector) -> Shaped[Array, "b l"]:
    """Maxima over the voxels of each layer."""
    return _reduced(jnp.max, voxels, detector)


def _reduced(reduce, voxels, detector):
    if detector.grid is not None:
        return reduce(voxels.reshape(voxels.shape[0], detector.n_layers, -1), -1)
    return jnp.stack([reduce(voxels[:, where], -1) for where in detector.layer_slices], -1)


def over_voxels(values: Shaped[Array, "b l"], detector: Detector) -> Shaped[Array, "b v"]:
    """Repeats the value of each layer for its voxels."""
    if detector.grid is not None:
        _, n_alpha, n_r = detector.grid
        return jnp.repeat(values, n_alpha * n_r, axis=-1)
    return jnp.take(values, jnp.asarray(detector.voxels.layer), axis=-1)


def energy_condition(energies: Float[Array, " b"], detector: Detector) -> Float[Array, "b 1"]:
    """Logarithm of incident energies in MeV, scaled to [-1, 1] over the detector's range."""
    assert detector.energy_range is not None  # `models.build` checks it.
    low, high = (math.log(e) for e in detector.energy_range)
    return (2.0 * (jnp.log(energies) - low) / (high - low) - 1.0)[:, None]


def rotation_table(detector: Detector) -> np.ndarray:
    """Permutations of voxels that rotate a shower about its axis, [n_alpha, v].

    ``showers[:, table[k]]`` is rotated by k angular bins. Layers with one angular bin stay.

    Raises:
      CalojaxError: if layers have different numbers of angular bins, other than one.
    """
    counts = {layer.n_alpha for layer in detector.layers} - {1}
    if len(counts) > 1:
        raise CalojaxError(
            f"{detector.name}: its layers have different numbers of angular bins {sorted(counts)}, "
            "so its showers cannot be rotated; add --autoencoder.no-rotate."
        )
    layer, alpha, r = detector.voxels.layer, detector.voxels.alpha, detector.voxels.r
    turns = np.arange(max(counts, default=1))[:, None]
    return detector.voxel_index(layer, (alpha - turns) % detector.voxels.n_alpha, r)


def mirror_table(detector: Detector) -> np.ndarray:
    """Permutation of voxels that mirrors a shower in alpha, [v]."""
    voxels = detector.voxels
    return detector.voxel_index(voxels.layer, voxels.n_alpha - 1 - voxels.alpha, voxels.r)


def random_rotations(
    key: PRNGKeyArray, showers: Float[Array, "b v"], table: np.ndarray
) -> Float[Array, "b v"]:
    """Rotates each shower by a random number of angular bins; the key is consumed."""
    turns = jax.random.randint(key, (len(showers),), 0, len(table))
    return jnp.take_along_axis(showers, jnp.asarray(table)[turns], axis=1)
