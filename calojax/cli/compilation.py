"""Compiled programs are kept between starts, since compiling takes longer than most short jobs.

JAX reads the environment when it is imported, so `keep_programs` runs before the command.
"""

import os
import pathlib
import sys
import tempfile

from calojax.errors import CalojaxError, warn
from calojax.files import cache_folder, private_folder, refusal

_SWITCH = "CALOJAX_COMPILATION_CACHE"
_FOLDER = "JAX_COMPILATION_CACHE_DIR"
_SHORTEST = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


def keep_programs() -> None:
    """Lets JAX keep compiled programs in ``xla`` under calojax's cache folder.

    A folder that the user gave to JAX stays, and CALOJAX_COMPILATION_CACHE=off keeps nothing.
    Compiled programs are machine code: if other users could write to the folder, or if it cannot be
    written, calojax warns and keeps nothing.
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
        folder = private_folder(pathlib.Path(given) if given else cache_folder() / "xla")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (CalojaxError, OSError) as error:
        reason = error if isinstance(error, CalojaxError) else refusal(folder, error)
        warn(
            f"{reason} Compiled programs are not kept, and every start compiles them again; set "
            f"{'CALOJAX_CACHE' if given is None else _FOLDER} to a folder of your own, or "
            f"{_SWITCH}=off."
        )
        os.environ.pop(_FOLDER, None)
        if "jax" in sys.modules:  # It has read the environment.
            sys.modules["jax"].config.update("jax_compilation_cache_dir", None)
        return
    os.environ[_FOLDER] = str(folder)
    if given is None:
        # By default JAX skips programs that compile within a second; a start has dozens of them.
        os.environ.setdefault(_SHORTEST, "0.05")


def kept_in() -> pathlib.Path | None:
    """The folder of compiled programs, None if they are not kept."""
    folder = os.environ.get(_FOLDER)
    return pathlib.Path(folder) if folder else None
