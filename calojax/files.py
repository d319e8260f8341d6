"""Files that appear only when they are complete, and a sentence where the system refuses one."""

import contextlib
import errno
import os
import pathlib
import secrets
from collections.abc import Iterator

from calojax.errors import CalojaxError

# What the system says of a disk that takes no more.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def refusal(path: str | os.PathLike, error: OSError) -> CalojaxError:
    """The sentence for a file or folder that the system refused to write."""
    advice = "free some space or write elsewhere" if error.errno in FULL else "write elsewhere"
    return CalojaxError(f"{path}: cannot be written ({error.strerror or error}); {advice}.")


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives another name to write to; the file gets its own when the block ends without a fault.

    Raises:
      CalojaxError: if it cannot be written.
    """
    # Processes of several machines may write the same file, and have the same number.
    partial = path.with_name(f"{path.name}.partial-{secrets.token_hex(8)}")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise refusal(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


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
