"""A library of showers that DDML's class LoadHdf5 replays in ddsim, the simulation of DD4hep.

A file holds one dataset, ``layers`` [n, z, y, x]: deposited energy in MeV in square cells. DDML
places them as those of its only registered user of LoadHdf5, the model
RegularGridTwoAngleBIBAEModel, does for a particle that hits the calorimeter at a right angle: cells
of 5.088333 mm, 30 along y from -77 mm, and 49 along x from -137 mm, relative to the particle's
track (key4hep/DDML, commit a908dfb). A comment there gives the axes as x, y, z; what counts is the
order in which its model reads them. Layers below 30 are filled up with empty ones, because DDML
reads as many as its calorimeter has.

A voxel's energy goes into the cell of its centre. Neither voxels nor incident energies can be read
back.
"""

from typing import NoReturn

import h5py
import numpy as np

from calojax.errors import CalojaxError
from calojax.geometry import Detector
from calojax.io.chunks import Column, Queue
from calojax.io.dense import ENERGIES
from calojax.io.hdf5 import InputFile
from calojax.io.sparse import Hits

LAYERS = "layers"
# In mm.
_CELL = 5.088333
_Y, _X = -77.0, -137.0
_N_Y, _N_X = 30, 49
_FEWEST_LAYERS = 30


def is_ddml(file: InputFile) -> bool:
    """Whether an open file has DDML's dataset, and no incident energies."""
    return LAYERS in file.file and ENERGIES not in file.file


def refuse(file: InputFile, detector: Detector | None = None) -> NoReturn:
    """Raises `CalojaxError`: such files cannot be read."""
    raise CalojaxError(
        f"{file.path}: is a shower library of DDML ({LAYERS!r}), which has no incident energies; "
        "name the file that it was made from."
    )


class Writer:
    """Writes the dataset."""

    def __init__(self, file: h5py.File, queue: Queue, detector: Detector, count: int):
        radius, most = max(layer.r_edges[-1] for layer in detector.layers), _Y + _N_Y * _CELL
        if radius > most:
            raise CalojaxError(
                f"{detector.name}: its voxels reach {radius:g} mm from the track, but DDML's cells "
                f"end at {most:.1f} mm; take --layout showerdata."
            )
        voxels = detector.voxels
        y, x = (
            np.floor((place - edge) / _CELL).astype(int)
            for place, edge in ((voxels.phi, _Y), (voxels.eta, _X))
        )
        self._grid = max(detector.n_layers, _FEWEST_LAYERS), _N_Y, _N_X
        self._cells = np.ravel_multi_index((voxels.layer, y, x), self._grid)
        size = int(np.prod(self._grid))
        rows = max(1, 2**20 // (4 * size))
        self._layers = Column(queue, file, LAYERS, np.float32, count, tail=self._grid, rows=rows)
        self.columns = (self._layers,)

    def extend(self, energies: np.ndarray, hits: Hits) -> None:
        size, count = int(np.prod(self._grid)), len(hits)
        cells = np.repeat(np.arange(count), hits.counts) * size + self._cells[hits.voxels]
        grids = np.bincount(cells, hits.energies, count * size).astype(np.float32)
        self._layers.extend(grids.reshape(count, *self._grid))
