"""Presets of Calo-VQ."""

import dataclasses
from typing import TypeVar

from calojax.models.base import Preset, Schedule
from calojax.models.calovq.config import (
    AutoencoderConfig,
    CaloVQConfig,
    EnergiesConfig,
    PriorConfig,
)

_Block = TypeVar("_Block", AutoencoderConfig, EnergiesConfig, PriorConfig)


def _trained(block: _Block, steps: int, batch_size: int = 256) -> _Block:
    """The settings of a stage with another length of its training."""
    schedule = dataclasses.replace(block.schedule, steps=steps, batch_size=batch_size)
    return dataclasses.replace(block, schedule=schedule)


def _cylinder(
    kernel: tuple[int, int, int],
    strides: tuple[int, int, int],
    codes_per_step: int,
) -> CaloVQConfig:
    autoencoder = AutoencoderConfig(
        "cylinder", kernel=kernel, strides=strides, codebook_size=2, rotate=True
    )
    return CaloVQConfig(
        _trained(autoencoder, 100_000),
        _trained(EnergiesConfig(), 20_000, 512),
        _trained(PriorConfig(codes_per_step=codes_per_step), 50_000),
    )


# Few codes, and few different ones, have the best generated showers: more of them are too much for
# the prior, and the decoder then adds too little of its own. Codes of two values are so few that a
# step of the prior draws all of a place in z (docs/results.md).
_DS2 = _cylinder(kernel=(9, 8, 5), strides=(3, 4, 4), codes_per_step=8)
_DS3 = _cylinder(kernel=(9, 20, 10), strides=(3, 10, 8), codes_per_step=10)
_FLOW = PriorConfig(
    kind="flow",
    width=128,
    layers=6,
    passes=8,
    patch=(1, 1, 2),
    context=128,
    schedule=Schedule(50_000, 64, 1.5e-3, weight_decay=0.01, betas=(0.9, 0.99), average=0.998),
)

# Showers of dataset 1 are not symmetric in alpha (0.2 < eta < 0.25), those of datasets 2 and 3 are.
_DENSE_DS1 = CaloVQConfig(
    _trained(AutoencoderConfig(), 30_000),
    _trained(EnergiesConfig(), 20_000),
    _trained(PriorConfig(), 20_000),
)
# The model of the talk (CaloChallenge workshop 2022) for dataset 1: 16 codes, one number per voxel,
# and a VAE of the layer energies with 4 latents. The talk does not give the sizes of the networks.
_TALK = CaloVQConfig(
    _trained(AutoencoderConfig(head="point", scale="arctanh", codebook="gradient"), 30_000),
    _trained(EnergiesConfig(kind="vae", schedule=Schedule()), 20_000),
    _trained(PriorConfig(), 20_000),
)
_DENSE = CaloVQConfig(
    _trained(AutoencoderConfig(rotate=True), 20_000),
    _trained(EnergiesConfig(), 20_000),
    _trained(PriorConfig(), 10_000),
)

PRESETS = {
    "calovq-ds1-photons": Preset(
        "Calo-VQ, fully connected, dataset 1 photons (368 voxels)", "ds1-photons", _DENSE_DS1
    ),
    "calovq-ds1-pions": Preset(
        "Calo-VQ, fully connected, dataset 1 pions (533 voxels)", "ds1-pions", _DENSE_DS1
    ),
    "calovq-ds1-photons-talk": Preset(
        "Calo-VQ as in the talk of 2022, dataset 1 photons", "ds1-photons", _TALK
    ),
    "calovq-ds1-pions-talk": Preset(
        "Calo-VQ as in the talk of 2022, dataset 1 pions", "ds1-pions", _TALK
    ),
    "calovq-ds2-mlp": Preset(
        "Calo-VQ, fully connected, dataset 2 (6,480 voxels): a baseline", "ds2", _DENSE
    ),
    "calovq-ds3-mlp": Preset(
        "Calo-VQ, fully connected, dataset 3 (40,500 voxels): a slow baseline", "ds3", _DENSE
    ),
    "calovq-ds2": Preset(
        "Calo-VQ, convolutions on the cylinder, dataset 2: 104 codes (13 x 4 x 2) of 2",
        "ds2",
        _DS2,
    ),
    "calovq-ds2-flow": Preset(
        "Calo-VQ as calovq-ds2, with a prior that draws all codes in eight passes",
        "ds2",
        dataclasses.replace(_DS2, prior=_FLOW),
    ),
    "calovq-ds3": Preset(
        "Calo-VQ, convolutions on the cylinder, dataset 3: 130 codes (13 x 5 x 2) of 2",
        "ds3",
        _DS3,
    ),
    "calovq-demo": Preset(
        "Calo-VQ, fully connected, dataset 2, small: two minutes on two CPU cores",
        "ds2",
        CaloVQConfig(
            _trained(
                # One normal takes half the time of two.
                AutoencoderConfig(hidden=(256, 256), codebook_size=128, components=1, rotate=True),
                600,
                128,
            ),
            # 900 showers are few: a weight decay of 0.1 makes the loss in validation a nat higher.
            EnergiesConfig(
                width=64, schedule=Schedule(400, 128, 6e-3, warmup=50, weight_decay=1.0, best=True)
            ),
            _trained(PriorConfig(width=128), 400, 128),
        ),
    ),
    "calovq-tiny": Preset(
        "Calo-VQ, fully connected, for a 120-voxel test geometry: seconds on a CPU",
        "tiny",
        CaloVQConfig(
            _trained(
                AutoencoderConfig(hidden=(64,), codebook_size=64, components=1, rotate=True),
                200,
                64,
            ),
            _trained(EnergiesConfig(width=32), 200, 64),
            _trained(PriorConfig(width=32), 100, 64),
        ),
    ),
}
