"""Detector geometries: the voxels of a calorimeter and their coordinates. NumPy only."""

from calojax.errors import CalojaxError
from calojax.geometry import binning
from calojax.geometry.builtin import DETECTORS, detector
from calojax.geometry.detector import Detector, Layer, Medium, VoxelMap

__all__ = [
    "DETECTORS",
    "Detector",
    "Layer",
    "Medium",
    "VoxelMap",
    "chosen_detector",
    "detector",
    "find_detector",
]


def find_detector(name: str, particle: str | None = None) -> Detector:
    """The built-in detector of that name, or that of a binning file, whose path ends in .xml.

    ``particle`` is the name or PDG number of one of the file's particles, if it has several. Raises
    `CalojaxError` if there is no such name or particle, or the file is malformed.
    """
    if name.lower().endswith(".xml"):
        return binning.from_xml(name, particle)
    if particle is not None:
        raise CalojaxError(
            "--particle chooses among the particles of a binning file; add --geometry FILE.xml."
        )
    return detector(name)


def chosen_detector(name: str | None, particle: str | None) -> Detector | None:
    """The result of `find_detector`; None if the user gives neither a name nor a particle."""
    return None if name is particle is None else find_detector(name or "", particle)
