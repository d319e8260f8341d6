"""Energies of the released Calo-VQ as tokens: fixed-point numbers in the base of the codebook."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from calojax import rng
from calojax.errors import CalojaxError
from calojax.geometry import Detector
from calojax.models.calovq_released.config import TokensConfig
from calojax.models.voxels import layer_sums, over_voxels


@dataclasses.dataclass(frozen=True)
class EnergyTokens:
    """The visible fraction E_sum / E_inc of a shower, or of its layers too, as n tokens."""

    config: TokensConfig
    size: int  # size of the codebook, a power of two
    detector: Detector

    @property
    def number(self) -> int:
        """Number of tokens, n."""
        return len(self._digits) * (1 + self.detector.n_layers if self.config.layers else 1)

    @property
    def _digits(self) -> np.ndarray:
        """Value of each token of a number, the most significant first."""
        bits, each = self.config.bits, self.size.bit_length() - 1
        if 2**each != self.size or bits % each:
            raise CalojaxError(
                f"--tokens.bits {bits} do not divide into tokens of a codebook of {self.size}; "
                "--autoencoder.codebook-size must be a power of two whose exponent divides the "
                "bits."
            )
        return self.size ** np.arange(bits // each)[::-1]

    def visible(self, fractions: Float[Array, "b v"]) -> Float[Array, "b k"]:
        """Visible fractions: of layers (k = l) if set, otherwise of the shower (k = 1)."""
        if self.config.layers:
            return layer_sums(fractions, self.detector)
        return fractions.sum(-1, keepdims=True)

    def over_voxels(self, visible: Float[Array, "b k"]) -> Float[Array, "b _"]:
        """Visible fractions, repeated for the voxels of layers if set."""
        return over_voxels(visible, self.detector) if self.config.layers else visible

    def encode(self, fractions: Float[Array, "b v"]) -> Int[Array, "b n"]:
        """Tokens of showers as fractions of E_inc."""
        c = self.config
        numbers = fractions.sum(-1, keepdims=True)
        if c.layers:
            numbers = jnp.concatenate([numbers, self.visible(fractions)], -1)
        # 2^20 steps are exact in float32.
        whole = jnp.floor(numbers / c.largest * 2.0**c.bits)
        whole = jnp.clip(whole, 0, 2**c.bits - 1).astype(jnp.int32)
        tokens = whole[..., None] // self._digits % self.size
        return tokens.reshape(len(tokens), -1)

    def noise(self, keys: PRNGKeyArray) -> dict[str, Any]:
        """The random numbers of `decode` from one key for each shower: none without dither."""
        if not self.config.dither:
            return {}
        n = self.number // len(self._digits)
        return {"uniform": rng.uniform(keys, (n,))}

    def decode(self, noise: Mapping[str, Any], tokens: Int[Array, "b n"]) -> Float[Array, "b k"]:
        """Visible fractions from tokens, as of `visible`."""
        c = self.config
        tokens = tokens.reshape(tokens.shape[0], -1, len(self._digits))
        whole = (tokens * self._digits).sum(-1).astype(jnp.float32)
        if c.dither:
            whole = whole + noise["uniform"]
        numbers = whole * (c.largest / 2.0**c.bits)
        if not c.layers:
            return numbers
        total, layers = numbers[:, :1], numbers[:, 1:]
        found = layers.sum(-1, keepdims=True)
        return layers * jnp.where(found > 0, total / jnp.where(found > 0, found, 1.0), 0.0)
