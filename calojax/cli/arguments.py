"""Annotations of the commands' arguments, which tyro parses, and the answer to a wrong name."""

import difflib
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

import tyro

from calojax.errors import printable


def optional(metavar: str, default: str) -> Any:
    """Annotation of an argument that may be left out; its help shows the default in words."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


def required(metavar: str) -> Any:
    """Annotation of a list of files that may not be empty."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="(required)")


def refuse(mistake: str, command: str, word: str = "", names: Iterable[str] = ()) -> NoReturn:
    """Prints a mistake with up to three names that are like the word, and exits with status 2."""
    near = difflib.get_close_matches(word, dict.fromkeys(names), 3, 0.5)
    meant = f"; the nearest: {', '.join(near)}" if near else ""
    print(f"error: {printable(mistake)}{meant}.\nSee {command} --help.", file=sys.stderr)
    sys.exit(2)
