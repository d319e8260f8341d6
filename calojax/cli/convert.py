"""``calojax convert``: writes a shower file in another layout."""

import pathlib
from collections.abc import Sequence

import tyro

from calojax.data import open_showers, sparse
from calojax.data.writer import LayoutName, ShowerWriter
from calojax.errors import CalojaxError
from calojax.geometry import find_detector
from calojax.progress import progress_bar

# Showers held at a time, by their voxels: 64 MiB.
_VOXELS = 2**24


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    tyro.cli(convert, prog="calojax convert", args=arguments)


def convert(
    file: tyro.conf.Positional[pathlib.Path],
    out: pathlib.Path,
    layout: LayoutName,
    geometry: str | None = None,
) -> None:
    """Writes the showers of a file in another layout, with the file's own attributes.

    Args:
      file: an HDF5 file of either layout, or a folder of parts, which are joined.
      out: HDF5 file to write; appears when it is complete.
      layout: dense (the CaloChallenge's) or sparse (voxel and energy of every hit).
      geometry: what the file is of: built-in, or a binning file ending in .xml (default: guessed).
    """
    source = open_showers(file, find_detector(geometry) if geometry else None)
    if out.exists() and out.samefile(file):
        raise CalojaxError(f"{out}: is the file to convert; give the new one another name.")
    attributes = {
        name: value
        for name, value in source.attributes.items()
        if name not in (sparse.LAYOUT, sparse.N_VOXELS)
    }
    size = max(1, _VOXELS // source.detector.n_voxels)
    with (
        ShowerWriter(out, source.detector, len(source), attributes, layout=layout) as writer,
        progress_bar("convert", len(source)) as bar,
    ):
        for energies, showers in source.batches(size):
            writer.append(energies, showers)
            bar.update(len(showers))
    size = out.stat().st_size
    print(f"{out}: {len(source):,} showers, {size:,} bytes, {size / len(source):,.0f} a shower")
