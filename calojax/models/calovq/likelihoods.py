"""Output likelihoods of voxels: how decoder outputs are fitted and how voxels are drawn.

They work in the space of a `voxel_transforms.VoxelTransform`, where every voxel is a number y.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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
# Distance of the means of components at the start.
_OFFSET = 0.2


class Point:
    """One number per voxel with squared error, as in the talk; out-of-range numbers are empty."""

    outputs = 1

    def loss(self, out: Outputs, y: Voxels, hit: Hits, lower: Voxels) -> Float[Array, " b"]:
        """Squared error of each shower, including empty voxels; ``lower`` is y of the threshold."""
        return jnp.sum((out[..., 0] - y) ** 2, -1)

    def noise(self, keys: PRNGKeyArray, voxels: int) -> Noise:
        """No random numbers."""
        return {}

    def draw(
        self, noise: Noise, out: Outputs, lower: Voxels, detector: Detector
    ) -> tuple[Voxels, Hits]:
        """y and hits of voxels: the decoder outputs."""
        return out[..., 0], jnp.ones(out.shape[:-1], bool)


@dataclasses.dataclass(frozen=True)
class Density:
    """A density per voxel: empty with some probability, otherwise a mixture of truncated normals.

    With squared error, the output for a soft voxel is its mean over showers in which it is mostly
    empty. Here a hit is a Bernoulli variable, and its y is a mixture of normals, truncated at the
    readout threshold. Both are drawn in generation.
    """

    components: int = 2  # number of normals k

    @property
    def outputs(self) -> int:
        """Decoder outputs per voxel: hit logit, k - 1 log weights, k means, k scales."""
        return 3 * self.components

    def loss(self, out: Outputs, y: Voxels, hit: Hits, lower: Voxels) -> Float[Array, " b"]:
        """Negative log-likelihood of y in nats, not of energies."""
        logit, normals = self._split(out, lower)
        log_y = _log_sum(
            [n.log_weight - 0.5 * ((y - n.mean) / n.scale) ** 2 - jnp.log(n.scale) for n in normals]
        ) - _log_sum([n.log_weight + jnp.log(n.kept(lower)) for n in normals])
        log_y -= 0.5 * math.log(2 * math.pi)
        log_hit = jax.nn.log_sigmoid(logit)
        log_empty = jax.nn.log_sigmoid(-logit)
        return -jnp.sum(jnp.where(hit, log_hit + log_y, log_empty), -1)

    def noise(self, keys: PRNGKeyArray, voxels: int) -> Noise:
        """Uniform numbers of hits and of their y, [b, v] each, from one key for each shower."""

        def uniforms(key):
            return tuple(jax.random.uniform(k, (voxels,)) for k in jax.random.split(key))

        return {"uniform": jax.vmap(uniforms)(keys)}

    def draw(
        self, noise: Noise, out: Outputs, lower: Voxels, detector: Detector
    ) -> tuple[Voxels, Hits]:
        """Draws hits, and their y by the inverse distribution function.

        Hits are first arrivals of Poisson processes before time 1: P(hit) = sigmoid(logit). At
        least one voxel of a layer is hit: if none arrives in time, it is the first, which is voxel
        i with probability rate_i / sum of rates.
        """
        uniform_hit, uniform = noise["uniform"]
        logit, normals = self._split(out, lower)
        arrival = -jnp.log1p(-uniform_hit) / jax.nn.softplus(logit)
        first = -over_voxels(layer_max(-arrival, detector), detector)
        mean, scale, tail, uniform = _chosen(normals, uniform, lower)
        # The upper tail from u (1 - Phi(a)) = Phi(-z) keeps its digits where Phi(a) is near 1.
        z = -rng.normal_quantile(jnp.maximum(1.0 - uniform, 1e-7) * tail)
        return jnp.maximum(mean + scale * z, lower), (arrival < 1.0) | (arrival == first)

    def _split(self, out: jax.Array, lower: jax.Array) -> tuple[jax.Array, list["_Normal"]]:
        """Hit logit and normals, each number [...]."""
        k = self.components
        logit, *rest = jnp.moveaxis(out, -1, 0)
        weights = [jnp.zeros_like(logit), *rest[: k - 1]]
        means, scales = rest[k - 1 : -k], rest[-k:]
        # Components start at different means, so that they do not stay equal.
        offsets = _OFFSET * (np.arange(k) - (k - 1) / 2)
        normals = []
        for weight, mean, scale, offset in zip(weights, means, scales, offsets, strict=True):
            # softplus(-2) = 0.13 at the start: the standard deviation of y in real showers.
            scale = jax.nn.softplus(scale - 2.0) + _MIN_SCALE
            mean = jnp.maximum(mean + float(offset), lower - _MAX_TRUNCATION * scale)
            normals.append(_Normal(weight, mean, scale))
        return logit, normals


class _Normal(NamedTuple):
    """A component of a mixture; weights are relative to that of the first one."""

    log_weight: jax.Array
    mean: jax.Array
    scale: jax.Array

    def kept(self, lower: jax.Array) -> jax.Array:
        """The share above the threshold, at least 3e-5 by `_MAX_TRUNCATION`."""
        return rng.normal_share((self.mean - lower) / self.scale)


def _log_sum(logs: list[jax.Array]) -> jax.Array:
    """Logarithm of a sum, from the logarithms of its terms."""
    # jax.nn.logsumexp needs a stacked array, which takes eight times as long on a CPU.
    largest = jax.lax.stop_gradient(functools.reduce(jnp.maximum, logs))
    return largest + jnp.log(functools.reduce(jnp.add, [jnp.exp(x - largest) for x in logs]))


def _chosen(
    normals: list[_Normal], uniform: jax.Array, lower: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Mean, scale and share above the threshold of a component drawn by a uniform number.

    The last result is again uniform: the place within the component's part of [0, 1].
    """
    tails = [n.kept(lower) for n in normals]
    mean, scale, tail = normals[0].mean, normals[0].scale, tails[0]
    if len(normals) == 1:
        return mean, scale, tail, uniform
    largest = functools.reduce(jnp.maximum, [n.log_weight for n in normals])
    masses = [
        tail * jnp.exp(n.log_weight - largest) for n, tail in zip(normals, tails, strict=True)
    ]
    below, place = masses[0], uniform * functools.reduce(jnp.add, masses)
    within = place / below
    for normal, its_tail, mass in zip(normals[1:], tails[1:], masses[1:], strict=True):
        before = place < below
        mean = jnp.where(before, mean, normal.mean)
        scale = jnp.where(before, scale, normal.scale)
        tail = jnp.where(before, tail, its_tail)
        within = jnp.where(before, within, (place - below) / mass)
        below = below + mass
    return mean, scale, tail, within


Likelihood = Point | Density
