"""Mixtures of normals over one number, with parameters from a network."""

from typing import Any

import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Smallest standard deviation of a component: keeps densities bounded where data repeat a value.
_MIN_SCALE = 1e-2


class Mixture(distrax.MixtureSameFamily):
    """A mixture of k normals, from outputs [..., 3 k] of a network."""

    def __init__(self, outputs: Float[Array, "*shape n"]):
        weight, mean, scale = jnp.split(outputs, 3, -1)
        k = weight.shape[-1]
        self._weight = weight
        # Components start at different means, so that they do not stay equal.
        offset = jnp.linspace(-1.0, 1.0, k) if k > 1 else 0.0
        super().__init__(
            distrax.Categorical(weight),
            distrax.Normal(mean + offset, nn.softplus(scale) + _MIN_SCALE),
        )

    def at(self, uniform: Float[Array, "*shape"], normal: Float[Array, "*shape"]) -> jax.Array:
        """Draws from numbers: the component at a quantile, and a standard normal."""
        # Not the probabilities of distrax, which normalises the weights twice.
        below = jnp.cumsum(nn.softmax(self._weight), -1)[..., :-1] <= uniform[..., None]
        chosen = jax.nn.one_hot(below.sum(-1), self._weight.shape[-1])
        components: Any = self.components_distribution
        return ((components.loc + components.scale * normal[..., None]) * chosen).sum(-1)
