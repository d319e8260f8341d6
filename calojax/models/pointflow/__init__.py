"""CaloPointFlow: showers as points that a normalising flow draws."""

from calojax.models.pointflow.model import (
    EncoderConfig,
    GenerationConfig,
    LatentConfig,
    PlacementConfig,
    PointFlow,
    PointFlowConfig,
    PointsConfig,
    TotalsConfig,
)

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
