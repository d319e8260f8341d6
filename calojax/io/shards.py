"""Many showers in a folder: numbered part files, and a manifest that says what they are parts of.

The manifest holds the plan and the settings, never what is done: a part file appears under its
name when it is complete, so that a part is made if and only if its file is there. Any number of
processes may therefore fill a folder, stop at any moment and start again.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence

import msgspec

from calojax import files
from calojax.errors import CalojaxError
from calojax.io import storage

MANIFEST = "manifest.json"
_MOST_BYTES = 2**26  # A million parts need about as much.

Settings = Mapping[str, str | int | float | None]
"""Whatever the showers of a folder depend on, by name."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the showers.

    Attributes:
      number: of the part, from 0.
      showers: which of all showers it has.
    """

    number: int
    showers: range

    @property
    def name(self) -> str:
        """Of its file."""
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

    They do not depend on what is there already, so that processes need not agree on that.
    """
    return tuple(part for part in parts if part.number % count == index)


def missing(folder: pathlib.Path, parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts whose files are not there."""
    return tuple(part for part in parts if not (folder / part.name).exists())


def begin(folder: pathlib.Path, settings: Settings, parts: Sequence[Part]) -> None:
    """Makes a folder with a manifest, or checks that the one there has the same settings.

    Raises:
      CalojaxError: if the folder cannot be written, has a manifest of other settings or a damaged
        one, or part files without one.
    """
    files.make_folder(folder)
    if not (folder / MANIFEST).exists():
        if len(missing(folder, parts)) < len(parts):
            raise CalojaxError(
                f"{folder}: has part files but no {MANIFEST}; move them or take another folder."
            )
        with files.replacing(folder / MANIFEST, keep=True) as partial:
            partial.write_text(_text(settings, parts))
    # Also after writing: another process may have been quicker.
    begun = _read(folder / MANIFEST).settings
    for name in sorted(settings.keys() | begun.keys()):
        if begun.get(name) != settings.get(name):
            raise CalojaxError(
                f"{folder}: was begun with {name} {begun.get(name)!r}, but is to go on with "
                f"{settings.get(name)!r}; go on as it was begun, or take another folder."
            )


def paths(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files of all parts of a folder, in order.

    Raises:
      CalojaxError: if the manifest is missing or damaged, or a part is not made yet.
    """
    found = [folder / entry.file for entry in _read(folder / MANIFEST).parts]
    absent = [path.name for path in found if not path.exists()]
    if absent:
        raise CalojaxError(
            f"{folder}: {len(absent):,} of {len(found):,} parts are not made yet ({absent[0]} is "
            "the first); make them by the command that the folder was begun with."
        )
    for path in found:
        storage.check_inside(str(path), path, (folder.resolve(),))
    return found


class _Entry(msgspec.Struct):
    """What a manifest says of a part."""

    file: str
    first: int
    showers: int

    def __post_init__(self):
        plain = pathlib.PurePath(self.file).name == self.file not in ("", "..")
        if not plain or not self.file.isprintable() or len(os.fsencode(self.file)) > 255:
            raise ValueError(f"{self.file[:300]!r} is no plain file name")


class _Manifest(msgspec.Struct):
    """What a manifest holds."""

    settings: dict[str, str | int | float | bool | None]
    parts: list[_Entry]

    def __post_init__(self):
        names = [entry.file for entry in self.parts]
        if not names:
            raise ValueError("it lists no parts")
        if len(set(names)) < len(names):
            raise ValueError("it lists a part twice")


def _text(settings: Settings, parts: Sequence[Part]) -> str:
    plan = [
        {"file": part.name, "first": part.showers.start, "showers": len(part.showers)}
        for part in parts
    ]
    # One part a line.
    lines = ",\n".join("    " + json.dumps(part) for part in plan)
    head = json.dumps({"settings": dict(settings)}, indent=2).removesuffix("\n}")
    return f'{head},\n  "parts": [\n{lines}\n  ]\n}}\n'


def _read(path: pathlib.Path) -> _Manifest:
    if not os.path.lexists(path):
        raise CalojaxError(
            f"{path}: there is no such file; name a folder that calojax sample --part-size made."
        )
    storage.check_regular(path)
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
