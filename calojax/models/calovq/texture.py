"""The texture of showers: hits that depend on the hits beside them.

Given its codes, the decoder describes every voxel on its own. Where they leave open which of two
neighbours is hit, both are then hit too often, or neither. So voxels are drawn in twelve turns, and
in each one a network corrects the decoder's outputs by the hits around them that earlier turns have
drawn. A turn has every third layer and every second angle and radius: neighbours are in different
turns. The turns are the steps of one loop.
"""

import itertools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from calojax.errors import CalojaxError
from calojax.geometry import Detector

# Distances of the layers, angles and radii of a turn.
_APART = 3, 2, 2
# First layer, angle and radius of each turn.
_TURNS = np.array(list(itertools.product(*map(range, _APART))), np.int32)
# Distances of the farthest layers and angles that a voxel sees, at all radii.
_SEEN = 2, 1


def check_turns(head: str, detector: Detector) -> None:
    """Refuses settings and detectors without turns.

    Raises:
      CalojaxError: if voxels have no density, or neighbours around the axis would share a turn.
    """
    remedy = "take --texture.kind independent."
    if head != "density":
        raise CalojaxError(f"Hits of --autoencoder.head {head} are not drawn; {remedy}")
    if detector.grid is None or detector.grid[1] % _APART[1]:
        raise CalojaxError(
            f"{detector.name}: its layers differ or have an odd number of angles, so neighbours "
            f"cannot be drawn in turns; {remedy}"
        )


class Texture(nn.Module):
    """Corrections of the decoder's outputs for voxels, by a network for each turn."""

    grid: tuple[int, int, int]  # bins of the detector (z, alpha, r)
    outputs: int  # decoder outputs of a voxel n
    width: int  # features of the voxels at one layer and angle

    def setup(self):
        seen = int(np.prod([2 * far + 1 for far in _SEEN]))
        inputs = self.grid[2] * (self.outputs + 2 * seen)
        corrections = -(-self.grid[2] // _APART[2]) * self.outputs
        random, zeros = nn.initializers.lecun_normal(batch_axis=0), nn.initializers.zeros
        turns = len(_TURNS)
        self.hidden = (
            self.param("hidden_kernel", random, (turns, inputs, self.width)),
            self.param("hidden_bias", zeros, (turns, self.width)),
        )
        # The first corrections are zero.
        self.last = (
            self.param("last_kernel", zeros, (turns, self.width, corrections)),
            self.param("last_bias", zeros, (turns, corrections)),
        )

    def __call__(self, out: jax.Array, residuals: jax.Array) -> jax.Array:
        """Outputs [b, v, n] of every voxel, given the hits of the turns before its own.

        From the decoder's outputs [b, v, n] and `Density.residuals` [b, v, 2] of all voxels.
        """
        return self.in_turns(out, (residuals,), lambda out, own: (out, own))

    def in_turns(
        self,
        out: jax.Array,
        given: tuple[jax.Array, ...],
        draw: Callable[..., tuple[jax.Array, jax.Array]],
    ) -> jax.Array:
        """Results of ``draw`` for all voxels [b, v, m], turn after turn.

        ``draw`` takes corrected outputs [..., n] and ``given`` [b, v, ...] of the voxels of a turn;
        it returns results [..., m], and residuals [..., 2] for the turns after it.
        """
        outputs, *arrays = (_by_turn(self._filled(array)) for array in (out, *given))
        # All radii at a layer and an angle: [turns / 2, b, z / 3, alpha / 2, r n].
        columns = jnp.moveaxis(outputs.reshape(-1, _APART[2], *outputs.shape[1:]), 1, 5)
        columns = columns.reshape(*columns.shape[:4], -1)[..., : self.grid[2] * self.outputs]

        def turn(known, xs):
            number, (hidden, hidden_bias), (last, last_bias), own, *given = xs
            first = jnp.asarray(_TURNS)[number]
            x = jnp.concatenate([columns[number // _APART[2]], *self._seen(known, first)], -1)
            x = nn.silu(x @ hidden + hidden_bias)
            corrected = own + (x @ last + last_bias).reshape(own.shape)
            results, residuals = draw(corrected, *given)
            return _with(known, residuals, first), results

        known = jnp.zeros_like(self._filled(out[..., :2]))
        numbers = jnp.arange(len(_TURNS))
        _, results = jax.lax.scan(turn, known, (numbers, self.hidden, self.last, outputs, *arrays))
        return self._merged(results)

    def _filled(self, x: jax.Array) -> jax.Array:
        """Voxels [b, v, m] by their turns, [b, z / 3, 3, alpha / 2, 2, r / 2, 2, m].

        Layers and radii are filled up with zeros.
        """
        x = x.reshape(x.shape[0], *self.grid, -1)
        missing = [(0, -bins % apart) for bins, apart in zip(self.grid, _APART, strict=True)]
        x = jnp.pad(x, ((0, 0), *missing, (0, 0)))
        z, alpha, r = (bins // apart for bins, apart in zip(x.shape[1:4], _APART, strict=True))
        return x.reshape(-1, z, _APART[0], alpha, _APART[1], r, _APART[2], x.shape[-1])

    def _grid(self, x: jax.Array) -> jax.Array:
        """Inverse of `_filled`, [b, z, alpha, r, m]."""
        b, z, p, alpha, q, r, o, m = x.shape
        return x.reshape(b, z * p, alpha * q, r * o, m)[:, : self.grid[0], :, : self.grid[2]]

    def _merged(self, x: jax.Array) -> jax.Array:
        """Results of all turns, [turns, b, z / 3, alpha / 2, r / 2, m], as [b, v, m]."""
        x = x.reshape(*_APART, *x.shape[1:])
        whole = self._grid(x.transpose(3, 4, 0, 5, 1, 6, 2, 7))
        return whole.reshape(whole.shape[0], -1, whole.shape[-1])

    def _seen(self, known: jax.Array, first: jax.Array) -> list[jax.Array]:
        """What is known around a turn: [b, z / 3, alpha / 2, 2 r] for each distance."""
        far_z, far_alpha = _SEEN
        z, alpha = known.shape[1], known.shape[3]
        grid = self._grid(known)
        grid = grid.reshape(*grid.shape[:3], -1)
        # Beyond the ends of the detector nothing is known.
        grid = jnp.pad(grid, ((0, 0), (far_z, far_z + -self.grid[0] % _APART[0]), (0, 0), (0, 0)))
        grid = jnp.concatenate([grid[:, :, -far_alpha:], grid, grid[:, :, :far_alpha]], 2)
        sizes = _APART[0] * (z - 1) + 2 * far_z + 1, _APART[1] * (alpha - 1) + 2 * far_alpha + 1
        near = jax.lax.dynamic_slice_in_dim(grid, first[0], sizes[0], 1)
        near = jax.lax.dynamic_slice_in_dim(near, first[1], sizes[1], 2)
        in_z, in_alpha = (
            [slice(first, first + apart * (number - 1) + 1, apart) for first in range(2 * far + 1)]
            for far, apart, number in ((far_z, _APART[0], z), (far_alpha, _APART[1], alpha))
        )
        return [near[:, of_z, of_alpha] for of_z in in_z for of_alpha in in_alpha]


def _by_turn(x: jax.Array) -> jax.Array:
    """[b, z / 3, 3, alpha / 2, 2, r / 2, 2, m] -> [turns, b, z / 3, alpha / 2, r / 2, m]."""
    x = x.transpose(2, 4, 6, 0, 1, 3, 5, 7)
    return x.reshape(-1, *x.shape[3:])


def _with(known: jax.Array, residuals: jax.Array, first: jax.Array) -> jax.Array:
    """What is known after a turn."""
    p, q, o = first
    places = 0, 0, p, 0, q, 0, o, 0
    return jax.lax.dynamic_update_slice(known, jnp.expand_dims(residuals, (2, 4, 6)), places)
