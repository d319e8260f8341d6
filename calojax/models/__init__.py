"""Generative models of showers, by name, and how they are written down and read back."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import msgspec

from calojax.errors import CalojaxError
from calojax.geometry import Detector
from calojax.models.base import Model
from calojax.models.calovq import CaloVQ, CaloVQConfig
from calojax.models.calovq_released import ReleasedCaloVQ, ReleasedConfig
from calojax.models.pointflow import PointFlow, PointFlowConfig

# The format of a model's description; one without a number is of format 1.
FORMAT = 1

# name -> (model, its configuration)
MODELS: dict[str, tuple[type, type]] = {
    "calovq": (CaloVQ, CaloVQConfig),
    "calovq-released": (ReleasedCaloVQ, ReleasedConfig),
    "pointflow": (PointFlow, PointFlowConfig),
}


# Settings that may be 0; other whole numbers are at least 1.
_FROM_ZERO = {"warmup", "memory", "z_padding"}
# Settings that must be above 0; other real numbers are at least 0.
_POSITIVE = {"learning_rate", "clip", "log_scale", "largest"}
# Settings that count layers of networks, each of which is compiled, or runs of them.
_REPEATED = {"depth", "layers", "passes"}
_MOST_REPEATED, _MOST = 1_000, 10**9


def build(config: Any, detector: Detector) -> Model:
    """The model that a configuration describes, for a detector.

    Raises:
      CalojaxError: if a setting makes no sense (the message names its flag), or the detector
        has no energy range.
    """
    for setting, value in _numbers(config):
        flag, name = f"--{setting.replace('_', '-')}", setting.rpartition(".")[2]
        if isinstance(value, int):
            least = 0 if name in _FROM_ZERO else 1
            most = _MOST_REPEATED if name in _REPEATED else _MOST
            if not least <= value <= most:
                raise CalojaxError(f"{flag} must be from {least} to {most}, got {value}.")
        elif not (value > 0 if name in _POSITIVE else value >= 0) or value == math.inf:
            bound = "positive" if name in _POSITIVE else "at least 0"
            raise CalojaxError(f"{flag} must be {bound} and finite, got {value}.")
    if detector.energy_range is None:
        raise CalojaxError(
            f"Geometry {detector.name!r} has no energy range; take that of the data: "
            "detector.spanning(energies)."
        )
    for model, config_type in MODELS.values():
        if isinstance(config, config_type):
            return model(config, detector)
    raise TypeError(f"no model is configured by {type(config).__name__}")


def _numbers(config: Any, prefix: str = "") -> Iterator[tuple[str, int | float]]:
    """The numbers among settings, those of blocks and tuples included, each with its name."""
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            yield from _numbers(value, f"{name}.")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not isinstance(number, bool):
                yield name, number


def name_of(model: Model) -> str:
    """The name of a model's kind, as in `MODELS`."""
    (name,) = (name for name, (kind, _) in MODELS.items() if type(model) is kind)
    return name


def to_json(model: Model) -> dict[str, Any]:
    """A model as plain JSON types; `from_json` reads it back."""
    return {
        "format": FORMAT,
        "model": name_of(model),
        "config": msgspec.to_builtins(model.config),
        "detector": msgspec.to_builtins(model.detector),
    }


def differing(one: Model, other: Model) -> list[str]:
    """The names of settings, with both values, in which two models differ."""

    def compare(a: Any, b: Any, name: str) -> Iterator[str]:
        if isinstance(a, dict) and isinstance(b, dict):
            for key in sorted(a.keys() | b.keys()):
                yield from compare(a.get(key), b.get(key), f"{name}.{key}" if name else key)
        elif a != b:
            # Of a geometry, lists are long.
            yield name if isinstance(a, list | tuple) else f"{name} {a!r}, not {b!r}"

    a, b = to_json(one), to_json(other)
    return list(compare(a.pop("config"), b.pop("config"), "")) + list(compare(a, b, ""))


def from_json(description: dict[str, Any]) -> Model:
    """The model that `to_json` wrote.

    Raises:
      CalojaxError: if the description is of another format, names an unknown model or setting, or
        its settings make no sense.
    """
    if description.get("format", FORMAT) != FORMAT:
        raise CalojaxError(
            f"The description has format {description['format']!r}, but this version of calojax "
            f"reads format {FORMAT}; use the version that wrote it."
        )
    name = description.get("model")
    if name not in MODELS:
        raise CalojaxError(f"The model {name!r} is not one of {', '.join(MODELS)}.")
    try:
        config = msgspec.convert(description.get("config"), MODELS[name][1])
        model = build(config, msgspec.convert(description.get("detector"), Detector))
        unknown = sorted(_unknown(description, description | to_json(model)))
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(unknown)}")
        return model
    except (msgspec.ValidationError, ValueError) as error:
        raise CalojaxError(
            f"The description of model {name!r} does not fit this version of calojax ({error})."
        ) from None


def _unknown(given: Any, known: Any, prefix: str = "") -> Iterator[str]:
    """The names of settings that are given but not known."""
    if isinstance(given, dict) and isinstance(known, dict):
        for name, value in given.items():
            if name not in known:
                yield prefix + name
            else:
                yield from _unknown(value, known[name], f"{prefix}{name}.")
    elif isinstance(given, list) and isinstance(known, tuple | list):
        for value, own in zip(given, known, strict=True):
            yield from _unknown(value, own, prefix)
