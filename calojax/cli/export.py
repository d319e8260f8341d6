"""``calojax export``: writes a trained model as a program for other software."""

import pathlib
from typing import Annotated

import tyro

from calojax import api
from calojax.cli.arguments import optional
from calojax.errors import printable
from calojax.export import FormatName, NoiseName, Options, write


def export(
    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")],
    out: pathlib.Path,
    format: FormatName,
    batch: int = 1,
    noise: Annotated[
        NoiseName | None, optional("{input,seed}", "seed for par04, input for onnx, triton")
    ] = None,
    sampling_fraction: Annotated[
        float | None, optional("FLOAT", "0.033 for ds2 and ds3, otherwise 1")
    ] = None,
    force: bool = False,
) -> None:
    """Writes a trained model as a program for other software, with a description in model.json.

    Args:
      run: folder of a trained run, or the name of a model that comes with calojax.
      out: folder to write to.
      format: par04 is an ONNX file and a macro for Geant4's example Par04 and for DDML; onnx is an
        ONNX file of random numbers and energies; stablehlo runs in JAX on any device; triton is a
        model repository of NVIDIA's Triton server.
      batch: number of showers that the program makes at a time; par04 has one, and stablehlo takes
        any number where the model allows it.
      noise: random numbers that the program takes: input means all of them, seed means ten normal
        numbers, from which it makes the others.
      sampling_fraction: ratio of deposited energy to voxel energy, for par04.
      force: replace files that exist.
    """
    options = Options(batch, noise, sampling_fraction)
    for path in write(api.load(run), out, format, options, force=force):
        print(f"{printable(path)}: {path.stat().st_size / 1e6:,.2f} MB")
