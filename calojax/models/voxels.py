"""Arrays of voxels: sums over layers, rotations; and the incident energy as a condition."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from calojax.errors import CalojaxError
from calojax.geometry import Detector


def layer_sums(voxels: jax.Array, detector: Detector) -> jax.Array:
    """Sums voxels [b, v] over each layer -> [b, l]."""
    if detector.grid is not None:
        return voxels.reshape(len(voxels), detector.n_layers, -1).sum(-1)
    return jnp.stack([voxels[:, where].sum(-1) for where in detector.layer_slices], -1)


def layer_max(voxels: jax.Array, detector: Detector) -> jax.Array:
    """The largest of voxels [b, v] in each layer -> [b, l]."""
    if detector.grid is not None:
        return voxels.reshape(len(voxels), detector.n_layers, -1).max(-1)
    return jnp.stack([voxels[:, where].max(-1) for where in detector.layer_slices], -1)


def over_voxels(values: jax.Array, detector: Detector) -> jax.Array:
    """Repeats one value a layer [b, l] for each of its voxels -> [b, v]."""
    if detector.grid is not None:
        _, n_alpha, n_r = detector.grid
        return jnp.repeat(values, n_alpha * n_r, axis=-1)
    return jnp.take(values, jnp.asarray(detector.voxels.layer), axis=-1)


def energy_condition(energies: jax.Array, detector: Detector) -> jax.Array:
    """Incident energies [b] in MeV -> [b, 1]: log E scaled to [-1, 1] over the range."""
    low, high = (math.log(e) for e in detector.energy_range)
    return (2.0 * (jnp.log(energies) - low) / (high - low) - 1.0)[:, None]


def rotation_table(detector: Detector) -> np.ndarray:
    """Voxel permutations that turn a shower about its axis: [n_alpha, v].

    ``showers[:, table[k]]`` is turned by k angular bins. Layers with one angular bin stay.

    Raises:
      CalojaxError: if layers differ in their (more than one) number of angular bins.
    """
    counts = {layer.n_alpha for layer in detector.layers} - {1}
    if len(counts) > 1:
        raise CalojaxError(
            f"{detector.name}: its layers have different numbers of angular bins {sorted(counts)}, "
            "so its showers cannot be turned; add --autoencoder.no-rotate."
        )
    n_alpha = counts.pop() if counts else 1
    voxels = detector.voxels
    per_layer = np.array([layer.n_alpha for layer in detector.layers])[voxels.layer]
    return np.stack(
        [
            detector.voxel_index(voxels.layer, (voxels.alpha - k) % per_layer, voxels.r)
            for k in range(n_alpha)
        ]
    )


def random_rotations(key: jax.Array, showers: jax.Array, table: jax.Array) -> jax.Array:
    """Turns each of showers [b, v] by a random number of angular bins; the key is consumed."""
    turns = jax.random.randint(key, (len(showers),), 0, len(table))
    return jnp.take_along_axis(showers, jnp.asarray(table)[turns], axis=1)
