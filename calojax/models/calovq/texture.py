"""The texture of showers: hits that depend on the hits beside them.

Given its codes, the decoder describes every voxel on its own. Where they leave open which of two
neighbours is hit, both are then hit too often, or neither. So voxels are drawn in twelve turns, and
in each one a network corrects the decoder's outputs by the hits around them that earlier turns have
drawn. A turn has every third layer and every second angle and radius: neighbours are in different
turns.

A column is all radii at one layer and angle. Columns whose layers and angles have the same
remainders by 3 and 2 form a sublattice [b, z / 3, alpha / 2, r, n]. On sublattices the columns of a
turn and their neighbours are aligned.
"""

import itertools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from calojax.errors import CalojaxError
from calojax.geometry import Detector

Sublattice = tuple[int, int]
"""Remainders of layers and angles."""

# Distances of the layers and angles of a turn, and of the farthest columns that a column sees.
_APART = 3, 2
_SEEN = 2, 1
_SUBLATTICES = [(p, q) for p in range(_APART[0]) for q in range(_APART[1])]
# Even and odd radii.
_TURNS = 2 * len(_SUBLATTICES)


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
    """Corrections of the decoder's outputs for voxels.

    Attributes:
      grid: bins of the detector (z, alpha, r).
      outputs: decoder outputs of a voxel n.
      width: features of a column.
    """

    grid: tuple[int, int, int]
    outputs: int
    width: int

    def setup(self):
        radii = [len(range(odd, self.grid[2], 2)) for odd in (0, 1)]
        self.hidden = [nn.Dense(self.width) for _ in range(_TURNS)]
        # The first corrections are zero.
        self.last = [
            nn.Dense(radii[turn % 2] * self.outputs, kernel_init=nn.initializers.zeros)
            for turn in range(_TURNS)
        ]

    def __call__(self, out: jax.Array, residuals: jax.Array) -> jax.Array:
        """Corrected outputs, given all hits.

        Args:
          out: decoder outputs, [b, v, n].
          residuals: what is known of a voxel that is drawn, [b, v, 2]; see `Density.residuals`.

        Returns:
          Outputs of every voxel, given the hits of the turns before its own, [b, v, n].
        """
        return self.in_turns(out, (residuals,), lambda out, own: (out, own))

    def in_turns(
        self,
        out: jax.Array,
        given: tuple[jax.Array, ...],
        draw: Callable[..., tuple[jax.Array, jax.Array]],
    ) -> jax.Array:
        """Results of ``draw`` for all voxels, turn after turn.

        Args:
          out: decoder outputs, [b, v, n].
          given: arrays [b, v, ...] that ``draw`` takes.
          draw: function of corrected outputs [..., n] and of ``given`` for the voxels of a turn; it
            returns results [..., m], and residuals [..., 2] for the turns after it.

        Returns:
          Results, [b, v, m].
        """
        outputs = self._split(out)
        arrays = [self._split(array) for array in given]
        known: dict[Sublattice, jax.Array] = {}
        results = {}
        for number, here in enumerate(_SUBLATTICES):
            drawn = []
            for odd in (0, 1):
                own = outputs[here][..., odd::2, :]
                own = own + self._correction(
                    2 * number + odd, here, outputs[here], known, own.shape
                )
                drawn.append(draw(own, *(array[here][..., odd::2, :] for array in arrays)))
                nothing = jnp.zeros_like(outputs[here][..., 1::2, :2])
                known[here] = _interleaved(drawn[0][1], drawn[1][1] if odd else nothing)
            results[here] = _interleaved(drawn[0][0], drawn[1][0])
        return self._merged(results)

    def _correction(self, turn: int, here: Sublattice, outputs, known, shape) -> jax.Array:
        """Corrections of the outputs of a turn."""
        features = [outputs, *_neighbours(here, known)]
        x = jnp.concatenate([f.reshape(*f.shape[:3], -1) for f in features], -1)
        return self.last[turn](nn.silu(self.hidden[turn](x))).reshape(shape)

    def _split(self, x: jax.Array) -> dict[Sublattice, jax.Array]:
        """The sublattices of [b, v, m]; layers are filled up to a multiple of their distance."""
        (z, alpha, r), (apart, beside) = self.grid, _APART
        x = x.reshape(x.shape[0], z, alpha, r, -1)
        x = jnp.pad(x, ((0, 0), (0, -z % apart), (0, 0), (0, 0), (0, 0)))
        x = x.reshape(x.shape[0], -1, apart, alpha // beside, beside, r, x.shape[-1])
        return {(p, q): x[:, :, p, :, q] for p, q in _SUBLATTICES}

    def _merged(self, x: dict[Sublattice, jax.Array]) -> jax.Array:
        """Inverse of `_split`."""
        (z, alpha, r), (apart, beside) = self.grid, _APART
        layers = [jnp.stack([x[p, q] for q in range(beside)], 3) for p in range(apart)]
        whole = jnp.stack(layers, 2)
        b, m = whole.shape[0], whole.shape[-1]
        return whole.reshape(b, -1, alpha * r, m)[:, :z].reshape(b, -1, m)


def _neighbours(here: Sublattice, known: dict[Sublattice, jax.Array]) -> list[jax.Array]:
    """What is known of a column and of those around it, [b, z / 3, alpha / 2, r, 2] each."""
    found = []
    for dz, da in itertools.product(*(range(-far, far + 1) for far in _SEEN)):
        step_z, p = divmod(here[0] + dz, _APART[0])
        step_a, q = divmod(here[1] + da, _APART[1])
        if (p, q) in known:
            x = known[p, q]
            if step_z:
                # Beyond the ends of the detector nothing is known.
                empty = jnp.zeros_like(x[:, :1])
                parts = (x[:, 1:], empty) if step_z > 0 else (empty, x[:, :-1])
                x = jnp.concatenate(parts, 1)
            found.append(jnp.roll(x, -step_a, 2))
    return found


def _interleaved(even: jax.Array, odd: jax.Array) -> jax.Array:
    """Even and odd radii in turn: [..., r, m]."""
    r = even.shape[-2] + odd.shape[-2]
    missing = even.shape[-2] - odd.shape[-2]
    odd = jnp.pad(odd, ((0, 0),) * (odd.ndim - 2) + ((0, missing), (0, 0)))
    both = jnp.stack([even, odd], -2)
    return both.reshape(*even.shape[:-2], -1, even.shape[-1])[..., :r, :]
