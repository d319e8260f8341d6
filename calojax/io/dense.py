"""The CaloChallenge's layout: every voxel of every shower.

A file holds ``incident_energies`` [n, 1] and ``showers`` [n, v], both in MeV, with the voxels of a
shower in the order r fastest, then alpha, then layer (CaloChallenge, arXiv:2410.21611, section 2).
"""

import h5py
import numpy as np

from calojax.errors import CalojaxError
from calojax.geometry import Detector
from calojax.io.chunks import Column, Queue, rows_of_a_chunk
from calojax.io.hdf5 import InputFile

ENERGIES = "incident_energies"
SHOWERS = "showers"
# The key of the same quantity in the files of Geant4's example Par04.
PAR04_ENERGIES = "incident_energy"


def values(file: InputFile, key: str) -> h5py.Dataset:
    """The incident energies or showers of an open file, by their key, if they are real numbers."""
    path = file.path
    item = file.find(key)
    if item is None and key == ENERGIES and PAR04_ENERGIES in file.file:
        raise CalojaxError(
            f"{path}: has {PAR04_ENERGIES!r}, as files of Geant4's Par04 example have, but no "
            f"{SHOWERS!r} with four axes (n, r, alpha, z); write them with these axes."
        )
    if item is None:
        raise CalojaxError(
            f"{path}: has no {key!r} but {file.names()}; the CaloChallenge's layout needs "
            f"{ENERGIES!r} and {SHOWERS!r}."
        )
    if not isinstance(item, h5py.Dataset):
        raise CalojaxError(f"{path}: {key!r} is a group; it must be a dataset.")
    if item.dtype.kind not in "fiu" or not item.shape:
        raise CalojaxError(
            f"{path}: {key!r} holds {item.dtype} of shape {item.shape}; it must hold real numbers "
            "in n rows."
        )
    return item


class Writer:
    """Writes the two datasets."""

    def __init__(self, file: h5py.File, queue: Queue, detector: Detector, count: int):
        rows = rows_of_a_chunk(detector)
        self._energies = Column(queue, file, ENERGIES, np.float32, count, tail=(1,))
        self._showers = Column(
            queue, file, SHOWERS, np.float32, count, tail=(detector.n_voxels,), rows=rows
        )

    def extend(self, energies: np.ndarray, showers: np.ndarray) -> None:
        self._energies.extend(energies[:, None])
        self._showers.extend(showers)
