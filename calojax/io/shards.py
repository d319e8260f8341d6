"""Many showers in a folder: numbered part files, and a manifest that lists them.

The manifest holds the plan and the settings, not the progress: a part file appears under its name
when it is complete, so a part is done if and only if its file exists. Any number of processes may
therefore fill a folder, stop at any moment and start again.
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
_MOST_BYTES = 2**26  # A million parts need about as much.

Settings = Mapping[str, str | int | float | None]
"""Everything that the showers of a folder depend on, by name."""


class Part(NamedTuple):
    """A part of the showers.

    Attributes:
      number: number of the part, from 0.
      showers: numbers of its showers among all.
    """

    number: int
    showers: range

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"part-{self.number:05d}.hdf5"


def split(num: int, size: int) -> tuple[Part, ...]:
    """``num`` showers in parts of ``size``; the last may be smaller.

    Raises:
      CalojaxError: if the size is not positive.
    """
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


def begin(folder: pathlib.Path, settings: Settings, parts: Sequence[Part]) -> None:
    """Makes a folder with a manifest, or checks that an existing one has the same settings.

    Raises:
      CalojaxError: if the folder cannot be written, has a manifest with other settings or a damaged
        one, or part files without one.
    """
    files.make_folder(folder)
    if not (folder / MANIFEST).exists():
        if len(missing(folder, parts)) < len(parts):
            raise CalojaxError(
                f"{folder}: has part files but no {MANIFEST}; move them or take another folder."
            )
        with files.replacing(folder / MANIFEST, keep=True) as partial:
            partial.write_bytes(_text(settings, parts))
    # Also after writing: another process may have been quicker.
    begun = _read(folder / MANIFEST).settings
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
    """The files of all parts of a folder, in order.

    Raises:
      CalojaxError: if the manifest is missing or damaged, or a part is not done yet.
    """
    found = [folder / entry.file for entry in _read(folder / MANIFEST).parts]
    absent = [path.name for path in found if not path.exists()]
    if absent:
        raise CalojaxError(
            f"{folder}: {len(absent):,} of {len(found):,} parts are missing ({absent[0]} is the "
            "first); make them with the command that the folder was begun with."
        )
    for path in found:
        hdf5.check_inside(str(path), path, (folder.resolve(),))
    return found


class _Entry(msgspec.Struct):
    """A part in a manifest."""

    file: str
    first: int
    showers: int

    def __post_init__(self):
        plain = pathlib.PurePath(self.file).name == self.file not in ("", "..")
        if not plain or not self.file.isprintable() or len(os.fsencode(self.file)) > 255:
            raise ValueError(f"{self.file[:300]!r} is no plain file name")


class _Manifest(msgspec.Struct):
    settings: Mapping[str, str | int | float | bool | None]
    parts: list[_Entry]

    def __post_init__(self):
        names = [entry.file for entry in self.parts]
        if not names:
            raise ValueError("it lists no parts")
        if len(set(names)) < len(names):
            raise ValueError("it lists a part twice")


def _text(settings: Settings, parts: Sequence[Part]) -> bytes:
    plan = [_Entry(part.name, part.showers.start, len(part.showers)) for part in parts]
    return msgspec.json.encode({"settings": dict(settings), "parts": plan})


def _read(path: pathlib.Path) -> _Manifest:
    if not os.path.lexists(path):
        raise CalojaxError(
            f"{path}: there is no such file; name a folder that calojax sample --part-size made."
        )
    hdf5.check_regular(path)
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
        return msgspec.json.decode(content, type=_Manifest)
    except OSError as error:
        raise CalojaxError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise CalojaxError(
            f"{path}: is damaged or not a manifest of calojax ({error}); take another folder."
        ) from None
