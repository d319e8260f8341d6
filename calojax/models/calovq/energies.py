"""The model of layer energies: a density that sees all preceding layers.

The visible fraction E_sum / E_inc comes first. Then every layer, from the front to the back, is
empty with some probability, and otherwise the logarithm of its share of the visible energy is a
mixture of normals; both depend on the incident energy, the visible fraction and all layers before,
through the state of a gated recurrent unit (GRU) and the share that these layers have left.

The talk's conditional VAE is in `calojax.models.calovq.energy_vae`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from calojax.nn.mixture import Mixture
from calojax.nn.mlp import MLP
from calojax.nn.recurrence import gru_states, gru_step, scan

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
      width: size of the recurrent state.
      components: number of normals in each mixture.
    """

    layers: int
    width: int
    components: int

    def setup(self):
        l, w, n = self.layers, self.width, 1 + 3 * self.components
        zeros = nn.initializers.zeros
        self.input = self.param("input", nn.initializers.normal(0.3), (l, _FEATURES, 4 * w))
        self.input_bias = self.param("input_bias", zeros, (l, 4 * w))
        self.state = self.param("state", nn.initializers.orthogonal(), (w, 3 * w))
        self.state_bias = self.param("state_bias", zeros, (1, w))
        self.hidden = MLP((w,), w)
        self.output = nn.Dense(n)
        self.output_bias = self.param("output_bias", zeros, (l, n))
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
        given = jnp.concatenate([condition, energies.visible[:, None]], -1)
        shares = scales.shares(energies).T
        # Every layer sees the one before, the first an empty one.
        before, last = (jnp.pad(x[:-1], ((1, 0), (0, 0))) for x in (jnp.cumsum(shares, 0), shares))
        features = jax.vmap(_features, (None, 0, 0, 0))(given, before, last, scales)
        x = jnp.einsum("lbk,lkw->lbw", features, self.input) + self.input_bias[:, None]
        gates, x = jnp.split(x, [3 * self.width], -1)
        states = gru_states(jnp.zeros_like(x[0]), gates, self.state, self.state_bias)
        outputs = self._outputs(states, x).swapaxes(0, 1) + self.output_bias
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
        given = jnp.concatenate([condition, visible[:, None]], -1)

        def layer(carry, inputs):
            state, before, last = carry
            kernel, bias, output_bias, scale, presence, component, normal = inputs
            x = _features(given, before, last, scale) @ kernel + bias
            gates, x = jnp.split(x, [3 * self.width], -1)
            state = gru_step(state, gates, self.state, self.state_bias)
            outputs = self._outputs(state, x) + output_bias
            present = presence < nn.sigmoid(outputs[:, 0])
            share = jnp.where(present, Mixture(outputs[:, 1:]).at(component, normal), 0.0)
            last = scale.shares(LayerEnergies(share, present, visible))
            return (state, before + last, last), (share, present)

        by_layer = (x.swapaxes(0, 1)[:-1] for x in (presence, component, normal))
        inputs = (self.input, self.input_bias, self.output_bias, scales, *by_layer)
        nothing = jnp.zeros_like(visible)
        start = jnp.zeros((visible.shape[0], self.width), visible.dtype)
        _, (share, present) = scan(layer, (start, nothing, nothing), inputs)
        return LayerEnergies(share.T, present.T, visible)

    def _outputs(
        self, state: Float[Array, "*shape w"], x: Float[Array, "*shape w"]
    ) -> Float[Array, "*shape n"]:
        """Outputs from the state and the layer's own inputs."""
        x = state + nn.silu(x)
        return self.output(nn.silu(x + self.hidden(nn.silu(x))))


# Number of inputs of a layer from `_features`.
_FEATURES = 7


def _features(
    given: Float[Array, "b 2"], before: Float[Array, " b"], last: Float[Array, " b"], scale: Scales
) -> Float[Array, "b k"]:
    """Inputs of a layer: what is given, the shares that layers before have left, the last layer's.

    Args:
      given: condition and visible fraction.
      before: sum of the shares of all layers before.
      last: share of the layer before.
      scale: mean and standard deviation of the layer's own log share.
    """
    # Without what is left a network hardly learns that all shares are one together.
    left = jnp.maximum(1.0 - before, _LEAST_LEFT)
    present = last > 0
    log = jnp.log(jnp.where(present, last, 1.0)) - scale.mean
    # Proportional to the root of the energy: of use for layers with most energy.
    root = jnp.exp(jnp.minimum(0.5 * log, 2.0))
    of_last = (jnp.where(present, x, 0.0) for x in (log / scale.std, root, jnp.ones_like(log)))
    return jnp.stack([*given.T, left, jnp.log(left), *of_last], -1)


def with_noise(energies: LayerEnergies, key: PRNGKeyArray) -> LayerEnergies:
    """The energies with noise on the shares of layers that are not empty."""
    noise = _NOISE * jax.random.normal(key, energies.share.shape)
    return energies._replace(share=energies.share + jnp.where(energies.present, noise, 0.0))


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
