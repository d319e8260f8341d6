"""The official numbers in tests/data/official and the showers that they belong to."""

import functools
import json
import pathlib

from calojax.geometry import detector
from calojax.io import ShowerArrays, open_showers

FOLDER = pathlib.Path(__file__).parent / "data" / "official"
DETECTORS = {
    "ds1_photons_generated": "ds1-photons",
    "ds1_photons_reference": "ds1-photons",
    "ds1_pions": "ds1-pions",
    "ds2": "ds2",
    "ds3": "ds3",
}


@functools.cache
def numbers() -> dict:
    return json.loads((FOLDER / "official.json").read_text())


@functools.cache
def showers(name: str) -> ShowerArrays:
    source = open_showers(FOLDER / f"{name}.hdf5", detector(DETECTORS[name]))
    return ShowerArrays(source.detector, source.energies, source.read())
