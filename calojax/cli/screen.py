"""Printing that never fails, so that no finished work is lost to a closed terminal."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


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
