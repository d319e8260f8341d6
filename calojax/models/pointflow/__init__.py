"""CaloPointFlow: showers as points that a normalising flow draws."""

from calojax.models import settings
from calojax.models.base import Family
from calojax.models.pointflow.config import PointFlowConfig
from calojax.models.pointflow.model import PointFlow
from calojax.models.pointflow.presets import PRESETS

FAMILY = Family(PointFlow, PointFlowConfig, PRESETS, settings.check)
