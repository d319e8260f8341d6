"""HDF5 chunks that several threads compress and one thread writes, in order.

HDF5 runs its filters in the thread that writes. Here each chunk passes through the same two,
shuffle and deflate, in a pool (zlib releases Python's lock) and is handed to HDF5 ready made. On
the disk are ordinary chunks under ordinary filters, which every HDF5 reads.
"""

import collections
import zlib
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import h5py
import numpy as np

from calojax.geometry import Detector

# What HDF5 notes about the chunks. A reader takes any deflate stream, whatever the level says.
FILTERS = {"shuffle": True, "compression": "gzip", "compression_opts": 1}
_CHUNK_BYTES = 2**20


def rows_of_a_chunk(detector: Detector) -> int:
    """How many showers of a detector are compressed together: about a megabyte."""
    return max(1, _CHUNK_BYTES // (4 * detector.n_voxels))


def packed(values: np.ndarray) -> bytes:
    """A chunk as HDF5 stores it under `FILTERS`.

    Shuffle brings the first bytes of all values together, then the second ones, and so on (HDF5
    File Format Specification 3.0, section IV.A.2.l).
    """
    values = np.ascontiguousarray(values)
    shuffled = values.view(np.uint8).reshape(-1, values.itemsize).T.tobytes()
    # Showers are runs of zeros between floats whose lower bytes are noise. To look for runs only is
    # 1.2 to 1.6 times as fast as level 1, which looks for repeated strings, and files are 20 to 30
    # per cent smaller (benchmarks/writing.py).
    deflate = zlib.compressobj(1, strategy=zlib.Z_RLE)
    return deflate.compress(shuffled) + deflate.flush()


class Queue:
    """Work done in threads, whose results one thread delivers in the order of the work."""

    def __init__(self, pool: Executor):
        self.columns: list[Column] = []
        self._pool = pool
        self._waiting: collections.deque[tuple[Future, Callable]] = collections.deque()

    def put(self, deliver: Callable[[Any], None], work: Callable[..., Any], *item: Any) -> None:
        """Starts ``work(*item)`` in a thread; `deliver` later gives its result to ``deliver``."""
        self._waiting.append((self._pool.submit(work, *item), deliver))

    def deliver(self, most: int = 0) -> None:
        """Delivers what is done, and waits for the oldest items until at most ``most`` are left.

        A delivery may put further items.
        """
        while self._waiting and (len(self._waiting) > most or self._waiting[0][0].done()):
            future, deliver = self._waiting.popleft()
            deliver(future.result())

    def finish(self) -> None:
        """Delivers everything, and what is left in the columns."""
        self.deliver()
        for column in self.columns:
            column.finish()
        self.deliver()


class Column:
    """A new dataset [count, *tail] that is written row by row, its chunks packed by a queue."""

    def __init__(
        self,
        queue: Queue,
        file: h5py.File,
        name: str,
        dtype: np.typing.DTypeLike,
        count: int,
        *,
        tail: tuple[int, ...] = (),
        rows: int | None = None,
        grows: bool = False,
    ):
        """Makes the dataset, with chunks of ``rows``, by default 2**18.

        One that ``grows`` starts with no rows, and ``count`` is the highest possible number.
        """
        rows = min(_CHUNK_BYTES // 4 if rows is None else rows, count)
        self._dataset = file.create_dataset(
            name,
            (0 if grows else count, *tail),
            dtype,
            chunks=(rows, *tail),
            maxshape=(None, *tail) if grows else None,
            # A time stamp would make equal showers unequal files.
            track_times=False,
            **FILTERS,
        )
        self._chunk = np.empty((rows, *tail), dtype)
        queue.columns.append(self)
        self._queue = queue
        self._grows = grows
        self._start = 0
        self._filled = 0

    def extend(self, rows: np.ndarray) -> None:
        """Adds rows; the caller may not change them afterwards."""
        size = len(self._chunk)
        while len(rows):
            head, rows = rows[: size - self._filled], rows[size - self._filled :]
            if len(head) == size:  # A whole chunk need not be copied.
                self._put(np.asarray(head, self._chunk.dtype), size)
                continue
            self._chunk[self._filled : self._filled + len(head)] = head
            self._filled += len(head)
            if self._filled == size:
                self.finish()

    def finish(self) -> None:
        """Hands over what is left, in a last chunk that is filled up with zeros, as HDF5 does."""
        if self._filled:
            self._chunk[self._filled :] = 0
            self._put(self._chunk, self._filled)
            self._chunk = np.empty_like(self._chunk)
            self._filled = 0

    def _put(self, chunk: np.ndarray, rows: int) -> None:
        start = self._start
        self._start += rows

        def write(data: bytes) -> None:
            if self._grows:
                # Never beyond the last row: HDF5 packs a chunk again that it must cut.
                self._dataset.resize(start + rows, axis=0)
            self._dataset.id.write_direct_chunk((start,) + (0,) * (chunk.ndim - 1), data)

        self._queue.put(write, packed, chunk)
