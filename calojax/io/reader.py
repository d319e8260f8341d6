"""Showers in the CaloChallenge's HDF5 layout: validated reading, and arrays in memory.

A file holds ``incident_energies`` [n, 1] and ``showers`` [n, v], both in MeV, with the voxels of a
shower in the order r fastest, then alpha, then layer (CaloChallenge, arXiv:2410.21611, section 2).
calojax adds attributes that say where the showers come from. Files in the layout of
`calojax.io.sparse` are read as if they were of this one.

Keys, shapes and incident energies are checked when a file is opened; voxel values as they are read.
"""

import abc
import itertools
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import h5py
import msgspec
import numpy as np

from calojax.errors import CalojaxError, warn
from calojax.geometry import DETECTORS, Detector
from calojax.io import shards
from calojax.io.sparse import SparseShowers, is_sparse
from calojax.io.storage import find, opened, other_attributes, provenance_of

ENERGIES = "incident_energies"
SHOWERS = "showers"
# The key of the same quantity in the files of Geant4's example Par04.
PAR04_ENERGIES = "incident_energy"
# Where files keep a geometry that is not built in, as JSON.
GEOMETRY = "calojax_geometry"
_LARGEST_GEOMETRY = 2**28

_BLOCK_BYTES = 2**24
# Chunks that hold more than this are read in pieces, each of them several times.
_MOST_BYTES = 2**28


class ShowerSource(Protocol):
    """Showers of one detector, wherever they are kept.

    Attributes:
      detector: the geometry of the showers.
      energies: incident energies in MeV, float32 [n].
      attributes: origin of the showers.
    """

    detector: Detector
    energies: np.ndarray
    attributes: Mapping[str, str | int | float]

    def __len__(self) -> int:
        """Number of showers, n."""
        ...

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pairs (energies [b], showers [b, v]) in order, float32 MeV; the last may be smaller."""
        ...

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Showers start..stop as a new float32 array [stop - start, v] in MeV."""
        ...


def open_showers(
    paths: str | os.PathLike | Sequence[str | os.PathLike],
    detector: Detector | None = None,
    *,
    repair: bool = False,
) -> "ShowerFile | ShowerFiles":
    """The showers of one file, or of several joined in the given order.

    Args:
      paths: one path or several; a folder of parts (`calojax.io.shards`) stands for its files.
      detector: their geometry; without it the first file tells (see `ShowerFile`).
      repair: whether bad showers are mended or dropped (see `ShowerFile`).

    Raises:
      CalojaxError: if there is no path, or a file is not what `ShowerFile` accepts, or the files
        are of different geometries.
    """
    paths = [paths] if isinstance(paths, str | os.PathLike) else paths
    if not paths:
        raise CalojaxError("No shower file was given; name at least one HDF5 file.")
    files: list[ShowerFile] = []
    for path in itertools.chain.from_iterable(map(_files_of, paths)):
        known = files[0].detector if files else detector
        files.append(ShowerFile(path, known, repair=repair))
    return files[0] if len(files) == 1 else ShowerFiles(files)


def _files_of(path: str | os.PathLike) -> list[pathlib.Path]:
    """The file, or those of a folder of parts."""
    path = pathlib.Path(path)
    return shards.paths(path) if os.path.exists(path / shards.MANIFEST) else [path]


def guess_detector(n_voxels: int) -> Detector | None:
    """The built-in detector whose showers have that many voxels, or None."""
    return next((d for d in DETECTORS.values() if d.n_voxels == n_voxels), None)


class _Blocks(abc.ABC):
    """What all sources share: batches and slices out of blocks of whole showers."""

    detector: Detector
    energies: np.ndarray

    def __len__(self) -> int:
        return len(self.energies)

    @abc.abstractmethod
    def _blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Checked float32 blocks [any, v] that together are the showers start..stop."""

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pairs (energies [b], showers [b, v]) in order, float32 MeV; the last may be smaller.

        Raises:
          CalojaxError: if a voxel is negative or not finite, or a file is damaged.
        """
        if size < 1:
            raise ValueError(f"batch size must be at least 1, got {size}")
        first = 0
        for showers in _rebatch(self._blocks(0, len(self)), size):
            yield self.energies[first : first + len(showers)], showers
            first += len(showers)

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Showers start..stop (as in a slice) as a new float32 array [stop - start, v] in MeV.

        Raises:
          CalojaxError: if a voxel is negative or not finite, or a file is damaged.
        """
        start, stop, _ = slice(start, stop).indices(len(self))
        showers = np.empty((max(stop - start, 0), self.detector.n_voxels), np.float32)
        filled = 0
        for block in self._blocks(start, stop):
            showers[filled : filled + len(block)] = block
            filled += len(block)
        return showers


class ShowerFile(_Blocks):
    """The showers of one HDF5 file. Opened for each use, so nothing is held between uses.

    Attributes:
      path: the file.
      detector: the geometry of the showers.
      energies: incident energies in MeV, float32 [n].
      attributes: what the file's attributes say about its origin.
      other_attributes: names of attributes that are neither texts nor numbers.
      files: every file that the showers are read from, this one first.
      dtype: the type that the file keeps voxels in.
      dropped: how many showers a repair leaves out.
      clipped: how many negative voxels of the others it sets to 0.
    """

    def __init__(
        self, path: str | os.PathLike, detector: Detector | None = None, *, repair: bool = False
    ):
        """Opens the file once and checks all but the voxel values.

        Args:
          path: the file.
          detector: its geometry, unless the file keeps another of its own; without it, the one that
            the file keeps or names, or else the built-in one with as many voxels.
          repair: sets negative voxels to 0, and leaves out showers with a voxel that is not finite
            or an incident energy that is not a positive number; reads the whole file.

        Raises:
          CalojaxError: if the file is missing, damaged or not in the CaloChallenge's layout, or an
            incident energy is not a positive number, or the voxels are not those of the detector.
        """
        self.path = pathlib.Path(path)
        self.dropped = self.clipped = 0
        self._rows: np.ndarray | None = None
        read: set[pathlib.Path] = set()
        with opened(self.path) as file:
            energies = _dataset(self.path, file, ENERGIES, read)
            showers = showers_in(self.path, file, read)
            if len(energies.shape) not in (1, 2) or energies.shape[1:] not in ((), (1,)):
                raise CalojaxError(
                    f"{self.path}: {ENERGIES!r} has shape {energies.shape}; it must be (n, 1)."
                )
            if len(showers.shape) != 2:
                raise CalojaxError(
                    f"{self.path}: {SHOWERS!r} has shape {showers.shape}; it must be (n, voxels) "
                    "with r fastest, then alpha, then layer."
                )
            if len(energies) != len(showers):
                raise CalojaxError(
                    f"{self.path}: has {len(energies):,} incident energies, but {len(showers):,} "
                    "showers; they must be as many."
                )
            if not len(showers):
                raise CalojaxError(f"{self.path}: holds no showers; write it again.")
            self.attributes = provenance_of(file)
            self.other_attributes = other_attributes(file)
            self.detector = _detector(self.path, file, showers.shape[1], detector)
            self.files = (self.path, *sorted(read))
            self.dtype, self._shape = showers.dtype, showers.shape
            energies = energies[...].reshape(-1)
            if repair:
                energies = self._repaired(energies, showers)
            self.energies = checked_energies(self.path, energies)
            self.energies.flags.writeable = False

    def _repaired(self, energies: np.ndarray, showers: h5py.Dataset | SparseShowers) -> np.ndarray:
        """Finds what a repair keeps: the incident energies [m] of those showers."""
        energies = _float32(energies)
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

    def _blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        rows = self._rows
        if rows is not None and start < stop:
            rows = rows[start:stop]
            start, stop = int(rows[0]), int(rows[-1]) + 1
        with opened(self.path) as file:
            showers = showers_in(self.path, file)
            if showers.shape != self._shape:
                raise CalojaxError(f"{self.path}: has changed since it was opened; start again.")
            for first, block in blocks_of(showers, start, stop):
                if rows is not None:
                    inside = rows[(rows >= first) & (rows < first + len(block))]
                    block = np.maximum(block[inside - first], 0)
                yield checked_showers(self.path, block, first)


class ShowerFiles(_Blocks):
    """Several sources of one geometry, joined in order.

    Attributes:
      sources: what is joined.
      detector: their geometry.
      energies: incident energies of all in MeV, float32 [n].
      attributes: what all files say about their origin.
      other_attributes: names of attributes that are neither texts nor numbers.
      files: every file that the showers are read from.
      dtype: the type that holds the voxels of all files.
      dropped: how many showers a repair leaves out.
      clipped: how many negative voxels of the others it sets to 0.
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
        self.other_attributes = tuple(
            dict.fromkeys(name for source in self.sources for name in source.other_attributes)
        )
        self.files = tuple(path for source in self.sources for path in source.files)
        self.dtype = np.result_type(*(source.dtype for source in self.sources))
        self.dropped = sum(source.dropped for source in self.sources)
        self.clipped = sum(source.clipped for source in self.sources)
        self.energies = np.concatenate([source.energies for source in self.sources])
        self.energies.flags.writeable = False

    def _blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        for source in self.sources:
            yield from source._blocks(max(start, 0), min(stop, len(source)))
            start, stop = start - len(source), stop - len(source)


class ShowerArrays(_Blocks):
    """Showers in memory, or in a memory map.

    Attributes:
      detector: the geometry of the showers.
      energies: incident energies in MeV, float32 [n], read-only.
      showers: voxel energies in MeV, float32 [n, v], read-only; may be indexed at random.
      attributes: none.
    """

    def __init__(
        self,
        detector: Detector,
        energies: np.ndarray,
        showers: np.ndarray,
        *,
        name: str | os.PathLike = "showers in memory",
        validated: bool = False,
    ):
        """Checks shapes and values.

        Args:
          detector: the geometry.
          energies: incident energies in MeV, [n] or [n, 1].
          showers: voxel energies in MeV, [n, v].
          name: how error messages call them.
          validated: skips the check of voxel values, for arrays that passed it before.

        Raises:
          CalojaxError: as `ShowerFile` does.
        """
        self.detector = detector
        self.attributes = {}
        energies, showers = checked_shapes(name, detector, energies, showers)
        if not len(showers):
            raise CalojaxError(f"{name}: holds no showers.")
        self.energies = checked_energies(name, energies).view()
        self.showers = (showers if validated else checked_showers(name, showers, 0)).view()
        self.energies.flags.writeable = False
        self.showers.flags.writeable = False

    def _blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        yield self.showers[start:stop]


def showers_in(
    path: pathlib.Path, file: h5py.File, read: set[pathlib.Path] | None = None
) -> h5py.Dataset | SparseShowers:
    """The showers of an open file, in whichever layout they are, to be sliced.

    Args:
      path: the file.
      file: the same, open.
      read: see `storage.find`.

    Raises:
      CalojaxError: if there are none, or they are not numbers, or `storage.find` refuses them.
    """
    if is_sparse(file):
        return SparseShowers(path, file, read)
    return _dataset(path, file, SHOWERS, read)


def blocks_of(
    showers: h5py.Dataset | SparseShowers, start: int = 0, stop: int | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Pairs (index of the first shower, float32 block [any, v]), each HDF5 chunk read only once.

    Compressed chunks can be read only as a whole, so the blocks end where chunks do. Where a row of
    chunks is too large for memory, as with chunks of all showers and a few voxels, blocks are
    smaller and chunks read several times. Axes after the first are flattened in file order.
    """
    stop = len(showers) if stop is None else stop
    chunk = showers.chunks[0] if showers.chunks else 1
    row_bytes = max(1, math.prod(showers.shape[1:]) * showers.dtype.itemsize)
    rows = chunk * max(1, _BLOCK_BYTES // (row_bytes * chunk))
    rows = max(1, min(rows, _MOST_BYTES // row_bytes))
    while start < stop:
        end = min(stop, (start // rows + 1) * rows)
        yield start, _float32(showers[start:end].reshape(end - start, -1))
        start = end


def _rebatch(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Arrays [any, v] cut and joined to [size, v]; the last may be smaller."""
    pending: list[np.ndarray] = []
    missing = size
    for block in blocks:
        while len(block):
            head, block = block[:missing], block[missing:]
            pending.append(head)
            missing -= len(head)
            if not missing:
                yield pending[0] if len(pending) == 1 else np.concatenate(pending)
                pending, missing = [], size
    if pending:
        yield np.concatenate(pending)


def _dataset(
    path: pathlib.Path, file: h5py.File, key: str, read: set[pathlib.Path] | None = None
) -> h5py.Dataset:
    """The dataset of that name if it holds real numbers; ``read`` as in `storage.find`."""
    item = find(path, file, key, read)
    if item is None:
        if key == ENERGIES and PAR04_ENERGIES in file:
            raise CalojaxError(
                f"{path}: has {PAR04_ENERGIES!r} instead of {ENERGIES!r}, the layout of Geant4's "
                "Par04 example with axes (r, alpha, z); transpose its showers to (z, alpha, r) and "
                "flatten them."
            )
        found = ", ".join(sorted(map(repr, file))) or "nothing"
        raise CalojaxError(
            f"{path}: has no {key!r} but {found}; the CaloChallenge's layout needs {ENERGIES!r} "
            f"and {SHOWERS!r}."
        )
    if not isinstance(item, h5py.Dataset):
        raise CalojaxError(f"{path}: {key!r} is a group; it must be a dataset.")
    if item.dtype.kind not in "fiu":
        raise CalojaxError(f"{path}: {key!r} holds {item.dtype}; it must hold real numbers in MeV.")
    if not item.shape:
        raise CalojaxError(f"{path}: {key!r} is a single or no value; it must have n rows.")
    return item


def _stored_detector(path: pathlib.Path, file: h5py.File) -> Detector | None:
    """The geometry that an open file keeps, or None.

    Raises:
      CalojaxError: if it is damaged.
    """
    item = find(path, file, GEOMETRY)
    if item is None:
        return None
    try:
        if item.shape or item.dtype.kind != "S" or item.dtype.itemsize > _LARGEST_GEOMETRY:
            raise ValueError("it must be a text")
        return msgspec.json.decode(item[()], type=Detector)
    except (msgspec.MsgspecError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise CalojaxError(
            f"{path}: its {GEOMETRY!r} is damaged ({error}); write the file again."
        ) from None


def _detector(
    path: pathlib.Path, file: h5py.File, n_voxels: int, detector: Detector | None
) -> Detector:
    """The detector of an open file's showers, which have that many voxels."""
    stored = _stored_detector(path, file)
    # A user's own binning file may change thresholds or lengths, but not what the voxels are.
    same = detector and detector.binning == (stored or detector).binning
    if stored and not (same and detector not in DETECTORS.values()):
        if detector and detector != stored:
            warn(f"{path}: keeps its geometry {stored.name!r}, which replaces {detector.name!r}.")
        detector = stored
    guess = guess_detector(n_voxels)
    named = provenance_of(file).get("geometry")
    if detector is None and named is not None:
        detector = DETECTORS.get(str(named), guess)
        if detector is guess and guess and guess.name != named:
            warn(
                f"{path}: is of geometry {named!r}, which is not built in; its showers are taken "
                f"for those of {guess.name!r}, which have as many voxels. If they are not, add "
                "--geometry FILE.xml."
            )
    detector = detector or guess
    if detector is None:
        counts = ", ".join(f"{d.name} {d.n_voxels:,}" for d in DETECTORS.values())
        raise CalojaxError(
            f"{path}: no built-in geometry has {n_voxels:,} voxels ({counts}); add the binning "
            "XML of its geometry: --geometry FILE.xml."
        )
    if detector.n_voxels != n_voxels:
        advice = (
            f"the file looks like geometry {guess.name}"
            if guess
            else "no built-in geometry has as many, so add its binning XML: --geometry FILE.xml"
        )
        raise CalojaxError(
            f"{path}: its showers have {n_voxels:,} voxels, but geometry {detector.name} has "
            f"{detector.n_voxels:,}; {advice}."
        )
    return detector


def checked_shapes(
    name: str | os.PathLike, detector: Detector, energies: np.ndarray, showers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(energies [n], showers [n, v]) if they are real numbers of matching shapes."""
    energies, showers = np.asarray(energies), np.asarray(showers)
    for what, array in (("incident energies", energies), ("showers", showers)):
        if array.dtype.kind not in "fiu":
            raise CalojaxError(f"{name}: {what} are {array.dtype}; they must be real numbers.")
    if energies.ndim == 2 and energies.shape[1] == 1:
        energies = energies[:, 0]
    if energies.ndim != 1 or showers.shape != (len(energies), detector.n_voxels):
        raise CalojaxError(
            f"{name}: incident energies of shape {energies.shape} and showers of {showers.shape} "
            f"do not fit; geometry {detector.name} needs (n,) and (n, {detector.n_voxels})."
        )
    return energies, showers


def checked_energies(name: str | os.PathLike, energies: np.ndarray, first: int = 0) -> np.ndarray:
    """Incident energies [n] as float32 if all are finite and above 0."""
    energies = _float32(energies)
    good = np.isfinite(energies) & (energies > 0)
    if not good.all():
        where = int(np.argmin(good))
        raise CalojaxError(
            f"{name}: the incident energy of shower {first + where} is {energies[where]:g} MeV; it "
            "must be finite and above 0 (calojax convert --repair drops such showers)."
        )
    return energies


def checked_showers(name: str | os.PathLike, showers: np.ndarray, first: int) -> np.ndarray:
    """Showers [n, v] as float32 if all voxels are finite and not negative."""
    showers = _float32(showers)
    # Two reductions and no temporary array; a NaN anywhere makes the minimum NaN.
    if not showers.size or (showers.min() >= 0 and showers.max() < np.inf):
        return showers
    where, voxel = np.argwhere(~(np.isfinite(showers) & (showers >= 0)))[0]
    raise CalojaxError(
        f"{name}: voxel {voxel} of shower {first + where} is {showers[where, voxel]:g} MeV; voxels "
        "must be finite and not negative (calojax convert --repair mends or drops such showers)."
    )


def _float32(values: np.ndarray) -> np.ndarray:
    # What float32 cannot hold becomes infinite and is refused as such.
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(np.float32, copy=False)
