"""Arguments of the commands, parsed by tyro; a mistake is answered in two lines."""

import contextlib
import difflib
import functools
import io
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import tyro

from calojax.errors import printable

_NUMBERS = {"INT": "a whole number", "FLOAT": "a number"}


def optional(metavar: str, default: str) -> Any:
    """Annotation of an argument that may be left out; its help shows the default in words."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


def required(metavar: str) -> Any:
    """Annotation of a list of files that may not be empty."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="(required)")


def parse(target: Callable, command: str, arguments: Sequence[str], **options: Any) -> Any:
    """Parses the arguments of a command.

    Args:
      target: dataclass, or function, whose parameters are the arguments.
      command: words in front of the arguments, such as "calojax check".
      arguments: words of the command line.
      **options: further arguments of `tyro.cli`.

    Returns:
      The instance of the dataclass, or the function with its arguments bound.
    """
    if not isinstance(target, type):
        target = _binding(target)

    def parsed(words: Sequence[str]) -> Any:
        return tyro.cli(target, prog=command, args=list(words), **options)

    with contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            return parsed(arguments)
        except SystemExit as stop:
            if not stop.code:  # The user asked for help.
                raise
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        parsed(["--help"])
    flags = re.findall(r"(?<!\S)--[a-z][\w.-]*", _plain(shown))
    for word in arguments:
        flag = word.split("=")[0].replace("_", "-")
        if flag.startswith("--") and flag not in flags:
            return refuse(f"{command} has no flag {flag}", command, flag, flags)
    return refuse(_mistake(_plain(errors), command, arguments), command)


def refuse(mistake: str, command: str, word: str = "", names: Iterable[str] = ()) -> NoReturn:
    """Prints a mistake with up to three names that are like the word, and exits with status 2."""
    near = difflib.get_close_matches(word, dict.fromkeys(names), 3, 0.5)
    meant = f"; the nearest: {', '.join(near)}" if near else ""
    print(f"error: {printable(mistake)}{meant}.\nSee {command} --help.", file=sys.stderr)
    sys.exit(2)


def _plain(text: io.StringIO) -> str:
    """The text without colours."""
    return re.sub(r"\x1b\[[\d;]*m", "", text.getvalue())


def _binding(function: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    @functools.wraps(function)
    def bind(*values: Any, **named: Any) -> Callable[[], None]:
        return functools.partial(function, *values, **named)

    return bind


def _mistake(box: str, command: str, arguments: Sequence[str]) -> str:
    """The sentence about a mistake, from the box that tyro draws about it."""
    box = box.split("For full helptext")[0]
    lines = [line.strip("│ ") for line in box.splitlines()[1:]]
    usages = re.findall(r"^[│ ] {5}(\S.*?) *│?$", box, re.MULTILINE)
    if any(line.startswith("Missing from") for line in lines):
        return f"{command} needs {', '.join(usages)}"
    wrong = re.search(r"Error parsing (\S+):", box)
    if wrong and usages and wrong[1] in arguments[:-1]:
        metavar = usages[0].removeprefix(wrong[1]).strip()
        given = arguments[arguments.index(wrong[1]) + 1]
        return f"{wrong[1]} takes {_NUMBERS.get(metavar, metavar)}, not {given!r}"
    words = itertools.takewhile(
        lambda line: line.strip("─-"), itertools.dropwhile(lambda line: not line.strip("─-"), lines)
    )
    return " ".join(words).rstrip(". ")
