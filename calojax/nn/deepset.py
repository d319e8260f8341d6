"""DeepSets: functions of a shower's points that do not depend on their order or on padding.

After Zaheer et al. 2017 (arXiv:1703.06114): a network for every point, the mean over the points of
a shower, a network for the shower. As in CaloPointFlow, the last map before the mean and the first
after it are linear; a linear map of a mean is the mean of the linear maps, so both are done once a
shower as one matrix, and the work for a point ends with its last activation (for the published
encoder that is a ninth of the work, for the same functions).
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from calojax.nn import tiles
from calojax.nn.tiles import Tiling

Activation = Callable[[jax.Array], jax.Array]


class DeepSet(nn.Module):
    """Features of whole showers.

    Attributes:
      point: widths of the network of a point.
      shower: widths of the network of a shower.
      features: width of the output.
      activation: after every layer but the last.
    """

    point: Sequence[int]
    shower: Sequence[int]
    features: int
    activation: Activation = nn.relu

    def setup(self):
        self.point_layers = [nn.Dense(width) for width in self.point]
        self.shower_layers = [nn.Dense(width) for width in self.shower]
        self.out = nn.Dense(self.features)

    def __call__(self, x: jax.Array, tiling: Tiling, num: int) -> jax.Array:
        """Points x [p, d] in the tiles of ``num`` showers -> [num, features]."""
        return self.of_showers(tiles.mean(self.of_points(x), tiling, num))

    def of_points(self, x: jax.Array) -> jax.Array:
        """What is to be averaged: [p, d] -> [p, c]."""
        for layer in self.point_layers:
            x = self.activation(layer(x))
        return x

    def of_showers(self, mean: jax.Array) -> jax.Array:
        """The output from averages [g, c] -> [g, features]."""
        for layer in self.shower_layers:
            mean = self.activation(layer(mean))
        return self.out(mean)


class Encoder(nn.Module):
    """The posterior q(z | X) of a latent vector given all points of a shower.

    Attributes:
      latents: dimensions of z.
      point: widths of the network of a point.
      shower: widths of the network of a shower.
    """

    latents: int
    point: Sequence[int]
    shower: Sequence[int]

    def setup(self):
        self.set = DeepSet(self.point, self.shower, 2 * self.latents, nn.gelu)

    def __call__(self, x: jax.Array, tiling: Tiling, num: int) -> tuple[jax.Array, jax.Array]:
        """Points x [p, d] in tiles -> mean and log of the standard deviation, [num, latents]."""
        mean, log_std = jnp.split(self.set(x, tiling, num), 2, -1)
        # The bounds keep exp() finite; a posterior is not narrower than 1e-3 nor wider than 20.
        return mean, jnp.clip(log_std, -7.0, 3.0)
