"""Calo-VQ as it was released, to compare with (arXiv:2405.06605 and its configurations).

Two stages: a VQ-VAE of the shares that voxels have of the visible energy, and a causal transformer
that writes one sequence of tokens: first the visible fraction (of every layer, on dataset 1), as a
number with a fixed point, then the codes. `calojax.models.calovq` is what we make of it. Left out
of the released training: the adversarial loss, dropout, and its constant learning rate. Off unless
asked for: `dither`, which fills the gaps between the energies that tokens can say.
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
from calojax.models.calovq_released import networks
from calojax.models.voxels import (
    energy_condition,
    layer_sums,
    over_voxels,
    random_rotations,
    rotation_table,
)
from calojax.nn import quantizer
from calojax.nn.priors import positions
from calojax.nn.priors.autoregressive import Autoregressive
from calojax.nn.priors.gpt import GPT


@dataclasses.dataclass(frozen=True)
class ReleasedAutoencoderConfig:
    """The VQ-VAE.

    Attributes:
      architecture: of the networks: that of "ds1", "ds2" or "ds3".
      z_padding: layers of zeros in front of the shower and behind it.
      log_scale: (b, c) of the input log(1 + b E / E_inc) / c.
      codebook: learnt by gradient as released, or by moving averages with revival ("ema").
      codebook_size: number of codes.
      code_width: dimensions of a code.
      commitment: weight of ||z - sg[e]||^2.
      pull: weight of ||e - sg[z]||^2.
      norm: of the difference in E / E_inc, summed over voxels: "l1" or "l2" (squares).
      centre: weight of the squared error of centres of energy in mm^2.
      width: weight of the squared error of widths in mm^2.
      noise: upper end of uniform noise in MeV on every voxel in training.
      augment: turn and mirror training showers in alpha.
      schedule: of the optimiser.
    """

    architecture: networks.ArchitectureName = "ds2"
    z_padding: tuple[int, int] = (4, 8)
    log_scale: tuple[float, float] = (3000.0, 7.0)
    codebook: Literal["gradient", "ema"] = "gradient"
    codebook_size: int = 1024
    code_width: int = 256
    commitment: float = 1.0
    pull: float = 0.25
    norm: Literal["l1", "l2"] = "l2"
    centre: float = 1e-4
    width: float = 1e-4
    noise: float = 0.0
    augment: bool = True
    schedule: Schedule = Schedule(learning_rate=5.1e-4, weight_decay=0.0)


@dataclasses.dataclass(frozen=True)
class TokensConfig:
    """How energies are written as tokens.

    Attributes:
      bits: of a number with a fixed point; as many a token as the codebook has.
      largest: number that is too large for them.
      layers: whether every layer's energy follows the total.
      dither: read a token as any of the numbers that it stands for, instead of the smallest.
    """

    bits: int = 10
    largest: float = 1.3
    layers: bool = False
    dither: bool = False


@dataclasses.dataclass(frozen=True)
class GPTConfig:
    """The transformer that writes tokens.

    Attributes:
      layers: blocks.
      heads: of the attention.
      width: of the stream.
      schedule: of the optimiser.
    """

    layers: int = 2
    heads: int = 2
    width: int = 64
    schedule: Schedule = Schedule(learning_rate=7.7e-4)


@dataclasses.dataclass(frozen=True)
class ReleasedConfig:
    """The released Calo-VQ.

    Attributes:
      autoencoder: the VQ-VAE.
      tokens: energies as tokens.
      prior: what writes tokens.
    """

    autoencoder: ReleasedAutoencoderConfig = ReleasedAutoencoderConfig()
    tokens: TokensConfig = TokensConfig()
    prior: GPTConfig = GPTConfig()


@dataclasses.dataclass(frozen=True)
class ReleasedCaloVQ:
    """The model (see the module's docstring); implements `calojax.models.base.Model`."""

    config: ReleasedConfig
    detector: Detector

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Autoencoder, prior."""
        config, home = self.config, self._quantizer.home
        return (
            Stage(
                "autoencoder",
                ("encoder", "decoder", *(("codebook",) if home == "params" else ())),
                config.autoencoder.schedule,
                state=("codebook",) if home == "state" else (),
            ),
            Stage(
                "prior",
                ("context", "prior") if self._labelled else ("prior",),
                config.prior.schedule,
                needs=("autoencoder",),
            ),
        )

    # --- modules ----------------------------------------------------------------------------------

    @property
    def _labelled(self) -> bool:
        """Whether incident energies are told by number (dataset 1)."""
        return self.config.autoencoder.architecture == "ds1"

    @functools.cached_property
    def _quantizer(self) -> quantizer.Quantizer:
        c = self.config.autoencoder
        if c.codebook == "ema":
            return quantizer.ByAverages(c.codebook_size, c.code_width, c.commitment, 0.99, 0.03)
        spread = 1.0 / c.codebook_size
        return quantizer.ByGradient(c.codebook_size, c.code_width, c.commitment, c.pull, spread)

    @functools.cached_property
    def _shape(self) -> networks.Shape:
        c = self.config.autoencoder
        if self.detector.grid is None:
            raise CalojaxError(
                f"{self.detector.name}: its layers differ, so there is no grid to convolve over; "
                "take --autoencoder.architecture ds1."
            )
        shape = networks.Shape(self.detector.grid, c.z_padding)
        if shape.codes(networks.ARCHITECTURES[c.architecture])[0] < 1:
            raise CalojaxError(
                f"{self.detector.name}: {self.detector.n_layers} layers are too few for the "
                f"networks of {c.architecture}; raise --autoencoder.z-padding."
            )
        return shape

    @functools.cached_property
    def _encoder(self) -> nn.Module:
        c = self.config.autoencoder
        if self._labelled:
            return networks.DenseEncoder(c.code_width)
        architecture = networks.ARCHITECTURES[c.architecture]
        return networks.ConvEncoder(architecture, self._shape, c.code_width)

    @functools.cached_property
    def _decoder(self) -> nn.Module:
        if self._labelled:
            return networks.DenseDecoder(self.detector.n_voxels)
        architecture = networks.ARCHITECTURES[self.config.autoencoder.architecture]
        return networks.ConvDecoder(architecture, self._shape)

    @functools.cached_property
    def _context(self) -> nn.Module:
        # The released table has three rows more than there are energies.
        return nn.Embed(18, 3)

    @functools.cached_property
    def _prior(self) -> Autoregressive:
        c = self.config.prior
        line = positions.Line(self._n_energy_tokens + self._n_codes)
        conditions = 3 if self._labelled else 1
        size = self.config.autoencoder.codebook_size
        cell = GPT(size, line, c.layers, c.heads, c.width, True, conditions=conditions)
        return Autoregressive(cell)

    @property
    def _n_codes(self) -> int:
        c = self.config.autoencoder
        if self._labelled:
            return 32
        return int(np.prod(self._shape.codes(networks.ARCHITECTURES[c.architecture])))

    @property
    def _n_energy_tokens(self) -> int:
        numbers = 1 + self.detector.n_layers if self.config.tokens.layers else 1
        return numbers * len(self._digits)

    @property
    def _digits(self) -> np.ndarray:
        """What a step of each token of a number is worth, the most significant first."""
        size, bits = self.config.autoencoder.codebook_size, self.config.tokens.bits
        each = size.bit_length() - 1
        if 2**each != size or bits % each:
            raise CalojaxError(
                f"Numbers of {bits} bits do not divide into tokens of a codebook of {size}; take a "
                "power of two, and bits a multiple of its exponent."
            )
        return size ** np.arange(bits // each)[::-1]

    # --- start ------------------------------------------------------------------------------------

    def fit(self, showers: Iterable[tuple[np.ndarray, np.ndarray]]) -> Variables:
        """Nothing is fitted."""
        return {}

    def init(self, key: jax.Array, transforms: Variables, batch: Batch) -> Variables:
        """Random networks and codes."""
        variables: Variables = {"params": {}, "state": {}, "transforms": transforms}
        params = variables["params"]
        condition = self._condition(batch["energies"])

        def initial(name, module, *args):
            params[name] = module.init(rng.stream(key, name), *args)["params"]

        x = self._scaled(batch["showers"] / batch["energies"][:, None])
        initial("encoder", self._encoder, x, condition)
        latents = self._apply(variables, "encoder", x, condition)
        book = self._quantizer.start(rng.stream(key, "codebook"), latents)
        variables[self._quantizer.home]["codebook"] = book
        initial("decoder", self._decoder, latents, condition)
        if self._labelled:
            initial("context", self._context, condition)
        initial("prior", self._prior, self._prior_context(variables, condition))
        return variables

    # --- losses -----------------------------------------------------------------------------------

    def loss(
        self, stage: str, variables: Variables, key: jax.Array, batch: Batch, *, training: bool
    ) -> tuple[jax.Array, Outcome]:
        """The loss of a stage."""
        showers, energies = batch["showers"], batch["energies"]
        if training:
            showers = self._augmented(key, showers)
        if stage == "autoencoder":
            return self._autoencoder_loss(variables, key, showers, energies, training)
        return self._prior_loss(variables, showers, energies)

    def _autoencoder_loss(self, variables, key, showers, energies, training):
        c = self.config.autoencoder
        condition = self._condition(energies)
        fractions = showers / energies[:, None]
        latents = self._apply(variables, "encoder", self._scaled(fractions), condition)
        quantised = self._quantizer.through(
            self._codebook(variables), latents, rng.stream(key, "revival")
        )
        shares = self._shares(variables, quantised.vectors, condition)
        difference = shares * self._over_voxels(self._visible(fractions)) - fractions
        distance = jnp.abs(difference) if c.norm == "l1" else difference**2
        reconstruction = distance.sum(-1).mean()
        metrics = {"reconstruction": reconstruction, "commitment": quantised.commitment}
        loss = reconstruction + quantised.penalty
        if c.centre or c.width:
            centre, width = self._shape_errors(shares, fractions)
            metrics |= {"centre": centre, "width": width}
            loss = loss + c.centre * centre + c.width * width
        state = variables["state"]
        if training and self._quantizer.home == "state":
            state = state | {"codebook": quantised.codebook}
        frequency = quantizer.frequency(quantised.codes, self._quantizer.size)
        return loss, Outcome({"loss": loss, "code_frequency": frequency} | metrics, state)

    def _prior_loss(self, variables, showers, energies):
        fractions = showers / energies[:, None]
        codes = self._encode(variables, fractions, energies)
        tokens = jnp.concatenate([self._energy_tokens(fractions), codes], -1)
        context = self._prior_context(variables, self._condition(energies))
        prior = {"params": variables["params"]["prior"]}
        loss = -self._prior.log_probs(prior, tokens, context).mean()
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
        """Showers [b, v] in MeV: tokens, then voxels; the temperature is that of all tokens."""
        tokens = self.sample_tokens(variables, keys, energies, temperature)
        return self.decode(variables, keys, tokens, energies)

    def reconstruct(self, variables: Variables, keys: jax.Array, batch: Batch) -> jax.Array:
        """Showers through the codes and back, with their own visible energies."""
        fractions = batch["showers"] / batch["energies"][:, None]
        codes = self._encode(variables, fractions, batch["energies"])
        return self._showers(variables, codes, self._visible(fractions), batch["energies"])

    def parts(
        self, variables: Variables, keys: jax.Array, energies: jax.Array
    ) -> dict[str, tuple[Any, tuple[Any, ...]]]:
        """The two networks that `sample` runs in turn."""
        tokens = self.sample_tokens(variables, keys, energies)
        return {
            "prior": (self.sample_tokens, (variables, keys, energies)),
            "decoder": (self.decode, (variables, keys, tokens, energies)),
        }

    def sample_tokens(
        self,
        variables: Variables,
        keys: jax.Array,
        energies: jax.Array,
        temperature: float = 1.0,
    ) -> jax.Array:
        """Tokens [b, t] of energies and codes from the prior."""
        context = self._prior_context(variables, self._condition(energies))
        prior = {"params": variables["params"]["prior"]}
        keys = rng.streams(keys, "prior")
        return self._prior.draw(prior, keys, context, temperature=temperature)

    def decode(
        self, variables: Variables, keys: jax.Array, tokens: jax.Array, energies: jax.Array
    ) -> jax.Array:
        """Showers [b, v] in MeV from tokens [b, t]."""
        numbers, codes = jnp.split(tokens, [self._n_energy_tokens], axis=-1)
        visible = self._visible_of(rng.streams(keys, "dither"), numbers)
        return self._showers(variables, codes, visible, energies)

    def _showers(self, variables, codes, visible, energies):
        vectors = self._quantizer.vectors(self._codebook(variables), codes)
        shares = self._shares(variables, vectors, self._condition(energies))
        showers = shares * self._over_voxels(visible) * energies[:, None]
        # As the evaluation would cut them: the readout has no softer voxels.
        return jnp.where(showers > self.detector.readout_threshold, showers, 0.0)

    # --- energies as tokens -----------------------------------------------------------------------

    def _energy_tokens(self, fractions):
        """Tokens of the visible fraction, and of each layer's if so set: [b, v] -> [b, n]."""
        c = self.config.tokens
        numbers = fractions.sum(-1, keepdims=True)
        if c.layers:
            layers = layer_sums(fractions, self.detector)
            numbers = jnp.concatenate([numbers, layers], -1)
        # 2^20 steps are exact in float32.
        whole = jnp.floor(numbers / c.largest * 2.0**c.bits)
        whole = jnp.clip(whole, 0, 2**c.bits - 1).astype(jnp.int32)
        tokens = whole[..., None] // self._digits % self.config.autoencoder.codebook_size
        return tokens.reshape(len(tokens), -1)

    def _visible_of(self, keys, tokens):
        """What `_visible` would be, as far as tokens [b, n] tell: [b, 1] or [b, l]."""
        c = self.config.tokens
        tokens = tokens.reshape(len(tokens), -1, len(self._digits))
        whole = (tokens * self._digits).sum(-1).astype(jnp.float32)
        if c.dither:
            n = whole.shape[1]
            whole = whole + jax.vmap(lambda key: jax.random.uniform(key, (n,)))(keys)
        numbers = whole * (c.largest / 2.0**c.bits)
        if not c.layers:
            return numbers
        total, layers = numbers[:, :1], numbers[:, 1:]
        found = layers.sum(-1, keepdims=True)
        return layers * jnp.where(found > 0, total / jnp.where(found > 0, found, 1.0), 0.0)

    def _visible(self, fractions):
        """Visible fraction of E_inc: of every layer [b, l] if so set, else of the shower [b, 1]."""
        if self.config.tokens.layers:
            return layer_sums(fractions, self.detector)
        return fractions.sum(-1, keepdims=True)

    def _over_voxels(self, visible):
        if self.config.tokens.layers:
            return over_voxels(visible, self.detector)
        return visible

    # --- pieces -----------------------------------------------------------------------------------

    def _apply(self, variables, name, *args):
        module = getattr(self, f"_{name}")
        return module.apply({"params": variables["params"][name]}, *args)

    def _codebook(self, variables):
        return variables[self._quantizer.home]["codebook"]

    def _condition(self, energies):
        """log E in [-1, 1] [b, 1], or the number of the incident energy [b]: 0 at 256 MeV."""
        if not self._labelled:
            return energy_condition(energies, self.detector)
        return jnp.clip(jnp.round(jnp.log2(energies)) - 8, 0, 14).astype(jnp.int32)

    def _prior_context(self, variables, condition):
        return self._apply(variables, "context", condition) if self._labelled else condition

    def _scaled(self, fractions):
        slope, scale = self.config.autoencoder.log_scale
        return jnp.log1p(slope * fractions) / scale

    def _encode(self, variables, fractions, energies):
        condition = self._condition(energies)
        latents = self._apply(variables, "encoder", self._scaled(fractions), condition)
        return jax.lax.stop_gradient(self._quantizer.codes(self._codebook(variables), latents))

    def _shares(self, variables, vectors, condition):
        out = self._apply(variables, "decoder", vectors, condition)
        architecture = self.config.autoencoder.architecture
        return networks.normalised(out, architecture, self.detector.layer_slices)

    def _augmented(self, key, showers):
        c = self.config.autoencoder
        if c.noise:
            showers = showers + jax.random.uniform(
                rng.stream(key, "noise"), showers.shape, maxval=c.noise
            )
        if c.augment:
            table = rotation_table(self.detector)
            showers = random_rotations(rng.stream(key, "rotation"), showers, table)
            grid = showers.reshape(-1, *self.detector.grid)
            mirror = jax.random.bernoulli(rng.stream(key, "mirror"), 0.5, (len(showers), 1, 1, 1))
            showers = jnp.where(mirror, jnp.flip(grid, 2), grid).reshape(showers.shape)
        return showers

    def _shape_errors(self, shares, fractions):
        """Mean squared errors in mm^2 of centres and widths, in eta and phi, of every layer.

        On dataset 1 of the whole shower.
        """
        centres, widths = zip(
            *(self._moments(x) for x in (shares, fractions)),
            strict=True,
        )
        return tuple(((a - b) ** 2).mean() for a, b in (centres, widths))

    def _moments(self, voxels):
        """Centres and widths in mm [b, l or 1, 2]."""
        where = np.stack([self.detector.voxels.eta, self.detector.voxels.phi], -1)
        where = jnp.asarray(where, voxels.dtype)
        weighted = jnp.concatenate(
            [voxels[..., None], voxels[..., None] * where, voxels[..., None] * where**2], -1
        )
        if self._labelled:
            sums = weighted.sum(1, keepdims=True)
        else:
            sums = weighted.reshape(len(voxels), self.detector.n_layers, -1, 5).sum(2)
        total = sums[..., :1] + 1e-12
        centre, square = sums[..., 1:3] / total, sums[..., 3:] / total
        # Off zero, where the slope of the root has no end.
        return centre, jnp.sqrt(jnp.maximum(square - centre**2, 1e-3))
