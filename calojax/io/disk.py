"""The disk under a file that HDF5 writes: it never refuses, and remembers what went wrong."""

import contextlib
import io
import os
import pathlib
from collections.abc import Iterator
from typing import BinaryIO


class Disk(io.RawIOBase):
    """A file that HDF5 writes to and that never refuses; the first refusal is kept in `error`.

    HDF5 cannot be closed on a full disk: `close` raises, and the interpreter crashes when it later
    tries again. So HDF5 is told that all is well, the writer asks for `error` after every batch,
    and the file, useless by then, is removed.

    Attributes:
      error: the first refusal of the system, None while there is none.
    """

    def __init__(self, raw: BinaryIO):
        """Takes over a new, empty file without a buffer."""
        self._raw = raw
        self.error: OSError | None = None

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def readinto(self, buffer: memoryview) -> int:
        return self._raw.readinto(buffer)

    def truncate(self, size: int | None = None) -> int:
        with self._kept():
            self._raw.truncate(size)
        return size or 0

    def write(self, data: memoryview) -> int:
        rest = memoryview(data)
        with self._kept():
            while len(rest):
                rest = rest[self._raw.write(rest) :]
        return len(data)

    def sync(self) -> None:
        """Waits until all is on the disk, so that a rename never overtakes the contents."""
        with self._kept():
            os.fsync(self._raw.fileno())

    def still_is(self, path: pathlib.Path) -> bool:
        """Whether ``path`` is this file, not one that another process put there."""
        try:
            return os.path.samestat(path.stat(), os.fstat(self._raw.fileno()))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = self.error or error
