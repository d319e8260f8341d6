"""Shower files of any layout, one or several joined.

Keys, shapes and incident energies are checked when a file is opened; voxel values as they are read.
"""

import itertools
import math
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from calojax.errors import CalojaxError
from calojax.geometry import Detector
from calojax.io import par04, shards
from calojax.io.hdf5 import opened
from calojax.io.layouts import LAYOUTS, ShowerRows, layout_of
from calojax.io.source import ShowerSource, checked_energies, checked_showers, float32
from calojax.io.stored_geometry import resolved_detector

Paths = str | os.PathLike | Sequence[str | os.PathLike]
"""One path, or several."""

_BLOCK_BYTES = 2**24
# Chunks that hold more than this are read in pieces, each of them several times.
_MOST_BYTES = 2**28


def open_showers(
    paths: Paths,
    detector: Detector | None = None,
    *,
    repair: bool = False,
) -> "ShowerFile | ShowerFiles":
    """The showers of one file, or of several joined in the given order.

    Args:
      paths: one path or several; a folder of parts (`calojax.io.shards`) stands for its files.
      detector: the geometry; by default that of the first file (see `ShowerFile`).
      repair: whether bad showers are mended or dropped (see `ShowerFile`).

    Raises:
      CalojaxError: if there is no path, or a file is not what `ShowerFile` accepts, or the files
        are of different geometries.
    """
    paths = [paths] if isinstance(paths, str | os.PathLike) else paths
    if not paths:
        raise CalojaxError("No shower file was given; name at least one HDF5 file.")
    files: list[ShowerFile] = []
    for path in itertools.chain.from_iterable(map(shards.files_of, paths)):
        known = files[0].detector if files else detector
        files.append(ShowerFile(path, known, repair=repair))
    return files[0] if len(files) == 1 else ShowerFiles(files)


class ShowerFile(ShowerSource):
    """The showers of one HDF5 file, which is opened for each use and closed after it.

    Attributes:
      dropped: number of showers that a repair leaves out.
      clipped: number of negative voxels that a repair sets to 0 in the others.
    """

    def __init__(
        self, path: str | os.PathLike, detector: Detector | None = None, *, repair: bool = False
    ):
        """Opens the file once and checks all but the voxel values.

        Args:
          path: the file.
          detector: the geometry, unless the file keeps another one; by default the one that the
            file keeps or names, or else the built-in one with as many voxels.
          repair: sets negative voxels to 0, and leaves out showers with a voxel that is not finite
            or an incident energy that is not a positive number; reads the whole file.

        Raises:
          CalojaxError: if the file is missing, damaged or of no known layout, or an incident energy
            is not a positive number, or the voxels are not those of the detector.
        """
        self.path = pathlib.Path(path)
        self.dropped = self.clipped = 0
        self._rows: np.ndarray | None = None
        with opened(self.path) as file:
            layout = LAYOUTS[layout_of(file)]
            energies, showers = layout.energies(file), layout.showers(file, detector)
            n = len(showers)
            if len(showers.shape) != 2 or energies.shape not in ((n,), (n, 1)):
                raise CalojaxError(
                    f"{path}: incident energies of shape {energies.shape} and showers of "
                    f"{showers.shape} do not fit; they must be (n, 1) and (n, voxels) with r "
                    "fastest, then alpha, then layer."
                )
            if not n:
                raise CalojaxError(f"{path}: holds no showers; write it again.")
            self.attributes = file.attributes
            self.detector = resolved_detector(file, showers.shape[1], detector)
            if isinstance(showers, par04.GridShowers) and showers.grid != self.detector.grid:
                raise CalojaxError(
                    f"{path}: showers have {showers.grid} bins in (z, alpha, r), but geometry "
                    f"{self.detector.name} has {self.detector.grid}; the axes must be (n, r, "
                    "alpha, z)."
                )
            self.files = (self.path,)
            self._shape = showers.shape
            energies = layout.unit * energies[...].reshape(-1).astype(np.float64)
            if repair:
                energies = self._repaired(energies, showers)
            self.energies = checked_energies(path, energies)
            self.energies.flags.writeable = False

    def _repaired(self, energies: np.ndarray, showers: ShowerRows) -> np.ndarray:
        """Finds the showers that a repair keeps; returns their incident energies [m]."""
        energies = float32(energies)
        good = np.isfinite(energies) & (energies > 0)
        for first, block in blocks_of(showers):
            rows = slice(first, first + len(block))
            good[rows] &= np.isfinite(block).all(axis=1)
            self.clipped += np.count_nonzero(block[good[rows]] < 0)
        self._rows = np.flatnonzero(good)
        self.dropped = len(good) - len(self._rows)
        if not len(self._rows):
            raise CalojaxError(f"{self.path}: has no shower that can be repaired; write it again.")
        return energies[self._rows]

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        rows = self._rows
        if rows is not None and start < stop:
            rows = rows[start:stop]
            start, stop = int(rows[0]), int(rows[-1]) + 1
        with opened(self.path) as file:
            showers = LAYOUTS[layout_of(file)].showers(file, self.detector)
            if showers.shape != self._shape:
                raise CalojaxError(f"{self.path}: has changed since it was opened; start again.")
            for first, block in blocks_of(showers, start, stop):
                if rows is not None:
                    inside = rows[(rows >= first) & (rows < first + len(block))]
                    block = np.maximum(block[inside - first], 0)
                yield checked_showers(self.path, block, first)


class ShowerFiles(ShowerSource):
    """Several files of one geometry, joined in order, with the attributes that all share.

    Further attributes are those of `ShowerFile`, and ``sources``, the files.
    """

    def __init__(self, sources: Sequence[ShowerFile]):
        self.sources = tuple(sources)
        self.detector = self.sources[0].detector
        for source in self.sources:
            if source.detector.binning != self.detector.binning:
                raise CalojaxError(
                    f"{source.path}: is of geometry {source.detector.name}, but "
                    f"{self.sources[0].path} of {self.detector.name}; only files of one geometry "
                    "can be joined."
                )
        said = [set(source.attributes.items()) for source in self.sources]
        self.attributes = dict(sorted(set.intersection(*said)))
        self.files = tuple(source.path for source in self.sources)
        self.dropped = sum(source.dropped for source in self.sources)
        self.clipped = sum(source.clipped for source in self.sources)
        self.energies = np.concatenate([source.energies for source in self.sources])
        self.energies.flags.writeable = False

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        for source in self.sources:
            first, last = max(start, 0), min(stop, len(source))
            if first < last:  # Files outside the range need not be opened.
                yield from source.blocks(first, last)
            start, stop = start - len(source), stop - len(source)


def blocks_of(
    showers: ShowerRows, start: int = 0, stop: int | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Pairs (index of the first shower, float32 block [any, v]), each HDF5 chunk read only once.

    Compressed chunks can be read only as a whole, so the blocks end where chunks do. Where a row of
    chunks is too large for memory, as with chunks of all showers and a few voxels, blocks are
    smaller and chunks are read several times. Axes after the first are flattened in file order.
    """
    stop = len(showers) if stop is None else stop
    chunk = showers.chunks[0] if showers.chunks else 1
    row_bytes = max(1, math.prod(showers.shape[1:]) * showers.dtype.itemsize)
    rows = chunk * max(1, _BLOCK_BYTES // (row_bytes * chunk))
    rows = max(1, min(rows, _MOST_BYTES // row_bytes))
    while start < stop:
        end = min(stop, (start // rows + 1) * rows)
        yield start, float32(showers[start:end].reshape(end - start, -1))
        start = end
