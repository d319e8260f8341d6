"""``calojax convert``: writes shower files in another layout, joined."""

import pathlib
from collections.abc import Sequence

import numpy as np
import tyro

from calojax.errors import printable, warn
from calojax.files import check_output
from calojax.geometry import chosen_detector
from calojax.io import open_showers, sparse
from calojax.io.writer import LayoutName, ShowerWriter
from calojax.progress import progress_bar

# Showers held at a time, by their voxels: 64 MiB.
_VOXELS = 2**24


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    tyro.cli(convert, prog="calojax convert", args=arguments)


def convert(
    files: tyro.conf.Positional[tuple[pathlib.Path, ...]],
    out: pathlib.Path,
    layout: LayoutName,
    geometry: str | None = None,
    particle: str | None = None,
    repair: bool = False,
    force: bool = False,
) -> None:
    """Writes the showers of files in another layout as float32, joined, with common attributes.

    Args:
      files: HDF5 files of either layout, or folders of parts; they are joined in this order.
      out: HDF5 file to write; appears when it is complete.
      layout: dense (the CaloChallenge's) or sparse (voxel and energy of every hit).
      geometry: what the files are of: built-in, or a binning file ending in .xml (default:
        guessed).
      particle: name or PDG number, if the binning file is of several particles.
      repair: set negative voxels to 0; leave out showers with other bad values, and say how many.
      force: replace --out if it exists.
    """
    check_output(out, force=force, inputs=[*files, geometry or ""])
    source = open_showers(files, chosen_detector(geometry, particle), repair=repair)
    check_output(out, force=True, inputs=source.files)  # Other files may hold parts of these.
    if not np.can_cast(source.dtype, np.float32):
        warn(f"{out}: the voxels are {source.dtype} and become float32.")
    if source.other_attributes:
        names = ", ".join(source.other_attributes)
        warn(f"{out}: attributes that are neither texts nor numbers are left out: {names[:200]}.")
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
    if repair:
        print(f"repaired: {source.clipped:,} voxels set to 0, {source.dropped:,} showers left out")
    print(
        f"{printable(out)}: {len(source):,} showers, {size:,} bytes, {size / len(source):,.0f} a "
        "shower"
    )
