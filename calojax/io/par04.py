"""The files of Geant4's example Par04 and of LEMURS: deposited energy on a grid (r, alpha, z).

A file holds ``incident_energy`` [n] and ``showers`` [n, r, alpha, z], both in MeV, with alpha from
-pi. LEMURS adds ``incident_theta`` and ``incident_phi`` [n] in rad. Energies are deposits: datasets
2 and 3 of the CaloChallenge divide them by the sampling fraction 0.033, which is not done here.
"""

import math
from collections.abc import Mapping

import h5py
import numpy as np

from calojax.errors import CalojaxError
from calojax.geometry import Detector
from calojax.io.chunks import Column, Queue, rows_of_a_chunk
from calojax.io.dense import PAR04_ENERGIES, SHOWERS, values
from calojax.io.hdf5 import InputFile, Rows


def is_par04(file: InputFile) -> bool:
    """Whether an open file has Par04's energies and showers on a grid."""
    showers = file.find(SHOWERS) if PAR04_ENERGIES in file.file else None
    return isinstance(showers, h5py.Dataset) and len(showers.shape or ()) == 4


def is_lemurs(file: InputFile) -> bool:
    """Whether an open file is one of these that has directions."""
    return "incident_theta" in file.file and is_par04(file)


class GridShowers(Rows):
    """Showers of a file on a ``grid`` of bins (z, alpha, r)."""

    def __init__(self, file: InputFile):
        self._showers = values(file, SHOWERS)
        n, *grid = self._showers.shape
        self.shape = (n, int(np.prod(grid)))
        self.grid = tuple(reversed(grid))
        self.dtype = self._showers.dtype
        self.chunks = self._showers.chunks

    def __getitem__(self, rows: slice) -> np.ndarray:
        showers = self._showers[rows]
        return showers.transpose(0, 3, 2, 1).reshape(len(showers), -1)


class Writer:
    """Writes the two datasets, and angles of all particles in rad."""

    angles: Mapping[str, float] = {}

    def __init__(self, file: h5py.File, queue: Queue, detector: Detector, count: int):
        if detector.grid is None:
            raise CalojaxError(
                f"{detector.name}: its layers differ, so its showers are no grid of r, alpha and "
                "z; take --layout dense."
            )
        z, alpha, r = detector.grid
        self._grid = detector.grid
        self._energies = Column(queue, file, PAR04_ENERGIES, np.float32, count)
        self._showers = Column(
            queue,
            file,
            SHOWERS,
            np.float32,
            count,
            tail=(r, alpha, z),
            rows=rows_of_a_chunk(detector),
        )
        self._angles = {name: Column(queue, file, name, np.float32, count) for name in self.angles}

    def extend(self, energies: np.ndarray, showers: np.ndarray) -> None:
        cells = showers.reshape(-1, *self._grid).transpose(0, 3, 2, 1)
        self._energies.extend(energies)
        self._showers.extend(cells)
        for name, column in self._angles.items():
            column.extend(np.full_like(energies, self.angles[name]))


class LemursWriter(Writer):
    """Writes also the direction, normal to the front of a barrel: the polar angle is pi / 2."""

    angles: Mapping[str, float] = {"incident_theta": math.pi / 2, "incident_phi": 0.0}
