"""What a decoder says of each voxel: what is fitted, and what is drawn.

Heads work in the space of a `voxel_transforms.Scale`, where voxels are numbers y. A head says
how many numbers a voxel needs of the decoder, how well they describe a shower, and what shower they
stand for.
"""

from typing import Literal, Protocol

import jax
import jax.numpy as jnp

from calojax.geometry import Detector
from calojax.models.voxels import layer_max, over_voxels

HeadName = Literal["point", "density"]

# Standard deviations that the threshold may lie above the mean of a truncated normal. Beyond, the
# normal's upper tail (3e-5 at 4) runs out of float32 digits; at 4 its shape is exponential already.
_MAX_TRUNCATION = 4.0
_MIN_SCALE = 1e-2


class Head(Protocol):
    """See the module's docstring."""

    numbers: int

    def loss(self, out: jax.Array, y: jax.Array, hit: jax.Array, lower: jax.Array) -> jax.Array:
        """Misfit of out [b, v, numbers] to y [b, v] -> [b], a sum over voxels.

        Args:
          out: of the decoder.
          y: voxels on their scale.
          hit: which of them hold energy [b, v].
          lower: y of the readout threshold [b, v].
        """
        ...

    def draw(
        self, keys: jax.Array, out: jax.Array, lower: jax.Array, detector: Detector
    ) -> tuple[jax.Array, jax.Array]:
        """(y [b, v], hit [b, v]) from one key a shower [b]."""
        ...


class Point:
    """The talk's output: one number a voxel, squared error; what is off the scale is empty."""

    numbers = 1

    def loss(self, out: jax.Array, y: jax.Array, hit: jax.Array, lower: jax.Array) -> jax.Array:
        """Squared error, empty voxels included."""
        return jnp.sum((out[..., 0] - y) ** 2, -1)

    def draw(
        self, keys: jax.Array, out: jax.Array, lower: jax.Array, detector: Detector
    ) -> tuple[jax.Array, jax.Array]:
        """The output; nothing is drawn."""
        return out[..., 0], jnp.ones(out.shape[:-1], bool)


class Density:
    """A density a voxel: empty with some probability, else normal above the readout threshold.

    A point can be zero or right on average, not both: squared error makes soft voxels the mean of
    mostly nothing. Here a voxel's hit is a Bernoulli variable and the y of a hit a normal,
    truncated where the readout cuts; both are drawn at generation.
    """

    numbers = 3

    def loss(self, out: jax.Array, y: jax.Array, hit: jax.Array, lower: jax.Array) -> jax.Array:
        """Negative log-likelihood in nats, up to the constant of the change of variables."""
        logit, mean, scale = self._split(out, lower)
        standard = (y - mean) / scale
        log_normal = -0.5 * standard**2 - jnp.log(scale) - 0.5 * jnp.log(2 * jnp.pi)
        log_kept = jax.scipy.special.log_ndtr(-(lower - mean) / scale)
        log_hit = jax.nn.log_sigmoid(logit)
        log_empty = jax.nn.log_sigmoid(-logit)
        return -jnp.sum(jnp.where(hit, log_hit + log_normal - log_kept, log_empty), -1)

    def draw(
        self, keys: jax.Array, out: jax.Array, lower: jax.Array, detector: Detector
    ) -> tuple[jax.Array, jax.Array]:
        """Draws hits and their y by inverting the truncated normal's distribution.

        A layer has a hit at least: where none is drawn, one voxel is, in proportion to the rates of
        their hits.
        """
        logit, mean, scale = self._split(out, lower)
        voxels = logit.shape[1:]

        def numbers(key):
            hit, energy = jax.random.split(key)
            return jax.random.uniform(hit, voxels), jax.random.uniform(energy, voxels)

        uniform_hit, uniform = jax.vmap(numbers)(keys)
        # Hits as first arrivals of Poisson processes before time 1: P(hit) = sigmoid(logit), and
        # voxel i is the first of its layer with probability rate_i / sum of rates.
        arrival = -jnp.log1p(-uniform_hit) / jax.nn.softplus(logit)
        first = -over_voxels(layer_max(-arrival, detector), detector)
        hit = (arrival < 1.0) | (arrival == first)
        # The upper tail from u (1 - Phi(a)) = Phi(-z) keeps its digits where Phi(a) is near 1.
        tail = jax.scipy.special.ndtr(-(lower - mean) / scale)
        z = -jax.scipy.special.ndtri(jnp.maximum(1.0 - uniform, 1e-7) * tail)
        return jnp.maximum(mean + scale * z, lower), hit

    @staticmethod
    def _split(out: jax.Array, lower: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(hit logit, mean, scale), each [b, v]."""
        logit, mean, scale = jnp.moveaxis(out, -1, 0)
        # softplus(-2) = 0.13 at the start: the spread of y in real showers.
        scale = jax.nn.softplus(scale - 2.0) + _MIN_SCALE
        return logit, jnp.maximum(mean, lower - _MAX_TRUNCATION * scale), scale


HEADS: dict[HeadName, Head] = {"point": Point(), "density": Density()}
