"""``calojax sample``: writes showers of a trained model, to one file or to many."""

import functools
import pathlib
import time
from typing import Annotated

import tyro

import calojax
from calojax import checkpoint, distributed, models
from calojax.cli.arguments import optional
from calojax.cli.process import keep_freed_memory
from calojax.cli.showers import Output, warn_outside, write
from calojax.errors import CalojaxError, printable
from calojax.files import check_output
from calojax.io import shards
from calojax.io.layouts import LayoutName
from calojax.io.marks import TRAINED_ON
from calojax.nn.precision import Precision
from calojax.sampling import generation
from calojax.sampling.incident_energies import energy_source

# Energies that are checked against the range of the training.
_CHECKED = 2**16


def sample(
    run: Annotated[tyro.conf.Positional[pathlib.Path], tyro.conf.arg(metavar="RUN")],
    out: pathlib.Path,
    num: Annotated[int | None, optional("INT", "as many as --energies has")] = None,
    energies: Annotated[str | None, optional("ENERGIES", "the spectrum of the training")] = None,
    seed: int = 0,
    batch: Annotated[int | None, optional("INT", "128 on a CPU, 1000 elsewhere")] = None,
    temperature: float = 1.0,
    precision: Precision = "default",
    layout: LayoutName = "dense",
    part_size: Annotated[int | None, optional("INT", "all showers in one file")] = None,
    force: bool = False,
    group: Annotated[distributed.Group, tyro.conf.arg(name="")] = distributed.ALONE,
) -> None:
    """Writes showers of a trained model to HDF5 files, in MeV.

    Args:
      run: folder of a trained run, or the name of a model that comes with calojax: calovq-ds2 or
        pointflow-ds2.
      out: HDF5 file to write, or a folder with --part-size. A file appears when it is complete.
      num: number of showers; needed unless --energies is a file or a list.
      energies: incident energies: an HDF5 file, a folder of parts, a list such as 50GeV,100GeV
        (taken in turn), uniform:1GeV:10GeV or log-uniform:1GeV:1TeV.
      seed: seed of all random numbers, from 0 to 4294967295.
      batch: number of showers that a device computes at a time. On one kind of device, shower i is
        the same to the last bit for any --num, --part-size and number of devices; another --batch
        changes the rounding.
      temperature: scale of the randomness: below 1 reduces the diversity of showers, above 1
        increases it.
      precision: rounding in matrix products; "default" is the device's own. tf32 and bf16 are
        faster on hardware that has them, and do not change the scores.
      layout: layout of the files, as in calojax convert: dense is the CaloChallenge's; sparse
        holds only the hits, is smaller and faster to write, and is read by all commands.
      part_size: number of showers in each file: --out becomes a folder of numbered files with a
        manifest. The same command again makes the files that are missing.
      force: replace --out if it is a file that exists; parts are never replaced.
      group: processes that share the parts. Without --coordinator they do not wait for each other,
        as suits the tasks of an array job.
    """
    keep_freed_memory()
    with distributed.sharing(group) as (index, count):
        if count > 1 and part_size is None:
            raise CalojaxError(
                f"{count} processes cannot write one file; add --part-size, and --out is a folder."
            )
        folder = checkpoint.run_folder(run)
        if part_size is None:
            check_output(out, force=force, inputs=[folder, energies or ""])
        model, variables, done = checkpoint.load(folder)
        wanted = energy_source(
            energies,
            model.detector,
            num=num,
            seed=seed,
            trained=done.energy_range,
            seen=done.energies,
        )
        batch = generation.default_batch_size() if batch is None else batch
        warn_outside(wanted[:_CHECKED], done.energy_range)
        provenance = {
            "model": models.name_of(model),
            "checkpoint": printable(folder.resolve().name),
            "checkpoint_step": done.total,
            "seed": seed,
            "temperature": temperature,
        }
        if done.trained_on:
            provenance[TRAINED_ON] = done.trained_on
        if precision != "default":
            provenance["precision"] = precision
        showers_of = functools.partial(
            generation.generate,
            *(model, variables, wanted),
            seed=seed,
            temperature=temperature,
            precision=precision,
            batch_size=batch,
            hits=True,
        )
        start = time.perf_counter()
        if part_size is None:
            outputs, batches = [Output(out, len(wanted), provenance)], showers_of()
            made = f"{len(wanted):,} showers"
        else:
            settings = provenance | {
                "calojax_version": calojax.__version__,
                "geometry": model.detector.name,
                "variables": checkpoint.digest_of(variables),
                "energies": printable(wanted.name),
                "num": len(wanted),
                "part_size": part_size,
                "batch": batch,
                "layout": layout,
            }
            plan = shards.split(len(wanted), part_size)
            shards.begin(out, settings)
            own = shards.share(plan, index, count)
            todo = shards.missing(out, own)
            outputs = [
                Output(
                    out / part.name,
                    len(part.showers),
                    {**provenance, "part": part.number, "first_shower": part.showers.start},
                )
                for part in todo
            ]
            batches = showers_of(parts=[part.showers for part in todo])
            made = f"{len(todo):,} of {len(plan):,} parts ({len(own) - len(todo):,} existed)"
        write(outputs, model.detector, batches, label="sample", layout=layout)
        took = time.perf_counter() - start
        print(f"{printable(out)}: {made} in {took:.1f} s, with compilation and writing")
