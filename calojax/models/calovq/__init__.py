"""Calo-VQ: showers as discrete codes, a prior over codes, and a model of layer energies."""

from calojax.models import settings
from calojax.models.base import Family
from calojax.models.calovq.config import CaloVQConfig
from calojax.models.calovq.model import CaloVQ
from calojax.models.calovq.presets import PRESETS

FAMILY = Family(CaloVQ, CaloVQConfig, PRESETS, settings.check)
