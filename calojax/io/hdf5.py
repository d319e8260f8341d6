"""HDF5 files of other people, opened with care.

HDF5 follows links, virtual sources and raw files to any place, and reads what is missing as zeros.
So `InputFile.find` checks where the values of a dataset lie before they are read. Other files are
read only if they lie in the folder of the file that names them, or if the environment variable
``CALOJAX_EXTERNAL_DATA`` is ``allow``.
"""

import contextlib
import functools
import importlib
import math
import os
import pathlib
import stat
import traceback
from collections import defaultdict
from collections.abc import Collection, Iterator

import h5py
import numpy as np

from calojax.errors import CalojaxError

EXTERNAL = "CALOJAX_EXTERNAL_DATA"
_MOST_LINKS = 16


def external_allowed() -> bool:
    """Whether the user allows data outside the folder of a file."""
    return os.environ.get(EXTERNAL, "").lower() == "allow"


class InputFile:
    """An HDF5 file that is open for reading.

    Attributes:
      path: the path of the file.
      file: the same file for h5py.
      sources: the other files in which values of the datasets found so far lie.
    """

    def __init__(self, path: pathlib.Path, file: h5py.File):
        self.path = path
        self.file = file
        self.sources: set[pathlib.Path] = set()
        # A symbolic link has two folders: its own, and that of its target.
        self._folders: Collection[pathlib.Path] = (path.parent.resolve(), path.resolve().parent)

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

    def other_attributes(self) -> tuple[str, ...]:
        """The names of the attributes that `attributes` leaves out."""
        return tuple(sorted({_text(key) for key in self.file.attrs} - self.attributes.keys()))

    def find(self, key: str) -> h5py.Group | h5py.Dataset | h5py.Datatype | None:
        """The object of that name, or None, once all that its values need is known to be there.

        Raises:
          CalojaxError: if a link leads nowhere, a virtual source or raw file is missing, too short
            or outside the file's folder (see `external_allowed`), or a filter is not installed.
        """
        return None if self._visit(key) is None else self.file[key]

    def _visit(self, key: str, depth: int = 0) -> tuple[int, ...] | None:
        """The shape of a dataset; () for other objects; None if there is no such name."""
        what = f"{self.path}: {key!r}"
        if depth > _MOST_LINKS:
            raise CalojaxError(
                f"{what} is nested in more than {_MOST_LINKS} virtual datasets; write it again."
            )
        item: h5py.Group | h5py.Dataset | h5py.Datatype = self.file
        names, links, target = _names(key), 0, ""
        while names:
            name = names.pop(0)
            link = item.get(name, getlink=True) if isinstance(item, h5py.Group) else None
            if not isinstance(item, h5py.Group) or link is None:
                if not links:
                    return None
                raise CalojaxError(
                    f"{what} is a link to {target!r}, which is not in the file; write it again."
                )
            if isinstance(link, h5py.ExternalLink):
                return self._linked(what, link, names, depth)
            if isinstance(link, h5py.SoftLink):
                links, target = links + 1, link.path
                if links > _MOST_LINKS:
                    raise CalojaxError(
                        f"{what} is a link that leads back to itself; write it again."
                    )
                item = self.file if target.startswith("/") else item
                names = _names(target) + names
            else:
                item = item[name]
        if not isinstance(item, h5py.Dataset):
            return ()
        plan = item.id.get_create_plist()
        _check_filters(what, plan)
        self._check_raw(what, item, plan)
        if item.is_virtual:
            self._check_virtual(what, item, plan, depth)
        return item.shape or ()

    def _visit_other(self, path: pathlib.Path, key: str, depth: int) -> tuple[int, ...] | None:
        self.sources.add(path.resolve())
        with opened(path) as other:
            other.sources, other._folders = self.sources, self._folders
            return other._visit(key, depth + 1)

    def _linked(
        self, what: str, link: h5py.ExternalLink, names: list[str], depth: int
    ) -> tuple[int, ...]:
        where = f"{what} is a link to {link.path!r} of the file {link.filename!r}"
        if not external_allowed():
            raise CalojaxError(
                f"{where}; links to other files are not followed: name that file, or set "
                f"{EXTERNAL}=allow if you trust this one."
            )
        other = self._located(link.filename, "HDF5_EXT_PREFIX")
        if other is None:
            raise CalojaxError(f"{where}, which is missing; put it beside this file.")
        shape = self._visit_other(other, "/".join([link.path, *names]), depth)
        if shape is None:
            raise CalojaxError(f"{where}, which has nothing of that name; write this file again.")
        return shape

    def _check_virtual(
        self, what: str, item: h5py.Dataset, plan: h5py.h5p.PropDCID, depth: int
    ) -> None:
        """Refuses a virtual dataset that HDF5 would fill up with zeros."""
        taken = defaultdict(list)
        filled = 0
        for i in range(plan.get_virtual_count()):
            try:
                count = plan.get_virtual_vspace(i).get_select_npoints()
            except RuntimeError:  # An unlimited selection.
                raise CalojaxError(
                    f"{what} is a virtual dataset that grows with its sources; write it with "
                    "sources of fixed sizes."
                ) from None
            filled += count
            source = plan.get_virtual_filename(i), plan.get_virtual_dsetname(i)
            taken[source].append((plan.get_virtual_srcspace(i), count))
        if filled < math.prod(item.shape or ()):
            raise CalojaxError(
                f"{what} is a virtual dataset with sources for {filled:,} of its {item.size:,} "
                "values, and the others would read as 0; write it again."
            )
        for (name, key), parts in taken.items():
            if name == ".":
                shape = self._visit(key, depth + 1)
            else:
                other = self._located(name, "HDF5_VDS_PREFIX")
                if other is None:
                    raise CalojaxError(
                        f"{what} is a virtual dataset, and its source {name!r} is missing (its "
                        "showers would read as 0); put it beside this file, or write this again."
                    )
                check_inside(what, other, self._folders)
                shape = self._visit_other(other, key, depth)
            if shape is None or not all(_fits(space, count, shape) for space, count in parts):
                raise CalojaxError(
                    f"{what} is a virtual dataset, and {key!r} of its source {name!r} lacks values "
                    "that it takes; write this file again."
                )

    def _check_raw(self, what: str, item: h5py.Dataset, plan: h5py.h5p.PropDCID) -> None:
        """Refuses raw files that end early: HDF5 would go on with zeros."""
        there = 0
        for i in range(plan.get_external_count()):
            name, offset, size = plan.get_external(i)
            # HDF5 looks from the working folder.
            target = pathlib.Path(os.environ.get("HDF5_EXTFILE_PREFIX", ""), os.fsdecode(name))
            if not external_allowed():
                raise CalojaxError(
                    f"{what} lies in the raw file {str(target)!r}, and raw files are not read; "
                    f"copy this file with h5repack, or set {EXTERNAL}=allow if you trust it."
                )
            check_regular(target)
            self.sources.add(target.resolve())
            there += max(0, min(size, target.stat().st_size - offset))
        needed = math.prod(item.shape or ()) * item.dtype.itemsize
        if plan.get_external_count() and there < needed:
            raise CalojaxError(f"{what} lies in raw files that are too short; copy them again.")

    def _located(self, name: str, variable: str) -> pathlib.Path | None:
        """The file that HDF5 opens for a name in this file (H5Fint.c, H5F_prefix_open)."""
        given = pathlib.Path(name)
        first = [given] if given.is_absolute() else []
        rest = given.name if given.is_absolute() else name
        prefixes = filter(None, os.environ.get(variable, "").split(":"))
        folders = [*prefixes, self.path.absolute().parent, "", self.path.resolve().parent]
        candidates = [*first, *(pathlib.Path(folder, rest) for folder in folders)]
        return next(filter(os.path.exists, candidates), None)


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[InputFile]:
    """An HDF5 file open for reading; HDF5's own errors become one sentence.

    Raises:
      CalojaxError: if the file is missing, unreadable, no HDF5, truncated or damaged.
    """
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
    """Refuses all but regular files: opening a pipe or a device may never end.

    Raises:
      CalojaxError: if the path is missing, a folder, a pipe, a device or a socket.
    """
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


def check_inside(what: str, target: pathlib.Path, folders: Collection[pathlib.Path]) -> None:
    """Refuses a file outside the folders, unless the user allows it.

    Args:
      what: the beginning of the message, such as "x.hdf5: 'showers'".
      target: the file; symbolic links are followed.
      folders: resolved paths.

    Raises:
      CalojaxError: if the file is outside.
    """
    if external_allowed() or any(target.resolve().is_relative_to(folder) for folder in folders):
        return
    raise CalojaxError(
        f"{what} is read from {target}, outside the file's folder; move it there, or set "
        f"{EXTERNAL}=allow if you trust the file."
    )


def _text(value: str | bytes) -> str:
    raw = value if isinstance(value, bytes) else value.encode(errors="surrogateescape")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _names(key: str) -> list[str]:
    return [name for name in key.split("/") if name not in ("", ".")]


def _fits(space: h5py.h5s.SpaceID, count: int, shape: tuple[int, ...]) -> bool:
    """Whether a dataset of that shape has the ``count`` values of a selection."""
    if space.get_select_type() == h5py.h5s.SEL_ALL:
        return math.prod(shape) == count
    _, last = space.get_select_bounds()
    return len(last) == len(shape) and all(a < b for a, b in zip(last, shape, strict=True))


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
