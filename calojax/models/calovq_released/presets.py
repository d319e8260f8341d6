"""Presets of the released Calo-VQ, with the settings of its published configurations."""

from calojax.models.base import Preset, Schedule
from calojax.models.calovq_released.config import (
    GPTConfig,
    ReleasedAutoencoderConfig,
    ReleasedConfig,
    TokensConfig,
)


def _released_ds1(*, shape_weight: float) -> ReleasedConfig:
    return ReleasedConfig(
        ReleasedAutoencoderConfig(
            architecture="ds1",
            log_scale=(8000.0, 10.0),
            norm="l1",
            centre=shape_weight,
            width=shape_weight,
            noise=1e-3,
            augment=False,
            schedule=Schedule(100_000, 512, learning_rate=1e-3, weight_decay=0.0),
        ),
        TokensConfig(bits=20, largest=3.0, layers=True),
        GPTConfig(schedule=Schedule(100_000, 256, learning_rate=7.7e-4)),
    )


PRESETS = {
    "calovq-ds2-paper": Preset(
        "Calo-VQ as released, dataset 2: 68 codes and the visible energy, for comparisons",
        "ds2",
        ReleasedConfig(
            ReleasedAutoencoderConfig(
                schedule=Schedule(100_000, 256, learning_rate=5.1e-4, weight_decay=0.0)
            ),
            prior=GPTConfig(schedule=Schedule(100_000, 256, learning_rate=7.7e-4)),
        ),
    ),
    "calovq-ds3-paper": Preset(
        "Calo-VQ as released, dataset 3: 182 codes and the visible energy, for comparisons",
        "ds3",
        ReleasedConfig(
            ReleasedAutoencoderConfig(
                architecture="ds3",
                z_padding=(1, 2),
                log_scale=(40_000.0, 10.0),
                code_width=192,
                centre=0.0,
                width=0.0,
                augment=False,
                schedule=Schedule(100_000, 256, learning_rate=7.7e-4, weight_decay=0.0),
            ),
            TokensConfig(largest=1.7),
            GPTConfig(1, 1, 16, Schedule(100_000, 256, learning_rate=7.7e-4)),
        ),
    ),
    "calovq-ds1-photons-paper": Preset(
        "Calo-VQ as released, dataset 1 photons: 32 codes and 12 tokens, for comparisons",
        "ds1-photons",
        _released_ds1(shape_weight=0.1),
    ),
    "calovq-ds1-pions-paper": Preset(
        "Calo-VQ as released, dataset 1 pions: 32 codes and 16 tokens, for comparisons",
        "ds1-pions",
        _released_ds1(shape_weight=0.0),
    ),
}
