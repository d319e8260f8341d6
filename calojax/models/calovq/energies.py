"""The model of layer energies: a density that sees all preceding layers.

The visible fraction E_sum / E_inc comes first. Then every layer, from the front to the back, is
empty with some probability, and otherwise the logarithm of its share of the visible energy is a
mixture of normals; both depend on the incident energy, the visible fraction, all layers before and
the share that these have left.
In training all layers are computed at once, because a layer's weights for later layers are masked
(MADE, Germain et al. 2015, arXiv:1502.03509).

The talk's conditional VAE is in `calojax.models.calovq.energy_vae`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from calojax.nn.mixture import Mixture
from calojax.nn.mlp import MLP
from calojax.nn.recurrence import scan

# Below this share of the visible energy, what is left depends on the errors of the layers before.
_LEAST_LEFT = 0.003
# Standard deviation of the noise on standardised shares.
_NOISE = 0.05


class LayerEnergies(NamedTuple):
    """Standardised layer energies (see `calojax.models.calovq.transforms.layer_shares`).

    Attributes:
      share: standardised logarithm of the layer's share of the visible energy.
      present: whether the layer has energy.
      visible: standardised E_sum / E_inc.
    """

    share: Float[Array, "b l"]
    present: Bool[Array, "b l"]
    visible: Float[Array, " b"]


class Scales(NamedTuple):
    """Mean and standard deviation of the logarithms of shares, [l]."""

    mean: jax.Array
    std: jax.Array

    def shares(self, energies: LayerEnergies) -> Float[Array, "b l"]:
        """Shares of the visible energy."""
        return jnp.where(energies.present, jnp.exp(energies.share * self.std + self.mean), 0.0)


class EnergyDensity(nn.Module):
    """A density of the energies of l layers, layer after layer.

    Attributes:
      layers: number of layers.
      width: features of a layer's history.
      components: number of normals in each mixture.
    """

    layers: int
    width: int
    components: int

    def setup(self):
        l, w = self.layers, self.width
        small = nn.initializers.normal(0.05)
        self.history = self.param("history", small, (l, 2 * l, w))
        self.given = self.param("given", nn.initializers.normal(0.5), (l, 2, w))
        self.left = self.param("left", nn.initializers.normal(0.3), (l, 2, w))
        self.bias = self.param("bias", nn.initializers.zeros, (l, w))
        self.hidden = MLP((w,), w)
        self.output = self.param("output", small, (l, w, 1 + 3 * self.components))
        self.output_bias = self.param("output_bias", nn.initializers.zeros, self.output.shape[::2])
        self.visible = MLP((64, 64), 3 * self.components)

    def __call__(
        self,
        energies: LayerEnergies,
        condition: Float[Array, "b 1"],
        scales: Scales,
        key: PRNGKeyArray,
    ) -> dict[str, jax.Array]:
        """Terms of -log p(energies | condition) in nats, each [b].

        The network sees preceding layers with noise, so that in generation it does not follow
        their errors.
        """
        present, share = self.likelihood(with_noise(energies, key), condition, scales)
        share = jnp.where(energies.present, Mixture(share).log_prob(energies.share), 0.0)
        occupied = energies.present.astype(present.dtype)
        return {
            "present": optax.sigmoid_binary_cross_entropy(present, occupied).sum(-1),
            "share": -share.sum(-1),
            "visible": -jnp.asarray(Mixture(self.visible(condition)).log_prob(energies.visible)),
        }

    def likelihood(
        self, energies: LayerEnergies, condition: Float[Array, "b 1"], scales: Scales
    ) -> tuple[Float[Array, "b l"], Float[Array, "b l n"]]:
        """Logits of the presence, and parameters of the share's mixture, given preceding layers."""
        seen = jnp.concatenate([energies.share, energies.present], -1)
        history = jnp.einsum("bk,lkw->blw", seen, self._masked())
        before = jnp.cumsum(scales.shares(energies)[:, :-1], -1)
        left = _left(jnp.pad(before, ((0, 0), (1, 0))))
        x = history + self._start(energies.visible, condition)
        x = x + jnp.einsum("blk,lkw->blw", left, self.left)
        outputs = jnp.einsum("blw,lwn->bln", self._features(x), self.output) + self.output_bias
        return outputs[..., 0], outputs[..., 1:]

    @nn.nowrap
    def noise(self, keys: PRNGKeyArray) -> dict[str, jax.Array]:
        """The random numbers of `draw` from keys [b] (see `random_numbers`)."""
        return random_numbers(keys, self.layers)

    def draw(
        self, noise: Mapping[str, jax.Array], condition: Float[Array, "b 1"], scales: Scales
    ) -> LayerEnergies:
        """Layer energies from `noise`."""
        (presence, component), normal = jnp.moveaxis(noise["uniform"], 1, 0), noise["normal"]
        visible = Mixture(self.visible(condition)).at(component[:, -1], normal[:, -1])
        start = self._start(visible, condition)

        def layer(carry, inputs):
            seen, before = carry
            i, weights, start, of_left, output, bias, scale, presence, component, normal = inputs
            x = seen @ weights + start + _left(before) @ of_left
            outputs = self._features(x) @ output + bias
            present = presence < nn.sigmoid(outputs[:, 0])
            share = jnp.where(present, Mixture(outputs[:, 1:]).at(component, normal), 0.0)
            drawn = jnp.stack([share, present.astype(share.dtype)], 1)
            seen = seen.reshape(-1, 2, self.layers).at[..., i].set(drawn).reshape(seen.shape)
            before = before + scale.shares(LayerEnergies(share, present, visible))
            return (seen, before), None

        by_layer = (x.swapaxes(0, 1)[:-1] for x in (presence, component, normal))
        inputs = (
            *(np.arange(self.layers), self._masked(), start.swapaxes(0, 1), self.left),
            *(self.output, self.output_bias, scales, *by_layer),
        )
        nothing = jnp.zeros((visible.shape[0], 2 * self.layers), visible.dtype)
        (seen, _), _ = scan(layer, (nothing, jnp.zeros_like(visible)), inputs)
        return LayerEnergies(seen[:, : self.layers], seen[:, self.layers :] > 0, visible)

    def _masked(self) -> jax.Array:
        """Weights of preceding layers only, [l, 2 l, w]."""
        before = np.tri(self.layers, k=-1, dtype=np.float32)
        return self.history * np.tile(before, 2)[..., None]

    def _start(self, visible: jax.Array, condition: jax.Array) -> jax.Array:
        """Features of each layer without its history, [b, l, w]."""
        given = jnp.concatenate([condition, visible[:, None]], -1)
        return jnp.einsum("bk,lkw->blw", given, self.given) + self.bias

    def _features(self, x: jax.Array) -> jax.Array:
        x = nn.silu(x)
        return nn.silu(x + self.hidden(x))


def with_noise(energies: LayerEnergies, key: PRNGKeyArray) -> LayerEnergies:
    """The energies with noise on the shares of layers that are not empty."""
    noise = _NOISE * jax.random.normal(key, energies.share.shape)
    return energies._replace(share=energies.share + jnp.where(energies.present, noise, 0.0))


def _left(before: jax.Array) -> jax.Array:
    """Features of the share of the visible energy that layers before have left: [..., 2].

    Without them a network hardly learns that all shares are one together.
    """
    left = jnp.maximum(1.0 - before, _LEAST_LEFT)
    return jnp.stack([left, jnp.log(left)], -1)


def random_numbers(keys: PRNGKeyArray, layers: int, latents: int = 0) -> dict[str, jax.Array]:
    """The random numbers of showers' layer energies, from keys [b].

    ``uniform`` [b, 2, l + 1] are quantiles of the presence and of the component, and ``normal``
    [b, latents + l + 1] normal numbers: of latents, of each layer and, last, of the visible
    fraction.
    """

    def numbers(key):
        uniform, normal = jax.random.split(key)
        return {
            "uniform": jax.random.uniform(uniform, (2, layers + 1)),
            "normal": jax.random.normal(normal, (latents + layers + 1,)),
        }

    return jax.vmap(numbers)(keys)
