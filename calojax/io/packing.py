"""HDF5 chunks compressed by several threads, and written in order by one.

HDF5 runs its filters in the thread that writes. Here each chunk passes through the same two,
shuffle and deflate, in a pool (zlib lets go of Python's lock) and is handed to HDF5 ready made. On
the disk are ordinary chunks under ordinary filters, which every HDF5 reads.
"""

import collections
import zlib
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import h5py
import numpy as np

# What HDF5 notes about the chunks. A reader takes any deflate stream, whatever the level says.
FILTERS = {"shuffle": True, "compression": "gzip", "compression_opts": 1}
# Showers are runs of zeros between floats whose lower bytes are noise. To look for runs only is 1.2
# to 1.6 times as fast as level 1, which looks for repeated strings, and files are 20 to 30 per cent
# smaller (benchmarks/writing.py).
_STRATEGY = zlib.Z_RLE


def packed(values: np.ndarray) -> bytes:
    """A chunk as HDF5 stores it under `FILTERS`.

    Shuffle brings the first bytes of all values together, then the second ones, and so on (HDF5
    File Format Specification 3.0, section IV.A.2.l).
    """
    values = np.ascontiguousarray(values)
    shuffled = values.view(np.uint8).reshape(-1, values.itemsize).T
    deflate = zlib.compressobj(1, strategy=_STRATEGY)
    return deflate.compress(np.ascontiguousarray(shuffled)) + deflate.flush()


class Conveyor:
    """Works on items in threads and delivers the results in the order of the items."""

    def __init__(
        self,
        pool: Executor,
        work: Callable[..., Any],
        deliver: Callable[[Any], None],
        *,
        limit: int,
    ):
        """Starts with nothing under way.

        Args:
          pool: the threads.
          work: what they do with an item.
          deliver: gets each result; called by the thread that calls `put`.
          limit: how many items are under way at most; bounds the memory.
        """
        self._pool = pool
        self._work = work
        self._deliver = deliver
        self._limit = limit
        self._waiting: collections.deque[Future] = collections.deque()

    def put(self, *item: Any) -> None:
        """Sets an item going; waits for the oldest one if too many are under way."""
        while self._waiting and (len(self._waiting) >= self._limit or self._waiting[0].done()):
            self._deliver_next()
        self._waiting.append(self._pool.submit(self._work, *item))

    def drain(self) -> None:
        """Waits until everything is delivered."""
        while self._waiting:
            self._deliver_next()

    def _deliver_next(self) -> None:
        self._deliver(self._waiting.popleft().result())


class Column:
    """A dataset that grows row by row, in chunks that a conveyor of `pack_chunk` compresses."""

    def __init__(self, dataset: h5py.Dataset, conveyor: Conveyor):
        """Writes to an empty dataset with `FILTERS`.

        Args:
          dataset: chunked along its first axis only; if it may grow, it starts with no rows.
          conveyor: from `chunk_conveyor`; columns of one file share one, so that their chunks lie
            on the disk in the order in which they were filled.
        """
        # What a dataset says of itself costs a call of HDF5 each time.
        self._dataset = dataset
        self._dtype = dataset.dtype
        self._grows = dataset.maxshape[0] is None
        self._tail = (0,) * (dataset.ndim - 1)
        self._conveyor = conveyor
        self._start = 0
        self._filled = 0
        self._chunk = np.empty(dataset.chunks, self._dtype)

    def extend(self, rows: np.ndarray) -> None:
        """Adds rows; they may not change afterwards."""
        size = len(self._chunk)
        while len(rows):
            head, rows = rows[: size - self._filled], rows[size - self._filled :]
            if len(head) == size:
                self._hand_over(np.asarray(head, self._dtype), size)
                continue
            self._chunk[self._filled : self._filled + len(head)] = head
            self._filled += len(head)
            if self._filled == size:
                self._hand_over(self._chunk, size)
                self._chunk = np.empty_like(self._chunk)
                self._filled = 0

    def finish(self) -> None:
        """Hands over what is left, in a last chunk that is filled up with zeros, as HDF5 does."""
        if self._filled:
            self._chunk[self._filled :] = 0
            self._hand_over(self._chunk, self._filled)
            self._filled = 0

    def write(self, start: int, rows: int, data: bytes) -> None:
        """Lays a packed chunk down, of which so many rows from ``start`` count."""
        if self._grows:
            # Never beyond the last row: HDF5 packs a chunk again that it must cut.
            self._dataset.resize(start + rows, axis=0)
        self._dataset.id.write_direct_chunk((start, *self._tail), data)

    def _hand_over(self, chunk: np.ndarray, rows: int) -> None:
        self._conveyor.put(self, self._start, rows, chunk)
        self._start += rows


def chunk_conveyor(pool: Executor, *, limit: int) -> Conveyor:
    """The conveyor of all columns of a file: compresses in ``pool``, writes in order."""
    return Conveyor(pool, _pack, _write, limit=limit)


def _pack(column: Column, start: int, rows: int, chunk: np.ndarray) -> tuple[Any, ...]:
    return column, start, rows, packed(chunk)


def _write(item: tuple[Any, ...]) -> None:
    column, *place_and_data = item
    column.write(*place_and_data)
