"""Settings of CaloPointFlow, one class for each part of the model."""

import dataclasses
from typing import Literal

from calojax.errors import CalojaxError
from calojax.models.base import Schedule
from calojax.models.pointflow.coordinates import CoordinatesName
from calojax.models.pointflow.dequantisation import DequantisationName, HitEnergiesName
from calojax.nn.flow import Summary

Weights = Literal["slide", "released", "bound"]
Angles = Literal["uniform", "learnt"]


@dataclasses.dataclass(frozen=True)
class TotalsConfig:
    """The flow of hit counts and energies.

    Attributes:
      depth: number of coupling layers.
      bins: number of spline bins.
      hidden: layer widths of the coupling networks.
      schedule: optimiser schedule.
    """

    depth: int = 12
    bins: int = 12
    hidden: tuple[int, ...] = (128, 128, 128)
    schedule: Schedule = Schedule(20_000, 256)


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """The posterior of the latent vector given all points of a shower.

    Attributes:
      point: layer widths of the network applied to each point.
      shower: layer widths of the network applied to each shower.
    """

    point: tuple[int, ...] = (64, 128, 1024)
    shower: tuple[int, ...] = (1024, 512, 512)


@dataclasses.dataclass(frozen=True)
class LatentConfig:
    """The latent vector and the flow that is its prior.

    Attributes:
      dimensions: size of the latent vector.
      depth: number of coupling layers.
      bins: number of spline bins.
      hidden: layer widths of the coupling networks.
    """

    dimensions: int = 128
    depth: int = 8
    bins: int = 8
    hidden: tuple[int, ...] = (1024, 1024, 1024)


@dataclasses.dataclass(frozen=True)
class PointsConfig:
    """The flow of points, and the training of the autoencoder.

    Attributes:
      coordinates: coordinates of a hit that the flow draws: layer and both transverse coordinates
        ("plane", version I), layer and r ("rings", version II), or only r ("layers").
      dequantisation: map from bins to real numbers: uniform noise and a logit ("uniform"), or the
        normal quantile of the bins' distribution ("cdf").
      energy: scale of hit energies: logit of the fraction of E_sum ("fraction", as published), or
        logarithm ("log").
      deep_sets: condition every coupling layer on a summary of the shower's points.
      summary: networks of that summary.
      depth: number of coupling layers.
      bins: number of spline bins.
      hidden: layer widths of the coupling networks.
      weights: weights of reconstruction, prior and entropy: all 1, as on the talk's slides
        ("slide"); 1 over the dimensions of each, as in the released code ("released"); or those of
        the evidence lower bound, a sum over points where the others are means ("bound").
      group: number of showers that share a buffer in training, a power of two.
      points_per_shower: size of that buffer per shower, a few per cent above the mean of hits.
      schedule: optimiser schedule.
    """

    coordinates: CoordinatesName = "rings"
    dequantisation: DequantisationName = "cdf"
    energy: HitEnergiesName = "fraction"
    deep_sets: bool = True
    summary: Summary = Summary()
    depth: int = 12
    bins: int = 8
    hidden: tuple[int, ...] = (128, 128, 128)
    weights: Weights = "released"
    group: int = 32
    points_per_shower: int = 600
    schedule: Schedule = Schedule(40_000, 256, weight_decay=0.01)

    def __post_init__(self):
        if self.group < 1 or self.group & (self.group - 1):
            raise CalojaxError(
                f"--points.group must be a power of two, got {self.group}; set it to 32."
            )
        if self.schedule.batch_size % self.group:
            raise CalojaxError(
                "--points.schedule.batch-size must be a multiple of --points.group, got "
                f"{self.schedule.batch_size} and {self.group}; change one of them."
            )


@dataclasses.dataclass(frozen=True)
class PlacementConfig:
    """The angles of hits on their rings, for points without angles.

    Attributes:
      angles: distribution of the angles: uniform over distinct bins, as published ("uniform"), or
        learnt ("learnt").
      hidden: number of channels of the network.
      window: number of preceding layers that the network sees one by one.
      schedule: optimiser schedule.
    """

    angles: Angles = "uniform"
    hidden: int = 128
    window: int = 3
    schedule: Schedule = Schedule(20_000, 256)


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """The size of a microbatch in generation, which changes only speed and memory.

    By default it is small on a CPU and large elsewhere.

    Attributes:
      showers: largest number of showers in a microbatch.
      points: largest number of hits in a microbatch, raised to the voxels of a shower.
    """

    showers: int | None = None
    points: int | None = None


@dataclasses.dataclass(frozen=True)
class PointFlowConfig:
    """Settings of CaloPointFlow.

    Attributes:
      totals: flow of hit counts and energies.
      encoder: posterior of the latent vector.
      latent: latent vector and its prior.
      points: flow of points.
      placement: angles of hits on their rings.
      generation: size of a microbatch in generation.
    """

    totals: TotalsConfig = TotalsConfig()
    encoder: EncoderConfig = EncoderConfig()
    latent: LatentConfig = LatentConfig()
    points: PointsConfig = PointsConfig()
    placement: PlacementConfig = PlacementConfig()
    generation: GenerationConfig = GenerationConfig()

    def __post_init__(self):
        if self.placement.angles == "learnt" and self.points.coordinates == "plane":
            raise CalojaxError(
                "--placement.angles learnt needs points without angles, but --points.coordinates "
                "plane draws them; take --points.coordinates rings."
            )
