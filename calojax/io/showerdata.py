"""The files of ShowerData, a package for point clouds: points (x, y, z, E) of each shower.

A file holds ``showers`` [n], each a list of varying length of x and y in mm, the number of the
layer, counted from 0, as z, the energy in GeV, and perhaps the time; ``shape`` (n, most points of a
shower, 4 or 5), ``num_points`` [n], and of the incident particles ``energies`` [n, 1] in GeV,
``directions`` [n, 3] (unit vectors, with z into the calorimeter), ``pdg`` [n] and ``shower_ids``
[n] (ShowerData 0.7, github.com/FLC-QU-hep/ShowerData).

Points are written at the centres of voxels with energy, and counted in the voxels of a detector
when they are read.
"""

import h5py
import numpy as np

from calojax.errors import CalojaxError, warn
from calojax.geometry import Detector, particles
from calojax.io.chunks import Column, Queue
from calojax.io.dense import SHOWERS
from calojax.io.hdf5 import InputFile, Rows
from calojax.io.sparse import Hits
from calojax.io.stored_geometry import resolved_detector

GEV = 1e3  # In MeV.
ENERGIES = "energies"
DIRECTIONS = "directions"
SHAPE = "shape"

# Share of the energy that points outside all voxels may have without a warning.
_LOST = 1e-4


def is_showerdata(file: InputFile) -> bool:
    """Whether an open file has incident particles as ShowerData keeps them, perhaps no showers."""
    return ENERGIES in file.file and DIRECTIONS in file.file


class PointShowers(Rows):
    """Points of a file in the voxels of a detector, in MeV; points outside are left out."""

    def __init__(self, file: InputFile, detector: Detector | None):
        """Checks all but the points of a file, which must stay open; the detector is the user's."""
        path = self._path = file.path
        points, shape = file.find(SHOWERS), file.find(SHAPE)
        if not isinstance(points, h5py.Dataset) or not _ragged(points):
            raise CalojaxError(
                f"{path}: is a file of ShowerData, but has no {SHOWERS!r} of points; write it with "
                "showerdata.save."
            )
        sizes = None
        if isinstance(shape, h5py.Dataset) and shape.shape == (3,):
            sizes = shape[...].tolist()
        if not sizes or sizes[2] not in (4, 5):
            raise CalojaxError(
                f"{path}: is a file of ShowerData, but its {SHAPE!r} is {sizes}; it must be the "
                "number of showers, the most points of a shower, and 4 or 5 values of a point."
            )
        self._points = points
        self._values = int(sizes[2])
        self._detector = resolved_detector(file, None, detector)
        self.shape = (len(points), self._detector.n_voxels)

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        # HDF5 keeps lists in a heap; where the heap is damaged it may never return.
        clouds = self._points[start:stop]
        sizes = np.array([len(cloud) for cloud in clouds], int)
        if (broken := sizes % self._values != 0).any():
            where = int(np.argmax(broken))
            raise CalojaxError(
                f"{self._path}: shower {start + where} has {sizes[where]:,} values, which are no "
                f"points of {self._values} values each; write the file again."
            )
        shower = np.repeat(np.arange(len(clouds)), sizes // self._values)
        table = np.concatenate([np.zeros(0, np.float32), *clouds]).reshape(-1, self._values)
        layer, energy = np.rint(table[:, 2]), GEV * table[:, 3].astype(np.float64)
        detector = self._detector
        if (outside := ~((layer >= 0) & (layer < detector.n_layers))).any():
            where = int(np.argmax(outside))
            raise CalojaxError(
                f"{self._path}: shower {start + shower[where]} has a point in layer "
                f"{layer[where]:g}, but geometry {detector.name} has layers 0 to "
                f"{detector.n_layers - 1}; choose another one: --geometry NAME or FILE.xml."
            )
        depth = ((detector.z_edges[:-1] + detector.z_edges[1:]) / 2)[layer.astype(int)]
        x, y = table[:, 0], table[:, 1]
        showers = detector.voxelise(shower, x, y, depth, energy, len(clouds))
        if showers.sum(dtype=np.float64) < (1 - _LOST) * energy.sum():
            warn(
                f"{self._path}: has points outside the voxels of geometry {detector.name}, which "
                "are left out; if there are many, choose another one: --geometry NAME or FILE.xml."
            )
        return showers


def _ragged(points: h5py.Dataset) -> bool:
    kind = h5py.check_vlen_dtype(points.dtype)
    return len(points.shape or ()) == 1 and kind is not None and np.dtype(kind).kind == "f"


class Writer:
    """Writes points at the centres of voxels, of particles along z."""

    def __init__(self, file: h5py.File, queue: Queue, detector: Detector, count: int):
        voxels = detector.voxels
        self._places = np.stack([voxels.eta, voxels.phi, voxels.layer], axis=1).astype(np.float32)
        self._pdg = particles.number(detector.particle)
        self._points = file.create_dataset(
            SHOWERS, (count,), h5py.vlen_dtype(np.float32), track_times=False
        )
        self._shape = file.create_dataset(
            SHAPE, data=np.array([count, 0, 4], np.int64), track_times=False
        )
        self._energies = Column(queue, file, ENERGIES, np.float32, count, tail=(1,))
        self._directions = Column(queue, file, DIRECTIONS, np.float32, count, tail=(3,))
        self._numbers = {
            name: Column(queue, file, name, np.int32, count)
            for name in ("pdg", "shower_ids", "num_points")
        }
        self._queue = queue
        self._written = 0
        self._most = 0

    def extend(self, energies: np.ndarray, hits: Hits) -> None:
        first, count = self._written, len(energies)
        self._written += count
        self._energies.extend((energies / GEV)[:, None])
        self._directions.extend(np.tile(np.array([0, 0, 1], np.float32), (count, 1)))
        self._numbers["pdg"].extend(np.full(count, self._pdg))
        self._numbers["shower_ids"].extend(np.arange(first, first + count))
        self._numbers["num_points"].extend(hits.counts)

        def points() -> list[np.ndarray]:
            table = np.column_stack([self._places[hits.voxels], hits.energies / GEV])
            return np.split(table.astype(np.float32), np.cumsum(hits.counts)[:-1])

        def write(clouds: list[np.ndarray]) -> None:
            for number, cloud in enumerate(clouds, first):
                self._points[number] = cloud.reshape(-1)
            self._most = max(self._most, *map(len, clouds))
            self._shape[1] = self._most

        # Like the columns, so that the order in the file does not depend on the threads.
        self._queue.put(write, points)
