"""Buffers for the points of showers, whose size is part of a program."""

import dataclasses

from calojax import models
from calojax.models.base import Model
from calojax.models.pointflow.config import GenerationConfig, PointFlowConfig
from calojax.models.pointflow.microbatches import Size


def with_buffers(model: Model, size: Size) -> Model:
    """The model with buffers of that size where its settings leave it to this machine's devices."""
    if not isinstance(model.config, PointFlowConfig):
        return model
    own = model.config.generation
    generation = GenerationConfig(own.showers or size.showers, own.points or size.points)
    return models.build(dataclasses.replace(model.config, generation=generation), model.detector)
