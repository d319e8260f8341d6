"""``calojax check``: prints what shower files hold and what is wrong with them."""

import os
import pathlib
import sys
from typing import Annotated

import tyro

from calojax.cli.arguments import optional
from calojax.errors import printable
from calojax.geometry import chosen_detector
from calojax.io import shards
from calojax.io.inspection import inspect


def check(
    file: Annotated[tyro.conf.Positional[pathlib.Path], tyro.conf.arg(metavar="FILE")],
    geometry: Annotated[str | None, optional("NAME|XML", "what the file says")] = None,
    particle: Annotated[str | None, optional("NAME", "the only one of the file")] = None,
) -> None:
    """Prints what a shower file holds and what is wrong with it; status 1 if it cannot be used.

    Args:
      file: HDF5 file or folder of parts. Of a folder, the first part is shown, and each part with
        findings.
      geometry: geometry that the file should have: a built-in name, or a binning file ending in
        .xml.
      particle: name or PDG number of the particle, for a binning file of several particles.
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
        verdict = f"{bad:,} parts cannot be used" if bad else "all can be used"
        print(f"{printable(file)}: {len(paths):,} parts with {showers:,} showers, {verdict}")
    if bad:
        sys.exit(1)
