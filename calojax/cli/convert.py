"""``calojax convert``: writes shower files in another layout, joined."""

import math
import pathlib
from typing import Annotated

import tyro

from calojax.cli.arguments import optional, required
from calojax.cli.showers import Output, write
from calojax.errors import CalojaxError, printable
from calojax.files import check_output
from calojax.geometry import chosen_detector
from calojax.io import open_showers, sparse
from calojax.io.layouts import LayoutName

# Voxels held at a time: 64 MiB.
_VOXELS = 2**24


def convert(
    files: Annotated[tyro.conf.Positional[tuple[pathlib.Path, ...]], required("FILES")],
    out: pathlib.Path,
    layout: LayoutName,
    geometry: Annotated[str | None, optional("NAME|XML", "what the files say")] = None,
    particle: Annotated[str | None, optional("NAME", "the only one of the file")] = None,
    scale: float = 1.0,
    repair: bool = False,
    force: bool = False,
) -> None:
    """Writes shower files in another layout, as float32; several files are joined.

    Attributes that all files have in common are kept, if they are texts or numbers.

    Args:
      files: HDF5 files of any layout, or folders of parts, in the order of the output.
      out: HDF5 file to write; it appears when it is complete.
      layout: layout of the output: dense (the CaloChallenge's), sparse (only the hits), par04 or
        lemurs (a grid of r, alpha and z), showerdata (points for ShowerData), or ddml (square cells
        for DDML's LoadHdf5, without incident energies).
      geometry: geometry of the files: a built-in name, or a binning file ending in .xml. Files of
        points need it unless calojax wrote them.
      particle: name or PDG number of the particle, for a binning file of several particles.
      scale: factor for the energies of voxels. Par04 and LEMURS have deposits in silicon, which
        datasets 2 and 3 divide by 0.033: 30.303 or 0.033 converts them.
      repair: set negative voxels to 0, leave out showers with other bad values, and print how many.
      force: replace --out if it exists.
    """
    check_output(out, force=force, inputs=[*files, geometry or ""])
    if not 0 < scale < math.inf:
        raise CalojaxError(f"--scale must be positive and finite, got {scale}.")
    source = open_showers(files, chosen_detector(geometry, particle), repair=repair)
    attributes = {
        name: value
        for name, value in source.attributes.items()
        if name not in (sparse.LAYOUT, sparse.N_VOXELS)
    }
    size = max(1, _VOXELS // source.detector.n_voxels)
    batches = ((e, s if scale == 1 else scale * s) for e, s in source.batches(size))
    output = Output(out, len(source), attributes)
    write([output], source.detector, batches, label="convert", layout=layout)
    if repair:
        print(f"repaired: {source.clipped:,} voxels set to 0, {source.dropped:,} showers left out")
    per_shower = out.stat().st_size / len(source)
    print(f"{printable(out)}: {len(source):,} showers, {per_shower:,.0f} bytes per shower")
