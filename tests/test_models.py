"""Settings of models: which numbers are refused before anything is made, and in which words."""

import dataclasses

import pytest
from conftest import tiny_config

from calojax import models
from calojax.errors import CalojaxError
from calojax.models.calovq_released.config import ReleasedConfig
from calojax.models.pointflow.config import PointFlowConfig
from calojax.models.voxels import rotation_table

CONFIGS = {"calovq": tiny_config(), "pointflow": PointFlowConfig(), "released": ReleasedConfig()}


def changed(config, setting, value):
    name, _, rest = setting.partition(".")
    inner = changed(getattr(config, name), rest, value) if rest else value
    return dataclasses.replace(config, **{name: inner})


@pytest.mark.parametrize(
    ("kind", "setting", "value"),
    [
        ("pointflow", "points.depth", 0),
        ("pointflow", "points.depth", 10**9),
        ("pointflow", "latent.hidden", (64, 0)),
        ("pointflow", "points.summary.features", 0),
        ("calovq", "autoencoder.beta", float("nan")),
        ("calovq", "prior.schedule.learning_rate", -1e-3),
        ("calovq", "prior.schedule.learning_rate", 0.0),
        ("calovq", "prior.schedule.clip", float("inf")),
        ("calovq", "prior.schedule.warmup", -1),
        ("calovq", "prior.width", 10**12),
        ("released", "prior.layers", 0),
        ("released", "tokens.largest", 0.0),
    ],
)
def test_numbers_that_make_no_sense_are_refused_by_the_name_of_their_flag(
    kind, setting, value, tiny
):
    flag = f"--{setting.replace('_', '-')} must be"
    with pytest.raises(CalojaxError, match=flag):
        models.build(changed(CONFIGS[kind], setting, value), tiny)


def test_showers_that_cannot_be_turned_are_refused_before_the_training(tiny):
    layers = tuple(
        dataclasses.replace(layer, n_alpha=n)
        for layer, n in zip(tiny.layers[:3], (4, 1, 2), strict=True)
    )
    odd = dataclasses.replace(tiny, layers=layers)
    with pytest.raises(CalojaxError, match=r"--autoencoder.no-rotate"):
        models.build(tiny_config(), odd).fit([])
    with pytest.raises(CalojaxError, match=r"angular bins \[2, 4\]"):
        rotation_table(odd)
