"""Files that appear only when they are complete, and a sentence where the system refuses one."""

import contextlib
import errno
import functools
import os
import pathlib
import secrets
from collections.abc import Callable, Iterator

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
