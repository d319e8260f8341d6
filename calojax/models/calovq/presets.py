"""Presets of Calo-VQ."""

from calojax.models.base import Preset, Schedule
from calojax.models.calovq.config import (
    AutoencoderConfig,
    CaloVQConfig,
    EnergiesConfig,
    PriorConfig,
)


def _calovq(
    *,
    hidden: tuple[int, ...],
    steps: tuple[int, int, int],
    batch_size: int = 256,
    rotate: bool = False,
    codebook_size: int = 512,
    energy_hidden: tuple[int, ...] = (256, 256),
    energy_decay: float = 1e-4,
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
        EnergiesConfig(
            hidden=energy_hidden,
            schedule=Schedule(energies, batch_size, weight_decay=energy_decay),
        ),
        PriorConfig(width=width, schedule=Schedule(prior, batch_size)),
    )


def _cylinder(
    *,
    kernel: tuple[int, int, int],
    strides: tuple[int, int, int],
    filters: int = 32,
    codebook_size: int = 128,
    steps: tuple[int, int, int] = (100_000, 20_000, 50_000),
    batch_size: int = 256,
) -> CaloVQConfig:
    autoencoder, energies, prior = steps
    return CaloVQConfig(
        AutoencoderConfig(
            network="cylinder",
            filters=filters,
            kernel=kernel,
            strides=strides,
            codebook_size=codebook_size,
            code_width=8,
            rotate=True,
            schedule=Schedule(autoencoder, batch_size),
        ),
        EnergiesConfig(schedule=Schedule(energies, 512)),
        PriorConfig(schedule=Schedule(prior, batch_size)),
    )


# Showers of dataset 1 are not symmetric in alpha (0.2 < eta < 0.25), those of datasets 2 and 3 are.
PRESETS = {
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
    "calovq-ds2": Preset(
        "Calo-VQ, convolutions on the cylinder, dataset 2: 416 codes (13 x 8 x 4)",
        "ds2",
        _cylinder(kernel=(9, 4, 3), strides=(3, 2, 2)),
    ),
    "calovq-ds3": Preset(
        "Calo-VQ, convolutions on the cylinder, dataset 3: 650 codes (13 x 10 x 5)",
        "ds3",
        _cylinder(kernel=(9, 7, 6), strides=(3, 5, 3)),
    ),
    "calovq-demo": Preset(
        "Calo-VQ, fully connected, dataset 2, small: two minutes on two CPU cores",
        "ds2",
        _calovq(
            hidden=(256, 256),
            steps=(600, 400, 400),
            batch_size=128,
            rotate=True,
            codebook_size=128,
            # 900 showers: a larger network overfits them and draws unphysical layer energies.
            energy_hidden=(32, 32),
            energy_decay=0.3,
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
