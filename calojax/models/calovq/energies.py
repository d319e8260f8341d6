"""The model of layer energies: a small conditional VAE.

Calo-VQ has a separate model of layer energies, a conditional VAE with four latents (talk at the
CaloChallenge workshop 2022). Here its decoder gives a density instead of a point: each layer is
empty with some probability and otherwise log-normal in its share of the visible energy; the visible
fraction E_sum / E_inc is normal. Fluctuations that four latents cannot describe remain as noise of
the right size. This noise is correlated between layers, so the density of a layer is also
conditioned on the preceding layers.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from calojax.nn.mlp import MLP

# Smallest width of a standardised energy: keeps densities bounded where data repeat a value.
_MIN_SCALE = 1e-2
# Width of the decoder's context for the refinement of each layer.
_CONTEXT = 8


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


class EnergyVAE(nn.Module):
    """Conditional VAE of the energies of l layers; `config.EnergiesConfig` explains its sizes."""

    layers: int
    latents: int
    hidden: tuple[int, ...]
    components: int
    memory: int

    def setup(self):
        self.encoder = MLP(self.hidden, 2 * self.latents)
        context = _CONTEXT if self.memory else 0
        self.decoder = MLP(self.hidden, self.layers * (self._parameters + context) + 2)
        if self.memory:
            self.refinement = MLP((64, 64), self._parameters)

    @property
    def _parameters(self) -> int:
        """Number of parameters of a layer's density."""
        return 1 + 3 * self.components

    def posterior(
        self, energies: LayerEnergies, condition: Float[Array, "b c"]
    ) -> distrax.MultivariateNormalDiag:
        """q(latent | layer energies, condition): a diagonal normal over [b, latents]."""
        x = jnp.concatenate(
            [energies.share, energies.present, energies.visible[:, None], condition], -1
        )
        mean, log_scale = jnp.split(self.encoder(x), 2, -1)
        return distrax.MultivariateNormalDiag(mean, jnp.exp(jnp.clip(log_scale, -7.0, 3.0)))

    def likelihood(
        self, latent: jax.Array, condition: jax.Array, energies: LayerEnergies
    ) -> tuple[distrax.Bernoulli, distrax.MixtureSameFamily, distrax.Normal]:
        """p(present), p(share | present), p(visible), given latent [b, latents] and condition.

        The first two are conditioned on the ``energies`` of the preceding layers.
        """
        visible, base, context = self._decoded(latent, condition)
        seen = jnp.concatenate([_before(x, self.memory) for x in energies[:2]], -1)
        present, share = self._layer(base, context, seen)
        return present, share, distrax.Normal(*_location_and_scale(visible))

    def _decoded(self, latent, condition):
        """Parameters of the visible fraction [b, 2] and of layers [b, l, n]; layer contexts."""
        out = self.decoder(jnp.concatenate([latent, condition], -1))
        layers = out[:, 2:].reshape(out.shape[0], self.layers, -1)
        return out[:, :2], layers[..., : self._parameters], layers[..., self._parameters :]

    def _layer(self, base, context, seen):
        """p(present), p(share | present) of layers, given the preceding ones [..., 2 memory]."""
        if self.memory:
            base = base + self.refinement(jnp.concatenate([context, seen], -1))
        weight, mean, scale = jnp.split(base[..., 1:], 3, -1)
        # Components start at different means, so that they do not stay equal.
        offset = jnp.linspace(-1.0, 1.0, self.components) if self.components > 1 else 0.0
        share = distrax.MixtureSameFamily(
            distrax.Categorical(weight),
            distrax.Normal(mean + offset, nn.softplus(scale) + _MIN_SCALE),
        )
        return distrax.Bernoulli(logits=base[..., 0]), share

    def __call__(
        self,
        energies: LayerEnergies,
        condition: Float[Array, "b c"],
        noise: Float[Array, "b latents"],
    ) -> dict[str, jax.Array]:
        """Terms of the negative ELBO in nats, each [b], from standard normal noise."""
        posterior = self.posterior(energies, condition)
        latent = jnp.asarray(posterior.loc) + posterior.scale_diag * noise
        present, share, visible = self.likelihood(latent, condition, energies)
        prior = distrax.MultivariateNormalDiag(jnp.zeros_like(latent), jnp.ones_like(latent))
        share_log_prob = jnp.where(energies.present, share.log_prob(energies.share), 0.0)
        return {
            "present": -jnp.asarray(present.log_prob(energies.present)).sum(-1),
            "share": -share_log_prob.sum(-1),
            "visible": -jnp.asarray(visible.log_prob(energies.visible)),
            "kl": jnp.asarray(posterior.kl_divergence(prior)),
        }

    @nn.nowrap
    def noise(self, keys: PRNGKeyArray) -> dict[str, Any]:
        """The random numbers of `draw` from one key for each shower [b].

        They are normal numbers of the latents [b, latents], the layers' shares [b, l] and the
        visible fraction [b]; uniform ones of the layers' presence [b, l]; and Gumbel noise of their
        components [b, l, components].
        """
        l = self.layers

        def noise(key):
            latent, rest = jax.random.split(key)
            present, component, share, visible = jax.random.split(rest, 4)
            normal = (latent, (self.latents,)), (share, (l,)), (visible, ())
            return {
                "normal": tuple(jax.random.normal(key, shape) for key, shape in normal),
                "uniform": jax.random.uniform(present, (l,)),
                "gumbel": jax.random.gumbel(component, (l, self.components)),
            }

        return jax.vmap(noise)(keys)

    def draw(self, noise: Mapping[str, Any], condition: Float[Array, "b c"]) -> LayerEnergies:
        """Layer energies from `noise`.

        Distrax samples a batch from one key, so the draws are written out here.
        """
        latent, normal, normal_visible = noise["normal"]
        visible, base, context = self._decoded(latent, condition)

        def layer(seen, inputs):
            base, context, uniform, gumbel, normal = inputs
            present, share = self._layer(base, context, seen.reshape(seen.shape[0], -1))
            chosen = jnp.argmax(share.mixture_distribution.logits + gumbel, -1)[..., None]
            components: Any = share.components_distribution
            mean = jnp.take_along_axis(components.loc, chosen, -1)[..., 0]
            scale = jnp.take_along_axis(components.scale, chosen, -1)[..., 0]
            drawn = mean + scale * normal, uniform < present.probs
            # As in training, an absent layer has share 0.
            now = jnp.stack([jnp.where(drawn[1], drawn[0], 0.0), drawn[1].astype(normal.dtype)], -1)
            return jnp.concatenate([seen, now[..., None]], -1)[..., 1:], drawn

        nothing = jnp.zeros((base.shape[0], 2, self.memory), base.dtype)
        by_layer = base, context, noise["uniform"], noise["gumbel"], normal
        inputs = (jnp.moveaxis(x, 1, 0) for x in by_layer)
        _, (share, present) = jax.lax.scan(layer, nothing, tuple(inputs))
        location, scale = _location_and_scale(visible)
        return LayerEnergies(share.T, present.T, location + scale * normal_visible)


def _location_and_scale(numbers: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of a normal, from outputs [..., 2]."""
    return numbers[..., 0], nn.softplus(numbers[..., 1]) + _MIN_SCALE


def _before(x: jax.Array, memory: int) -> jax.Array:
    """The values before each of x [b, l], nearest last: [b, l, memory], zeros outside."""
    n = x.shape[1]
    x = jnp.pad(x.astype(jnp.float32), ((0, 0), (memory, 0)))
    before = [x[:, i : i + n] for i in range(memory)]
    return jnp.stack(before, -1) if memory else jnp.zeros((*x.shape, 0))
