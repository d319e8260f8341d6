"""``calojax simulate``: writes showers of the parametric generator."""

import pathlib
from collections.abc import Sequence

import tyro

from calojax.cli.sample import write
from calojax.errors import printable
from calojax.files import check_output
from calojax.geometry import find_detector
from calojax.io.writer import LayoutName
from calojax.sampling import generation
from calojax.sampling.incident_energies import energy_source


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    tyro.cli(simulate, prog="calojax simulate", args=arguments)


def simulate(
    out: pathlib.Path,
    num: int | None = None,
    geometry: str = "ds2",
    particle: str | None = None,
    energies: str | None = None,
    seed: int = 0,
    batch: int | None = None,
    layout: LayoutName = "dense",
    force: bool = False,
) -> None:
    """Writes showers of a parametric generator (GFLASH, hep-ex/0001020): data without Geant4.

    Args:
      out: HDF5 file to write; appears when it is complete.
      num: how many showers; a file or a list of energies may leave it out.
      geometry: built-in geometry, or a binning file ending in .xml.
      particle: name or PDG number, if the binning file is of several particles.
      energies: an HDF5 file or a folder of parts (their energies in order), a list such as
        50GeV,100GeV (in turn), uniform:1GeV:10GeV or log-uniform:1GeV:1TeV; default: the spectrum
        of the CaloChallenge's data set.
      seed: of all random numbers, from 0 to 4294967295.
      batch: showers that a device computes at a time; default: 128 on a CPU, 1000 elsewhere. On one
        kind of device shower i is the same to the last bit for any --num and number of
        devices; another --batch rounds otherwise.
      layout: dense (the CaloChallenge's) or sparse (voxel and energy of every hit).
      force: replace --out if it exists.
    """
    check_output(out, force=force, inputs=[geometry, energies or ""])
    detector = find_detector(geometry, particle)
    wanted = energy_source(energies, detector, num=num, seed=seed)
    batches = generation.simulate(detector, wanted, seed=seed, batch_size=batch)
    provenance = {"model": "gflash", "seed": seed}
    write(out, detector, len(wanted), provenance, batches, label="simulate", layout=layout)
    print(f"{printable(out)}: {len(wanted)} showers of geometry {detector.name}")
