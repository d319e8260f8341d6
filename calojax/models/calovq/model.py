"""Calo-VQ: showers as discrete codes, a prior over codes, and a model of layer energies.

After the Calo-VQ talk (CaloChallenge workshop, November 2022). The released code and paper
(arXiv:2405.06605) differ, see `calojax.models.calovq_released`. Three stages are trained in turn:

- ``autoencoder``: a VQ-VAE maps the voxels, normalised per layer, to codes and back, fully
  connected or by convolutions on the cylinder;
- ``energies``: a density of the visible fraction and the layer energies;
- ``prior``: a network for p(codes | incident energy, layer energies).

    E_inc --> energies --> layer energies --+
      |                                     v
      +-----> prior ----> codes ------> decoder ----> voxel fractions x layer energies = shower
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

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
from calojax.models.calovq import networks, transforms
from calojax.models.calovq.config import AutoencoderConfig, CaloVQConfig
from calojax.models.calovq.energies import EnergyDensity, LayerEnergies, Scales
from calojax.models.calovq.energy_vae import EnergyVAE
from calojax.models.calovq.likelihoods import Density, Likelihood, Point
from calojax.models.calovq.networks import Condition, Networks
from calojax.models.calovq.voxel_transforms import VOXEL_TRANSFORMS, VoxelTransform
from calojax.models.voxels import (
    energy_condition,
    layer_sums,
    mirror_table,
    random_rotations,
    rotation_table,
)
from calojax.nn import priors, quantizer
from calojax.nn.quantizer import ByAverages, ByGradient, Finite, Quantizer

QUANTIZERS: dict[str, Callable[[AutoencoderConfig], Quantizer]] = {
    "ema": lambda c: ByAverages(c.codebook_size, c.code_width, c.beta, c.decay, c.revive_below),
    "gradient": lambda c: ByGradient(c.codebook_size, c.code_width, c.beta),
    "fsq": lambda c: Finite(c.levels),
}

LayerEnergy = Float[Array, "b l"]
"""Layer energies in MeV."""


@dataclasses.dataclass(frozen=True)
class CaloVQ:
    """The model (see the module's docstring); implements `calojax.models.base.Model`."""

    config: CaloVQConfig
    detector: Detector

    @property
    def stages(self) -> tuple[Stage, ...]:
        config, home = self.config, self._quantizer.home
        learnt, averaged = (("codebook",) * (home == where) for where in ("params", "state"))
        autoencoder = ("encoder", "decoder", *learnt)
        return (
            Stage("autoencoder", autoencoder, config.autoencoder.schedule, state=averaged),
            Stage("energies", ("energies",), config.energies.schedule, prepare=self.summed),
            Stage(
                "prior",
                ("context", "prior"),
                config.prior.schedule,
                needs=("autoencoder",),
                prepare=self.encoded if self._few_views else None,
            ),
        )

    # --- modules ----------------------------------------------------------------------------------

    @functools.cached_property
    def networks(self) -> Networks:
        """The networks between voxels and codes."""
        return networks.networks_of(
            self.config.autoencoder,
            self.detector,
            width=self._quantizer.width,
            outputs=self.likelihood.outputs,
            context=self.config.prior.context,
        )

    @functools.cached_property
    def _quantizer(self) -> Quantizer:
        return QUANTIZERS[self.config.autoencoder.codebook](self.config.autoencoder)

    @functools.cached_property
    def _energies(self) -> EnergyDensity | EnergyVAE:
        return self.config.energies.build(self.detector.n_layers)

    @functools.cached_property
    def _prior(self) -> priors.Prior:
        q = self._quantizer
        return self.config.prior.build(q.size, self.networks.code_grid, q.width)

    @property
    def likelihood(self) -> Likelihood:
        """The likelihood of a voxel."""
        c = self.config.autoencoder
        return Point() if c.head == "point" else Density(c.components)

    @property
    def voxel_transform(self) -> VoxelTransform:
        """The space in which the likelihood describes voxels."""
        return VOXEL_TRANSFORMS[self.config.autoencoder.scale](self.detector)

    # --- start ------------------------------------------------------------------------------------

    def fit(self, showers: Iterable[tuple[np.ndarray, np.ndarray]]) -> Variables:
        _ = self._prior  # Raises an error if its settings do not fit the codes.
        if self.config.autoencoder.rotate:
            rotation_table(self.detector)  # Raises an error if they cannot be rotated.
        return transforms.fit(showers, self.detector)

    def init(self, key: PRNGKeyArray, transforms: Variables, batch: Batch) -> Variables:
        """Random networks, and a codebook of latents of the batch."""
        variables: Variables = {"params": {}, "state": {}, "transforms": transforms}
        params = variables["params"]
        showers, energies = batch["showers"], batch["energies"]
        layer_energy = layer_sums(showers, self.detector)
        condition = self._condition(variables, energies, layer_energy)

        def initial(name, module, *args):
            params[name] = module.init(rng.stream(key, name), *args)["params"]

        initial(
            "encoder", self.networks.encoder, *self._encoder_inputs(variables, showers, energies)
        )
        latents = self._latents(variables, showers, energies)
        if self._quantizer.home is not None:
            book = self._quantizer.start(rng.stream(key, "codebook"), latents)
            variables[self._quantizer.home]["codebook"] = book
        initial("decoder", self.networks.decoder, latents, condition)
        shares = self._shares(variables, layer_energy, energies)
        scales = self._scales(variables)
        initial("energies", self._energies, shares, self._energy(energies), scales, key)
        initial("context", self.networks.context, condition)
        initial("prior", self._prior, self._prior_context(variables, energies, layer_energy))
        return variables

    # --- losses -----------------------------------------------------------------------------------

    def loss(
        self, stage: str, variables: Variables, key: PRNGKeyArray, batch: Batch, *, training: bool
    ) -> tuple[jax.Array, Outcome]:
        """Loss of a stage; metrics have the names of the papers' terms.

        Energies and prior take showers, or what `summed` and `encoded` make of them.
        """
        energies = batch["energies"]
        if stage == "energies":
            sums = batch if "layer_energy" in batch else self.summed(variables, batch)
            return self._energies_loss(variables, key, sums["layer_energy"], energies)
        if "codes" in batch:
            codes = self._random_view(rng.stream(key, "view"), batch["codes"], training)
            return self._prior_loss(variables, key, codes, energies, batch["layer_energy"])
        showers = batch["showers"]
        if training and self.config.autoencoder.rotate:
            # Rotated showers have the same probability, so every stage sees them.
            table = rotation_table(self.detector)
            showers = random_rotations(rng.stream(key, "rotation"), showers, table)
        if stage == "prior":
            codes = self._encode(variables, showers, energies)
            layer_energy = layer_sums(showers, self.detector)
            return self._prior_loss(variables, key, codes, energies, layer_energy)
        metrics, state = self._autoencoder_loss(variables, key, showers, energies)
        if not training:
            state = {}
        return metrics["loss"], Outcome(metrics, variables["state"] | state)

    def _autoencoder_loss(self, variables, key, showers, energies):
        layer_energy = layer_sums(showers, self.detector)
        condition = self._condition(variables, energies, layer_energy)
        latents = self._latents(variables, showers, energies)
        quantised = self._quantizer.through(
            self._codebook(variables), latents, rng.stream(key, "revival")
        )
        out = trained(self.networks.decoder, variables, "decoder")(quantised.vectors, condition)
        statistics = variables["transforms"]
        y = self.voxel_transform.numbers(showers, layer_energy, statistics)
        lower = self.voxel_transform.lower(layer_energy, statistics)
        # Per layer, so that beta has the same meaning for every geometry.
        reconstruction = (
            self.likelihood.loss(out, y, showers > 0, lower).mean() / self.detector.n_layers
        )
        metrics = {
            "loss": reconstruction + quantised.penalty,
            "reconstruction": reconstruction,
            "commitment": quantised.commitment,
            "code_frequency": quantizer.frequency(quantised.codes, self._quantizer.size),
        }
        averaged = self._quantizer.home == "state"
        return metrics, {"codebook": quantised.codebook} if averaged else {}

    def _energies_loss(self, variables, key, layer_energy, energies):
        shares = self._shares(variables, layer_energy, energies)
        terms = trained(self._energies, variables, "energies")(
            shares, self._energy(energies), self._scales(variables), rng.stream(key, "posterior")
        )
        metrics = {name: term.mean() for name, term in terms.items()}
        loss = jax.tree.reduce(jnp.add, metrics)
        return loss, Outcome({"loss": loss} | metrics, variables["state"])

    def _prior_loss(self, variables, key, codes, energies, layer_energy):
        loss = self._prior.loss(
            self._prior_variables(variables),
            rng.per_item(rng.stream(key, "prior"), jnp.arange(len(codes))),
            codes,
            self._prior_context(variables, energies, layer_energy),
        ).mean()
        return loss, Outcome({"loss": loss}, variables["state"])

    # --- what is computed once for each shower ----------------------------------------------------

    def summed(self, variables: Variables, batch: Batch) -> Batch:
        """Input of the loss of layer energies."""
        layer_energy = layer_sums(batch["showers"], self.detector)
        return {"energies": batch["energies"], "layer_energy": layer_energy}

    def encoded(self, variables: Variables, batch: Batch) -> Batch:
        """Input of the prior's loss: layer energies, and codes [b, views, t] of each shower.

        The views are the shower itself and, where training rotates showers, those of its turns and
        mirror images whose codes are not turned codes of another view.
        """
        showers, energies = batch["showers"], batch["energies"]

        def view(table):
            return self._encode(variables, showers[:, table], energies)

        codes = jax.lax.map(view, jnp.asarray(self._views)).swapaxes(0, 1)
        smallest = np.min_scalar_type(self._quantizer.size - 1)
        return {
            "energies": energies,
            "layer_energy": layer_sums(showers, self.detector),
            "codes": codes.astype(smallest),
        }

    @functools.cached_property
    def _views(self) -> np.ndarray:
        """Permutations of voxels: [views, v]; the first one changes nothing."""
        if not self.config.autoencoder.rotate:
            return np.arange(self.detector.n_voxels)[None]
        table = rotation_table(self.detector)
        turns = table[: len(table) // self._code_turns]
        return np.concatenate([turns, turns[:, mirror_table(self.detector)]])

    @property
    def _few_views(self) -> bool:
        """Whether most turns of a shower only turn its codes, so that caching them pays."""
        return not self.config.autoencoder.rotate or self._code_turns > 1

    @functools.cached_property
    def _code_turns(self) -> int:
        """Number of turns of a shower that do no more than turn its codes."""
        c = self.config.autoencoder
        if not c.rotate or c.network == "dense":
            return 1
        n_alpha = len(rotation_table(self.detector))
        return 1 if n_alpha % c.strides[1] else n_alpha // c.strides[1]

    def _random_view(self, key, codes, training):
        """Codes [b, t] of a random view of each shower, turned at random; itself in validation."""
        if not training:
            return codes[:, 0].astype(jnp.int32)
        number, views, length = codes.shape
        view, turn = jax.random.split(key)
        chosen = jax.random.randint(view, (number,), 0, views)
        codes = codes[jnp.arange(number), chosen].astype(jnp.int32)
        turns = jax.random.randint(turn, (number,), 0, self._code_turns)
        grid = codes.reshape(number, *self.networks.code_grid)
        return jax.vmap(lambda one, by: jnp.roll(one, by, 1))(grid, turns).reshape(number, length)

    def summarise(self, metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Scalars as they are; code frequencies as perplexity and share of live codes."""
        return quantizer.summarise(metrics)

    # --- generation -------------------------------------------------------------------------------

    def sample(
        self, variables: Variables, keys: Keys, energies: Energies, *, temperature: float = 1.0
    ) -> Showers:
        return self.sample_from(variables, self.noise(keys), energies, temperature=temperature)

    def noise(self, keys: Keys) -> Noise:
        """See ``noise`` of the model of energies, of the prior and of the likelihood."""
        voxels = self.detector.n_voxels
        return {
            "energies": self._energies.noise(rng.streams(keys, "energies")),
            "prior": self._prior.noise(rng.streams(keys, "prior")),
            "voxels": self.likelihood.noise(rng.streams(keys, "voxels"), voxels),
        }

    def sample_from(
        self, variables: Variables, noise: Noise, energies: Energies, *, temperature: float = 1.0
    ) -> Showers:
        """Layer energies, then codes, then voxels; the temperature applies to the codes."""
        layer_energy = self.sample_layer_energies(variables, noise, energies)
        codes = self.sample_codes(variables, noise, energies, layer_energy, temperature)
        return self.decode(variables, noise, codes, energies, layer_energy)

    def reconstruct(self, variables: Variables, keys: Keys, batch: Batch) -> Showers:
        """Showers encoded to codes and decoded again, with their own layer energies."""
        showers, energies = batch["showers"], batch["energies"]
        codes = self._encode(variables, showers, energies)
        layer_energy = layer_sums(showers, self.detector)
        return self.decode(variables, self.noise(keys), codes, energies, layer_energy)

    def parts(self, variables: Variables, keys: Keys, energies: Energies) -> Parts:
        noise = self.noise(keys)
        layer_energy = self.sample_layer_energies(variables, noise, energies)
        codes = self.sample_codes(variables, noise, energies, layer_energy)
        return {
            "noise": (self.noise, (keys,)),
            "energies": (self.sample_layer_energies, (variables, noise, energies)),
            "prior": (self.sample_codes, (variables, noise, energies, layer_energy)),
            "decoder": (self.decode, (variables, noise, codes, energies, layer_energy)),
        }

    def sample_layer_energies(
        self, variables: Variables, noise: Noise, energies: Energies
    ) -> LayerEnergy:
        """Layer energies from the energy model."""
        drawn = trained(self._energies, variables, "energies").draw(
            noise["energies"], self._energy(energies), self._scales(variables)
        )
        return transforms.layer_energies(*drawn, energies, variables["transforms"])

    def sample_codes(
        self,
        variables: Variables,
        noise: Noise,
        energies: Energies,
        layer_energy: LayerEnergy,
        temperature: float = 1.0,
    ) -> Int[Array, "b t"]:
        """Codes from the prior."""
        return self._prior.draw(
            self._prior_variables(variables),
            noise["prior"],
            self._prior_context(variables, energies, layer_energy),
            temperature=temperature,
        )

    def decode(
        self,
        variables: Variables,
        noise: Noise,
        codes: Int[Array, "b t"],
        energies: Energies,
        layer_energy: LayerEnergy,
    ) -> Showers:
        """Showers from codes and layer energies."""
        out = self._decoded(variables, codes, energies, layer_energy)
        statistics = variables["transforms"]
        lower = self.voxel_transform.lower(layer_energy, statistics)
        y, hit = self.likelihood.draw(noise["voxels"], out, lower, self.detector)
        return self.voxel_transform.showers(y, hit, layer_energy, statistics)

    # --- helpers ----------------------------------------------------------------------------------

    def _energy(self, energies):
        return energy_condition(energies, self.detector)

    def _shares(self, variables, layer_energy, energies) -> LayerEnergies:
        statistics = variables["transforms"]
        return LayerEnergies(*transforms.layer_shares(layer_energy, energies, statistics))

    def _scales(self, variables) -> Scales:
        statistics = variables["transforms"]
        return Scales(statistics["share_mean"], statistics["share_std"])

    def _condition(self, variables, energies, layer_energy) -> Condition:
        """Condition of decoder and prior: incident energy, and layer energies if set."""
        given = self.config.autoencoder.condition_on_layers
        layers = self._shares(variables, layer_energy, energies) if given else None
        return Condition(self._energy(energies), layers)

    def _encoder_inputs(self, variables, showers, energies):
        """Compressed fractions [b, v], and the condition with layer energies."""
        fractions, layer_energy = transforms.split_layers(showers, self.detector)
        layers = self._shares(variables, layer_energy, energies)
        return transforms.arctanh_compress(fractions), Condition(self._energy(energies), layers)

    def _latents(self, variables, showers, energies):
        """Encoder outputs [b, t, d]."""
        encoder = trained(self.networks.encoder, variables, "encoder")
        return encoder(*self._encoder_inputs(variables, showers, energies))

    def _encode(self, variables, showers, energies):
        """Codes [b, t]."""
        latents = self._latents(variables, showers, energies)
        return self._quantizer.codes(self._codebook(variables), latents)

    def _decoded(self, variables, codes, energies, layer_energy):
        """Decoder outputs [b, v, n]."""
        vectors = self._quantizer.vectors(self._codebook(variables), codes)
        condition = self._condition(variables, energies, layer_energy)
        return trained(self.networks.decoder, variables, "decoder")(vectors, condition)

    def _prior_context(self, variables, energies, layer_energy):
        condition = self._condition(variables, energies, layer_energy)
        return trained(self.networks.context, variables, "context")(condition)

    def _prior_variables(self, variables):
        """Parameters of the prior, and the vectors of all codes."""
        every = jnp.arange(self._quantizer.size)
        vectors = self._quantizer.vectors(self._codebook(variables), every)
        return {"params": variables["params"]["prior"], "codebook": {"vectors": vectors}}

    def _codebook(self, variables):
        home = self._quantizer.home
        return None if home is None else variables[home]["codebook"]
