"""Output likelihoods of voxels: how decoder outputs are fitted and how voxels are drawn.

They work in the space of a `voxel_transforms.VoxelTransform`, where every voxel is a number y.
"""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from calojax import rng
from calojax.geometry import Detector
from calojax.models.voxels import layer_max, over_voxels

LikelihoodName = Literal["point", "density"]
Outputs = Float[Array, "b v n"]
Voxels = Float[Array, "b v"]
Hits = Bool[Array, "b v"]

Noise = Mapping[str, Any]
"""Random numbers of showers by distribution (see `calojax.models.base.Noise`)."""

# Largest distance of the threshold above the mean of a truncated normal, in standard deviations.
# Beyond 4 the normal's upper tail (3e-5) loses its float32 digits; at 4 it is already exponential.
_MAX_TRUNCATION = 4.0
_MIN_SCALE = 1e-2


class Point:
    """One number per voxel with squared error, as in the talk; out-of-range numbers are empty.

    Attributes:
      outputs: decoder outputs per voxel, n.
    """

    outputs = 1

    def loss(self, out: Outputs, y: Voxels, hit: Hits, lower: Voxels) -> Float[Array, " b"]:
        """Squared error of each shower, including empty voxels.

        Args:
          out: decoder outputs.
          y: transformed voxels.
          hit: whether each voxel has energy.
          lower: y of the readout threshold.
        """
        return jnp.sum((out[..., 0] - y) ** 2, -1)

    def noise(self, keys: PRNGKeyArray, voxels: int) -> Noise:
        """No random numbers."""
        return {}

    def draw(
        self, noise: Noise, out: Outputs, lower: Voxels, detector: Detector
    ) -> tuple[Voxels, Hits]:
        """y and hits of voxels: the decoder outputs."""
        return out[..., 0], jnp.ones(out.shape[:-1], bool)


class Density:
    """A density per voxel: empty with some probability, otherwise a truncated normal.

    With squared error, the output for a soft voxel is its mean over showers in which it is mostly
    empty. Here a hit is a Bernoulli variable, and its y is normal, truncated at the readout
    threshold. Both are drawn in generation.
    """

    outputs = 3

    def loss(self, out: Outputs, y: Voxels, hit: Hits, lower: Voxels) -> Float[Array, " b"]:
        """Negative log-likelihood of y in nats, not of energies."""
        logit, mean, scale = self._split(out, lower)
        standard = (y - mean) / scale
        log_normal = -0.5 * standard**2 - jnp.log(scale) - 0.5 * jnp.log(2 * jnp.pi)
        log_kept = jax.scipy.special.log_ndtr(-(lower - mean) / scale)
        log_hit = jax.nn.log_sigmoid(logit)
        log_empty = jax.nn.log_sigmoid(-logit)
        return -jnp.sum(jnp.where(hit, log_hit + log_normal - log_kept, log_empty), -1)

    def noise(self, keys: PRNGKeyArray, voxels: int) -> Noise:
        """Uniform numbers of hits and of their y, [b, v] each, from one key for each shower."""

        def uniforms(key):
            return tuple(jax.random.uniform(k, (voxels,)) for k in jax.random.split(key))

        return {"uniform": jax.vmap(uniforms)(keys)}

    def draw(
        self, noise: Noise, out: Outputs, lower: Voxels, detector: Detector
    ) -> tuple[Voxels, Hits]:
        """Draws hits and their y, by the inverse distribution function of the truncated normal.

        A layer has at least one hit: if none is drawn, one voxel becomes a hit, with probability
        in proportion to its hit rate.
        """
        logit, mean, scale = self._split(out, lower)
        uniform_hit, uniform = noise["uniform"]
        # Hits as first arrivals of Poisson processes before time 1: P(hit) = sigmoid(logit), and
        # voxel i is the first of its layer with probability rate_i / sum of rates.
        arrival = -jnp.log1p(-uniform_hit) / jax.nn.softplus(logit)
        first = -over_voxels(layer_max(-arrival, detector), detector)
        hit = (arrival < 1.0) | (arrival == first)
        # The upper tail from u (1 - Phi(a)) = Phi(-z) keeps its digits where Phi(a) is near 1.
        tail = jax.scipy.special.ndtr(-(lower - mean) / scale)
        z = -rng.normal_quantile(jnp.maximum(1.0 - uniform, 1e-7) * tail)
        return jnp.maximum(mean + scale * z, lower), hit

    @staticmethod
    def _split(out: jax.Array, lower: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(hit logit, mean, scale), each [b, v]."""
        logit, mean, scale = jnp.moveaxis(out, -1, 0)
        # softplus(-2) = 0.13 at the start: the standard deviation of y in real showers.
        scale = jax.nn.softplus(scale - 2.0) + _MIN_SCALE
        return logit, jnp.maximum(mean, lower - _MAX_TRUNCATION * scale), scale


Likelihood = Point | Density
LIKELIHOODS: dict[LikelihoodName, Likelihood] = {"point": Point(), "density": Density()}
