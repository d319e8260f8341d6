"""``calojax sample``: writes showers of a trained model, to one file or to many."""

import functools
import hashlib
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Annotated

import jax
import numpy as np
import tyro
from tqdm import tqdm

import calojax
from calojax import checkpoint, distributed, models
from calojax.errors import CalojaxError, printable
from calojax.files import check_output
from calojax.geometry import Detector
from calojax.io import shards
from calojax.io.marks import TRAINED_ON
from calojax.io.writer import LayoutName, ShowerWriter
from calojax.models.base import Variables
from calojax.progress import progress_bar
from calojax.sampling import generation
from calojax.sampling.generation import Batches, Precision
from calojax.sampling.incident_energies import energy_source

Provenance = Mapping[str, str | int | float]
"""What a file's attributes say about its origin."""

# Energies that are looked at before there is a warning of extrapolation.
_LOOK = 2**16


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    tyro.cli(sample, prog="calojax sample", args=arguments)


def sample(
    run: tyro.conf.Positional[pathlib.Path],
    out: pathlib.Path,
    num: int | None = None,
    energies: str | None = None,
    seed: int = 0,
    batch: int | None = None,
    temperature: float = 1.0,
    precision: Precision = "default",
    layout: LayoutName = "dense",
    part_size: int | None = None,
    force: bool = False,
    group: Annotated[distributed.Group, tyro.conf.arg(name="")] = distributed.ALONE,
) -> None:
    """Writes showers of a trained model to HDF5 (MeV).

    Args:
      run: folder of a trained run.
      out: HDF5 file to write, which appears when it is complete; with --part-size, a folder.
      num: how many showers; a file or a list of energies may leave it out.
      energies: an HDF5 file or a folder of parts (their energies in order), a list such as
        50GeV,100GeV (in turn), uniform:1GeV:10GeV or log-uniform:1GeV:1TeV; default: the spectrum
        of the training.
      seed: of all random numbers, from 0 to 4294967295.
      batch: showers that a device computes at a time; default: 128 on a CPU, 1000 elsewhere. On one
        kind of device shower i is the same to the last bit for any --num, --part-size and number of
        devices; another --batch rounds otherwise.
      temperature: below 1 showers are more alike than those of the training, above less.
      precision: of matrix products: tf32 and bf16 are faster where there are units for them, and
        do not move the scores (docs/speed.md); default: what the device takes by itself.
      layout: dense (the CaloChallenge's) or sparse (voxel and energy of every hit; smaller and
        faster, read by all commands of calojax).
      part_size: showers of a file; writes numbered part files and a manifest into the folder
        --out. The same command again makes the parts that are missing.
      force: replace --out if it exists (a file; parts are never replaced).
      group: processes that share the parts, each on its own devices; without --coordinator none of
        them waits for the others, as suits the tasks of an array job.
    """
    with distributed.sharing(group) as (index, count):
        if count > 1 and part_size is None:
            raise CalojaxError(
                f"{count} processes cannot write one file; add --part-size, and --out is a folder."
            )
        if part_size is None:
            check_output(out, force=force, inputs=[run, energies or ""])
        model, variables, done = checkpoint.load(run)
        wanted = energy_source(
            energies,
            model.detector,
            num=num,
            seed=seed,
            trained=done.energy_range,
            seen=done.energies,
        )
        batch = generation.default_batch_size() if batch is None else batch
        warn_outside(wanted[:_LOOK], done.energy_range)
        provenance = {
            "model": models.name_of(model),
            "checkpoint": printable(run.resolve().name),
            "checkpoint_step": done.total,
            "seed": seed,
            "temperature": temperature,
        }
        if done.trained_on:
            provenance[TRAINED_ON] = done.trained_on
        if precision != "default":
            provenance["precision"] = precision
        start = time.perf_counter()

        showers_of = functools.partial(
            generation.generate,
            model,
            variables,
            wanted,
            seed=seed,
            temperature=temperature,
            precision=precision,
        )
        if part_size is None:
            batches = showers_of(batch_size=batch)
            write(
                out, model.detector, len(wanted), provenance, batches, label="sample", layout=layout
            )
            made = f"{len(wanted):,} showers"
        else:
            plan = shards.split(len(wanted), part_size)
            settings = provenance | {
                "calojax_version": calojax.__version__,
                "geometry": model.detector.name,
                "variables": digest_of(variables),
                "energies": printable(wanted.name),
                "num": len(wanted),
                "part_size": part_size,
                "batch": batch,
                "layout": layout,
            }
            shards.begin(out, settings, plan)
            own = shards.share(plan, index, count)
            todo = shards.missing(out, own)
            batches = showers_of(batch_size=batch, parts=[part.showers for part in todo])
            write_parts(out, model.detector, todo, provenance, batches, layout=layout)
            made = f"{len(todo):,} parts of {len(plan):,}, {len(own) - len(todo):,} were there,"
        took = time.perf_counter() - start
        print(f"{printable(out)}: {made} in {took:.1f} s, compilation and writing included")


def write(
    out: pathlib.Path,
    detector: Detector,
    num: int,
    provenance: Provenance,
    batches: Batches,
    *,
    label: str,
    layout: LayoutName = "dense",
) -> None:
    """Writes batches of showers to a file under a progress bar."""
    with (
        ShowerWriter(out, detector, num, provenance, layout=layout) as writer,
        progress_bar(label, num) as bar,
    ):
        _fill(writer, batches, bar)


def write_parts(
    folder: pathlib.Path,
    detector: Detector,
    todo: Sequence[shards.Part],
    provenance: Provenance,
    batches: Batches,
    *,
    layout: LayoutName,
) -> None:
    """Writes batches of showers, none of which reaches over a part's end, to the files of parts."""
    with progress_bar("sample", sum(len(part.showers) for part in todo)) as bar:
        for part in todo:
            path, first = folder / part.name, part.showers.start
            own = {**provenance, "part": part.number, "first_shower": first}
            with ShowerWriter(path, detector, len(part.showers), own, layout=layout) as writer:
                _fill(writer, batches, bar)


def _fill(writer: ShowerWriter, batches: Batches, bar: tqdm) -> None:
    """Appends batches until the file is full; the next ones are left."""
    while writer.written < writer.count:
        energies, showers = next(batches)
        writer.append(energies, showers)
        bar.update(len(showers))


def digest_of(variables: Variables) -> str:
    """Of all of a model's arrays: another training, even under the same name, has another."""
    digest = hashlib.blake2b(digest_size=16)
    for leaf in jax.tree.leaves(variables):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def warn_outside(energies: np.ndarray, trained: tuple[float, float]) -> None:
    """Tells on standard error if energies [n] are outside the trained range, all in MeV."""
    low, high = trained
    # A finite sample does not reach the ends of its spectrum.
    outside = ((energies < 0.98 * low) | (energies > 1.02 * high)).mean()
    if outside > 0:
        print(
            f"warning: {outside:.1%} of the first {len(energies):,} incident energies are outside "
            f"{low:g} to {high:g} MeV, which the model was trained on; their showers are "
            "extrapolated.",
            file=sys.stderr,
        )
