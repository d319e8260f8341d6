"""What a command asks of its process: memory, compiled programs, signals and the screen."""

import contextlib
import ctypes
import io
import os
import pathlib
import signal
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, TextIO

from calojax import files
from calojax.errors import CalojaxError, warn

# Parameters of mallopt, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_FOLDER = "JAX_COMPILATION_CACHE_DIR"
_SHORTEST = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
_STOPPED = b"\nerror: stopped; nothing half-written is left behind.\n"


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory; does nothing with other C libraries.

    On a CPU a step works in a buffer of some hundred MB. By default glibc maps it anew in every
    step, and the system clears its pages: 18 to 26 % of the time of a step of calovq-ds2 and
    calovq-ds2-mlp, and half of the CPU time of an evaluation. One arena for all threads lets them
    reuse freed memory best. The process stays as large as it once was.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def keep_programs() -> None:
    """Lets JAX keep compiled programs in ``xla`` under calojax's cache folder.

    A folder that the user gave to JAX stays, and an empty name keeps nothing. Compiled programs are
    machine code: if other users could write to the folder, or if it cannot be written, calojax
    warns and keeps nothing. JAX reads the environment when it is imported, so this comes before.
    """
    given = os.environ.get(_FOLDER)
    if given == "" or "://" in (given or ""):  # A bucket has its own rights.
        return
    try:
        folder = files.private_folder(
            pathlib.Path(given) if given else files.cache_folder() / "xla"
        )
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (CalojaxError, OSError) as error:
        reason = error if isinstance(error, CalojaxError) else files.refusal(folder, error)
        warn(
            f"{reason} Compiled programs are not kept, and every start compiles them again; set "
            f"{'CALOJAX_CACHE' if given is None else _FOLDER} to a folder of your own."
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


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Lets `files.SIGNALS` remove unfinished files before they end the process.

    Signals that are ignored (such as SIGHUP under nohup) or have another handler stay as they are.
    An exception instead could be raised anywhere: inside a callback of HDF5, which then cannot be
    closed, or of the garbage collector, which drops it, so that the command would continue.
    """
    ending = (signal.SIG_DFL, signal.default_int_handler)
    handlers = {n: signal.signal(n, _stop) for n in files.SIGNALS if signal.getsignal(n) in ending}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _stop(number: int, _) -> None:
    files.remove_unfinished()
    with contextlib.suppress(OSError):
        os.write(2, _STOPPED)
    # The parent process should see which signal ended this one.
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


@contextlib.contextmanager
def patient_screen() -> Iterator[None]:
    """Makes printing safe on a closed pipe, a full disk or an ASCII terminal.

    Characters that the screen cannot show are escaped; output that it does not take is dropped.
    """
    for number in range(3):  # A file opened later must not become standard output or error.
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
    with (
        contextlib.redirect_stdout(_Patient(sys.stdout)) as out,
        contextlib.redirect_stderr(_Patient(sys.stderr)) as err,
    ):
        try:
            yield
        finally:
            # Python would flush at exit, and complain.
            out.flush()
            err.flush()


class _Patient:
    """A text stream that drops what cannot be written."""

    def __init__(self, stream: TextIO | None):
        """Wraps a stream; None stands for a closed one."""
        self._stream = io.StringIO() if stream is None else stream
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._safely(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._safely(self._stream.flush)

    def _safely(self, function: Any, *arguments: Any) -> None:
        try:
            function(*arguments)
        except OSError:
            # The rest of Python's buffer goes where nothing fails.
            with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())
