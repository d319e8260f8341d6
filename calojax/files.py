"""Safe output: atomic writes, locks, and one-line messages for errors of the file system."""

import contextlib
import errno
import fcntl
import functools
import glob
import os
import pathlib
import secrets
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator

from calojax.errors import CalojaxError

# Errors of a disk that has no more room.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# Signals by which terminals, users and batch systems end a process.
SIGNALS = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGALRM),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU),
)
# Seconds in which a new file may not be locked yet.
_FRESH = 1.0


def cache_folder() -> pathlib.Path:
    """The folder of caches: the environment variable CALOJAX_CACHE, or ~/.cache/calojax."""
    folder = os.environ.get("CALOJAX_CACHE") or "~/.cache/calojax"
    try:
        return pathlib.Path(folder).expanduser()
    except RuntimeError:
        raise CalojaxError(
            f"{folder}: the home folder is not known; set CALOJAX_CACHE to a folder."
        ) from None


def refusal(path: str | os.PathLike, error: OSError) -> CalojaxError:
    """The message for a file or folder that the system refused to write."""
    advice = "write elsewhere"
    if error.errno in FULL:
        advice = f"free some space or {advice}"
    elif error.errno == errno.ENOENT:
        advice = "make its folder first"
    return CalojaxError(f"{path}: cannot be written ({error.strerror or error}); {advice}.")


# Functions that remove what is being written, for a process that is stopped meanwhile.
_unfinished: list[Callable[[], object]] = []


@contextlib.contextmanager
def unfinished(remove: Callable[[], object]) -> Iterator[None]:
    """Calls ``remove`` at the end of the block, or earlier if the process is stopped."""
    _unfinished.append(remove)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            remove()
        _unfinished.remove(remove)


def remove_unfinished() -> None:
    """Removes everything that is being written; for a process that is about to end."""
    for remove in tuple(_unfinished):
        with contextlib.suppress(OSError):
            remove()


@contextlib.contextmanager
def temporary(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A new file of another name beside ``path``, locked; removed at the end unless it was renamed.

    What killed processes have left of earlier ones is removed first. Raises `OSError`.
    """
    # Random, since processes of several machines may write the same file.
    partial = path.with_name(f"{path.name}.partial-{secrets.token_hex(8)}")
    with unfinished(functools.partial(partial.unlink, missing_ok=True)):
        _sweep(path.parent, f"{path.name}.partial-")
        with _held(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL):
            yield partial


@contextlib.contextmanager
def replacing(path: pathlib.Path, *, keep: bool = False) -> Iterator[pathlib.Path]:
    """A temporary name to write to; the file gets its own when the block ends without an error.

    With ``keep``, a file that another process has written meanwhile stays.
    """
    try:
        with temporary(path) as partial:
            yield partial
            try:
                (os.link if keep else os.replace)(partial, path)
            except FileExistsError:
                pass
            except OSError:
                if not keep:
                    raise
                os.replace(partial, path)  # Some file systems have no second names for a file.
    except OSError as error:
        raise refusal(path, error) from None


@contextlib.contextmanager
def _held(path: pathlib.Path, flags: int, *, name: pathlib.Path | None = None) -> Iterator[bool]:
    """Opens and locks a file; yields False where the file system has no locks."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            has_locks = True
        except BlockingIOError:
            raise CalojaxError(
                f"{name or path}: in use by another process; wait until it has ended, or choose "
                "another --out."
            ) from None
        except OSError:  # Some network file systems have none.
            has_locks = False
        yield has_locks
    finally:
        os.close(descriptor)


def _sweep(folder: pathlib.Path, prefix: str) -> None:
    """Removes files of that prefix that killed processes have left unlocked."""
    for left in folder.glob(f"{glob.escape(prefix)}*"):
        with contextlib.suppress(OSError, CalojaxError):
            if time.time() - left.stat().st_mtime < _FRESH:
                continue
            with _held(left, os.O_RDWR) as abandoned:
                if abandoned:
                    left.unlink()


def check_output(
    path: pathlib.Path, *, force: bool = False, inputs: Iterable[str | os.PathLike] = ()
) -> None:
    """Refuses an output file that would replace an input, another file, or a device.

    A symbolic link stands for its target. With ``force`` it may replace an existing regular file,
    but never a file of ``inputs`` or in a folder of these; names without a file are ignored.
    """
    if not os.path.lexists(path):
        return
    if os.path.isdir(path):
        raise CalojaxError(f"{path}: is a folder; name a file to write.")
    there = os.path.exists(path)  # Or a link to nothing.
    if there and not os.path.isfile(path):
        raise CalojaxError(f"{path}: is not a regular file; name a file to write.")
    for name in filter(os.path.exists, inputs if there else ()):
        source = pathlib.Path(name)
        if any(os.path.exists(f) and path.samefile(f) for f in (source, *source.rglob("*"))):
            raise CalojaxError(f"{path}: is also an input of this command; choose another --out.")
    if not force:
        raise CalojaxError(f"{path}: already exists; choose another --out, or replace it: --force.")


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Locks a folder as long as the process lives; `CalojaxError` if another one holds the lock."""
    # A file, since network file systems lock only what is open for writing.
    with _held(folder / ".lock", os.O_RDWR | os.O_CREAT, name=folder):
        yield


def make_folder(path: pathlib.Path) -> None:
    """Makes a folder, and those above it, unless it exists, and tries to write to it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Where folders may be made, the disk may still take no byte.
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"calojax")
            probe.flush()
    except OSError as error:
        raise refusal(path, error) from None


def private_folder(path: pathlib.Path) -> pathlib.Path:
    """Makes a folder to which nobody else can write, for files that are executed.

    Returns its path without links. Raises `CalojaxError` if it cannot be made, or another user owns
    it, may write to it, or may put another folder in its place.
    """
    path = pathlib.Path(os.path.realpath(path))
    try:
        for folder in (*reversed(path.parents), path):
            folder.mkdir(0o700, exist_ok=True)
            found, last = folder.stat(), folder == path
            if found.st_uid != os.geteuid() and (last or found.st_uid):
                raise CalojaxError(f"{folder}: belongs to another user, number {found.st_uid}.")
            # In a sticky folder such as /tmp, users cannot rename what belongs to others.
            safe = not found.st_mode & 0o022 if last else found.st_mode & 0o1002 != 0o0002
            if not safe:
                raise CalojaxError(f"{folder}: other users may write to it.")
    except OSError as error:
        raise refusal(path, error) from None
    return path
