"""Calo-VQ: showers as discrete codes (`model`), with a prior over codes and layer energies."""

from calojax.models.calovq.model import (
    AutoencoderConfig,
    CaloVQ,
    CaloVQConfig,
    EnergiesConfig,
    PriorConfig,
)

__all__ = ["AutoencoderConfig", "CaloVQ", "CaloVQConfig", "EnergiesConfig", "PriorConfig"]
