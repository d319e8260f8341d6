"""CaloPointFlow: showers as points that a normalising flow draws."""

from calojax.models import settings
from calojax.models.base import Family
from calojax.models.pointflow.config import (
    EncoderConfig,
    GenerationConfig,
    LatentConfig,
    PlacementConfig,
    PointFlowConfig,
    PointsConfig,
    TotalsConfig,
)
from calojax.models.pointflow.model import PointFlow
from calojax.models.pointflow.presets import PRESETS

__all__ = [
    "EncoderConfig",
    "GenerationConfig",
    "LatentConfig",
    "PlacementConfig",
    "PointFlow",
    "PointFlowConfig",
    "PointsConfig",
    "TotalsConfig",
]

FAMILY = Family(PointFlow, PointFlowConfig, PRESETS, settings.check)
