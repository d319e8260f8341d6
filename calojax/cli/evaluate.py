"""``calojax evaluate``: judges showers against a full simulation."""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Literal

import tyro

from calojax import checkpoint, files, generation, report
from calojax.cli.sample import warn_outside, write
from calojax.data.challenge import ShowerFile, ShowerSource, open_showers
from calojax.errors import CalojaxError, printable
from calojax.evaluate import classifiers, scoreboard, suite
from calojax.evaluate.suite import CHOICES, Options
from calojax.geometry import chosen_detector
from calojax.incident import parse_energy


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Judges showers by the CaloChallenge's metrics: a table, metrics.json and report.html.

    Attributes:
      files: GENERATED.hdf5 REFERENCE.hdf5, or with --run or --reconstruction the reference
        alone.
      out: folder to write to.
      run: sample this trained run with the reference's incident energies.
      reconstruction: send the reference through this run's first stage and back: what the codes
        lose, apart from what the prior loses.
      metrics: which scores: histograms fpd kpd prdc correlations low low-normed high cnn, or
        all; the last four train classifiers, which wants a GPU or --quick.
      seeds: trainings of each classifier.
      seed: of sampling, splits and starts.
      quick: small classifiers and 1,000 showers for prdc; not comparable with other scores.
      floor: also score one half of the reference against the other.
      energy_range: evaluate only incident energies between these, such as 10GeV 100GeV.
      slices: boundaries of slices of incident energy (default: decades that hold enough).
      rivals: further generated files: which of them all Geant4's showers look most like, by a
        multi-class classifier (those of low, low-normed, high, cnn in --metrics, else high).
      against: stand among published models: a results file, or "published" for the
        CaloChallenge's tables.
      timing: JSON lines of benchmarks/generation.py, for the picture of quality against time.
      geometry: of the files (default: as they say, or guessed).
      particle: name or PDG number, if --geometry is a binning file of several.
      name: how the generated showers are called (default: the file's or run's name).
      truncate: compare the first showers of the larger file where numbers differ.
    """

    files: tyro.conf.Positional[tuple[pathlib.Path, ...]]
    out: pathlib.Path
    run: pathlib.Path | None = None
    reconstruction: pathlib.Path | None = None
    metrics: tuple[Literal["all", *CHOICES], ...] = (
        "histograms",
        "fpd",
        "kpd",
        "prdc",
        "correlations",
    )
    seeds: int = 10
    seed: int = 0
    quick: bool = False
    floor: bool = False
    energy_range: tuple[str, str] | None = None
    slices: tuple[str, ...] | None = None
    rivals: tuple[pathlib.Path, ...] = ()
    against: str | None = None
    timing: pathlib.Path | None = None
    geometry: str | None = None
    particle: str | None = None
    name: str | None = None
    truncate: bool = False


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    asked = tyro.cli(Evaluate, prog="calojax evaluate", args=arguments)

    run = asked.run or asked.reconstruction
    if asked.run and asked.reconstruction:
        raise CalojaxError("Give either --run or --reconstruction.")
    if len(asked.files) != (1 if run else 2):
        raise CalojaxError(
            "Name the reference file alone with --run or --reconstruction, and else the generated "
            f"and the reference file; got {len(asked.files)} files."
        )
    options = Options(
        metrics=CHOICES if "all" in asked.metrics else asked.metrics,
        seeds=asked.seeds,
        seed=asked.seed,
        quick=asked.quick,
        floor=asked.floor,
        energy_range=asked.energy_range and tuple(map(parse_energy, asked.energy_range)),
        slices=asked.slices and tuple(map(parse_energy, asked.slices)),
        truncate=asked.truncate,
    )
    detector = chosen_detector(asked.geometry, asked.particle)
    reference = open_showers(asked.files[-1], detector)
    # Before the long work, so that a mistake is told at once.
    times = _times(asked.timing)
    published = _published(asked.against, reference.detector.name)
    for path in asked.rivals:
        open_showers(path, reference.detector)
    files.make_folder(asked.out)
    with contextlib.ExitStack() as stack:
        if run:
            folder = stack.enter_context(files.working_folder(asked.out, ".showers-"))
            generated = _showers_of_run(run, reference, asked, folder)
        else:
            generated = open_showers(asked.files[0], detector)
        generated, reference = suite.comparable(generated, reference, options)
        name = printable(asked.name or (run or asked.files[0]).stem)
        evaluation = suite.score(generated, reference, options)
        context = report.Context(
            name=name,
            inputs={
                "generated": str(run or asked.files[0]),
                "reconstruction": bool(asked.reconstruction),
                "reference": str(asked.files[-1]),
            },
            settings=dataclasses.asdict(options),
            times=times,
            published=published,
            multiclass=_multiclass({name: generated}, reference, asked, options),
        )
        print(report.screen(evaluation, context))
        try:
            page = report.write(
                evaluation, asked.out, context=context, generated=generated, reference=reference
            )
        except ImportError as error:
            raise CalojaxError(
                f"The scores are in {asked.out / 'metrics.json'}, but pictures need "
                f"{error.name}: install calojax[plots]."
            ) from None
    print(f"\nreport: {page}\nscores: {asked.out / 'metrics.json'}")


def _showers_of_run(
    run: pathlib.Path, reference: ShowerSource, asked: Evaluate, folder: pathlib.Path
) -> ShowerSource:
    """The showers that a run samples or reconstructs, on disk to bound the memory."""
    model, variables, done = checkpoint.load(run)
    if model.detector.binning != reference.detector.binning:
        raise CalojaxError(
            f"{run}: was trained on geometry {model.detector.name!r}, but {asked.files[-1]} has "
            f"{reference.detector.name!r}."
        )
    warn_outside(reference.energies, done.energy_range)
    if asked.reconstruction:
        label = "reconstruct"
        batches = generation.reconstruct(model, variables, reference, seed=asked.seed)
    else:
        label = "sample"
        batches = generation.generate(model, variables, reference.energies, seed=asked.seed)
    path = folder / "showers.hdf5"
    write(path, reference.detector, len(reference), {}, batches, label=label)
    return ShowerFile(path, reference.detector)


def _multiclass(
    samples: dict[str, ShowerSource], reference: ShowerSource, asked: Evaluate, options: Options
) -> tuple[classifiers.MulticlassScore, ...]:
    if not asked.rivals:
        return ()
    for path in asked.rivals:
        name = path.stem if path.stem not in samples else str(path)
        rival = open_showers(path, reference.detector)
        samples[name], _ = suite.comparable(rival, reference, options)
    kinds = [kind for kind in suite.CLASSIFIERS if kind in options.metrics] or ["high"]
    return tuple(
        classifiers.multiclass(
            samples, reference, kind=kind, seeds=asked.seeds, quick=asked.quick, seed=asked.seed
        )
        for kind in kinds
    )


def _times(path: pathlib.Path | None) -> dict[str, float]:
    """Published column -> ms per shower, from the lines of benchmarks/generation.py."""
    if path is None:
        return {}
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        whole = [row for row in rows if row["part"] == "whole"]
        return {
            f"time {'CPU' if row['platform'] == 'cpu' else 'GPU'} {row['batch']}": float(
                row["ms_per_shower"]
            )
            for row in whole
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CalojaxError(
            f"{path}: does not hold the JSON lines of benchmarks/generation.py ({error})."
        ) from None


def _published(against: str | None, geometry: str) -> tuple[scoreboard.Row, ...]:
    if against is None:
        return ()
    dataset = scoreboard.dataset_of(geometry)
    if dataset is None:
        raise CalojaxError(f"There are no published results for geometry {geometry!r}.")
    return (
        scoreboard.rows(dataset)
        if against == "published"
        else scoreboard.read(pathlib.Path(against), dataset)
    )
