"""HDF5 files of other people: opened with care, and where the values of a dataset really lie.

HDF5 follows links, virtual sources and raw files to any place without a word, and reads what is
missing as zeros. Here all of them are looked at first. Other files are read only where they lie in
the folder of the file that names them, or if the environment variable ``CALOJAX_EXTERNAL_DATA`` is
``allow``.
"""

import contextlib
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

# https://github.com/HDFGroup/hdf5_plugins/blob/master/docs/RegisteredFilterPlugins.md
_FILTERS = {
    4: "szip",
    305: "LZO",
    307: "bzip2",
    32000: "LZF",
    32001: "Blosc",
    32004: "LZ4",
    32008: "bitshuffle",
    32013: "ZFP",
    32015: "Zstandard",
    32017: "SZ",
    32018: "FCIDECOMP",
    32019: "JPEG",
    32024: "SZ3",
    32026: "Blosc2",
    32028: "SPERR",
}
_MOST_LINKS = 16


def external_allowed() -> bool:
    """Whether the user wants data outside the folder of a file to be read."""
    return os.environ.get(EXTERNAL, "").lower() == "allow"


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[h5py.File]:
    """An HDF5 file open for reading; whatever HDF5 complains about becomes one sentence.

    Raises:
      CalojaxError: if the file is missing, unreadable, no HDF5, truncated or damaged.
    """
    check_regular(path)
    try:
        with path.open("rb"):  # Permissions, told by the system rather than by HDF5.
            pass
        if not h5py.is_hdf5(path):
            raise CalojaxError(
                f"{path}: is not an HDF5 file; check that it is the right one and came completely."
            )
        with h5py.File(path, "r") as file:
            yield file
    except PermissionError:
        raise CalojaxError(f"{path}: may not be read; check its permissions.") from None
    except Exception as error:
        if not _of_hdf5(error):
            raise
        reason = " ".join(str(error).split())
        raise CalojaxError(
            f"{path}: is truncated or damaged, or still being written ({reason}); "
            "download or write it again."
        ) from None


def check_regular(path: pathlib.Path) -> None:
    """Refuses what is not a regular file: to open a pipe or a device may never end.

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


def _of_hdf5(error: Exception) -> bool:
    """Whether an exception comes out of HDF5: a damaged file makes it raise of almost any type."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return isinstance(error, OSError) or "h5py" in pathlib.Path(frame.f_code.co_filename).parts


def provenance_of(file: h5py.File) -> dict[str, str | int | float]:
    """The texts and numbers among a file's attributes.

    Texts that are not UTF-8 are taken as Latin-1.
    """
    found = {}
    for key in file.attrs:
        try:
            value = file.attrs[key]
        except TypeError:  # A type that NumPy does not have.
            continue
        if isinstance(value, np.ndarray | np.generic) and value.size == 1:
            value = value.item()
        if isinstance(value, str | bytes):
            value = _text(value)
        if isinstance(value, str | int | float):
            found[_text(key)] = value
    return found


def other_attributes(file: h5py.File) -> tuple[str, ...]:
    """The names of the attributes that `provenance_of` leaves out."""
    return tuple(sorted({_text(key) for key in file.attrs} - provenance_of(file).keys()))


def _text(value: str | bytes) -> str:
    raw = value if isinstance(value, bytes) else value.encode(errors="surrogateescape")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def folders_of(path: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """The folders of a file: that of its name, and if it is a symbolic link that of its target."""
    return path.parent.resolve(), path.resolve().parent


def check_inside(what: str, target: pathlib.Path, folders: Collection[pathlib.Path]) -> None:
    """Refuses a file outside the folders, unless the user allows it.

    Args:
      what: the beginning of the sentence, such as "x.hdf5: 'showers'".
      target: the file.
      folders: resolved paths.

    Raises:
      CalojaxError: if it is outside, symbolic links followed.
    """
    if external_allowed() or any(target.resolve().is_relative_to(folder) for folder in folders):
        return
    raise CalojaxError(
        f"{what} is read from {target}, outside the file's folder; move it there, or set "
        f"{EXTERNAL}=allow if you trust the file."
    )


def find(
    path: pathlib.Path, file: h5py.File, key: str, read: set[pathlib.Path] | None = None
) -> h5py.Group | h5py.Dataset | h5py.Datatype | None:
    """What an open file has under a name, once all that its values need is known to be there.

    Args:
      path: the file.
      file: the same, open.
      key: the name.
      read: gets the paths of the other files that the values lie in.

    Returns:
      The object, or None if there is none of that name.

    Raises:
      CalojaxError: if a link leads nowhere, a virtual source or raw file is missing, too short or
        outside the file's folder (see `external_allowed`), or a filter is not installed.
    """
    search = _Search(folders_of(path), set() if read is None else read)
    return None if search.visit(path, file, key, 0) is None else file[key]


class _Search:
    """Visits whatever a dataset is made of."""

    def __init__(self, folders: Collection[pathlib.Path], read: set[pathlib.Path]):
        self._folders = folders
        self._read = read

    def visit(
        self, path: pathlib.Path, file: h5py.File, key: str, depth: int
    ) -> tuple[int, ...] | None:
        """The shape of a dataset; () of other objects; None if there is none of that name."""
        what = f"{path}: {key!r}"
        if depth > _MOST_LINKS:
            raise CalojaxError(f"{what} is made of too many virtual datasets of others.")
        item, names, links, target = file, _names(key), 0, ""
        while names:
            name = names.pop(0)
            link = item.get(name, getlink=True) if isinstance(item, h5py.Group) else None
            if link is None and links:
                raise CalojaxError(
                    f"{what} is a link to {target!r}, which is not in the file; write it again."
                )
            if link is None:
                return None
            if isinstance(link, h5py.ExternalLink):
                return self._linked(what, path, link, names, depth)
            if isinstance(link, h5py.SoftLink):
                links, target = links + 1, link.path
                if links > _MOST_LINKS:
                    raise CalojaxError(f"{what} is a link that leads back to itself.")
                item = file if target.startswith("/") else item
                names = _names(target) + names
            else:
                item = item[name]
        if not isinstance(item, h5py.Dataset):
            return ()
        plan = item.id.get_create_plist()
        _check_filters(what, plan)
        self._check_raw(what, item, plan)
        if item.is_virtual:
            self._check_sources(what, path, file, item, plan, depth)
        return item.shape or ()

    def _linked(
        self, what: str, path: pathlib.Path, link: h5py.ExternalLink, names: list[str], depth: int
    ) -> tuple[int, ...]:
        where = f"{what} is a link to {link.path!r} of the file {link.filename!r}"
        if not external_allowed():
            raise CalojaxError(
                f"{where}; links to other files are not followed: name that file, or set "
                f"{EXTERNAL}=allow if you trust this one."
            )
        other = _located(path, link.filename, "HDF5_EXT_PREFIX")
        if other is None:
            raise CalojaxError(f"{where}, which is not there; put it beside this file.")
        shape = self._visit_other(other, "/".join([link.path, *names]), depth)
        if shape is None:
            raise CalojaxError(f"{where}, which has nothing of that name; write this file again.")
        return shape

    def _visit_other(self, path: pathlib.Path, key: str, depth: int) -> tuple[int, ...] | None:
        self._read.add(path.resolve())
        with opened(path) as file:
            return self.visit(path, file, key, depth + 1)

    def _check_sources(
        self,
        what: str,
        path: pathlib.Path,
        file: h5py.File,
        item: h5py.Dataset,
        plan: h5py.h5p.PropDCID,
        depth: int,
    ) -> None:
        """The sources of a virtual dataset: where they are missing, HDF5 reads zeros."""
        taken = defaultdict(list)
        filled = 0
        for i in range(plan.get_virtual_count()):
            names = plan.get_virtual_filename(i), plan.get_virtual_dsetname(i)
            try:
                count = plan.get_virtual_vspace(i).get_select_npoints()
            except RuntimeError:  # An unlimited selection.
                raise CalojaxError(
                    f"{what} is a virtual dataset that grows with its sources; write it with "
                    "sources of fixed sizes."
                ) from None
            filled += count
            taken[names].append((plan.get_virtual_srcspace(i), count))
        if filled < item.size:
            raise CalojaxError(
                f"{what} is a virtual dataset with sources for {filled:,} of its {item.size:,} "
                "values, and the others would read as 0; write it again."
            )
        for (name, key), parts in taken.items():
            if name == ".":
                shape = self.visit(path, file, key, depth + 1)
            else:
                other = _located(path, name, "HDF5_VDS_PREFIX")
                if other is None:
                    raise CalojaxError(
                        f"{what} is a virtual dataset, and its source {name!r} is not there (its "
                        "showers would read as 0); put it beside this file, or write this again."
                    )
                check_inside(what, other, self._folders)
                shape = self._visit_other(other, key, depth)
            if shape is None or not all(_fits(*part, shape) for part in parts):
                raise CalojaxError(
                    f"{what} is a virtual dataset, and its source {name!r} has not the values in "
                    f"{key!r} that it takes; write this file again."
                )

    def _check_raw(self, what: str, item: h5py.Dataset, plan: h5py.h5p.PropDCID) -> None:
        """Values in raw files beside the HDF5 file: where these end early, HDF5 reads zeros."""
        there = 0
        for i in range(plan.get_external_count()):
            name, offset, size = plan.get_external(i)
            # HDF5 looks from the working folder.
            target = pathlib.Path(os.environ.get("HDF5_EXTFILE_PREFIX", ""), os.fsdecode(name))
            if not external_allowed():
                raise CalojaxError(
                    f"{what} is read from the raw file {str(target)!r}, which is not done; copy "
                    f"the file with h5repack, or set {EXTERNAL}=allow if you trust it."
                )
            check_regular(target)
            self._read.add(target.resolve())
            there += max(0, min(size, target.stat().st_size - offset))
        if plan.get_external_count() and there < item.size * item.dtype.itemsize:
            raise CalojaxError(
                f"{what} is read from raw files that are too short; copy them again."
            )


def _names(key: str) -> list[str]:
    return [name for name in key.split("/") if name not in ("", ".")]


def _located(path: pathlib.Path, name: str, variable: str) -> pathlib.Path | None:
    """The file that HDF5 finds under a name written in another file (H5Fint.c, H5F_prefix_open)."""
    given = pathlib.Path(name)
    first = [given] if given.is_absolute() else []
    rest = given.name if given.is_absolute() else name
    prefixes = [prefix for prefix in os.environ.get(variable, "").split(":") if prefix]
    folders = [*prefixes, path.absolute().parent, pathlib.Path(), path.resolve().parent]
    candidates = [*first, *(pathlib.Path(folder, rest) for folder in folders)]
    return next((candidate for candidate in candidates if os.path.exists(candidate)), None)


def _fits(space: h5py.h5s.SpaceID, count: int, shape: tuple[int, ...]) -> bool:
    """Whether a dataset of that shape has the ``count`` values of a selection."""
    if space.get_select_type() == h5py.h5s.SEL_ALL:
        return math.prod(shape) == count
    _, last = space.get_select_bounds()
    return len(last) == len(shape) and all(a < b for a, b in zip(last, shape, strict=True))


def _check_filters(what: str, plan: h5py.h5p.PropDCID) -> None:
    codes = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
    if not all(map(h5py.h5z.filter_avail, codes)):
        with contextlib.suppress(ImportError):
            importlib.import_module("hdf5plugin")  # Registers its filters.
    for code in codes:
        if not h5py.h5z.filter_avail(code):
            raise CalojaxError(
                f"{what} is compressed by filter {code} ({_FILTERS.get(code, 'unknown')}), which "
                "is not installed; pip install hdf5plugin, or write the file with gzip."
            )
