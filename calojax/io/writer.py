"""Writing shower files: batch by batch, compressed by several threads, complete or not at all."""

import contextlib
import io
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import h5py
import numpy as np

import calojax
from calojax import files
from calojax.errors import CalojaxError, printable, warn
from calojax.geometry import Detector
from calojax.io.chunks import Queue, rows_of_a_chunk
from calojax.io.layouts import LAYOUTS, LayoutName
from calojax.io.source import checked_energies, checked_shapes, checked_showers
from calojax.io.sparse import Hits, hits_of, showers_of
from calojax.io.stored_geometry import store_detector

# Bytes of an attribute. HDF5 2.0 writes files that it cannot read from 65,500 on.
_LONGEST = 65_000


def cores() -> int:
    """Number of cores that this process may use."""
    # Batch systems give fewer than the machine has; not every system can tell.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ShowerWriter:
    """Writes a shower file batch by batch; it appears under its name only when it is complete.

    A context manager. Until the end the file has a temporary name; an exception, ctrl-C included,
    removes it and leaves an older file of the same name as it was. If the path is a symbolic link,
    the file that it points to is written. Equal showers make equal bytes, however they are cut into
    batches and whatever the number of threads.

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
          path: file to write.
          detector: geometry of the showers.
          count: number of showers that will be appended in all, at least 1.
          provenance: attributes beside ``geometry`` and a default ``calojax_version``.
          layout: layout of the file.
          threads: number of threads that compress; by default one for each core.
        """
        if count < 1:
            raise CalojaxError(f"{path}: number of showers must be at least 1, got {count}.")
        self.path = pathlib.Path(path)
        self.detector = detector
        self.count = count
        self.written = 0
        self._layout = LAYOUTS[layout]
        self._threads = cores() if threads is None else threads
        self._target = pathlib.Path(os.path.realpath(self.path))
        self._attributes = {
            "calojax_version": calojax.__version__,
            **(provenance or {}),
            "geometry": detector.name,
        }

    def __enter__(self) -> Self:
        files.check_output(self.path, force=True)
        with contextlib.ExitStack() as stack:
            try:
                self._partial = stack.enter_context(files.temporary(self._target))
                self._disk = stack.enter_context(Disk(self._partial, "r+"))
            except OSError as error:
                raise files.refusal(self.path, error) from None
            self._file = stack.enter_context(h5py.File(self._disk, "w"))
            pool = ThreadPoolExecutor(self._threads, thread_name_prefix="calojax-writer")
            stack.callback(pool.shutdown, cancel_futures=True)
            self._queue = Queue(pool)
            self._create()
            self._stack = stack.pop_all()
        return self

    def _create(self) -> None:
        for name, value in sorted(self._attributes.items()):
            self._note(name, value)
        store_detector(self._file, self.detector)
        self._rows = self._layout.writer(self._file, self._queue, self.detector, self.count)
        self._new_block()

    def _note(self, name: str, value: str | int | float) -> None:
        """Writes an attribute; one that HDF5 cannot hold is left out with a warning."""
        name = printable(name)
        # A text of fixed length; others lie in a heap, where HDF5 runs in circles if it is damaged.
        text = value.encode(errors="backslashreplace") if isinstance(value, str) else b""
        try:
            if len(name.encode()) + len(text) > _LONGEST:
                raise ValueError(f"more than {_LONGEST:,} bytes")
            self._file.attrs[name] = np.bytes_(text) if isinstance(value, str) else value
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            warn(
                f"{self.path}: the attribute {name[:80]!r} is left out, because HDF5 cannot hold "
                f"it ({error})."
            )

    def _new_block(self) -> None:
        rows = min(rows_of_a_chunk(self.detector), self.count)
        self._energies = np.empty(rows, np.float32)
        # An array, or the hits of a whole block.
        self._showers: Any = np.empty((rows, self.detector.n_voxels), np.float32)
        self._filled = 0

    def append(self, energies: np.ndarray, showers: np.ndarray | Hits) -> None:
        """Adds incident energies [b] or [b, 1] and their showers [b, v], both in MeV.

        Arrays are copied. Threads check the voxels, so a later call, or the end, may report a bad
        one. `calojax.io.sparse.Hits` of showers are neither copied nor checked.

        Raises:
          CalojaxError: if the shapes do not fit, a value is not finite, a voxel is negative, an
            incident energy is not positive, there are more showers than announced, or the disk is
            full.
        """
        if not isinstance(showers, Hits):
            energies, showers = checked_shapes(self.path, self.detector, energies, showers)
        energies = checked_energies(self.path, energies, self.written)
        stop = self.written + len(showers)
        if stop > self.count:
            raise CalojaxError(
                f"{self.path}: was announced with {self.count:,} showers, but got {stop:,}."
            )
        # Blocks of a fixed size, so that the file does not depend on the sizes of batches.
        while len(energies):
            room = slice(self._filled, self._filled + len(energies))
            taken = len(self._energies[room])
            self._energies[room] = energies[:taken]
            some = showers[:taken]
            if isinstance(some, Hits) and taken < len(self._energies):
                some = showers_of(some, self.detector.n_voxels)
            if isinstance(some, Hits):
                self._showers = some
            else:
                with np.errstate(over="ignore"):  # What float32 cannot hold is refused as infinite.
                    self._showers[room] = some
            energies, showers = energies[taken:], showers[taken:]
            self._filled += taken
            self.written += taken
            if self._filled == len(self._energies):
                self._hand_over()
        self._check_disk()

    def _hand_over(self) -> None:
        energies, showers = self._energies[: self._filled], self._showers[: self._filled]
        first = self.written - self._filled

        def prepare() -> Any:
            if isinstance(showers, Hits):
                return showers if self._layout.hits else showers_of(showers, self.detector.n_voxels)
            checked = checked_showers(self.path, showers, first)
            return hits_of(checked) if self._layout.hits else checked

        self._queue.put(lambda prepared: self._rows.extend(energies, prepared), prepare)
        # Twice the threads: the next items wait when a thread is free, and memory stays bounded.
        self._queue.deliver(2 * self._threads)
        self._new_block()

    def __exit__(self, kind, value, traceback) -> None:
        with self._stack:
            if kind is None:
                self._finish()
                self._file.close()
                self._commit()

    def _finish(self) -> None:
        if self._filled:
            self._hand_over()
        self._queue.finish()

    def _commit(self) -> None:
        if self.written != self.count:
            raise CalojaxError(
                f"{self.path}: was announced with {self.count:,} showers, but got "
                f"{self.written:,}; append all of them, since nothing was written."
            )
        with self._disk.kept():
            os.fsync(self._disk.fileno())  # So that the rename never overtakes the contents.
        self._check_disk()
        try:
            os.replace(self._partial, self._target)
        except OSError as error:
            raise files.refusal(self.path, error) from None

    def _check_disk(self) -> None:
        if self._disk.error:
            raise files.refusal(self.path, self._disk.error)


def write_showers(
    path: str | os.PathLike,
    detector: Detector,
    energies: np.ndarray,
    batches: Iterable[np.ndarray],
    provenance: Mapping[str, str | int | float] | None = None,
    *,
    layout: LayoutName = "dense",
) -> None:
    """Writes the showers [b, v] of all batches and their incident energies [n], both in MeV.

    Arguments and errors are those of `ShowerWriter`.
    """
    energies = np.asarray(energies)
    with ShowerWriter(path, detector, len(energies), provenance, layout=layout) as writer:
        for showers in batches:
            first = writer.written
            writer.append(energies[first : first + len(showers)], showers)


class Disk(io.FileIO):
    """A file that HDF5 writes to and that never fails; the first failure is kept in `error`.

    HDF5 cannot be closed on a full disk: `close` raises, and the interpreter crashes when it later
    tries again. So HDF5 is told that all is well, the writer looks at `error` after every batch,
    and the file, useless by then, is removed.
    """

    error: OSError | None = None

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keeps an error of the system instead of raising it."""
        try:
            yield
        except OSError as error:
            self.error = self.error or error

    def write(self, data) -> int:
        rest = memoryview(data)
        with self.kept():
            while len(rest):
                rest = rest[os.write(self.fileno(), rest) :]
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        with self.kept():
            return super().truncate(size)
        return size or 0
