"""The energies of a shower's layers: a small conditional VAE with a density that knows zeros.

Calo-VQ gives layer energies a model of their own, a conditional VAE with four latents (talk at the
CaloChallenge workshop 2022). Its decoder here is a density, not a point: each layer is empty with
some probability and else log-normal in its share of the visible energy, and the visible fraction
E_sum / E_inc is normal; so what four latents cannot carry stays as noise of the right size. That
noise is not independent from layer to layer, so the density of a layer also sees the layers in
front of it.
"""

from typing import NamedTuple

import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp

from calojax.nn.mlp import MLP

# Narrowest width of a standardised energy: keeps densities bounded where data repeat a value.
_MIN_SCALE = 1e-2
# Numbers by which the decoder tells the refinement which layer it is, and of what shower.
_TOLD = 8


class LayerEnergies(NamedTuple):
    """Standardised layer energies (see `calojax.models.calovq.transforms.layer_shares`).

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
      memory: layers in front of a layer that its density sees; none with 0, as in the talk.
    """

    layers: int
    latents: int
    hidden: tuple[int, ...]
    components: int
    memory: int

    def setup(self):
        self.encoder = MLP(self.hidden, 2 * self.latents)
        told = _TOLD if self.memory else 0
        self.decoder = MLP(self.hidden, self.layers * (self._numbers + told) + 2)
        if self.memory:
            self.refinement = MLP((64, 64), self._numbers)

    @property
    def _numbers(self) -> int:
        """That describe a layer."""
        return 1 + 3 * self.components

    def posterior(self, energies: LayerEnergies, condition: jax.Array) -> distrax.Distribution:
        """q(latent | layer energies, incident energy): a diagonal normal over [b, latents]."""
        x = jnp.concatenate(
            [energies.share, energies.present, energies.visible[:, None], condition], -1
        )
        mean, log_scale = jnp.split(self.encoder(x), 2, -1)
        return distrax.MultivariateNormalDiag(mean, jnp.exp(jnp.clip(log_scale, -7.0, 3.0)))

    def likelihood(
        self, latent: jax.Array, condition: jax.Array, energies: LayerEnergies
    ) -> tuple[distrax.Distribution, distrax.Distribution, distrax.Distribution]:
        """p(present), p(share | present), p(visible) given latent [b, latents] and condition.

        Every layer's of the first two given the ``energies`` of the layers in front of it.
        """
        visible, base, told = self._decoded(latent, condition)
        seen = jnp.concatenate([_before(x, self.memory) for x in energies[:2]], -1)
        present, share = self._layer(base, told, seen)
        return present, share, distrax.Normal(*_location_and_scale(visible))

    def _decoded(self, latent, condition):
        """Numbers of the visible fraction [b, 2], of layers [b, l, n], and for refinement."""
        out = self.decoder(jnp.concatenate([latent, condition], -1))
        layers = out[:, 2:].reshape(len(out), self.layers, -1)
        return out[:, :2], layers[..., : self._numbers], layers[..., self._numbers :]

    def _layer(self, base, told, seen):
        """p(present), p(share | present) of layers from what they see in front [..., 2 memory]."""
        if self.memory:
            base = base + self.refinement(jnp.concatenate([told, seen], -1))
        weight, mean, scale = jnp.split(base[..., 1:], 3, -1)
        # Components start side by side, so that they have no reason to stay equal.
        offset = jnp.linspace(-1.0, 1.0, self.components) if self.components > 1 else 0.0
        share = distrax.MixtureSameFamily(
            distrax.Categorical(weight),
            distrax.Normal(mean + offset, nn.softplus(scale) + _MIN_SCALE),
        )
        return distrax.Bernoulli(logits=base[..., 0]), share

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
        present, share, visible = self.likelihood(latent, condition, energies)
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
        visible, base, told = self._decoded(latent, condition)

        def layer(seen, inputs):
            base, told, uniform, gumbel, normal = inputs
            present, share = self._layer(base, told, seen.reshape(len(seen), -1))
            chosen = jnp.argmax(share.mixture_distribution.logits + gumbel, -1)[..., None]
            components = share.components_distribution
            mean = jnp.take_along_axis(components.loc, chosen, -1)[..., 0]
            scale = jnp.take_along_axis(components.scale, chosen, -1)[..., 0]
            drawn = mean + scale * normal, uniform < present.probs
            # As in training: an absent layer has share 0.
            now = jnp.stack([jnp.where(drawn[1], drawn[0], 0.0), drawn[1].astype(normal.dtype)], -1)
            return jnp.concatenate([seen, now[..., None]], -1)[..., 1:], drawn

        nothing = jnp.zeros((len(keys), 2, self.memory), base.dtype)
        inputs = (jnp.moveaxis(x, 1, 0) for x in (base, told, uniform, gumbel, normal))
        _, (share, present) = jax.lax.scan(layer, nothing, tuple(inputs))
        location, scale = _location_and_scale(visible)
        return LayerEnergies(share.T, present.T, location + scale * normal_visible)


def _location_and_scale(numbers: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of a normal, from [..., 2]."""
    return numbers[..., 0], nn.softplus(numbers[..., 1]) + _MIN_SCALE


def _before(x: jax.Array, memory: int) -> jax.Array:
    """What stands in front of each of x [b, l], the nearest last: [b, l, memory], zeros outside."""
    x = jnp.pad(x.astype(jnp.float32), ((0, 0), (memory, 0)))
    n = x.shape[1] - memory
    return (
        jnp.stack([x[:, i : i + n] for i in range(memory)], -1) if memory else x[..., None][..., :0]
    )
