"""``calojax simulate``: writes showers of the parametric generator."""

import pathlib
from typing import Annotated

from calojax.cli.arguments import optional
from calojax.cli.showers import Output, write
from calojax.errors import printable
from calojax.files import check_output
from calojax.geometry import find_detector
from calojax.io.layouts import LayoutName
from calojax.sampling import generation
from calojax.sampling.incident_energies import energy_source


def simulate(
    out: pathlib.Path,
    num: Annotated[int | None, optional("INT", "as many as --energies has")] = None,
    geometry: str = "ds2",
    particle: Annotated[str | None, optional("NAME", "the only one of the file")] = None,
    energies: Annotated[str | None, optional("ENERGIES", "the dataset's spectrum")] = None,
    seed: int = 0,
    batch: Annotated[int | None, optional("INT", "128 on a CPU, 1000 elsewhere")] = None,
    layout: LayoutName = "dense",
    force: bool = False,
) -> None:
    """Writes showers of a parametric generator (GFLASH, hep-ex/0001020): data without Geant4.

    Args:
      out: HDF5 file to write; it appears when it is complete.
      num: number of showers; needed unless --energies is a file or a list.
      geometry: name of a built-in geometry, or a binning file ending in .xml.
      particle: name or PDG number of the particle, for a binning file of several particles.
      energies: incident energies: an HDF5 file, a folder of parts, a list such as 50GeV,100GeV
        (taken in turn), uniform:1GeV:10GeV or log-uniform:1GeV:1TeV.
      seed: seed of all random numbers, from 0 to 4294967295.
      batch: number of showers that a device computes at a time. On one kind of device, shower i is
        the same to the last bit for any --num and number of devices; another --batch changes the
        rounding.
      layout: layout of the file: dense (the CaloChallenge's), sparse (only the hits), or another of
        calojax convert.
      force: replace --out if it exists.
    """
    check_output(out, force=force, inputs=[geometry, energies or ""])
    detector = find_detector(geometry, particle)
    wanted = energy_source(energies, detector, num=num, seed=seed)
    batches = generation.simulate(detector, wanted, seed=seed, batch_size=batch)
    output = Output(out, len(wanted), {"model": "gflash", "seed": seed})
    write([output], detector, batches, label="simulate", layout=layout)
    print(f"{printable(out)}: {len(wanted):,} showers of geometry {detector.name}")
