"""Calo-VQ as it was released, for comparisons (arXiv:2405.06605 and its configurations).

Two stages: a VQ-VAE of the voxels' shares of the visible energy, and a causal transformer that
generates one sequence of tokens: first the visible fraction as a fixed-point number (on dataset 1
also that of every layer), then the codes. `calojax.models.calovq` is our own version. The training
has neither the adversarial loss, nor dropout, nor the constant learning rate of the released one.
`TokensConfig.dither` (off by default) is new: it fills the gaps between the energies of tokens.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from calojax import rng
from calojax.geometry import Detector
from calojax.models.base import (
    Batch,
    Energies,
    Keys,
    Noise,
    Outcome,
    Parts,
    Showers,
    Stage,
    Variables,
    trained,
)
from calojax.models.calovq_released import networks
from calojax.models.calovq_released.config import ReleasedConfig
from calojax.models.calovq_released.networks import Networks
from calojax.models.calovq_released.tokens import EnergyTokens
from calojax.models.voxels import mirror_table, random_rotations, rotation_table
from calojax.nn import quantizer
from calojax.nn.priors.autoregressive import Autoregressive
from calojax.nn.priors.gpt import GPT


@dataclasses.dataclass(frozen=True)
class ReleasedCaloVQ:
    """The model (see the module's docstring); implements `calojax.models.base.Model`."""

    config: ReleasedConfig
    detector: Detector

    @property
    def stages(self) -> tuple[Stage, ...]:
        config, home = self.config, self._quantizer.home
        learnt, averaged = (("codebook",) * (home == where) for where in ("params", "state"))
        autoencoder = ("encoder", "decoder", *learnt)
        prior = ("prior",) if self.networks.context is None else ("context", "prior")
        return (
            Stage("autoencoder", autoencoder, config.autoencoder.schedule, state=averaged),
            Stage("prior", prior, config.prior.schedule, needs=("autoencoder",)),
        )

    # --- modules ----------------------------------------------------------------------------------

    @functools.cached_property
    def networks(self) -> Networks:
        """The networks between voxels and codes."""
        c = self.config.autoencoder
        return networks.make(c.architecture, self.detector, c.z_padding)

    @functools.cached_property
    def energy_tokens(self) -> EnergyTokens:
        """The energies as tokens."""
        return EnergyTokens(self.config.tokens, self._quantizer.size, self.detector)

    @functools.cached_property
    def _quantizer(self) -> quantizer.ByAverages | quantizer.ByGradient:
        c = self.config.autoencoder
        if c.codebook == "ema":
            return quantizer.ByAverages(c.codebook_size, c.code_width, c.commitment, 0.99, 0.03)
        spread = 1.0 / c.codebook_size
        return quantizer.ByGradient(c.codebook_size, c.code_width, c.commitment, c.pull, spread)

    @functools.cached_property
    def _encoder(self) -> nn.Module:
        return self.networks.encoder(self._quantizer.width)

    @functools.cached_property
    def _prior(self) -> Autoregressive:
        c, size = self.config.prior, self._quantizer.size
        length, conditions = self.networks.codes, self.networks.conditions
        length += self.energy_tokens.number
        return Autoregressive(GPT(size, length, c.layers, c.heads, c.width, conditions))

    # --- start ------------------------------------------------------------------------------------

    def fit(self, showers: Iterable[tuple[np.ndarray, np.ndarray]]) -> Variables:
        return {}

    def init(self, key: PRNGKeyArray, transforms: Variables, batch: Batch) -> Variables:
        """Random networks and codes."""
        variables: Variables = {"params": {}, "state": {}, "transforms": transforms}
        params = variables["params"]
        condition = self.networks.condition(batch["energies"])

        def initial(name, module, *args):
            params[name] = module.init(rng.stream(key, name), *args)["params"]

        x = self._scaled(batch["showers"] / batch["energies"][:, None])
        initial("encoder", self._encoder, x, condition)
        latents = trained(self._encoder, variables, "encoder")(x, condition)
        book = self._quantizer.start(rng.stream(key, "codebook"), latents)
        variables[self._quantizer.home]["codebook"] = book
        initial("decoder", self.networks.decoder(), latents, condition)
        if self.networks.context is not None:
            initial("context", self.networks.context, condition)
        initial("prior", self._prior, self._prior_context(variables, condition))
        return variables

    # --- losses -----------------------------------------------------------------------------------

    def loss(
        self, stage: str, variables: Variables, key: PRNGKeyArray, batch: Batch, *, training: bool
    ) -> tuple[jax.Array, Outcome]:
        showers = self._augmented(key, batch["showers"]) if training else batch["showers"]
        losses = {"autoencoder": self._autoencoder_loss, "prior": self._prior_loss}
        metrics, state = losses[stage](variables, key, showers, batch["energies"])
        if not training:
            state = {}
        return metrics["loss"], Outcome(metrics, variables["state"] | state)

    def _autoencoder_loss(self, variables, key, showers, energies):
        c = self.config.autoencoder
        condition = self.networks.condition(energies)
        fractions = showers / energies[:, None]
        latents = trained(self._encoder, variables, "encoder")(self._scaled(fractions), condition)
        quantised = self._quantizer.through(
            self._codebook(variables), latents, rng.stream(key, "revival")
        )
        shares = self._shares(variables, quantised.vectors, condition)
        visible = self.energy_tokens.visible(fractions)
        difference = shares * self.energy_tokens.over_voxels(visible) - fractions
        distance = jnp.abs(difference) if c.norm == "l1" else difference**2
        reconstruction = distance.sum(-1).mean()
        metrics = {"reconstruction": reconstruction, "commitment": quantised.commitment}
        loss = reconstruction + quantised.penalty
        if c.centre or c.width:
            centre, width = self._shape_errors(shares, fractions)
            metrics |= {"centre": centre, "width": width}
            loss = loss + c.centre * centre + c.width * width
        frequency = quantizer.frequency(quantised.codes, self._quantizer.size)
        averaged = self._quantizer.home == "state"
        state = {"codebook": quantised.codebook} if averaged else {}
        return {"loss": loss, "code_frequency": frequency} | metrics, state

    def _prior_loss(self, variables, key, showers, energies):
        fractions = showers / energies[:, None]
        codes = self._encode(variables, fractions, energies)
        tokens = jnp.concatenate([self.energy_tokens.encode(fractions), codes], -1)
        context = self._prior_context(variables, self.networks.condition(energies))
        prior = {"params": variables["params"]["prior"]}
        return {"loss": -self._prior.log_probs(prior, tokens, context).mean()}, {}

    def summarise(self, metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
        return quantizer.summarise(metrics)

    # --- generation -------------------------------------------------------------------------------

    def sample(
        self, variables: Variables, keys: Keys, energies: Energies, *, temperature: float = 1.0
    ) -> Showers:
        return self.sample_from(variables, self.noise(keys), energies, temperature=temperature)

    def noise(self, keys: Keys) -> Noise:
        """Uniform numbers: quantiles of the tokens, and those of `EnergyTokens.noise`."""
        return {
            "prior": self._prior.noise(rng.streams(keys, "prior")),
            "dither": self.energy_tokens.noise(rng.streams(keys, "dither")),
        }

    def sample_from(
        self, variables: Variables, noise: Noise, energies: Energies, *, temperature: float = 1.0
    ) -> Showers:
        """Tokens, then voxels; the temperature applies to all tokens."""
        tokens = self.sample_tokens(variables, noise, energies, temperature)
        return self.decode(variables, noise, tokens, energies)

    def reconstruct(self, variables: Variables, keys: Keys, batch: Batch) -> Showers:
        """Showers encoded to codes and decoded again, with their own visible energies."""
        fractions = batch["showers"] / batch["energies"][:, None]
        codes = self._encode(variables, fractions, batch["energies"])
        visible = self.energy_tokens.visible(fractions)
        return self._showers(variables, codes, visible, batch["energies"])

    def parts(self, variables: Variables, keys: Keys, energies: Energies) -> Parts:
        noise = self.noise(keys)
        tokens = self.sample_tokens(variables, noise, energies)
        return {
            "noise": (self.noise, (keys,)),
            "prior": (self.sample_tokens, (variables, noise, energies)),
            "decoder": (self.decode, (variables, noise, tokens, energies)),
        }

    def sample_tokens(
        self, variables: Variables, noise: Noise, energies: Energies, temperature: float = 1.0
    ) -> Int[Array, "b t"]:
        """Tokens of energies and codes from the prior."""
        context = self._prior_context(variables, self.networks.condition(energies))
        prior = {"params": variables["params"]["prior"]}
        return self._prior.draw(prior, noise["prior"], context, temperature=temperature)

    def decode(
        self, variables: Variables, noise: Noise, tokens: Int[Array, "b t"], energies: Energies
    ) -> Showers:
        """Showers from tokens."""
        numbers, codes = jnp.split(tokens, [self.energy_tokens.number], axis=-1)
        visible = self.energy_tokens.decode(noise["dither"], numbers)
        return self._showers(variables, codes, visible, energies)

    def _showers(self, variables, codes, visible, energies):
        vectors = self._quantizer.vectors(self._codebook(variables), codes)
        shares = self._shares(variables, vectors, self.networks.condition(energies))
        showers = shares * self.energy_tokens.over_voxels(visible) * energies[:, None]
        # The readout has no softer voxels.
        return jnp.where(showers > self.detector.readout_threshold, showers, 0.0)

    # --- helpers ----------------------------------------------------------------------------------

    def _codebook(self, variables):
        return variables[self._quantizer.home]["codebook"]

    def _prior_context(self, variables, condition):
        context = self.networks.context
        return condition if context is None else trained(context, variables, "context")(condition)

    def _scaled(self, fractions):
        slope, scale = self.config.autoencoder.log_scale
        return jnp.log1p(slope * fractions) / scale

    def _encode(self, variables, fractions, energies):
        condition = self.networks.condition(energies)
        latents = trained(self._encoder, variables, "encoder")(self._scaled(fractions), condition)
        return jax.lax.stop_gradient(self._quantizer.codes(self._codebook(variables), latents))

    def _shares(self, variables, vectors, condition):
        decoder = trained(self.networks.decoder(), variables, "decoder")
        return self.networks.shares(decoder(vectors, condition))

    def _augmented(self, key, showers):
        c = self.config.autoencoder
        if c.noise:
            showers = showers + jax.random.uniform(
                rng.stream(key, "noise"), showers.shape, maxval=c.noise
            )
        if c.augment:
            table = rotation_table(self.detector)
            showers = random_rotations(rng.stream(key, "rotation"), showers, table)
            mirror = jax.random.bernoulli(rng.stream(key, "mirror"), 0.5, (len(showers), 1))
            showers = jnp.where(mirror, showers[:, mirror_table(self.detector)], showers)
        return showers

    def _shape_errors(self, shares, fractions):
        """Mean squared errors in mm^2 of centres and widths in eta and phi."""
        centre, width = self._moments(shares)
        true_centre, true_width = self._moments(fractions)
        return ((centre - true_centre) ** 2).mean(), ((width - true_width) ** 2).mean()

    def _moments(self, voxels):
        """Centres and widths in mm [b, parts, 2] of the parts of a shower (see `Networks`)."""
        where = np.stack([self.detector.voxels.eta, self.detector.voxels.phi], -1)
        where = jnp.asarray(where, voxels.dtype)
        weighted = jnp.concatenate(
            [voxels[..., None], voxels[..., None] * where, voxels[..., None] * where**2], -1
        )
        sums = weighted.reshape(len(voxels), self.networks.parts, -1, 5).sum(2)
        total = sums[..., :1] + 1e-12
        centre, square = sums[..., 1:3] / total, sums[..., 3:] / total
        # Bounded away from zero, where the slope of the root is infinite.
        return centre, jnp.sqrt(jnp.maximum(square - centre**2, 1e-3))
