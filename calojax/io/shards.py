"""Many showers in a folder: numbered part files, and a manifest with the settings that made them.

The manifest holds no progress: a part file appears under its name when it is complete, so a part is
done if and only if its file exists. Any number of processes may therefore fill a folder, stop at
any moment and start again.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from calojax import files
from calojax.errors import CalojaxError
from calojax.io import hdf5

MANIFEST = "manifest.json"

Settings = Mapping[str, str | int | float | None]
"""Everything that the showers of a folder depend on, by name, with ``num`` and ``part_size``."""


class Part(NamedTuple):
    """A part of the showers: its number, from 0, and the numbers of its showers among all."""

    number: int
    showers: range

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"part-{self.number:05d}.hdf5"


def split(num: int, size: int) -> tuple[Part, ...]:
    """``num`` showers in parts of ``size``; the last may be smaller."""
    if size < 1:
        raise CalojaxError(f"--part-size must be at least 1, got {size}.")
    firsts = range(0, num, size)
    return tuple(Part(i, range(f, min(f + size, num))) for i, f in enumerate(firsts))


def share(parts: Sequence[Part], index: int, count: int) -> tuple[Part, ...]:
    """The parts that process ``index`` of ``count`` makes: those with number % count == index.

    They do not depend on which files exist, so processes need not agree on that.
    """
    return tuple(part for part in parts if part.number % count == index)


def missing(folder: pathlib.Path, parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts whose files do not exist."""
    return tuple(part for part in parts if not (folder / part.name).exists())


def begin(folder: pathlib.Path, settings: Settings) -> None:
    """Makes a folder with a manifest, or checks that an existing one has the same settings.

    Raises `CalojaxError` also if the folder has a damaged manifest, or part files without one.
    """
    files.make_folder(folder)
    if not (folder / MANIFEST).exists():
        if any(folder.glob("part-*.hdf5")):
            raise CalojaxError(
                f"{folder}: has part files but no {MANIFEST}; move them or take another folder."
            )
        with files.replacing(folder / MANIFEST, keep=True) as partial:
            partial.write_bytes(msgspec.json.encode({"settings": dict(settings)}))
    # Also after writing: another process may have been quicker.
    begun = _settings(folder / MANIFEST)
    for name in sorted(settings.keys() | begun.keys()):
        if begun.get(name) != settings.get(name):
            raise CalojaxError(
                f"{folder}: was begun with {name} {begun.get(name)!r}, but this command has "
                f"{settings.get(name)!r}; use the same settings, or take another folder."
            )


def files_of(path: str | os.PathLike) -> list[pathlib.Path]:
    """The files of a folder of parts, or else the path itself."""
    path = pathlib.Path(path)
    return paths(path) if os.path.exists(path / MANIFEST) else [path]


def paths(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files of all parts of a folder, in order; `CalojaxError` if a part is not done yet."""
    settings = _settings(folder / MANIFEST)
    wanted = -(-settings["num"] // settings["part_size"])
    found = sum(1 for _ in folder.glob("part-*.hdf5"))
    # Counted first: the list of all parts that a damaged manifest names may not fit into memory.
    parts = split(settings["num"], settings["part_size"]) if found >= wanted else ()
    absent = len(missing(folder, parts)) if parts else wanted - found
    if absent:
        raise CalojaxError(
            f"{folder}: {absent:,} of {wanted:,} parts are missing; make them with the command "
            "that the folder was begun with."
        )
    return [folder / part.name for part in parts]


def _settings(path: pathlib.Path) -> dict:
    if not os.path.lexists(path):
        raise CalojaxError(
            f"{path}: there is no such file; name a folder that calojax sample --part-size made."
        )
    hdf5.check_regular(path)
    try:
        settings = msgspec.json.decode(path.read_bytes())["settings"]
        sizes = settings["num"], settings["part_size"]
        if not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError("num and part_size must be positive whole numbers")
    except OSError as error:
        raise CalojaxError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, TypeError, KeyError, msgspec.MsgspecError, RecursionError) as error:
        raise CalojaxError(
            f"{path}: is damaged or not a manifest of calojax ({error}); take another folder."
        ) from None
    return settings
