"""Calo-VQ: showers as discrete codes, a prior that writes codes, and a model of layer energies.

After the Calo-VQ talk (CaloChallenge workshop, November 2022); the released code and paper
(arXiv:2405.06605) differ, see `calojax.models.calovq_released`. Three stages are trained in turn:

- ``autoencoder``: a VQ-VAE turns the voxels, normalised per layer, into codes and back, fully
  connected or by convolutions on the cylinder;
- ``energies``: a conditional VAE for the layer energies and the visible fraction;
- ``prior``: a network for p(codes | incident energy, layer energies).

    E_inc --> energies --> layer energies --+
      |                                     v
      +-----> prior ----> codes ------> decoder ----> voxel fractions x layer energies = shower
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from calojax import rng
from calojax.errors import CalojaxError
from calojax.geometry import Detector
from calojax.models.base import Batch, Outcome, Schedule, Stage, Variables
from calojax.models.calovq import likelihoods, transforms, voxel_transforms
from calojax.models.calovq.energies import EnergyVAE, LayerEnergies
from calojax.models.calovq.networks import (
    Condition,
    CylinderContext,
    CylinderDecoder,
    CylinderEncoder,
    DenseContext,
    DenseDecoder,
    DenseEncoder,
    Grid,
)
from calojax.models.voxels import energy_condition, layer_sums, random_rotations, rotation_table
from calojax.nn import priors, quantizer
from calojax.nn.priors import positions
from calojax.nn.priors.autoregressive import Autoregressive


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """The VQ-VAE that turns voxel fractions into codes.

    Attributes:
      network: fully connected ("dense"), or convolutions on a grid ("cylinder").
      hidden: widths of the dense encoder, and reversed of the decoder.
      length: codes a shower of the dense network.
      filters: channels of the convolutions.
      kernel: bins (z, alpha, r) of the patches that become codes.
      strides: bins from a patch to the next.
      codebook: learnt by moving averages with revival ("ema") or by gradient ("gradient"), or none:
        finite scalar quantisation ("fsq").
      codebook_size: number of codes to choose from, if they are learnt.
      code_width: dimensions of a code, if learnt.
      levels: of finite scalar quantisation, whose combinations are the codes.
      beta: weight of the commitment term ||z - sg[e]||^2.
      decay: of the moving averages, a step.
      revive_below: fraction of an even share of latents below which a code is dead.
      head: what the decoder says of a voxel: the talk's "point", or a "density".
      scale: in which space: fractions of the layer ("linear"), compressed as in the talk
        ("arctanh"), or energies through the spectrum of all hits ("quantile").
      condition_on_layers: whether decoder and prior see the layer energies too.
      rotate: turn training showers by random angles (right where the detector is symmetric).
      schedule: of the optimiser.
    """

    network: Literal["dense", "cylinder"] = "dense"
    hidden: tuple[int, ...] = (512, 512)
    length: int = 16
    filters: int = 32
    kernel: tuple[int, int, int] = (9, 4, 3)
    strides: tuple[int, int, int] = (3, 2, 2)
    codebook: Literal["ema", "gradient", "fsq"] = "ema"
    codebook_size: int = 512
    code_width: int = 16
    levels: tuple[int, ...] = (8, 8, 8)
    beta: float = 0.25
    decay: float = 0.99
    revive_below: float = 0.03
    head: likelihoods.HeadName = "density"
    scale: voxel_transforms.ScaleName = "quantile"
    condition_on_layers: bool = True
    rotate: bool = False
    schedule: Schedule = Schedule()


@dataclasses.dataclass(frozen=True)
class EnergiesConfig:
    """The conditional VAE of the layer energies.

    Attributes:
      latents: size of its latent space.
      hidden: widths of its encoder and decoder.
      components: normals in the mixture that describes a layer's log share.
      memory: layers in front of a layer that its density sees; none with 0, as in the talk.
      schedule: of the optimiser.
    """

    latents: int = 4
    hidden: tuple[int, ...] = (256, 256)
    components: int = 3
    memory: int = 8
    schedule: Schedule = Schedule(batch_size=512)


@dataclasses.dataclass(frozen=True)
class PriorConfig(priors.Settings):
    """The prior over codes.

    Attributes:
      kind: recurrent ("gru"), causal "transformer", or a transformer that fills in codes in
        parallel ("masked").
      context: size of the embedded condition.
      schedule: of the optimiser.
    """

    kind: priors.PriorName = "gru"
    context: int = 64
    schedule: Schedule = Schedule()

    def __post_init__(self):
        super().__post_init__()
        # Settings that do not fit fail here, not in the middle of training.
        self.build(1, positions.Line(1))

    def build(self, size: int, places: positions.Positions) -> priors.Prior:
        """The prior over ``size`` codes at the given positions."""
        return priors.PRIORS[self.kind](self, size, places)


@dataclasses.dataclass(frozen=True)
class CaloVQConfig:
    """Calo-VQ: one block of settings a stage.

    Attributes:
      autoencoder: the VQ-VAE.
      energies: the model of the layer energies.
      prior: the model of the codes.
    """

    autoencoder: AutoencoderConfig = AutoencoderConfig()
    energies: EnergiesConfig = EnergiesConfig()
    prior: PriorConfig = PriorConfig()


@dataclasses.dataclass(frozen=True)
class CaloVQ:
    """The model (see the module's docstring); implements `calojax.models.base.Model`."""

    config: CaloVQConfig
    detector: Detector

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Autoencoder, energies, prior."""
        config, home = self.config, self._quantizer.home
        return (
            Stage(
                "autoencoder",
                ("encoder", "decoder", *(("codebook",) if home == "params" else ())),
                config.autoencoder.schedule,
                state=("codebook",) if home == "state" else (),
            ),
            Stage("energies", ("energies",), config.energies.schedule),
            Stage("prior", ("context", "prior"), config.prior.schedule, needs=("autoencoder",)),
        )

    # --- modules ----------------------------------------------------------------------------------

    @functools.cached_property
    def _encoder(self) -> nn.Module:
        c = self.config.autoencoder
        if c.network == "dense":
            return DenseEncoder(c.hidden, c.length, self._quantizer.width)
        return CylinderEncoder(self._grid, c.filters, self._quantizer.width)

    @functools.cached_property
    def _decoder(self) -> nn.Module:
        c = self.config.autoencoder
        if c.network == "dense":
            return DenseDecoder(c.hidden[::-1], self.detector.n_voxels, self.head.numbers)
        return CylinderDecoder(self._grid, c.filters, self.head.numbers)

    @functools.cached_property
    def _grid(self) -> Grid:
        c = self.config.autoencoder
        if self.detector.grid is None:
            raise CalojaxError(
                f"{self.detector.name}: its layers differ, so there is no grid to convolve over; "
                "take --autoencoder.network dense."
            )
        grid = Grid(self.detector.grid, c.kernel, c.strides)
        if min(c.strides) < 1 or min(grid.codes) < 1:
            raise CalojaxError(
                f"{self.detector.name}: patches of {c.kernel} bins, {c.strides} apart, do not fit "
                f"its {self.detector.grid} bins; take a smaller --autoencoder.kernel."
            )
        return grid

    @functools.cached_property
    def _quantizer(self) -> quantizer.Quantizer:
        c = self.config.autoencoder
        if c.codebook == "fsq":
            return quantizer.Finite(c.levels)
        if c.codebook == "gradient":
            return quantizer.ByGradient(c.codebook_size, c.code_width, c.beta)
        return quantizer.ByAverages(c.codebook_size, c.code_width, c.beta, c.decay, c.revive_below)

    @functools.cached_property
    def _energies(self) -> EnergyVAE:
        c = self.config.energies
        return EnergyVAE(self.detector.n_layers, c.latents, c.hidden, c.components, c.memory)

    @functools.cached_property
    def _context(self) -> nn.Module:
        width = self.config.prior.context
        if self.config.autoencoder.network == "dense":
            return DenseContext(width)
        return CylinderContext(self._grid, width)

    @functools.cached_property
    def _prior(self) -> priors.Prior:
        return self.config.prior.build(self._quantizer.size, self._code_positions)

    @property
    def _code_positions(self) -> positions.Positions:
        """Where the codes are, for priors that ask."""
        if self.config.autoencoder.network == "dense":
            return positions.Line(self.config.autoencoder.length)
        return positions.Cylinder(*self._grid.codes)

    @property
    def head(self) -> likelihoods.Head:
        """What the decoder's numbers mean."""
        return likelihoods.HEADS[self.config.autoencoder.head]

    @property
    def scale(self) -> voxel_transforms.Scale:
        """The space in which the head describes voxels."""
        return voxel_transforms.SCALES[self.config.autoencoder.scale](self.detector)

    # --- start ------------------------------------------------------------------------------------

    def fit(self, showers: Iterable[tuple[np.ndarray, np.ndarray]]) -> Variables:
        """Fits the standardisation of layer energies, and the spectrum of hits."""
        if self.config.autoencoder.rotate:
            rotation_table(self.detector)
        return transforms.fit(showers, self.detector)

    def init(self, key: jax.Array, transforms: Variables, batch: Batch) -> Variables:
        """Random networks, and a codebook that starts on the batch's latents."""
        variables: Variables = {"params": {}, "state": {}, "transforms": transforms}
        params = variables["params"]
        fractions, layer_energy = self._split(batch["showers"])
        condition = self._condition(variables, batch["energies"], layer_energy)
        full = self._full_condition(variables, batch["energies"], layer_energy)

        def initial(name, module, *args):
            params[name] = module.init(rng.stream(key, name), *args)["params"]

        initial("encoder", self._encoder, self._voxels(fractions), full)
        latents = self._latents(variables, fractions, full)
        if self._quantizer.home is not None:
            book = self._quantizer.start(rng.stream(key, "codebook"), latents)
            variables[self._quantizer.home]["codebook"] = book
        initial("decoder", self._decoder, latents, condition)
        noise = jnp.zeros((len(latents), self.config.energies.latents))
        shares = self._shares(variables, layer_energy, batch["energies"])
        initial("energies", self._energies, shares, self._energy(batch["energies"]), noise)
        initial("context", self._context, condition)
        initial("prior", self._prior, self._prior_context(variables, condition))
        return variables

    # --- losses -----------------------------------------------------------------------------------

    def loss(
        self, stage: str, variables: Variables, key: jax.Array, batch: Batch, *, training: bool
    ) -> tuple[jax.Array, Outcome]:
        """The loss of a stage; metrics carry the names of the papers' terms."""
        showers, energies = batch["showers"], batch["energies"]
        if training and self.config.autoencoder.rotate:
            # A turned shower is as likely as the shower: every stage sees both.
            table = rotation_table(self.detector)
            showers = random_rotations(rng.stream(key, "rotation"), showers, table)
        losses = {
            "autoencoder": self._autoencoder_loss,
            "energies": self._energies_loss,
            "prior": self._prior_loss,
        }
        return losses[stage](variables, key, showers, energies, training)

    def _autoencoder_loss(self, variables, key, showers, energies, training):
        fractions, layer_energy = self._split(showers)
        full = self._full_condition(variables, energies, layer_energy)
        condition = self._condition(variables, energies, layer_energy)
        latents = self._latents(variables, fractions, full)
        quantised = self._quantizer.through(
            self._codebook(variables), latents, rng.stream(key, "revival")
        )
        out = self._apply(variables, "decoder", quantised.vectors, condition)
        statistics = variables["transforms"]
        y = self.scale.numbers(showers, layer_energy, statistics)
        lower = self.scale.lower(layer_energy, statistics)
        # Per layer, so that beta means the same for every geometry.
        reconstruction = self.head.loss(out, y, showers > 0, lower).mean() / self.detector.n_layers
        loss = reconstruction + quantised.penalty
        state = variables["state"]
        if training and self._quantizer.home == "state":
            state = state | {"codebook": quantised.codebook}
        metrics = {
            "loss": loss,
            "reconstruction": reconstruction,
            "commitment": quantised.commitment,
            "code_frequency": quantizer.frequency(quantised.codes, self._quantizer.size),
        }
        return loss, Outcome(metrics, state)

    def _energies_loss(self, variables, key, showers, energies, training):
        layer_energy = layer_sums(showers, self.detector)
        shares = self._shares(variables, layer_energy, energies)
        latents = self.config.energies.latents
        noise = jax.random.normal(rng.stream(key, "posterior"), (len(showers), latents))
        terms = self._apply(variables, "energies", shares, self._energy(energies), noise)
        metrics = {name: term.mean() for name, term in terms.items()}
        loss = sum(metrics.values())
        return loss, Outcome({"loss": loss} | metrics, variables["state"])

    def _prior_loss(self, variables, key, showers, energies, training):
        fractions, layer_energy = self._split(showers)
        codes = self._encode(variables, fractions, energies, layer_energy)
        condition = self._condition(variables, energies, layer_energy)
        loss = self._prior.loss(
            {"params": variables["params"]["prior"]},
            rng.per_item(rng.stream(key, "prior"), jnp.arange(len(codes))),
            jax.lax.stop_gradient(codes),
            self._prior_context(variables, condition),
        ).mean()
        return loss, Outcome({"loss": loss}, variables["state"])

    def summarise(self, metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Scalars as they are; code frequencies as perplexity and share of live codes."""
        return quantizer.summarise(metrics)

    # --- generation -------------------------------------------------------------------------------

    def sample(
        self,
        variables: Variables,
        keys: jax.Array,
        energies: jax.Array,
        *,
        temperature: float = 1.0,
    ) -> jax.Array:
        """Showers [b, v] in MeV: layer energies, then codes, then voxels; one key a shower [b].

        The temperature is that of the codes.
        """
        layer_energy = self.sample_layer_energies(variables, keys, energies)
        codes = self.sample_codes(variables, keys, energies, layer_energy, temperature)
        return self.decode(variables, keys, codes, energies, layer_energy)

    def reconstruct(self, variables: Variables, keys: jax.Array, batch: Batch) -> jax.Array:
        """Showers through the codes and back, with their own layer energies."""
        fractions, layer_energy = self._split(batch["showers"])
        codes = self._encode(variables, fractions, batch["energies"], layer_energy)
        return self.decode(variables, keys, codes, batch["energies"], layer_energy)

    def parts(
        self, variables: Variables, keys: jax.Array, energies: jax.Array
    ) -> dict[str, tuple[Any, tuple[Any, ...]]]:
        """The three networks that `sample` runs in turn."""
        layer_energy = self.sample_layer_energies(variables, keys, energies)
        codes = self.sample_codes(variables, keys, energies, layer_energy)
        return {
            "energies": (self.sample_layer_energies, (variables, keys, energies)),
            "prior": (self.sample_codes, (variables, keys, energies, layer_energy)),
            "decoder": (self.decode, (variables, keys, codes, energies, layer_energy)),
        }

    def sample_layer_energies(
        self, variables: Variables, keys: jax.Array, energies: jax.Array
    ) -> jax.Array:
        """Layer energies [b, l] in MeV."""
        condition = self._energy(energies)
        drawn = self._apply(
            variables, "energies", rng.streams(keys, "energies"), condition, method="draw"
        )
        return transforms.layer_energies(
            drawn.share, drawn.present, drawn.visible, energies, variables["transforms"]
        )

    def sample_codes(
        self,
        variables: Variables,
        keys: jax.Array,
        energies: jax.Array,
        layer_energy: jax.Array,
        temperature: float = 1.0,
    ) -> jax.Array:
        """Codes [b, t] from the prior."""
        context = self._prior_context(variables, self._condition(variables, energies, layer_energy))
        return self._prior.draw(
            {"params": variables["params"]["prior"]},
            rng.streams(keys, "prior"),
            context,
            temperature=temperature,
        )

    def decode(
        self,
        variables: Variables,
        keys: jax.Array,
        codes: jax.Array,
        energies: jax.Array,
        layer_energy: jax.Array,
    ) -> jax.Array:
        """Showers [b, v] in MeV from codes [b, t] and layer energies [b, l] in MeV."""
        vectors = self._quantizer.vectors(self._codebook(variables), codes)
        condition = self._condition(variables, energies, layer_energy)
        out = self._apply(variables, "decoder", vectors, condition)
        statistics = variables["transforms"]
        lower = self.scale.lower(layer_energy, statistics)
        y, hit = self.head.draw(rng.streams(keys, "voxels"), out, lower, self.detector)
        return self.scale.showers(y, hit, layer_energy, statistics)

    def code_log_probs(
        self, variables: Variables, codes: jax.Array, condition: Condition
    ) -> jax.Array:
        """Log-probability of each of codes [b, t] in nats, given those before it -> [b, t].

        Raises:
          CalojaxError: if the prior has no likelihood, which "masked" has not.
        """
        if not isinstance(self._prior, Autoregressive):
            raise CalojaxError(
                f"A prior of kind {self.config.prior.kind!r} gives codes no probability; train one "
                "of kind 'gru' or 'transformer'."
            )
        context = self._prior_context(variables, condition)
        prior = {"params": variables["params"]["prior"]}
        return self._prior.log_probs(prior, codes, context)

    # --- pieces -----------------------------------------------------------------------------------

    def _apply(self, variables, name, *args, **kwargs):
        module = getattr(self, f"_{name}")
        return module.apply({"params": variables["params"][name]}, *args, **kwargs)

    def _split(self, showers):
        return transforms.split_layers(showers, self.detector)

    def _voxels(self, fractions):
        return transforms.arctanh_compress(fractions)

    def _energy(self, energies):
        return energy_condition(energies, self.detector)

    def _shares(self, variables, layer_energy, energies) -> LayerEnergies:
        statistics = variables["transforms"]
        return LayerEnergies(*transforms.layer_shares(layer_energy, energies, statistics))

    def _full_condition(self, variables, energies, layer_energy) -> Condition:
        """Incident energy and layer energies."""
        return Condition(self._energy(energies), self._shares(variables, layer_energy, energies))

    def _condition(self, variables, energies, layer_energy) -> Condition:
        """What decoder and prior are told: incident energy, and layer energies if so set."""
        if self.config.autoencoder.condition_on_layers:
            return self._full_condition(variables, energies, layer_energy)
        return Condition(self._energy(energies), None)

    def _latents(self, variables, fractions, condition):
        """Encoder outputs [b, t, d]."""
        return self._apply(variables, "encoder", self._voxels(fractions), condition)

    def _encode(self, variables, fractions, energies, layer_energy):
        """Codes [b, t]."""
        full = self._full_condition(variables, energies, layer_energy)
        latents = self._latents(variables, fractions, full)
        return self._quantizer.codes(self._codebook(variables), latents)

    def _prior_context(self, variables, condition: Condition):
        return self._apply(variables, "context", condition)

    def _codebook(self, variables):
        home = self._quantizer.home
        return None if home is None else variables[home]["codebook"]
