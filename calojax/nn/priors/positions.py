"""Positions of codes, and the angles of rotary attention.

Rotary attention (Su et al. 2021, arXiv:2104.09864) rotates pair i of queries and keys by an angle
a_i(position), so that their product depends only on differences of angles. Along a line the angle
is frequency x coordinate. Around a cylinder it is an integer times 2 pi alpha / n_alpha: alpha has
no seam, and a rotation of all codes changes no difference.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np


class Positions(Protocol):
    """An arrangement of t codes; hashable."""

    @property
    def length(self) -> int:
        """Number of positions t."""
        ...

    @property
    def grid(self) -> tuple[int, int, int]:
        """Numbers of positions along z, around and outward; a line runs along z."""
        ...

    @property
    def rings(self) -> np.ndarray:
        """Number of the ring of each position, int [t]; a rotation keeps rings."""
        ...

    @property
    def neighbours(self) -> tuple[int, ...]:
        """Distances back in the sequence to the nearest earlier code on each axis."""
        ...

    def angles(self, pairs: int) -> np.ndarray:
        """Angles in radians of each pair of components: float64 [t, pairs]."""
        ...


@dataclasses.dataclass(frozen=True)
class Line:
    """Codes in a row.

    Attributes:
      length: number of positions.
    """

    length: int

    neighbours = (1,)

    @property
    def grid(self) -> tuple[int, int, int]:
        """See `Positions`."""
        return self.length, 1, 1

    @property
    def rings(self) -> np.ndarray:
        return np.arange(self.length)

    def angles(self, pairs: int) -> np.ndarray:
        return np.arange(self.length)[:, None] * _frequencies(self.length, pairs)


@dataclasses.dataclass(frozen=True)
class Cylinder:
    """Codes on a grid (z, alpha, r), r fastest, as voxels are.

    Attributes:
      z: number of positions along z.
      alpha: number of positions around.
      r: number of positions outward.
    """

    z: int
    alpha: int
    r: int

    @property
    def length(self) -> int:
        return self.z * self.alpha * self.r

    @property
    def grid(self) -> tuple[int, int, int]:
        """See `Positions`."""
        return self.z, self.alpha, self.r

    @property
    def coordinates(self) -> np.ndarray:
        """(z, alpha, r) of every position: int [t, 3]."""
        return np.stack(np.unravel_index(np.arange(self.length), (self.z, self.alpha, self.r)), -1)

    @property
    def rings(self) -> np.ndarray:
        z, _, r = self.coordinates.T
        return z * self.r + r

    @property
    def neighbours(self) -> tuple[int, ...]:
        """One step back in r, in alpha and in z; steps of the same length count once."""
        return tuple(sorted({1, self.r, self.r * self.alpha}))

    def angles(self, pairs: int) -> np.ndarray:
        """Angles in radians; axes with more than one position share the pairs evenly."""
        z, alpha, r = self.coordinates.T
        extents = {"alpha": self.alpha, "z": self.z, "r": self.r}
        axes = [axis for axis, extent in extents.items() if extent > 1]
        if not axes:
            return np.zeros((self.length, pairs))
        columns = []
        for axis, share in zip(axes, np.array_split(range(pairs), len(axes)), strict=True):
            if axis == "alpha":
                # Multiples m and n_alpha - m are equivalent, so 1..n_alpha / 2 are used in turn.
                # The integer product is reduced first: equal differences are equal floats.
                multiples = 1 + np.arange(len(share)) % (self.alpha // 2)
                turns = alpha[:, None] * multiples % self.alpha
                columns.append(2 * np.pi / self.alpha * turns)
            else:
                along = z if axis == "z" else r
                columns.append(along[:, None] * _frequencies(extents[axis], len(share)))
        return np.concatenate(columns, axis=1)


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Rotates pairs (i, i + d/2) of x [b, t, h, d] by angles [t, d/2], in float32."""
    cos, sin = jnp.cos(angles)[None, :, None], jnp.sin(angles)[None, :, None]
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x.dtype)


def _frequencies(extent: int, number: int) -> np.ndarray:
    """Radians per step [number], geometric from 1 to 1 / extent."""
    return float(extent) ** -np.linspace(0, 1, number)
