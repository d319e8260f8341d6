"""Compiled programs are kept between starts: where, and whether at all.

Compiling takes longer than most jobs that start with it. JAX can keep what it compiled in a folder,
and does so only when told; it reads the environment as it is imported, so `keep_programs` comes
before the command.
"""

import os
import pathlib
import sys
import tempfile

from calojax.errors import CalojaxError, warn
from calojax.files import private_folder, refusal
from calojax.io.cache import default_folder

_SWITCH = "CALOJAX_COMPILATION_CACHE"
_FOLDER = "JAX_COMPILATION_CACHE_DIR"
_SHORTEST = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


def keep_programs() -> None:
    """Has JAX keep compiled programs in ``xla`` under calojax's cache folder.

    A folder that the user gave to JAX stays, and CALOJAX_COMPILATION_CACHE=off keeps nothing.
    Compiled programs are machine code, so where other users could write to the folder, or it cannot
    be written at all, calojax says so and goes without.

    Raises:
      CalojaxError: if the environment variable says anything but "off".
    """
    switch = os.environ.get(_SWITCH, "")
    if switch not in ("", "off"):
        raise CalojaxError(
            f"{_SWITCH} is {switch!r}; it may only be off. To choose a folder, set {_FOLDER}."
        )
    given = os.environ.get(_FOLDER)
    if switch == "off" or given == "" or "://" in (given or ""):  # A bucket has its own rights.
        return
    try:
        folder = private_folder(pathlib.Path(given) if given else default_folder() / "xla")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (CalojaxError, OSError) as error:
        reason = error if isinstance(error, CalojaxError) else refusal(folder, error)
        warn(
            f"{reason} Compiled programs are not kept, and every start compiles anew; set "
            f"{'CALOJAX_CACHE' if given is None else _FOLDER} to a folder of your own, or "
            f"{_SWITCH}=off."
        )
        os.environ.pop(_FOLDER, None)
        if "jax" in sys.modules:  # It has read the environment.
            sys.modules["jax"].config.update("jax_compilation_cache_dir", None)
        return
    os.environ[_FOLDER] = str(folder)
    if given is None:
        # JAX would leave out what takes less than a second; a start has dozens of such programs.
        os.environ.setdefault(_SHORTEST, "0.05")


def kept_in() -> pathlib.Path | None:
    """The folder of compiled programs, None if none are kept."""
    folder = os.environ.get(_FOLDER)
    return pathlib.Path(folder) if folder else None
