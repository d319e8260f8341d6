"""The conditional VAE of layer energies, as in the Calo-VQ talk (CaloChallenge workshop 2022).

Its decoder gives a density instead of the talk's point: each layer is empty with some probability,
and otherwise the logarithm of its share of the visible energy is a mixture of normals; so is the
visible fraction E_sum / E_inc. Given the latents, layers are independent.
"""

from collections.abc import Mapping

import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from calojax.models.calovq.energies import LayerEnergies, Scales, random_numbers
from calojax.nn.mixture import Mixture
from calojax.nn.mlp import MLP


class EnergyVAE(nn.Module):
    """Conditional VAE of the energies of l layers."""

    layers: int
    latents: int
    hidden: tuple[int, ...]
    components: int  # number of normals in each mixture

    def setup(self):
        self.encoder = MLP(self.hidden, 2 * self.latents)
        self.decoder = MLP(self.hidden, (self.layers + 1) * (1 + 3 * self.components))

    def posterior(
        self, energies: LayerEnergies, condition: Float[Array, "b c"]
    ) -> distrax.MultivariateNormalDiag:
        """q(latent | layer energies, condition): a diagonal normal over [b, latents]."""
        x = [energies.share, energies.present, energies.visible[:, None], condition]
        mean, log_scale = jnp.split(self.encoder(jnp.concatenate(x, -1)), 2, -1)
        return distrax.MultivariateNormalDiag(mean, jnp.exp(jnp.clip(log_scale, -7.0, 3.0)))

    def likelihood(
        self, latent: Float[Array, "b latents"], condition: Float[Array, "b c"]
    ) -> tuple[distrax.Bernoulli, Mixture, Mixture]:
        """p(present) and p(share | present) of all layers, and p(visible)."""
        out = self.decoder(jnp.concatenate([latent, condition], -1))
        out = out.reshape(out.shape[0], self.layers + 1, -1)
        present = distrax.Bernoulli(logits=out[:, :-1, 0])
        return present, Mixture(out[:, :-1, 1:]), Mixture(out[:, -1, 1:])

    def __call__(
        self,
        energies: LayerEnergies,
        condition: Float[Array, "b c"],
        scales: Scales,
        key: PRNGKeyArray,
    ) -> dict[str, jax.Array]:
        """Terms of the negative ELBO in nats, each [b]; the key gives the latents."""
        posterior = self.posterior(energies, condition)
        mean = jnp.asarray(posterior.loc)
        latent = mean + posterior.scale_diag * jax.random.normal(key, mean.shape)
        present, share, visible = self.likelihood(latent, condition)
        prior = distrax.MultivariateNormalDiag(jnp.zeros_like(latent), jnp.ones_like(latent))
        share_log_prob = jnp.where(energies.present, share.log_prob(energies.share), 0.0)
        return {
            "present": -jnp.asarray(present.log_prob(energies.present)).sum(-1),
            "share": -share_log_prob.sum(-1),
            "visible": -jnp.asarray(visible.log_prob(energies.visible)),
            "kl": jnp.asarray(posterior.kl_divergence(prior)),
        }

    @nn.nowrap
    def noise(self, keys: PRNGKeyArray) -> dict[str, jax.Array]:
        """The random numbers of `draw` from keys [b] (see `random_numbers`)."""
        return random_numbers(keys, self.layers, self.latents)

    def draw(
        self, noise: Mapping[str, jax.Array], condition: Float[Array, "b c"], scales: Scales
    ) -> LayerEnergies:
        """Layer energies from `noise`."""
        (presence, component), numbers = jnp.moveaxis(noise["uniform"], 1, 0), noise["normal"]
        latent, normal = jnp.split(numbers, [self.latents], -1)
        present, share, visible = self.likelihood(latent, condition)
        return LayerEnergies(
            share.at(component[:, :-1], normal[:, :-1]),
            presence[:, :-1] < present.probs,
            visible.at(component[:, -1], normal[:, -1]),
        )
