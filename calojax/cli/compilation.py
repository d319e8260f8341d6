"""Compiled programs are kept between starts: where, and whether at all.

Compiling takes longer than most jobs that start with it. JAX can keep what it compiled in a folder,
and does so only when told; it reads the environment as it is imported, so `keep_programs` comes
before the command.
"""

import os
import pathlib
import sys
import tempfile

from calojax.data.cache import default_folder
from calojax.errors import CalojaxError

_SWITCH = "CALOJAX_COMPILATION_CACHE"
_FOLDER = "JAX_COMPILATION_CACHE_DIR"
_SHORTEST = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


def keep_programs() -> None:
    """Has JAX keep compiled programs in ``xla`` under calojax's cache folder.

    A folder that the user gave to JAX stays, and CALOJAX_COMPILATION_CACHE=off keeps nothing. Where
    the folder cannot be written, calojax says so and goes without.

    Raises:
      CalojaxError: if the environment variable says anything but "off".
    """
    switch = os.environ.get(_SWITCH, "")
    if switch not in ("", "off"):
        raise CalojaxError(
            f"{_SWITCH} is {switch!r}, which means nothing; say off, or choose a folder with "
            f"{_FOLDER}."
        )
    if switch == "off" or _FOLDER in os.environ:
        return
    folder = default_folder() / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        print(
            f"warning: {folder}: compiled programs cannot be kept there ({error.strerror}), so "
            f"every start compiles anew; set CALOJAX_CACHE to another folder, or {_SWITCH}=off.",
            file=sys.stderr,
        )
        return
    os.environ[_FOLDER] = str(folder)
    # JAX would leave out what takes less than a second; a start has dozens of such programs.
    os.environ.setdefault(_SHORTEST, "0.05")


def kept_in() -> pathlib.Path | None:
    """The folder of compiled programs, None if none are kept."""
    folder = os.environ.get(_FOLDER)
    return pathlib.Path(folder) if folder else None
