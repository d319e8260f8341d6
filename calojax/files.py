"""Safe output: atomic writes, locks, and one-line messages for errors of the file system."""

import contextlib
import errno
import fcntl
import functools
import os
import pathlib
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator

from calojax.errors import CalojaxError

# What the system says of a disk that takes no more.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def refusal(path: str | os.PathLike, error: OSError) -> CalojaxError:
    """The sentence for a file or folder that the system refused to write."""
    advice = "free some space or write elsewhere" if error.errno in FULL else "write elsewhere"
    return CalojaxError(f"{path}: cannot be written ({error.strerror or error}); {advice}.")


# How to remove what is being written, for a process that is stopped on the way.
_unfinished: list[Callable[[], None]] = []


@contextlib.contextmanager
def unfinished(remove: Callable[[], None]) -> Iterator[None]:
    """Calls ``remove`` at the end of the block, or before if the process is stopped.

    By then what was being written has its own name, or is of no use.
    """
    _unfinished.append(remove)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            remove()
        _unfinished.remove(remove)


def remove_unfinished() -> None:
    """Removes all that is being written, by a process that is about to end."""
    for remove in tuple(_unfinished):
        with contextlib.suppress(OSError):
            remove()


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives another name to write to; the file gets its own when the block ends without a fault.

    Raises:
      CalojaxError: if it cannot be written.
    """
    # Processes of several machines may write the same file, and have the same number.
    partial = path.with_name(f"{path.name}.partial-{secrets.token_hex(8)}")
    with unfinished(functools.partial(partial.unlink, missing_ok=True)):
        try:
            yield partial
            os.replace(partial, path)
        except OSError as error:
            raise refusal(path, error) from None


def check_output(path: pathlib.Path, *, force: bool = False, inputs: Iterable[pathlib.Path] = ()):
    """Refuses an output file that would replace an input, another file, or a device.

    Args:
      path: the file that a command is about to write.
      force: whether it may replace an existing regular file.
      inputs: files that the command reads; these are never replaced.

    Raises:
      CalojaxError: with the reason and what to do.
    """
    if not os.path.lexists(path):
        return
    if path.is_dir():
        raise CalojaxError(f"{path}: is a folder; name a file to write.")
    if path.exists() and not path.is_file():
        raise CalojaxError(f"{path}: is not a regular file; name a file to write.")
    for source in inputs:
        if source.exists() and path.exists() and path.samefile(source):
            raise CalojaxError(f"{path}: is also an input of this command; choose another --out.")
    if not force:
        raise CalojaxError(f"{path}: already exists; choose another --out, or replace it: --force.")


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Keeps other processes from writing to a folder; the lock ends with the process.

    Raises:
      CalojaxError: if another process holds the lock; the message names it.
    """
    with (folder / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CalojaxError(
                f"{folder}: in use by {file.read(200).strip() or 'another process'}; wait until it "
                "has ended, or choose another --out."
            ) from None
        except OSError:  # Some network file systems have no locks.
            pass
        file.truncate(0)
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {now}\n")
        file.flush()
        yield


def make_folder(path: pathlib.Path) -> None:
    """Makes a folder, and those above it, unless it is there; it can be written to.

    Raises:
      CalojaxError: if it cannot be made, or not be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Where folders may be made, the disk may still take no byte.
        probe = path / f".probe-{os.getpid()}"
        try:
            probe.write_bytes(b"calojax")
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise refusal(path, error) from None
