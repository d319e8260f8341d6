"""The energies of a shower's layers: a small conditional VAE with a density that knows zeros.

Calo-VQ gives layer energies a model of their own, a conditional VAE with four latents (talk at the
CaloChallenge workshop 2022). Its decoder here is a density, not a point: each layer is empty with
some probability and else log-normal in its share of the visible energy, and the visible fraction
E_sum / E_inc is normal; so what four latents cannot carry stays as noise of the right size.
"""

from typing import NamedTuple

import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp

from calojax.nn.mlp import MLP

# Narrowest width of a standardised energy: keeps densities bounded where data repeat a value.
_MIN_SCALE = 1e-2


class LayerEnergies(NamedTuple):
    """Standardised layer energies (see `calojax.transforms.layer_shares`).

    Attributes:
      share: standardised log shares of the visible energy [b, l].
      present: whether the layer holds energy [b, l].
      visible: standardised E_sum / E_inc [b].
    """

    share: jax.Array
    present: jax.Array
    visible: jax.Array


class EnergyVAE(nn.Module):
    """Conditional VAE of layer energies.

    Attributes:
      layers: number of layers l.
      latents: size of the latent space.
      hidden: widths of encoder and decoder.
      components: normals in the mixture that is a layer's log share.
    """

    layers: int
    latents: int
    hidden: tuple[int, ...]
    components: int

    def setup(self):
        self.encoder = MLP(self.hidden, 2 * self.latents)
        self.decoder = MLP(self.hidden, self.layers * (1 + 3 * self.components) + 2)

    def posterior(self, energies: LayerEnergies, condition: jax.Array) -> distrax.Distribution:
        """q(latent | layer energies, incident energy): a diagonal normal over [b, latents]."""
        x = jnp.concatenate(
            [energies.share, energies.present, energies.visible[:, None], condition], -1
        )
        mean, log_scale = jnp.split(self.encoder(x), 2, -1)
        return distrax.MultivariateNormalDiag(mean, jnp.exp(jnp.clip(log_scale, -7.0, 3.0)))

    def likelihood(
        self, latent: jax.Array, condition: jax.Array
    ) -> tuple[distrax.Distribution, distrax.Distribution, distrax.Distribution]:
        """p(present), p(share | present), p(visible) given latent [b, latents] and condition."""
        out = self.decoder(jnp.concatenate([latent, condition], -1))
        visible, layers = out[:, :2], out[:, 2:].reshape(len(out), self.layers, -1)
        weight, mean, scale = jnp.split(layers[..., 1:], 3, -1)
        # Components start side by side, so that they have no reason to stay equal.
        offset = jnp.linspace(-1.0, 1.0, self.components) if self.components > 1 else 0.0
        share = distrax.MixtureSameFamily(
            distrax.Categorical(weight),
            distrax.Normal(mean + offset, nn.softplus(scale) + _MIN_SCALE),
        )
        return (
            distrax.Bernoulli(logits=layers[..., 0]),
            share,
            distrax.Normal(visible[:, 0], nn.softplus(visible[:, 1]) + _MIN_SCALE),
        )

    def __call__(
        self, energies: LayerEnergies, condition: jax.Array, noise: jax.Array
    ) -> dict[str, jax.Array]:
        """Terms of the negative ELBO in nats, each [b]; their sum is the loss.

        Args:
          energies: standardised layer energies of the batch.
          condition: [b, c].
          noise: standard normal [b, latents].
        """
        posterior = self.posterior(energies, condition)
        latent = posterior.loc + posterior.scale_diag * noise
        present, share, visible = self.likelihood(latent, condition)
        prior = distrax.MultivariateNormalDiag(jnp.zeros_like(latent), jnp.ones_like(latent))
        share_log_prob = jnp.where(energies.present, share.log_prob(energies.share), 0.0)
        return {
            "present": -present.log_prob(energies.present).sum(-1),
            "share": -share_log_prob.sum(-1),
            "visible": -visible.log_prob(energies.visible),
            "kl": posterior.kl_divergence(prior),
        }

    def draw(self, keys: jax.Array, condition: jax.Array) -> LayerEnergies:
        """Draws layer energies with one key for each shower: keys [b], condition [b, c].

        All draws of a shower come from its own key, so they are spelt out here: distrax samples a
        batch from one key.
        """
        l, k = self.layers, self.components

        def numbers(key):
            latent, rest = jax.random.split(key)
            a, b, c, d = jax.random.split(rest, 4)
            return (
                jax.random.normal(latent, (self.latents,)),
                jax.random.uniform(a, (l,)),
                jax.random.gumbel(b, (l, k)),
                jax.random.normal(c, (l,)),
                jax.random.normal(d),
            )

        latent, uniform, gumbel, normal, normal_visible = jax.vmap(numbers)(keys)
        present, share, visible = self.likelihood(latent, condition)
        chosen = jnp.argmax(share.mixture_distribution.logits + gumbel, -1)[..., None]
        components = share.components_distribution
        mean = jnp.take_along_axis(components.loc, chosen, -1)[..., 0]
        scale = jnp.take_along_axis(components.scale, chosen, -1)[..., 0]
        return LayerEnergies(
            share=mean + scale * normal,
            present=uniform < present.probs,
            visible=visible.loc + visible.scale * normal_visible,
        )
