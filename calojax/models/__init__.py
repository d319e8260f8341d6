"""Families of generative models: built in, registered, or from installed packages."""

import functools
import importlib.metadata
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from calojax.errors import CalojaxError, warn
from calojax.geometry import Detector
from calojax.models import calovq, calovq_released, pointflow
from calojax.models.base import Family, Model, ModelConfig

ENTRY_POINTS = "calojax.models"
"""Group of the entry points by which other packages add a `Family` each."""

# The format of a model's description; one without a number is of format 1.
FORMAT = 1

_FAMILIES: dict[str, Family] = {
    "calovq": calovq.FAMILY,
    "calovq-released": calovq_released.FAMILY,
    "pointflow": pointflow.FAMILY,
}


def register(name: str, family: Family) -> None:
    """Adds a family of models and its presets.

    An installed package needs no call if it declares its `Family` as an entry point::

        [project.entry-points."calojax.models"]
        mymodel = "mypackage:FAMILY"

    Raises:
      ValueError: if a family or a preset of that name exists.
    """
    presets = {preset for other in _FAMILIES.values() for preset in other.presets}
    taken = [*sorted(presets & family.presets.keys()), *_FAMILIES.keys() & {name}]
    if taken:
        raise ValueError(f"already registered: {', '.join(taken)}")
    _FAMILIES[name] = family


def families() -> Mapping[str, Family]:
    """All families by name, including those of installed packages."""
    _load_entry_points()
    return MappingProxyType(_FAMILIES)


@functools.cache
def _load_entry_points() -> None:
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            register(entry.name, entry.load())
        except Exception as error:  # Whatever is wrong with it, other models work.
            warn(f"model {entry.name!r} ({entry.value}) was not added: {error}.")


def build(config: ModelConfig, detector: Detector) -> Model:
    """The model with the given settings, for a detector.

    Raises:
      TypeError: if no family has such settings.
      CalojaxError: if a setting makes no sense (the message names its flag), or the detector
        has no energy range.
    """
    for family in families().values():
        if not isinstance(config, family.config):
            continue
        family.check(config)
        if detector.energy_range is None:
            raise CalojaxError(
                f"Geometry {detector.name!r} has no energy range; take that of the data: "
                "detector.spanning(energies)."
            )
        return family.model(config, detector)
    kind = type(config).__name__
    raise TypeError(f"no model has settings of type {kind}; call calojax.models.register")


def name_of(model: Model) -> str:
    """The name of a model's family."""
    for name, family in families().items():
        if isinstance(model.config, family.config):
            return name
    raise TypeError(f"model {type(model).__name__} is not registered; call calojax.models.register")


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
    a, b = (_by_name(to_json(model)) for model in (one, other))
    names = [name for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)]
    return [
        # Lists are long in geometries.
        f"{name.removeprefix('config.')} {a[name][0]!r}, not {b[name][0]!r}"
        if len(a.get(name, ())) == len(b.get(name, ())) == 1
        else name.removeprefix("config.")
        for name in names
    ]


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
    name = str(description.get("model"))
    if name not in families():
        raise CalojaxError(
            f"The model {name!r} is not one of {', '.join(families())}; install or import the "
            "package that registers it."
        )
    try:
        config = msgspec.convert(description.get("config"), families()[name].config)
        model = build(config, msgspec.convert(description.get("detector"), Detector))
        known = _by_name(description | to_json(model))
        if unknown := sorted(_by_name(description).keys() - known.keys()):
            raise ValueError(f"unknown settings: {', '.join(unknown)}")
        return model
    except (msgspec.ValidationError, ValueError) as error:
        raise CalojaxError(
            f"The description of model {name!r} does not fit this version of calojax ({error})."
        ) from None


def _by_name(tree: Any, name: str = "") -> dict[str, list[Any]]:
    """The values of nested dicts by dotted name; those of a list share its name."""
    if not isinstance(tree, dict | list | tuple):
        return {name: [tree]}
    found: dict[str, list[Any]] = {}
    inner = tree.items() if isinstance(tree, dict) else (("", value) for value in tree)
    for key, value in inner:
        for full, values in _by_name(value, f"{name}.{key}".strip(".")).items():
            found.setdefault(full, []).extend(values)
    return found
