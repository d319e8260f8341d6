"""Settings of Calo-VQ, one class for each stage."""

import dataclasses
from typing import Literal

from calojax.models.base import Schedule
from calojax.models.calovq.energies import EnergyDensity
from calojax.models.calovq.energy_vae import EnergyVAE
from calojax.models.calovq.likelihoods import LikelihoodName
from calojax.models.calovq.voxel_transforms import VoxelTransformName
from calojax.nn import priors
from calojax.nn.priors.prior import Grid


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """The VQ-VAE that maps voxel fractions to codes and back.

    Attributes:
      network: fully connected layers ("dense") or convolutions on a grid ("cylinder").
      hidden: layer widths of the dense encoder; the decoder has them in reverse.
      length: codes per shower of the dense network.
      filters: channels of the convolutions.
      kernel: size in bins (z, alpha, r) of the patches that become codes.
      strides: distance in bins (z, alpha, r) between patches.
      codebook: kind of codebook: learnt by moving averages with revival of dead codes ("ema"),
        learnt by gradient ("gradient"), or finite scalar quantisation ("fsq").
      codebook_size: number of codes of a learnt codebook.
      code_width: dimensions of a code of a learnt codebook.
      levels: levels of each dimension in finite scalar quantisation; codes are their combinations.
      beta: weight of the commitment term ||z - sg[e]||^2.
      decay: decay of the moving averages per step.
      revive_below: share of latents, relative to an even one, below which a code is dead.
      head: likelihood of a voxel: "point", as in the talk, or "density".
      components: number of normals in the density of a voxel.
      scale: space of the voxels: fractions of the layer ("linear"), compressed as in the talk
        ("arctanh"), or energies through the spectrum of all hits ("quantile").
      condition_on_layers: condition decoder and prior on the layer energies.
      rotate: rotate training showers by random angles, for detectors symmetric in alpha.
      schedule: optimiser schedule.
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
    head: LikelihoodName = "density"
    components: int = 2
    scale: VoxelTransformName = "quantile"
    condition_on_layers: bool = True
    rotate: bool = False
    schedule: Schedule = Schedule()


@dataclasses.dataclass(frozen=True)
class EnergiesConfig:
    """The model of layer energies.

    Attributes:
      kind: density that sees all preceding layers ("density"), or the conditional VAE of the talk
        ("vae").
      width: size of the recurrent state of the density.
      components: number of normals in the mixture for a layer's log share.
      latents: size of the latent space of the VAE.
      hidden: layer widths of encoder and decoder of the VAE.
      schedule: optimiser schedule.
    """

    kind: Literal["density", "vae"] = "density"
    width: int = 128
    components: int = 8
    latents: int = 4
    hidden: tuple[int, ...] = (256, 256)
    schedule: Schedule = Schedule(batch_size=512, learning_rate=3e-3, weight_decay=0.1, best=True)

    def build(self, layers: int) -> EnergyDensity | EnergyVAE:
        """The model of the energies of that many layers."""
        if self.kind == "vae":
            return EnergyVAE(layers, self.latents, self.hidden, self.components)
        return EnergyDensity(layers, self.width, self.components)


@dataclasses.dataclass(frozen=True)
class PriorConfig(priors.Settings):
    """The prior over codes.

    Attributes:
      kind: network: recurrent, code after code ("gru"), or a transformer that turns noise into all
        codes in a few passes ("flow").
      context: size of the embedded condition.
      schedule: optimiser schedule.
    """

    kind: priors.PriorName = "gru"
    context: int = 64
    schedule: Schedule = Schedule()

    def __post_init__(self):
        super().__post_init__()
        # Settings that never fit are refused here; `CaloVQ.fit` checks them against the codes.
        self.build(1, (self.codes_per_step, 1, 1), 1)

    def build(self, size: int, grid: Grid, width: int) -> priors.Prior:
        """The prior over a grid of ``size`` different codes with vectors of ``width``."""
        return priors.PRIORS[self.kind](self, size, grid, width)


@dataclasses.dataclass(frozen=True)
class CaloVQConfig:
    """Settings of Calo-VQ.

    Attributes:
      autoencoder: VQ-VAE.
      energies: model of layer energies.
      prior: model of codes.
    """

    autoencoder: AutoencoderConfig = AutoencoderConfig()
    energies: EnergiesConfig = EnergiesConfig()
    prior: PriorConfig = PriorConfig()
