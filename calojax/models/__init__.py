"""Generative models of showers, by name, and how they are written down and read back."""

from typing import Any

import msgspec

from calojax.errors import CalojaxError
from calojax.geometry import Detector
from calojax.models.base import Model
from calojax.models.calovq import CaloVQ, CaloVQConfig
from calojax.models.calovq_released import ReleasedCaloVQ, ReleasedConfig
from calojax.models.pointflow import PointFlow, PointFlowConfig

# name -> (model, its configuration)
MODELS: dict[str, tuple[type, type]] = {
    "calovq": (CaloVQ, CaloVQConfig),
    "calovq-released": (ReleasedCaloVQ, ReleasedConfig),
    "pointflow": (PointFlow, PointFlowConfig),
}


def build(config: Any, detector: Detector) -> Model:
    """The model that a configuration describes, for a detector.

    Raises:
      CalojaxError: if the detector has no energy range.
    """
    if detector.energy_range is None:
        raise CalojaxError(
            f"Geometry {detector.name!r} has no energy range; take that of the data: "
            "detector.spanning(energies)."
        )
    for model, config_type in MODELS.values():
        if isinstance(config, config_type):
            return model(config, detector)
    raise TypeError(f"no model is configured by {type(config).__name__}")


def name_of(model: Model) -> str:
    """The name of a model's kind, as in `MODELS`."""
    (name,) = (name for name, (kind, _) in MODELS.items() if type(model) is kind)
    return name


def to_json(model: Model) -> dict[str, Any]:
    """A model as plain JSON types; `from_json` reads it back."""
    return {
        "model": name_of(model),
        "config": msgspec.to_builtins(model.config),
        "detector": msgspec.to_builtins(model.detector),
    }


def from_json(description: dict[str, Any]) -> Model:
    """The model that `to_json` wrote.

    Raises:
      CalojaxError: if the description names an unknown model or its settings do not fit this
        version.
    """
    name = description.get("model")
    if name not in MODELS:
        raise CalojaxError(f"The model {name!r} is not one of {', '.join(MODELS)}.")
    model, config_type = MODELS[name]
    try:
        return model(
            msgspec.convert(description.get("config"), config_type),
            msgspec.convert(description.get("detector"), Detector),
        )
    except (msgspec.ValidationError, ValueError) as error:
        raise CalojaxError(
            f"The description of model {name!r} does not fit this version of calojax ({error})."
        ) from None
