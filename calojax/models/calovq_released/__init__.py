"""Calo-VQ as its authors released it, with the same numbers of parameters, for comparisons."""

from calojax.models import settings
from calojax.models.base import Family
from calojax.models.calovq_released.config import ReleasedConfig
from calojax.models.calovq_released.model import ReleasedCaloVQ
from calojax.models.calovq_released.presets import PRESETS

FAMILY = Family(ReleasedCaloVQ, ReleasedConfig, PRESETS, settings.check)
