"""Printing that never fails: work that is done stays done, whatever became of the screen."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


@contextlib.contextmanager
def patient_screen() -> Iterator[None]:
    """Within it, printing to a closed pipe, a full disk or an ASCII terminal raises nothing.

    What the screen cannot show is escaped, and what it does not take is dropped.
    """
    _occupy_standard_descriptors()
    with (
        contextlib.redirect_stdout(_Patient(sys.stdout)) as out,
        contextlib.redirect_stderr(_Patient(sys.stderr)) as err,
    ):
        try:
            yield
        finally:
            # Else Python does at exit, and complains.
            out.flush()
            err.flush()


class _Patient:
    """A text stream that drops what cannot be written."""

    def __init__(self, stream: TextIO | None):
        """Wraps a stream; None, Python's word for a closed one, takes and drops all."""
        self._stream = io.StringIO() if stream is None else stream
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._dropping():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._dropping():
            self._stream.flush()

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            # What is still in Python's buffer goes where nothing fails.
            with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())


def _occupy_standard_descriptors() -> None:
    """Opens those that are closed: the next file would take their numbers, and get what is printed.

    Libraries print to descriptor 2 whatever it is.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
