"""DeepSets: functions of a set of points that do not depend on their order or on padding.

After Zaheer et al. 2017 (arXiv:1703.06114): a network for every point, the mean over the points of
a set, a network for the set. In CaloPointFlow the last layer before the mean and the first one
after it are linear. The mean of linear maps is the linear map of the mean, so here they are one
matrix, applied once per set, with a ninth of the work for the published encoder.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from calojax.nn import tiles
from calojax.nn.tiles import Tiling

Activation = Callable[[jax.Array], jax.Array]


class DeepSet(nn.Module):
    """Features of sets of points."""

    point: Sequence[int]  # widths of the network for points
    shower: Sequence[int]  # widths of the network for sets
    features: int  # width of the output
    activation: Activation = nn.relu  # activation after every layer but the last

    def setup(self):
        self.point_layers = [nn.Dense(width) for width in self.point]
        self.shower_layers = [nn.Dense(width) for width in self.shower]
        self.out = nn.Dense(self.features)

    def __call__(self, x: jax.Array, tiling: Tiling, num: int) -> jax.Array:
        """Points x [p, d] in the tiles of ``num`` sets -> [num, features]."""
        return self.of_showers(tiles.mean(self.of_points(x), tiling, num))

    def of_points(self, x: jax.Array) -> jax.Array:
        """Features of points to be averaged: [p, d] -> [p, c]."""
        for layer in self.point_layers:
            x = self.activation(layer(x))
        return x

    def of_showers(self, mean: jax.Array) -> jax.Array:
        """Features of sets from the averages over their points: [g, c] -> [g, features]."""
        for layer in self.shower_layers:
            mean = self.activation(layer(mean))
        return self.out(mean)


class Encoder(nn.Module):
    """The posterior q(z | X) of a latent vector given all points of a set, a diagonal normal."""

    latents: int
    point: Sequence[int]  # widths of the network for points
    shower: Sequence[int]  # widths of the network for sets

    def setup(self):
        self.set = DeepSet(self.point, self.shower, 2 * self.latents, nn.gelu)

    def __call__(self, x: jax.Array, tiling: Tiling, num: int) -> tuple[jax.Array, jax.Array]:
        """Points x [p, d] in tiles -> mean and log standard deviation, each [num, latents]."""
        mean, log_std = jnp.split(self.set(x, tiling, num), 2, -1)
        # Standard deviations between 1e-3 and 20 keep exp() finite.
        return mean, jnp.clip(log_std, -7.0, 3.0)
