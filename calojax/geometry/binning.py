"""Detectors from binning files in the CaloChallenge's XML layout.

A file holds a ``<Bin pid= name=>`` for each particle, and in it a ``<Layer id= r_edges=
n_bin_alpha=>`` for each layer; layers with a single r edge hold no voxels. The layout has no
lengths along z, thresholds, energies or materials. calojax reads them from further attributes,
which other readers ignore:

- ``Layer``: ``thickness`` (mm);
- ``Bin``: ``energy_min``, ``energy_max``, ``readout_threshold``, ``evaluation_threshold`` (MeV),
  and every field of `calojax.geometry.Medium` under its own name.

Missing attributes are those of the built-in detector with the same layers. Without such a
detector, the energy range stays unknown and the others are dataset 2's, with a warning.
"""

import dataclasses
import pathlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np

from calojax.errors import CalojaxError, printable, warn
from calojax.geometry import builtin, particles
from calojax.geometry.detector import Detector, Layer, Medium

_T = TypeVar("_T")
_LARGEST_FILE = 2**24
_MEDIUM = tuple(field.name for field in dataclasses.fields(Medium))
_THRESHOLDS = ("readout_threshold", "evaluation_threshold")


class _Layer(NamedTuple):
    """A layer of a file, which may lack a thickness."""

    id: int
    r_edges: tuple[float, ...]
    n_alpha: int
    thickness: float | None


def from_xml(path: str | pathlib.Path, particle: str | None = None) -> Detector:
    """The built-in detector that a binning file describes, else a detector with the file's name.

    Arguments and errors are those of `calojax.geometry.find_detector`.
    """
    path = pathlib.Path(path)
    chosen, species = _chosen(path, particle)
    where = f"{path}: <Bin>"
    layers = [_layer(path, element) for element in chosen.findall("Layer")]
    layers = [layer for layer in layers if len(layer.r_edges) > 1]
    thresholds, medium = (
        {name: value for name in names if (value := _number(where, chosen, name)) is not None}
        for names in (_THRESHOLDS, _MEDIUM)
    )
    low, high = (_number(where, chosen, name) for name in ("energy_min", "energy_max"))
    if (low is None) != (high is None):
        raise CalojaxError(f"{where}: 'energy_min' and 'energy_max' must be given together.")

    fits = (d for d in builtin.DETECTORS.values() if _describes(layers, species, d))
    known = next(fits, None)
    default = known or builtin.DETECTORS["ds2"]
    own_range = known.energy_range if known else None
    if low is not None and high is not None:
        own_range = low, high
    try:
        found = dataclasses.replace(
            default,
            # With the name of a built-in detector it would be mistaken for that one.
            name=printable(path.name if path.stem in builtin.DETECTORS else path.stem),
            particle=species,
            layers=known.layers if known else tuple(map(_with_thickness, layers)),
            energy_range=own_range,
            medium=dataclasses.replace(default.medium, **medium),
            energies=known.energies if known and own_range == known.energy_range else (),
            **thresholds,
        )
    except ValueError as error:
        raise CalojaxError(f"{path}: {error}.") from None
    if known:
        return known if dataclasses.replace(found, name=known.name) == known else found
    assumed = [name for name in (*_THRESHOLDS, *_MEDIUM) if name not in thresholds | medium]
    if any(layer.thickness is None for layer in layers):
        assumed.insert(0, "thickness")
    if assumed:
        warn(
            f"{path}: does not give {', '.join(assumed)}; the values of dataset 2 "
            "(silicon-tungsten) are assumed."
        )
    return found


class _Builder(ElementTree.TreeBuilder):
    """A tree without entities, which could expand a small file to gigabytes."""

    def doctype(self, *_: object) -> None:
        raise ValueError("remove its <!DOCTYPE ...>")


def _root(path: pathlib.Path) -> ElementTree.Element:
    try:
        if path.exists() and not path.is_file():
            raise CalojaxError(f"{path}: is not a regular file; name a binning file.")
        with path.open("rb") as file:
            text = file.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CalojaxError(f"{path}: cannot be read ({reason}).") from None
    if len(text) > _LARGEST_FILE:
        raise CalojaxError(
            f"{path}: is larger than {_LARGEST_FILE / 2**20:g} MiB; it is not a binning file."
        )
    try:
        parser = ElementTree.XMLParser(target=_Builder())
        return ElementTree.fromstring(text, parser)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise CalojaxError(f"{path}: is not well-formed XML ({error}).") from None


def _chosen(path: pathlib.Path, particle: str | None) -> tuple[ElementTree.Element, str]:
    """The ``<Bin>`` of a particle, and the name of that particle."""
    bins = [(element, _species(path, element)) for element in _root(path).findall("Bin")]
    if not bins:
        raise CalojaxError(f"{path}: has no <Bin>; it is not a binning file.")
    chosen = bins
    if particle is not None:
        chosen = [
            (element, species)
            for element, species in bins
            if particle in (element.get("name"), element.get("pid"), species)
        ]
    if len(chosen) == 1:
        return chosen[0]
    listed = [f"{element.get('pid') or '-'} ({species})" for element, species in chosen or bins]
    found = ", ".join(dict.fromkeys(listed))
    if not chosen:
        raise CalojaxError(
            f"{path}: has no <Bin> of particle {particle!r}; choose among {found} with --particle."
        )
    if len(set(listed)) > 1:
        raise CalojaxError(
            f"{path}: has several particles, {found}; choose one by name or number: --particle."
        )
    raise CalojaxError(
        f"{path}: has {len(chosen)} <Bin> of particle {found}; leave only one of them in the file."
    )


def _species(path: pathlib.Path, element: ElementTree.Element) -> str:
    """The particle of a ``<Bin>``: by its name, or by its PDG number."""
    name, pid = element.get("name"), element.get("pid")
    if name in particles.PARTICLES:
        return name
    try:
        species = particles.named(int(pid or ""))
        particles.shower(species)
    except ValueError:
        raise CalojaxError(
            f"{path}: <Bin>: attribute 'name' is {name!r} and 'pid' {pid!r}; give as name one of "
            f"{', '.join(particles.PARTICLES)}, or as pid the PDG number of another particle."
        ) from None
    return species


def _describes(layers: list[_Layer], species: str, detector: Detector) -> bool:
    """Whether the layers of a file are those of a detector for such showers."""
    return (
        particles.shower(species) == detector.shower
        and len(layers) == detector.n_layers
        and all(
            (ours.id, ours.n_alpha, len(ours.r_edges))
            == (theirs.id, theirs.n_alpha, len(theirs.r_edges))
            and np.allclose(ours.r_edges, theirs.r_edges, rtol=1e-6, atol=0)
            and ours.thickness in (None, theirs.thickness)
            for ours, theirs in zip(layers, detector.layers, strict=True)
        )
    )


def _with_thickness(layer: _Layer) -> Layer:
    assumed = builtin.DETECTORS["ds2"].layers[0].thickness
    thickness = assumed if layer.thickness is None else layer.thickness
    return Layer(layer.id, layer.r_edges, layer.n_alpha, thickness)


def _layer(path: pathlib.Path, element: ElementTree.Element) -> _Layer:
    layer_id = _value(f"{path}: <Layer>", element, "id", int, "a whole number")
    where = f"{path}: layer {layer_id}"
    return _Layer(
        layer_id,
        _value(where, element, "r_edges", _edges, "numbers in mm with commas between"),
        _value(where, element, "n_bin_alpha", int, "a whole number"),
        _number(where, element, "thickness"),
    )


def _edges(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split(",")))


def _number(where: str, element: ElementTree.Element, name: str) -> float | None:
    """The value of an attribute; None if it is not there."""
    if element.get(name) is None:
        return None
    return _value(where, element, name, float, "a number")


def _value(
    where: str, element: ElementTree.Element, name: str, parse: Callable[[str], _T], must: str
) -> _T:
    """The value of an attribute; `Layer` and `Detector` check it further."""
    raw = element.get(name)
    if raw is None:
        raise CalojaxError(f"{where}: attribute {name!r} is missing.")
    try:
        return parse(raw)
    except ValueError:
        raise CalojaxError(
            f"{where}: attribute {name!r} must be {must}, got {raw[:80]!r}."
        ) from None
