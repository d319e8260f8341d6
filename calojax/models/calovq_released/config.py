"""Settings of the released Calo-VQ, one class for each part."""

import dataclasses
from typing import Literal

from calojax.models.base import Schedule
from calojax.models.calovq_released.networks import ArchitectureName


@dataclasses.dataclass(frozen=True)
class ReleasedAutoencoderConfig:
    """The VQ-VAE.

    Attributes:
      architecture: networks of dataset 1, 2 or 3 ("ds1", "ds2", "ds3").
      z_padding: layers of zeros in front of the shower and behind it.
      log_scale: constants (b, c) of the input log(1 + b E / E_inc) / c.
      codebook: kind of codebook: learnt by gradient as released ("gradient"), or by moving averages
        with revival of dead codes ("ema").
      codebook_size: number of codes.
      code_width: dimensions of a code.
      commitment: weight of ||z - sg[e]||^2.
      pull: weight of ||e - sg[z]||^2.
      norm: difference in E / E_inc, summed over voxels: absolute ("l1") or squared ("l2").
      centre: weight of the squared error of centres of energy in mm^2.
      width: weight of the squared error of widths in mm^2.
      noise: upper end in MeV of uniform noise that training adds to every voxel.
      augment: rotate and mirror training showers in alpha.
      schedule: optimiser schedule.
    """

    architecture: ArchitectureName = "ds2"
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
    """Energies as tokens.

    Attributes:
      bits: bits of a fixed-point number, split into tokens of log2(codebook size) bits each.
      largest: upper end of the numbers' range.
      layers: whether a number for every layer follows that of the shower.
      dither: add uniform noise of one step to decoded numbers, which are otherwise too small.
    """

    bits: int = 10
    largest: float = 1.3
    layers: bool = False
    dither: bool = False


@dataclasses.dataclass(frozen=True)
class GPTConfig:
    """The transformer that generates tokens.

    Attributes:
      layers: number of blocks.
      heads: number of attention heads.
      width: size of the stream.
      schedule: optimiser schedule.
    """

    layers: int = 2
    heads: int = 2
    width: int = 64
    schedule: Schedule = Schedule(learning_rate=7.7e-4)


@dataclasses.dataclass(frozen=True)
class ReleasedConfig:
    """Settings of the released Calo-VQ.

    Attributes:
      autoencoder: VQ-VAE.
      tokens: energies as tokens.
      prior: transformer that generates tokens.
    """

    autoencoder: ReleasedAutoencoderConfig = ReleasedAutoencoderConfig()
    tokens: TokensConfig = TokensConfig()
    prior: GPTConfig = GPTConfig()
