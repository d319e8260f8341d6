"""Calo-VQ as its authors released it, number for number, to compare with."""

from calojax.models.calovq_released.model import (
    GPTConfig,
    ReleasedAutoencoderConfig,
    ReleasedCaloVQ,
    ReleasedConfig,
    TokensConfig,
)

__all__ = [
    "GPTConfig",
    "ReleasedAutoencoderConfig",
    "ReleasedCaloVQ",
    "ReleasedConfig",
    "TokensConfig",
]
