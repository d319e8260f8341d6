"""Random access to shower files: converted once to a memory map.

HDF5 compresses showers in chunks, so that one random shower costs as much as a hundred. A memory
map of uncompressed float32 costs one disk read, or none when the system has it in memory.
"""

import errno
import functools
import hashlib
import os
import pathlib
import shutil
import stat
import time
import uuid
from collections.abc import Sequence

import numpy as np

from calojax import files
from calojax.errors import CalojaxError
from calojax.io.reader import ShowerArrays, ShowerSource
from calojax.progress import progress_bar

_SHOWERS = "showers.npy"
_ENERGIES = "energies.npy"
_UNFINISHED = ".unfinished-"
_ABANDONED_AFTER = 24 * 3600  # seconds without a change
_BLOCK_BYTES = 2**24
# Part of the key: raise it when the contents of the folders change.
_VERSION = 2


def default_folder() -> pathlib.Path:
    """Where caches are kept: the environment variable CALOJAX_CACHE, or ~/.cache/calojax.

    Raises:
      CalojaxError: if the user has no home folder.
    """
    folder = os.environ.get("CALOJAX_CACHE") or "~/.cache/calojax"
    try:
        return pathlib.Path(folder).expanduser()
    except RuntimeError:
        raise CalojaxError(
            f"{folder}: the home folder is not known; set CALOJAX_CACHE to a folder."
        ) from None


def open_cached(
    source: ShowerSource,
    paths: str | os.PathLike | Sequence[str | os.PathLike],
    folder: str | os.PathLike | None = None,
) -> ShowerArrays:
    """The same showers in a memory map, converted on the first call and reused after it.

    The cache is a folder that is complete as soon as it has its name. Its key covers the user, and
    paths, numbers, sizes and times of all files that the showers are read from, so that a file that
    changed is converted again, and nobody takes another user's copy. Processes that convert the
    same files at once do so side by side; the first one's result stays.

    Args:
      source: the showers.
      paths: the files that they come from.
      folder: where caches are kept; `default_folder` if None.

    Raises:
      CalojaxError: if the folder cannot be written or its disk is too small, a file changes
        meanwhile, or the source holds bad values.
    """
    paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    folder = default_folder() if folder is None else pathlib.Path(folder)
    place = folder / _name(source, paths)
    cached = _opened(place, source)
    if cached is not None:
        return cached
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        _sweep(folder)
        _check_room(folder, source)
        unfinished = folder / f"{_UNFINISHED}{uuid.uuid4().hex}"
        with files.unfinished(functools.partial(shutil.rmtree, unfinished, ignore_errors=True)):
            unfinished.mkdir(mode=0o700)
            _convert(source, unfinished)
            if _name(source, paths) != place.name:
                raise CalojaxError(
                    f"{paths[0]}: this file, or one beside it, changed while it was read; start "
                    "again when it is complete."
                )
            _settle(unfinished, place, source)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CalojaxError(_no_room(folder, source)) from None
        raise CalojaxError(
            f"{folder}: the cache cannot be written ({error.strerror}); set CALOJAX_CACHE to a "
            "folder that you may write to."
        ) from None
    cached = _opened(place, source, made=True)
    if cached is None:
        raise CalojaxError(f"{place}: the cache was removed while it was made; start again.")
    return cached


def _name(source: ShowerSource, paths: Sequence[str | os.PathLike]) -> str:
    """A name for these files as they are now: that of the first, and a hash."""
    words = [_VERSION, os.geteuid(), source.detector.name, source.detector.n_voxels]
    # Those that the source knows are more: parts of a folder, sources of virtual datasets.
    read = [*paths, *getattr(source, "files", ())]
    for path in dict.fromkeys(pathlib.Path(path).absolute() for path in read):
        try:
            status = path.stat()
        except OSError as error:
            raise CalojaxError(f"{path}: cannot be read ({error.strerror}).") from None
        if not stat.S_ISDIR(status.st_mode):
            words += [path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    digest = hashlib.sha256(os.fsencode("\0".join(map(str, words)))).hexdigest()
    return f"{pathlib.Path(paths[0]).stem}-{digest[:16]}"


def _opened(
    place: pathlib.Path, source: ShowerSource, *, made: bool = False
) -> ShowerArrays | None:
    """The cache in that folder, or None if there is none, or it is damaged or not the user's.

    Args:
      place: the folder.
      source: the showers that it should have.
      made: whether this process has just made it. Some file systems do not know owners.
    """
    try:
        kept = [item.stat() for item in (place, place / _ENERGIES, place / _SHOWERS)]
        foreign = kept[0].st_mode & 0o022 or any(item.st_uid != os.geteuid() for item in kept)
        if foreign and not made:
            return None
        energies = np.load(place / _ENERGIES)
        showers = np.load(place / _SHOWERS, mmap_mode="r")
        size = (place / _SHOWERS).stat().st_size
    except (OSError, ValueError, EOFError):
        return None
    whole = (
        isinstance(showers, np.memmap)
        and showers.dtype == np.float32
        and showers.shape == (len(source), source.detector.n_voxels)
        and size == showers.offset + showers.nbytes
        and np.array_equal(energies, source.energies)
    )
    if not whole:
        return None
    return ShowerArrays(source.detector, source.energies, showers, name=place, validated=True)


def _convert(source: ShowerSource, place: pathlib.Path) -> None:
    n_voxels = source.detector.n_voxels
    np.save(place / _ENERGIES, source.energies)
    # Written, not mapped: on a full disk a write fails, but a map kills the process.
    with (
        (place / _SHOWERS).open("wb") as file,
        progress_bar("caching", len(source)) as bar,
    ):
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)),
            "fortran_order": False,
            "shape": (len(source), n_voxels),
        }
        np.lib.format.write_array_header_1_0(file, header)
        for _, showers in source.batches(max(1, _BLOCK_BYTES // (4 * n_voxels))):
            file.write(np.ascontiguousarray(showers).data)
            bar.update(len(showers))


def _settle(unfinished: pathlib.Path, place: pathlib.Path, source: ShowerSource) -> None:
    """Gives the finished cache its name, unless another process was first."""
    if _opened(place, source) is not None:
        return
    if place.exists():  # A damaged one.
        shutil.rmtree(place, ignore_errors=True)
    try:
        unfinished.rename(place)
    except OSError:
        if _opened(place, source) is None:
            raise


def _sweep(folder: pathlib.Path) -> None:
    """Removes what conversions that were killed have left."""
    for left in folder.glob(f"{_UNFINISHED}*"):
        times = [item.stat().st_mtime for item in (left, *left.glob("*")) if item.exists()]
        if times and time.time() - max(times) > _ABANDONED_AFTER:
            shutil.rmtree(left, ignore_errors=True)


def _check_room(folder: pathlib.Path, source: ShowerSource) -> None:
    if _bytes(source) > shutil.disk_usage(folder).free:
        raise CalojaxError(_no_room(folder, source))


def _no_room(folder: pathlib.Path, source: ShowerSource) -> str:
    return (
        f"{folder}: the cache needs {_bytes(source) / 1e9:.2f} GB and the disk has not as much; "
        "free some space, or set CALOJAX_CACHE to another folder."
    )


def _bytes(source: ShowerSource) -> int:
    return 4 * len(source) * (source.detector.n_voxels + 1)
