"""Presets of CaloPointFlow."""

import dataclasses

from calojax.models.base import Preset, Schedule
from calojax.models.pointflow.config import (
    EncoderConfig,
    GenerationConfig,
    LatentConfig,
    PlacementConfig,
    PointFlowConfig,
    PointsConfig,
    TotalsConfig,
)
from calojax.nn.flow import Summary

# The bound's weights are better (docs/results.md); presets of the talk keep the released ones.
_LAYERS = PointsConfig(coordinates="layers", energy="log", weights="bound")
# Dataset 3 has more than twice the hits.
_DS3 = {"points_per_shower": 1420, "schedule": Schedule(40_000, 64, weight_decay=0.01)}

PRESETS = {
    "pointflow-ds2-v1": Preset(
        "CaloPointFlow I, dataset 2: points in the plane, no DeepSetFlow",
        "ds2",
        PointFlowConfig(
            points=PointsConfig(coordinates="plane", dequantisation="uniform", deep_sets=False)
        ),
    ),
    "pointflow-ds2-deepset": Preset(
        "CaloPointFlow I with DeepSetFlow, dataset 2: first step of the talk's ablation",
        "ds2",
        PointFlowConfig(points=PointsConfig(coordinates="plane", dequantisation="uniform")),
    ),
    "pointflow-ds2-noalpha": Preset(
        "CaloPointFlow I with DeepSetFlow and without alpha, dataset 2: second step",
        "ds2",
        PointFlowConfig(points=PointsConfig(dequantisation="uniform")),
    ),
    "pointflow-ds2": Preset(
        "CaloPointFlow II, dataset 2: third step, with CDF dequantisation",
        "ds2",
        PointFlowConfig(),
    ),
    "pointflow-ds2-layers": Preset(
        "CaloPointFlow with hits and energy of every layer given, dataset 2",
        "ds2",
        PointFlowConfig(points=_LAYERS),
    ),
    "pointflow-ds2-layers-alpha": Preset(
        "CaloPointFlow with hits and energy of every layer given and angles learnt, dataset 2",
        "ds2",
        PointFlowConfig(points=_LAYERS, placement=PlacementConfig("learnt")),
    ),
    "pointflow-ds3": Preset(
        "CaloPointFlow II, dataset 3",
        "ds3",
        PointFlowConfig(points=dataclasses.replace(PointsConfig(), **_DS3)),
    ),
    "pointflow-ds3-layers": Preset(
        "CaloPointFlow with hits and energy of every layer given, dataset 3",
        "ds3",
        PointFlowConfig(points=dataclasses.replace(_LAYERS, **_DS3)),
    ),
    "pointflow-tiny": Preset(
        "CaloPointFlow II, for a 120-voxel test geometry: seconds on a CPU",
        "tiny",
        PointFlowConfig(
            TotalsConfig(4, 8, (32,), Schedule(100, 64)),
            EncoderConfig((16, 32), (32,)),
            LatentConfig(8, 4, 8, (32,)),
            PointsConfig(
                summary=Summary((16,), (16,), 8),
                depth=4,
                hidden=(32, 32),
                group=8,
                points_per_shower=96,
                schedule=Schedule(100, 64),
            ),
            generation=GenerationConfig(16, 2048),
        ),
    ),
}
