"""``calojax check``: tells what a shower file is and what is wrong with it."""

import pathlib
import sys
from collections.abc import Sequence

import tyro

from calojax.data.inspection import inspect
from calojax.geometry import find_detector


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    tyro.cli(check, prog="calojax check", args=arguments)


def check(file: tyro.conf.Positional[pathlib.Path], geometry: str | None = None) -> None:
    """Tells what a shower file is and what is wrong with it; status 1 if it cannot be used.

    Args:
      file: an HDF5 file.
      geometry: what it should be: built-in, or a binning file ending in .xml (default: guessed).
    """
    found = inspect(file, find_detector(geometry) if geometry else None)
    print(found.text())
    if not found.ok:
        sys.exit(1)
