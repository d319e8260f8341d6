"""Reading of foreign HDF5 files, where HDF5's own errors become one sentence.

HDF5 follows links and virtual sources to any file, and reads what is missing there as zeros. So
only values that lie in the file itself are read.
"""

import abc
import contextlib
import functools
import importlib
import pathlib
import stat
import traceback
from collections.abc import Iterator

import h5py
import numpy as np

from calojax.errors import CalojaxError


class InputFile:
    """An HDF5 file that is open for reading."""

    def __init__(self, path: pathlib.Path, file: h5py.File):
        self.path = path
        self.file = file

    def names(self) -> str:
        """The names at the top of the file as a text, for messages."""
        return ", ".join(sorted(map(repr, self.file))) or "nothing"

    @functools.cached_property
    def attributes(self) -> dict[str, str | int | float]:
        """The texts and numbers among the file's attributes; invalid UTF-8 is read as Latin-1."""
        found = {}
        for key in self.file.attrs:
            try:
                value = self.file.attrs[key]
            except TypeError:  # A type that NumPy does not have.
                continue
            if isinstance(value, np.ndarray | np.generic) and value.size == 1:
                value = value.item()
            if isinstance(value, str | bytes):
                value = _text(value)
            if isinstance(value, str | int | float):
                found[_text(key)] = value
        return found

    def find(self, key: str) -> h5py.Group | h5py.Dataset | h5py.Datatype | None:
        """The object of that name at the top of the file, or None.

        Raises:
          CalojaxError: if it is a link, its values lie in other files, or a filter that they need
            is not installed.
        """
        what = f"{self.path}: {key!r}"
        link = self.file.get(key, getlink=True)
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise CalojaxError(f"{what} is a link; write the dataset itself into the file.")
        item = self.file[key]
        if isinstance(item, h5py.Dataset):
            plan = item.id.get_create_plist()
            if item.is_virtual or plan.get_external_count():
                raise CalojaxError(
                    f"{what} is a virtual dataset, or lies in raw files; name the files that hold "
                    "its values, or write them into this one."
                )
            _check_filters(what, plan)
        return item


class Rows(abc.ABC):
    """Showers of an open file, sliced like a dataset [n, v] in the CaloChallenge's order.

    ``chunks`` has the number of showers that are read together; dense files have about as many.
    """

    shape: tuple[int, int]
    dtype: np.dtype = np.dtype(np.float32)
    chunks: tuple[int, ...] | None = (64,)

    def __len__(self) -> int:
        return self.shape[0]

    @abc.abstractmethod
    def __getitem__(self, rows: slice) -> np.ndarray:
        """Showers [b, v] of a slice without a step; `CalojaxError` if the file is damaged."""


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[InputFile]:
    """An HDF5 file open for reading; HDF5's own errors become a `CalojaxError`."""
    check_regular(path)
    try:
        with path.open("rb"):  # The system's message about permissions is better than HDF5's.
            pass
        if not h5py.is_hdf5(path):
            raise CalojaxError(
                f"{path}: is not an HDF5 file, or is incomplete; check the path, or copy it again."
            )
        with h5py.File(path, "r") as file:
            yield InputFile(path, file)
    except PermissionError:
        raise CalojaxError(f"{path}: cannot be read; check its permissions.") from None
    except Exception as error:
        if not _of_hdf5(error):
            raise
        reason = " ".join(str(error).split())
        raise CalojaxError(
            f"{path}: is truncated or damaged, or still being written ({reason}); "
            "download or write it again."
        ) from None


def _of_hdf5(error: Exception) -> bool:
    """Whether HDF5 raised an exception: a damaged file makes it raise of almost any type."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return isinstance(error, OSError) or "h5py" in pathlib.Path(frame.f_code.co_filename).parts


def check_regular(path: pathlib.Path) -> None:
    """Raises `CalojaxError` for all but regular files: opening a pipe or device may never end."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise CalojaxError(f"{path}: there is no such file; check the path.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CalojaxError(f"{path}: cannot be read ({reason}); check the path.") from None
    if stat.S_ISDIR(mode):
        raise CalojaxError(f"{path}: is a folder; name the HDF5 files in it.")
    if not stat.S_ISREG(mode):
        raise CalojaxError(f"{path}: is a pipe or a device; give a regular file.")


def _text(value: str | bytes) -> str:
    raw = value if isinstance(value, bytes) else value.encode(errors="surrogateescape")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _check_filters(what: str, plan: h5py.h5p.PropDCID) -> None:
    filters = [plan.get_filter(i) for i in range(plan.get_nfilters())]
    if not all(h5py.h5z.filter_avail(code) for code, *_ in filters):
        with contextlib.suppress(ImportError):
            importlib.import_module("hdf5plugin")  # Registers its filters.
    for code, *_, name in filters:
        if not h5py.h5z.filter_avail(code):
            called = f" ({_text(name)})" if name else ""
            raise CalojaxError(
                f"{what} is compressed by filter {code}{called}, which is not installed; pip "
                "install hdf5plugin, or write the file with gzip."
            )
