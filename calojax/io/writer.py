"""Writing shower files: batch by batch, compressed by several threads, complete or not at all."""

import contextlib
import errno
import os
import pathlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Protocol, Self

import h5py
import msgspec
import numpy as np

import calojax
from calojax import files
from calojax.errors import CalojaxError, printable, warn
from calojax.geometry import DETECTORS, Detector
from calojax.io import sparse
from calojax.io.disk import Disk
from calojax.io.packing import FILTERS, Column, Conveyor, chunk_conveyor
from calojax.io.reader import (
    ENERGIES,
    GEOMETRY,
    SHOWERS,
    checked_energies,
    checked_shapes,
    checked_showers,
)

LayoutName = Literal["dense", "sparse"]
"""``dense``: the CaloChallenge's; ``sparse``: hits only (`calojax.io.sparse`)."""

_CHUNK_BYTES = 2**20
# Bytes of an attribute. HDF5 2.0 writes files that it cannot read from 65,500 on.
_LONGEST = 65_000


def cores() -> int:
    """Number of cores that this process may use."""
    # Batch systems give fewer than the machine has; not every system can tell.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ShowerWriter:
    """Writes a shower file batch by batch; it appears under its name only when it is complete.

    A context manager. Until the end the file is called ``<name>.partial``, and is locked; an
    exception, ctrl-C included, removes that and leaves an older file of the same name as it was. A
    link stays a link, and the file behind it is written. Equal showers make equal bytes, however
    they are cut into batches and whatever the number of threads.

    Example::

      with ShowerWriter("showers.hdf5", detector, count=2000, provenance={"seed": 1}) as writer:
          for energies, showers in batches:
              writer.append(energies, showers)
    """

    def __init__(
        self,
        path: str | os.PathLike,
        detector: Detector,
        count: int,
        provenance: Mapping[str, str | int | float] | None = None,
        *,
        layout: LayoutName = "dense",
        threads: int | None = None,
    ):
        """Describes the file; nothing is opened yet.

        Args:
          path: the file to write.
          detector: the geometry of the showers.
          count: how many showers will be appended in all.
          provenance: what to write into the file's attributes beside geometry and, unless it is
            among them, version.
          layout: how showers are kept.
          threads: how many compress (default: one a core).

        Raises:
          CalojaxError: if count is not positive.
        """
        if count < 1:
            raise CalojaxError(f"{path}: cannot hold {count} showers; ask for at least 1.")
        self.path = pathlib.Path(path)
        self.detector = detector
        self.count = count
        self.written = 0
        self._layout = _LAYOUTS[layout]
        self._threads = cores() if threads is None else threads
        self._target = pathlib.Path(os.path.realpath(self.path))
        self._partial = self._target.with_name(self._target.name + ".partial")
        self._attributes = {
            "calojax_version": calojax.__version__,
            **(provenance or {}),
            "geometry": detector.name,
        }

    def __enter__(self) -> Self:
        files.check_output(self.path, force=True)
        with contextlib.ExitStack() as stack:
            try:
                self._disk = stack.enter_context(Disk(files.claimed(self._partial)))
            except OSError as error:
                raise files.refusal(self.path, error) from None
            stack.enter_context(files.unfinished(self._remove))
            self._file = stack.enter_context(h5py.File(self._disk, "w"))
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="calojax-writer")
            stack.callback(self._pool.shutdown, cancel_futures=True)
            self._create()
            self._stack = stack.pop_all()
        return self

    def _create(self) -> None:
        for name, value in sorted(self._attributes.items()):
            self._note(name, value)
        if self.detector not in DETECTORS.values():
            # A dataset, since an attribute has at most 64 KB.
            text = np.bytes_(msgspec.json.encode(self.detector))
            self._file.create_dataset(GEOMETRY, data=text, track_times=False)
        # Twice the threads: the next items wait when a thread is free, and memory stays bounded.
        limit = 2 * self._threads
        self._chunks = chunk_conveyor(self._pool, limit=limit)
        self._rows = self._layout(self._file, self._chunks, self.detector, self.count)
        self._blocks = Conveyor(self._pool, self._prepare, self._rows.extend, limit=limit)
        self._new_block()

    def _note(self, name: str, value: str | int | float) -> None:
        """Writes an attribute; one that HDF5 cannot hold is left out with a warning."""
        name = printable(name)
        # A text of fixed length; others lie in a heap, where HDF5 runs in circles if it is damaged.
        value = value.encode(errors="backslashreplace") if isinstance(value, str) else value
        try:
            if len(name.encode()) + len(value if isinstance(value, bytes) else b"") > _LONGEST:
                raise ValueError(f"more than {_LONGEST:,} bytes")
            self._file.attrs[name] = np.bytes_(value) if isinstance(value, bytes) else value
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            warn(
                f"{self.path}: the attribute {name[:80]!r} is left out, because HDF5 cannot hold "
                f"it ({error})."
            )

    def _new_block(self) -> None:
        rows = min(rows_of_a_chunk(self.detector), self.count)
        self._energies = np.empty(rows, np.float32)
        self._showers = np.empty((rows, self.detector.n_voxels), np.float32)
        self._filled = 0

    def append(self, energies: np.ndarray, showers: np.ndarray) -> None:
        """Adds incident energies [b] or [b, 1] and their showers [b, v], both in MeV.

        They are copied; voxels are checked by the threads, so that a bad one may be told by a later
        call or at the end.

        Raises:
          CalojaxError: if the shapes do not fit, a value is not finite, a voxel is negative, an
            incident energy not positive, there are more showers than announced, or the disk is
            full.
        """
        energies, showers = checked_shapes(self.path, self.detector, energies, showers)
        energies = checked_energies(self.path, energies, self.written)
        stop = self.written + len(showers)
        if stop > self.count:
            raise CalojaxError(
                f"{self.path}: was announced with {self.count:,} showers, but got {stop:,}."
            )
        # Blocks of a fixed size, so that the file does not show how the showers came.
        while len(energies):
            room = slice(self._filled, self._filled + len(energies))
            taken = len(self._energies[room])
            self._energies[room] = energies[:taken]
            with np.errstate(over="ignore"):  # What float32 cannot hold is refused as infinite.
                self._showers[room] = showers[:taken]
            energies, showers = energies[taken:], showers[taken:]
            self._filled += taken
            self.written += taken
            if self._filled == len(self._energies):
                self._hand_over()
        self._check_disk()

    def _hand_over(self) -> None:
        filled = self._filled
        self._blocks.put(self.written - filled, self._energies[:filled], self._showers[:filled])
        self._new_block()

    def _prepare(self, first: int, energies: np.ndarray, showers: np.ndarray) -> tuple[Any, ...]:
        """In a thread: what is left to do for a block of showers before it can be laid down."""
        return energies, self._layout.prepare(checked_showers(self.path, showers, first))

    def __exit__(self, kind, value, traceback) -> None:
        with self._stack:
            if kind is None:
                self._finish()
                self._file.close()
                self._commit()

    def _finish(self) -> None:
        if self._filled:
            self._hand_over()
        self._blocks.drain()
        self._rows.finish()
        self._chunks.drain()

    def _commit(self) -> None:
        if self.written != self.count:
            raise CalojaxError(
                f"{self.path}: was announced with {self.count:,} showers, but got "
                f"{self.written:,}; nothing was written."
            )
        self._disk.sync()
        self._check_disk()
        if not self._disk.still_is(self._partial):
            raise CalojaxError(
                f"{self.path}: another process writes the same file; give each its own name."
            )
        try:
            os.replace(self._partial, self._target)
        except OSError as error:
            raise files.refusal(self.path, error) from None

    def _check_disk(self) -> None:
        error = self._disk.error
        if error is None:
            return
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CalojaxError(
                f"{self.path}: the disk is full after {self.written:,} of {self.count:,} showers; "
                "free some space or write elsewhere."
            )
        raise files.refusal(self.path, error)

    def _remove(self) -> None:
        """Removes the partial file, if it is still there and still ours."""
        if self._disk.still_is(self._partial):
            self._partial.unlink()


def write_showers(
    path: str | os.PathLike,
    detector: Detector,
    energies: np.ndarray,
    batches: Iterable[np.ndarray],
    provenance: Mapping[str, str | int | float] | None = None,
    *,
    layout: LayoutName = "dense",
) -> None:
    """Writes showers [b, v] of all batches beside their incident energies [n], both in MeV.

    Raises:
      CalojaxError: as `ShowerWriter` does.
    """
    energies = np.asarray(energies)
    with ShowerWriter(path, detector, len(energies), provenance, layout=layout) as writer:
        for showers in batches:
            first = writer.written
            writer.append(energies[first : first + len(showers)], showers)


def rows_of_a_chunk(detector: Detector) -> int:
    """How many showers of a detector are compressed together: about a megabyte."""
    return max(1, _CHUNK_BYTES // (4 * detector.n_voxels))


# How showers lie in a file. `prepare` runs in a thread, all else in the thread that writes.


class _Rows(Protocol):
    """The datasets of a file that grow with the showers."""

    def __init__(self, file: h5py.File, chunks: Conveyor, detector: Detector, count: int): ...

    @staticmethod
    def prepare(showers: np.ndarray) -> Any:
        """What `extend` needs of checked showers [b, v]."""
        ...

    def extend(self, rows: tuple[np.ndarray, Any]) -> None:
        """Adds incident energies [b], and what `prepare` made of their showers."""
        ...

    def finish(self) -> None:
        """Hands over the last chunks."""
        ...


class _Dense:
    """The CaloChallenge's layout: every voxel of every shower."""

    def __init__(self, file: h5py.File, chunks: Conveyor, detector: Detector, count: int):
        n_voxels = detector.n_voxels
        rows = rows_of_a_chunk(detector)
        self._energies = _column(file, chunks, ENERGIES, np.float32, count, tail=(1,))
        self._showers = _column(
            file, chunks, SHOWERS, np.float32, count, tail=(n_voxels,), rows=rows
        )

    @staticmethod
    def prepare(showers: np.ndarray) -> np.ndarray:
        return showers

    def extend(self, rows: tuple[np.ndarray, np.ndarray]) -> None:
        energies, showers = rows
        self._energies.extend(energies[:, None])
        self._showers.extend(showers)

    def finish(self) -> None:
        self._energies.finish()
        self._showers.finish()


class _Sparse:
    """The layout of `calojax.io.sparse`: hits."""

    def __init__(self, file: h5py.File, chunks: Conveyor, detector: Detector, count: int):
        file.attrs[sparse.LAYOUT] = np.bytes_(sparse.SPARSE)
        file.attrs[sparse.N_VOXELS] = detector.n_voxels
        hits = count * detector.n_voxels
        number = sparse.voxel_type(detector.n_voxels)
        self._energies = _column(file, chunks, ENERGIES, np.float32, count, tail=(1,))
        self._offsets = _column(file, chunks, sparse.OFFSETS, np.uint64, count + 1)
        self._voxels = _column(file, chunks, sparse.VOXELS, number, hits, grows=True)
        self._hits = _column(file, chunks, sparse.HIT_ENERGIES, np.float32, hits, grows=True)
        self._last = np.uint64(0)
        self._offsets.extend(np.zeros(1, np.uint64))

    @staticmethod
    def prepare(showers: np.ndarray) -> sparse.Hits:
        return sparse.hits_of(showers)

    def extend(self, rows: tuple[np.ndarray, sparse.Hits]) -> None:
        energies, hits = rows
        offsets = self._last + np.cumsum(hits.counts, dtype=np.uint64)
        self._last = offsets[-1]
        self._energies.extend(energies[:, None])
        self._offsets.extend(offsets)
        self._voxels.extend(hits.voxels)
        self._hits.extend(hits.energies)

    def finish(self) -> None:
        for column in (self._energies, self._offsets, self._voxels, self._hits):
            column.finish()


_LAYOUTS: dict[LayoutName, type[_Rows]] = {"dense": _Dense, "sparse": _Sparse}


def _column(
    file: h5py.File,
    chunks: Conveyor,
    name: str,
    dtype: np.typing.DTypeLike,
    count: int,
    *,
    tail: tuple[int, ...] = (),
    rows: int = _CHUNK_BYTES // 4,
    grows: bool = False,
) -> Column:
    """A new dataset [count, *tail], or one that grows to at most that, in chunks of rows."""
    rows = min(rows, count)
    dataset = file.create_dataset(
        name,
        (0 if grows else count, *tail),
        dtype,
        chunks=(rows, *tail),
        maxshape=(None, *tail) if grows else None,
        # A time stamp would make equal showers unequal files.
        track_times=False,
        **FILTERS,
    )
    return Column(dataset, chunks)
