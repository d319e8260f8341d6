"""Detector geometries: what a voxel is and where it lies. NumPy only."""

from calojax.geometry import binning
from calojax.geometry.builtin import DETECTORS, SILICON_THRESHOLD, detector
from calojax.geometry.detector import Detector, Layer, Medium, VoxelMap

__all__ = [
    "DETECTORS",
    "SILICON_THRESHOLD",
    "Detector",
    "Layer",
    "Medium",
    "VoxelMap",
    "detector",
    "find_detector",
]


def find_detector(name: str) -> Detector:
    """The detector that a user means: a built-in name, or the path of a binning XML file.

    Raises:
      CalojaxError: if there is no such name, or the file is malformed.
    """
    return binning.from_xml(name) if name.lower().endswith(".xml") else detector(name)
