"""The exception meant for users, warnings, and text that is safe to print."""

import functools
import sys


class CalojaxError(Exception):
    """Bad input or a bad environment: one sentence that names the file, the value and the remedy.

    The command line prints the sentence without a traceback and exits with status 1. Every other
    exception is a bug in calojax and keeps its traceback.
    """

    def __init__(self, sentence: str):
        """Stores the sentence; it may quote file names and values from foreign files."""
        super().__init__(printable(sentence))


def printable(text: object) -> str:
    r"""``str(text)`` with control characters and undecodable bytes escaped, as in ``\x1b``.

    Text from files, and file names, may hold terminal escape codes and bytes that are not UTF-8.
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in str(text)
    )


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or its class."""
    return str(error).strip().split("\n")[0][:200] or type(error).__name__


@functools.cache
def warn(sentence: str) -> None:
    """Prints a warning on standard error, once in the life of the process."""
    print(f"warning: {printable(sentence)}", file=sys.stderr)
