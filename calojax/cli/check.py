"""``calojax check``: tells what shower files are and what is wrong with them."""

import os
import pathlib
import sys
from collections.abc import Sequence

import tyro

from calojax.errors import printable
from calojax.geometry import chosen_detector
from calojax.io import shards
from calojax.io.inspection import inspect


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    tyro.cli(check, prog="calojax check", args=arguments)


def check(
    file: tyro.conf.Positional[pathlib.Path],
    geometry: str | None = None,
    particle: str | None = None,
) -> None:
    """Says what a shower file is and what is wrong with it; status 1 if it cannot be used.

    Args:
      file: an HDF5 file, or a folder of parts; of a folder, the first part and all with findings
        are shown.
      geometry: what it should be: built-in, or a binning file ending in .xml (default: guessed).
      particle: name or PDG number, if the binning file is of several particles.
    """
    detector = chosen_detector(geometry, particle)
    folder = os.path.isdir(file)
    paths = shards.paths(file) if folder else [file]
    showers, bad = 0, 0
    for path in paths:
        found = inspect(path, detector)
        showers += len(found.scan.sums) if found.scan else 0
        bad += not found.ok
        if path == paths[0] or found.findings:
            print(found.text())
    if folder:
        verdict = f"{bad:,} of them cannot be used" if bad else "all can be used"
        print(f"{printable(file)}: {len(paths):,} parts with {showers:,} showers, {verdict}")
    if bad:
        sys.exit(1)
