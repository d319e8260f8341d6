"""Named settings to train with: one for each data set, with the command and what to expect."""

import dataclasses
from collections.abc import Mapping

from calojax.geometry import DETECTORS
from calojax.models.base import Schedule
from calojax.models.calovq import AutoencoderConfig, CaloVQConfig, EnergiesConfig, PriorConfig


@dataclasses.dataclass(frozen=True)
class Preset:
    """Settings of a model for one data set.

    Attributes:
      description: what it is, in a line.
      geometry: name of the detector.
      model: settings of the model.
    """

    description: str
    geometry: str
    model: CaloVQConfig

    def __post_init__(self):
        if self.geometry not in DETECTORS:
            raise ValueError(f"preset for unknown geometry {self.geometry!r}")


def _calovq(
    *,
    hidden: tuple[int, ...],
    steps: tuple[int, int, int],
    batch_size: int = 256,
    rotate: bool = False,
    codebook_size: int = 512,
    energy_hidden: tuple[int, ...] = (256, 256),
    width: int = 256,
) -> CaloVQConfig:
    autoencoder, energies, prior = steps
    return CaloVQConfig(
        AutoencoderConfig(
            hidden=hidden,
            codebook_size=codebook_size,
            rotate=rotate,
            schedule=Schedule(autoencoder, batch_size),
        ),
        EnergiesConfig(hidden=energy_hidden, schedule=Schedule(energies, batch_size)),
        PriorConfig(width=width, schedule=Schedule(prior, batch_size)),
    )


# The data of dataset 1 are not symmetric in alpha (0.2 < eta < 0.25), those of 2 and 3 are.
PRESETS: Mapping[str, Preset] = {
    "calovq-ds1-photons": Preset(
        "Calo-VQ, fully connected, dataset 1 photons (368 voxels)",
        "ds1-photons",
        _calovq(hidden=(512, 512), steps=(30_000, 20_000, 20_000)),
    ),
    "calovq-ds1-pions": Preset(
        "Calo-VQ, fully connected, dataset 1 pions (533 voxels)",
        "ds1-pions",
        _calovq(hidden=(512, 512), steps=(30_000, 20_000, 20_000)),
    ),
    "calovq-ds2-mlp": Preset(
        "Calo-VQ, fully connected, dataset 2 (6,480 voxels): a baseline",
        "ds2",
        _calovq(hidden=(512, 512), steps=(20_000, 20_000, 10_000), rotate=True),
    ),
    "calovq-ds3-mlp": Preset(
        "Calo-VQ, fully connected, dataset 3 (40,500 voxels): a slow baseline",
        "ds3",
        _calovq(hidden=(512, 512), steps=(20_000, 20_000, 10_000), rotate=True),
    ),
    "calovq-demo": Preset(
        "Calo-VQ, fully connected, dataset 2, small: two minutes on two CPU cores",
        "ds2",
        _calovq(
            hidden=(256, 256),
            steps=(600, 1000, 400),
            batch_size=128,
            rotate=True,
            codebook_size=128,
            width=128,
        ),
    ),
    "calovq-tiny": Preset(
        "Calo-VQ, fully connected, for a 120-voxel test geometry: seconds on a CPU",
        "tiny",
        _calovq(
            hidden=(64,),
            steps=(200, 200, 100),
            batch_size=64,
            rotate=True,
            codebook_size=64,
            energy_hidden=(64,),
            width=32,
        ),
    ),
}
