"""Detectors from and to binning files in the CaloChallenge's XML layout.

A file holds one ``<Bin pid= name=>`` a particle and in it one ``<Layer id= r_edges= n_bin_alpha=>``
a layer; layers with a single r edge hold no voxels. The layout says nothing of lengths along z, of
thresholds, energies or the absorber: calojax reads them from further attributes, which other
readers ignore, and otherwise assumes dataset 2's:

- ``Layer``: ``thickness`` (mm);
- ``Bin``: ``energy_min``, ``energy_max``, ``readout_threshold``, ``evaluation_threshold`` (MeV),
  and every field of `calojax.geometry.Medium` under its own name.
"""

import dataclasses
import itertools
import pathlib
import xml.etree.ElementTree as ElementTree

from calojax.errors import CalojaxError
from calojax.geometry import builtin
from calojax.geometry.detector import Detector, Layer, Medium

_PARTICLES = {"22": "photon", "11": "electron", "-11": "electron", "211": "pion", "-211": "pion"}
_PIDS = {"photon": "22", "electron": "11", "pion": "211"}


def from_xml(path: str | pathlib.Path, particle: str | None = None) -> Detector:
    """Reads a detector from a binning file.

    Args:
      path: the XML file.
      particle: name or pid of the ``Bin`` to take; needed only if the file holds several.

    Raises:
      CalojaxError: if the file cannot be read or parsed, or an attribute is missing or malformed;
        the sentence names file, layer and attribute.
    """
    path = pathlib.Path(path)
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        raise CalojaxError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise CalojaxError(f"{path}: is not well-formed XML ({error}).") from None

    bins = root.findall("Bin")
    if particle is not None:
        bins = [b for b in bins if particle in (b.get("name"), b.get("pid"))]
    if len(bins) != 1:
        found = ", ".join(repr(b.get("name")) for b in root.findall("Bin")) or "none"
        raise CalojaxError(
            f"{path}: need exactly one <Bin>{f' for particle {particle!r}' if particle else ''}, "
            f"but the file has {found}; name the particle."
        )
    (chosen,) = bins

    name = chosen.get("name")
    species = name if name in _PIDS else _PARTICLES.get(chosen.get("pid", ""))
    if species is None:
        raise CalojaxError(
            f"{path}: <Bin>: attribute 'name' is {name!r}; use one of {', '.join(_PIDS)}."
        )

    where = f"{path}: <Bin name={name!r}>"
    default = builtin.DETECTORS["ds2"]
    layers = [_layer(path, element) for element in chosen.findall("Layer")]
    ids = [layer_id for layer_id, _ in layers]
    for layer_id in ids:
        if ids.count(layer_id) > 1:
            raise CalojaxError(f"{path}: layer {layer_id}: attribute 'id' occurs more than once.")
    try:
        return Detector(
            name=path.stem,
            particle=species,
            layers=tuple(layer for _, layer in layers if layer is not None),
            energy_range=(
                _number(where, chosen, "energy_min", default.energy_range[0]),
                _number(where, chosen, "energy_max", default.energy_range[1]),
            ),
            readout_threshold=_number(
                where, chosen, "readout_threshold", default.readout_threshold
            ),
            evaluation_threshold=_number(
                where, chosen, "evaluation_threshold", default.evaluation_threshold
            ),
            medium=Medium(
                **{
                    field.name: _number(
                        where, chosen, field.name, getattr(default.medium, field.name)
                    )
                    for field in dataclasses.fields(Medium)
                }
            ),
        )
    except ValueError as error:
        raise CalojaxError(f"{path}: {error}.") from None


def to_xml(detector: Detector, path: str | pathlib.Path) -> None:
    """Writes a detector's binning file; `from_xml` reads it back."""
    root = ElementTree.Element("Bins")
    low, high = detector.energy_range
    attributes = {
        "pid": _PIDS[detector.particle],
        "name": detector.particle,
        "energy_min": repr(low),
        "energy_max": repr(high),
        "readout_threshold": repr(detector.readout_threshold),
        "evaluation_threshold": repr(detector.evaluation_threshold),
    } | {name: repr(value) for name, value in dataclasses.asdict(detector.medium).items()}
    chosen = ElementTree.SubElement(root, "Bin", attributes)
    for layer in detector.layers:
        ElementTree.SubElement(
            chosen,
            "Layer",
            {
                "id": str(layer.id),
                "r_edges": ",".join(f"{edge:g}" for edge in layer.r_edges),
                "n_bin_alpha": str(layer.n_alpha),
                "thickness": repr(layer.thickness),
            },
        )
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="unicode")


def _layer(path: pathlib.Path, element: ElementTree.Element) -> tuple[int, Layer | None]:
    """(id, layer) of a ``<Layer>``; the layer is None where it holds no voxels."""
    raw_id = element.get("id")
    try:
        layer_id = int(raw_id or "")
    except ValueError:
        raise CalojaxError(
            f"{path}: layer {raw_id!r}: attribute 'id' must be a whole number."
        ) from None
    where = f"{path}: layer {layer_id}"

    raw_edges = element.get("r_edges")
    if raw_edges is None:
        raise CalojaxError(f"{where}: attribute 'r_edges' is missing.")
    try:
        edges = tuple(float(item) for item in raw_edges.split(","))
    except ValueError:
        raise CalojaxError(
            f"{where}: attribute 'r_edges' must be numbers in mm with commas between, "
            f"got {raw_edges!r}."
        ) from None
    increasing = all(a < b for a, b in itertools.pairwise(edges))
    if not increasing or not edges[0] >= 0 or not edges[-1] < float("inf"):
        raise CalojaxError(
            f"{where}: attribute 'r_edges' must be finite, start at 0 or above and increase, "
            f"got {raw_edges!r}."
        )

    raw_alpha = element.get("n_bin_alpha")
    try:
        n_alpha = int(raw_alpha or "")
        if n_alpha < 1:
            raise ValueError
    except ValueError:
        raise CalojaxError(
            f"{where}: attribute 'n_bin_alpha' must be a whole number above 0, got {raw_alpha!r}."
        ) from None
    thickness = _number(where, element, "thickness", builtin.DETECTORS["ds2"].layers[0].thickness)
    if len(edges) == 1:
        return layer_id, None
    return layer_id, Layer(layer_id, edges, n_alpha, thickness)


def _number(where: str, element: ElementTree.Element, attribute: str, default: float) -> float:
    raw = element.get(attribute)
    if raw is None:
        return default
    try:
        value = float(raw)
        if not 0 <= value < float("inf"):
            raise ValueError
    except ValueError:
        raise CalojaxError(
            f"{where}: attribute {attribute!r} must be a number of 0 or more, got {raw!r}."
        ) from None
    return value
