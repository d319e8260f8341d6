"""Calo-VQ: showers as discrete codes, a prior that writes codes, and a model of layer energies.

After the Calo-VQ talk (CaloChallenge workshop, November 2022) for fully connected geometries; the
released code and paper (arXiv:2405.06605) differ in places. Three stages are trained in turn:

- ``autoencoder``: a VQ-VAE turns the voxels, normalised per layer, into 16 codes and back;
- ``energies``: a conditional VAE for the layer energies and the visible fraction;
- ``prior``: a network for p(codes | incident energy).

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

from calojax import rng, transforms
from calojax.errors import CalojaxError
from calojax.geometry import Detector
from calojax.models import heads
from calojax.models.base import Batch, Outcome, Schedule, Stage, Variables
from calojax.models.energies import EnergyVAE, LayerEnergies
from calojax.nn import positions, quantizer, sequence
from calojax.nn.gru import GRU
from calojax.nn.masked import Masked
from calojax.nn.mlp import MLP
from calojax.nn.transformer import Transformer


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """The VQ-VAE that turns voxel fractions into codes.

    Attributes:
      hidden: widths of the encoder, and reversed of the decoder.
      length: codes a shower.
      codebook_size: number of codes to choose from.
      code_width: dimensions of a code.
      beta: weight of the commitment term ||z - sg[e]||^2.
      codebook: learnt by moving averages with revival ("ema") or by gradient ("gradient").
      decay: of the moving averages, a step.
      revive_below: fraction of an even share of latents below which a code is dead.
      head: what the decoder says of a voxel: the talk's "point", or a "density".
      condition_on_layers: whether decoder and prior see the layer energies too.
      rotate: turn training showers by random angles (right where the detector is symmetric).
      schedule: of the optimiser.
    """

    hidden: tuple[int, ...] = (512, 512)
    length: int = 16
    codebook_size: int = 512
    code_width: int = 16
    beta: float = 0.25
    codebook: Literal["ema", "gradient"] = "ema"
    decay: float = 0.99
    revive_below: float = 0.03
    head: heads.HeadName = "density"
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
      schedule: of the optimiser.
    """

    latents: int = 4
    hidden: tuple[int, ...] = (256, 256)
    components: int = 3
    schedule: Schedule = Schedule(batch_size=512)


PriorKind = Literal["gru", "transformer", "masked"]


@dataclasses.dataclass(frozen=True)
class PriorConfig:
    """The prior over codes.

    Attributes:
      kind: recurrent ("gru"), causal "transformer", or a transformer that fills in codes in
        parallel ("masked").
      width: size of the recurrent state, or of the transformer's stream.
      embedding: size of the GRU's code and position embeddings.
      context: size of the embedded condition.
      layers: blocks of the transformer.
      heads: heads of its attention; twice their number divides the width.
      passes: runs of the "masked" network for a shower.
      dtype: of the transformer's computation; bfloat16 is for accelerators.
      schedule: of the optimiser.
    """

    kind: PriorKind = "gru"
    width: int = 256
    embedding: int = 64
    context: int = 64
    layers: int = 3
    heads: int = 4
    passes: int = 10
    dtype: Literal["float32", "bfloat16"] = "float32"
    schedule: Schedule = Schedule()

    def __post_init__(self):
        for name in ("layers", "heads", "passes"):
            if getattr(self, name) < 1:
                raise CalojaxError(f"The prior's {name} are {getattr(self, name)}; take 1 or more.")
        if self.kind != "gru" and self.width % (2 * self.heads):
            raise CalojaxError(
                f"The prior's width {self.width} is not a multiple of twice its {self.heads} heads;"
                " change one of them."
            )


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
        config = self.config
        by_gradient = config.autoencoder.codebook == "gradient"
        return (
            Stage(
                "autoencoder",
                ("encoder", "decoder", *(("codebook",) if by_gradient else ())),
                config.autoencoder.schedule,
                state=() if by_gradient else ("codebook",),
            ),
            Stage("energies", ("energies",), config.energies.schedule),
            Stage("prior", ("context", "prior"), config.prior.schedule, needs=("autoencoder",)),
        )

    # --- modules ----------------------------------------------------------------------------------

    @functools.cached_property
    def _encoder(self) -> nn.Module:
        c = self.config.autoencoder
        return MLP(c.hidden, c.length * c.code_width)

    @functools.cached_property
    def _decoder(self) -> nn.Module:
        return MLP(self.config.autoencoder.hidden[::-1], self.detector.n_voxels * self.head.numbers)

    @functools.cached_property
    def _energies(self) -> EnergyVAE:
        c = self.config.energies
        return EnergyVAE(self.detector.n_layers, c.latents, c.hidden, c.components)

    @functools.cached_property
    def _context(self) -> nn.Module:
        c = self.config.prior
        return MLP((c.context,), c.context)

    @functools.cached_property
    def _prior(self) -> sequence.Prior:
        size = self.config.autoencoder.codebook_size
        p = self.config.prior
        if p.kind == "gru":
            return sequence.Autoregressive(
                GRU(size, self._code_positions.length, p.width, p.embedding)
            )
        causal = p.kind == "transformer"
        network = Transformer(
            size, self._code_positions, p.layers, p.heads, p.width, causal, jnp.dtype(p.dtype)
        )
        return sequence.Autoregressive(network) if causal else Masked(network, p.passes)

    @property
    def _code_positions(self) -> positions.Positions:
        """Where the codes are, for priors that ask."""
        return positions.Line(self.config.autoencoder.length)

    @property
    def head(self) -> heads.Head:
        """What the decoder's numbers mean."""
        return heads.HEADS[self.config.autoencoder.head]

    # --- start ------------------------------------------------------------------------------------

    def fit(self, showers: Iterable[tuple[np.ndarray, np.ndarray]]) -> Variables:
        """Fits the standardisation of layer energies."""
        return transforms.fit_layer_shares(showers, self.detector)

    def init(self, key: jax.Array, transforms: Variables, batch: Batch) -> Variables:
        """Random networks, and a codebook that starts on the batch's latents."""
        c = self.config.autoencoder
        variables: Variables = {"params": {}, "state": {}, "transforms": transforms}
        params = variables["params"]
        fractions, layer_energy = self._split(batch["showers"])
        condition = self._condition(variables, batch["energies"], layer_energy)
        full = self._full_condition(variables, batch["energies"], layer_energy)

        def initial(name, module, *args):
            params[name] = module.init(rng.stream(key, name), *args)["params"]

        initial("encoder", self._encoder, self._encoder_input(fractions, full))
        latents = self._latents(variables, fractions, full)
        book = quantizer.start(
            rng.stream(key, "codebook"), latents.reshape(-1, c.code_width), c.codebook_size
        )
        if c.codebook == "gradient":
            params["codebook"] = book.vectors
        else:
            variables["state"]["codebook"] = book._asdict()
        initial("decoder", self._decoder, self._decoder_input(latents, condition))
        noise = jnp.zeros((len(latents), self.config.energies.latents))
        shares = self._shares(variables, layer_energy, batch["energies"])
        initial("energies", self._energies, shares, self._energy(batch["energies"]), noise)
        initial("context", self._context, condition)
        initial("prior", self._prior, jnp.zeros((len(latents), self.config.prior.context)))
        return variables

    # --- losses -----------------------------------------------------------------------------------

    def loss(
        self, stage: str, variables: Variables, key: jax.Array, batch: Batch, *, training: bool
    ) -> tuple[jax.Array, Outcome]:
        """The loss of a stage; metrics carry the names of the papers' terms."""
        showers, energies = batch["showers"], batch["energies"]
        if training and self.config.autoencoder.rotate:
            # A turned shower is as likely as the shower: every stage sees both.
            table = transforms.rotation_table(self.detector)
            showers = transforms.random_rotations(rng.stream(key, "rotation"), showers, table)
        losses = {
            "autoencoder": self._autoencoder_loss,
            "energies": self._energies_loss,
            "prior": self._prior_loss,
        }
        return losses[stage](variables, key, showers, energies, training)

    def _autoencoder_loss(self, variables, key, showers, energies, training):
        c = self.config.autoencoder
        fractions, layer_energy = self._split(showers)
        full = self._full_condition(variables, energies, layer_energy)
        condition = self._condition(variables, energies, layer_energy)
        latents = self._latents(variables, fractions, full)
        vectors = self._vectors(variables)
        codes = quantizer.nearest(latents, vectors)
        chosen = vectors[codes]
        out = self._decode(variables, quantizer.straight_through(latents, chosen), condition)
        lower = heads.lower_edge(layer_energy, self.detector)
        # Per layer, so that beta means the same for every geometry.
        reconstruction = self.head.loss(out, fractions, lower).mean() / self.detector.n_layers
        commitment = quantizer.commitment_loss(latents, chosen)
        loss = reconstruction + c.beta * commitment
        state = variables["state"]
        if c.codebook == "gradient":
            loss = loss + quantizer.codebook_loss(latents, chosen)
        elif training:
            book = quantizer.update(
                quantizer.Codebook(**state["codebook"]),
                latents.reshape(-1, c.code_width),
                codes.reshape(-1),
                rng.stream(key, "revival"),
                decay=c.decay,
                revive_below=c.revive_below,
            )
            state = state | {"codebook": book._asdict()}
        counts = jnp.zeros(c.codebook_size).at[codes.reshape(-1)].add(1.0 / codes.size)
        metrics = {
            "loss": loss,
            "reconstruction": reconstruction,
            "commitment": commitment,
            "code_frequency": counts,
        }
        return loss, Outcome(metrics, state)

    def _energies_loss(self, variables, key, showers, energies, training):
        layer_energy = transforms.layer_sums(showers, self.detector)
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
        metrics = dict(metrics)
        frequency = metrics.pop("code_frequency", None)
        summary = {name: float(value) for name, value in metrics.items()}
        if frequency is not None:
            summary["perplexity"] = float(quantizer.perplexity(jnp.asarray(frequency)))
            summary["live_codes"] = float(np.mean(np.asarray(frequency) > 0))
        return summary

    # --- generation -------------------------------------------------------------------------------

    def sample(self, variables: Variables, keys: jax.Array, energies: jax.Array) -> jax.Array:
        """Showers [b, v] in MeV: layer energies, then codes, then voxels; one key a shower [b]."""
        layer_energy = self.sample_layer_energies(variables, keys, energies)
        codes = self.sample_codes(variables, keys, energies, layer_energy)
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
        self, variables: Variables, keys: jax.Array, energies: jax.Array, layer_energy: jax.Array
    ) -> jax.Array:
        """Codes [b, t] from the prior."""
        context = self._prior_context(variables, self._condition(variables, energies, layer_energy))
        return self._prior.draw(
            {"params": variables["params"]["prior"]},
            rng.streams(keys, "prior"),
            context,
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
        vectors = self._vectors(variables)[codes]
        out = self._decode(variables, vectors, self._condition(variables, energies, layer_energy))
        lower = heads.lower_edge(layer_energy, self.detector)
        fractions = self.head.fractions(rng.streams(keys, "voxels"), out, lower, self.detector)
        return transforms.join_layers(fractions, layer_energy, self.detector)

    def code_log_probs(
        self, variables: Variables, codes: jax.Array, condition: jax.Array
    ) -> jax.Array:
        """Log-probability of each of codes [b, t] in nats, given those before it -> [b, t].

        Raises:
          CalojaxError: if the prior has no likelihood, which "masked" has not.
        """
        if not isinstance(self._prior, sequence.Autoregressive):
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

    def _energy(self, energies):
        return transforms.energy_condition(energies, self.detector)

    def _shares(self, variables, layer_energy, energies) -> LayerEnergies:
        statistics = variables["transforms"]
        return LayerEnergies(*transforms.layer_shares(layer_energy, energies, statistics))

    def _full_condition(self, variables, energies, layer_energy):
        """Incident energy and layer energies [b, 2 + 2 l]."""
        shares = self._shares(variables, layer_energy, energies)
        present = shares.present.astype(shares.share.dtype)
        visible = shares.visible[:, None]
        return jnp.concatenate([self._energy(energies), shares.share, present, visible], -1)

    def _condition(self, variables, energies, layer_energy):
        """What decoder and prior are told: incident energy, and layer energies if so set."""
        if self.config.autoencoder.condition_on_layers:
            return self._full_condition(variables, energies, layer_energy)
        return self._energy(energies)

    def _encoder_input(self, fractions, condition):
        return jnp.concatenate([transforms.arctanh_compress(fractions), condition], -1)

    def _decoder_input(self, vectors, condition):
        return jnp.concatenate([vectors.reshape(len(vectors), -1), condition], -1)

    def _latents(self, variables, fractions, condition):
        """Encoder outputs [b, t, d]."""
        c = self.config.autoencoder
        flat = self._apply(variables, "encoder", self._encoder_input(fractions, condition))
        return flat.reshape(-1, c.length, c.code_width)

    def _encode(self, variables, fractions, energies, layer_energy):
        """Codes [b, t]."""
        full = self._full_condition(variables, energies, layer_energy)
        return quantizer.nearest(
            self._latents(variables, fractions, full), self._vectors(variables)
        )

    def _decode(self, variables, vectors, condition):
        """Decoder outputs [b, v, numbers]."""
        out = self._apply(variables, "decoder", self._decoder_input(vectors, condition))
        return out.reshape(len(out), self.detector.n_voxels, self.head.numbers)

    def _prior_context(self, variables, condition):
        return self._apply(variables, "context", condition)

    def _vectors(self, variables):
        if self.config.autoencoder.codebook == "gradient":
            return variables["params"]["codebook"]
        return variables["state"]["codebook"]["vectors"]
