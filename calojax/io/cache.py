"""Random access to shower files: converted once to a memory map.

HDF5 compresses showers in chunks, so one random shower costs as much as a hundred neighbours. In a
memory map of uncompressed float32 it costs one disk read, or none when the system has it in memory.
"""

import errno
import hashlib
import os
import pathlib
import shutil

import numpy as np

from calojax import files
from calojax.errors import CalojaxError
from calojax.io.reader import ShowerFile, ShowerFiles
from calojax.io.source import ShowerArrays, ShowerSource
from calojax.progress import progress_bar

_BLOCK_BYTES = 2**24
# Part of the key: raise it when the contents of the files change.
_VERSION = 3


def open_cached(
    source: ShowerFile | ShowerFiles, folder: str | os.PathLike | None = None
) -> ShowerArrays:
    """The same showers in a memory map, converted on the first call and reused after it.

    Its key covers the user, and paths, numbers, sizes and times of all files that the showers are
    read from, so that changed files are converted again. Of processes that convert the same files
    at the same time, the result of the last one stays; maps of the others remain valid.

    ``folder`` is that of all caches, by default `files.cache_folder`.

    Raises:
      CalojaxError: if the folder cannot be written or its disk is too small, a file changes during
        the conversion, or the source holds bad values.
    """
    folder = files.cache_folder() if folder is None else pathlib.Path(folder)
    name = _name(source)
    place = folder / name
    cached = _opened(place, source)
    if cached is not None:
        return cached
    size = 4 * len(source) * source.detector.n_voxels
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        with files.temporary(folder / "unfinished") as partial:
            if size > shutil.disk_usage(folder).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            _convert(source, partial)
            if _name(source) != name:
                raise CalojaxError(
                    f"{source.files[0]}: this file, or another one of the data, changed while it "
                    "was read; start again when it is complete."
                )
            os.replace(partial, place)
    except OSError as error:
        raise CalojaxError(
            f"{folder}: the cache needs {size / 1e9:.2f} GB, but cannot be written "
            f"({error.strerror}); free some space, or set CALOJAX_CACHE to another folder."
        ) from None
    cached = _opened(place, source)
    if cached is None:
        raise CalojaxError(f"{place}: the cache was removed while it was made; start again.")
    return cached


def _name(source: ShowerFile | ShowerFiles) -> str:
    """A name for these files as they are now: that of the first, and a hash."""
    words = [_VERSION, os.geteuid(), source.detector.name, source.detector.n_voxels]
    for path in source.files:
        path = path.absolute()
        try:
            status = path.stat()
        except OSError as error:
            raise CalojaxError(f"{path}: cannot be read ({error.strerror}).") from None
        words += [path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    digest = hashlib.sha256(os.fsencode("\0".join(map(str, words)))).hexdigest()
    return f"{source.files[0].stem}-{digest[:16]}.npy"


def _opened(place: pathlib.Path, source: ShowerSource) -> ShowerArrays | None:
    """The cache of a source; None if it is missing or damaged."""
    try:
        size = place.stat().st_size
        showers = np.load(place, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    whole = (
        isinstance(showers, np.memmap)
        and showers.dtype == np.float32
        and showers.shape == (len(source), source.detector.n_voxels)
        and size == showers.offset + showers.nbytes
    )
    if not whole:
        return None
    return ShowerArrays(source.detector, source.energies, showers, name=place, validated=True)


def _convert(source: ShowerSource, place: pathlib.Path) -> None:
    n_voxels = source.detector.n_voxels
    # Written, not mapped: on a full disk a write fails, but a map kills the process.
    with place.open("wb") as file, progress_bar("caching", len(source)) as bar:
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)),
            "fortran_order": False,
            "shape": (len(source), n_voxels),
        }
        np.lib.format.write_array_header_1_0(file, header)
        for _, showers in source.batches(max(1, _BLOCK_BYTES // (4 * n_voxels))):
            file.write(np.ascontiguousarray(showers).data)
            bar.update(len(showers))
