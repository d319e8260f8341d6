"""``calojax evaluate``: judges showers against a full simulation."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import tyro

import calojax
from calojax import checkpoint, files, report
from calojax.cli.sample import digest_of, warn_outside, write
from calojax.errors import CalojaxError, printable, warn
from calojax.evaluation import classifiers, scoreboard, suite
from calojax.evaluation.features import batch_size
from calojax.evaluation.suite import CHOICES, Options
from calojax.geometry import Detector, chosen_detector
from calojax.io import ShowerFile, ShowerSource, open_showers
from calojax.io.marks import TRAINED_ON
from calojax.progress import progress_bar
from calojax.rng import checked_seed
from calojax.sampling import generation
from calojax.sampling.incident_energies import parse_energy


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Judges showers by the CaloChallenge's metrics: a table, metrics.json and report.html.

    The same command again uses the scores that are in --out already, also those of a command
    that was interrupted.

    Attributes:
      files: GENERATED.hdf5 REFERENCE.hdf5, or with --run or --reconstruction the reference
        alone; several reference files are joined in their order. Folders of parts are files too.
      out: folder to write to; an evaluation of other showers in it is replaced.
      run: sample this trained run with the reference's incident energies.
      reconstruction: send the reference through this run's first stage and back: what the codes
        lose, apart from what the prior loses.
      metrics: which scores: histograms fpd kpd prdc correlations low low-normed high cnn, or
        all that can be computed; the last four train classifiers, which wants a GPU or --quick.
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
      truncate: where numbers of showers differ, take as many of the larger file, spread evenly over
        its incident energies.
      pictures: draw pictures, which take a minute or more.
      format: of the pictures in --out; those in report.html are PNG.
      force: compute all scores again, and replace files in --out that another program wrote.
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
    pictures: bool = True
    format: report.Kind = "png"
    force: bool = False


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    asked = tyro.cli(Evaluate, prog="calojax evaluate", args=arguments)

    run = asked.run or asked.reconstruction
    if asked.run and asked.reconstruction:
        raise CalojaxError("Give either --run or --reconstruction.")
    if len(asked.files) < (1 if run else 2):
        raise CalojaxError(
            "Name the reference files alone with --run or --reconstruction, and else the generated "
            f"file and the reference files; got {len(asked.files)} files."
        )
    references = asked.files if run else asked.files[1:]
    options = Options(
        metrics=asked.metrics,
        seeds=asked.seeds,
        seed=checked_seed(asked.seed),
        quick=asked.quick,
        floor=asked.floor,
        energy_range=asked.energy_range and tuple(map(parse_energy, asked.energy_range)),
        slices=asked.slices and tuple(map(parse_energy, asked.slices)),
        truncate=asked.truncate,
    )
    detector = chosen_detector(asked.geometry, asked.particle)
    reference = open_showers(references, detector)
    # All that cannot be done is found before the long work.
    times = _times(asked.timing)
    published = _published(asked.against, reference.detector)
    generated = reference if run else open_showers(asked.files[0], detector)
    suite.comparable(generated, reference, options)
    rivals = {
        path: suite.comparable(open_showers(path, reference.detector), reference, options)[0]
        for path in asked.rivals
    }
    if not asked.force:
        report.check(asked.out)
    files.make_folder(asked.out)
    digest = None
    with contextlib.ExitStack() as stack:
        if run:
            folder = stack.enter_context(files.working_folder(asked.out, ".showers-"))
            generated, digest = _showers_of_run(run, reference, asked, folder)
        generated, reference = suite.comparable(generated, reference, options)
        suite.energy_warnings(generated.energies, reference.energies)  # Refuses what is hopeless.
        name = printable(asked.name or (run or asked.files[0]).stem)
        inputs = {
            "generated": printable(run or asked.files[0]),
            "reconstruction": bool(asked.reconstruction),
            "reference": ", ".join(map(printable, references)),
            "digest": _digest_of_all(
                digest or _digest(generated), _digest(reference), reference.detector, options
            ),
        }
        if rivals:
            inputs["rivals"] = {printable(path): _digest(s) for path, s in rivals.items()}
        stored = report.prepare(asked.out, inputs, force=asked.force)
        if stored.replaced is not None:
            warn(f"{asked.out}: the evaluation of {stored.replaced} in it is replaced.")
        done = suite.finished(stored.known.scores)
        options = dataclasses.replace(
            options, metrics=tuple(dict.fromkeys((*options.metrics, *done)))
        )
        samples = {name: generated}
        for path, sample in rivals.items():
            samples[printable(path.stem if path.stem not in samples else path)] = sample
        context = report.Context(
            name=name,
            inputs=inputs,
            settings=dataclasses.asdict(options),
            times=times,
            published=published,
            multiclass=[s for s in stored.multiclass if set(s.log_posterior) == set(samples)],
        )
        for evaluation in suite.scoring(generated, reference, options, stored.known):
            evaluation = _with_known(evaluation, stored.known)
            report.write_metrics(report.metrics(evaluation, context), asked.out)
        possible, _ = suite.possible(options, reference.detector, len(reference))
        for score in _multiclass(samples, reference, possible, context.multiclass):
            context = dataclasses.replace(context, multiclass=(*context.multiclass, score))
            report.write_metrics(report.metrics(evaluation, context), asked.out)
        try:
            page = report.write(
                evaluation,
                asked.out,
                context=context,
                generated=generated,
                reference=reference,
                pictures=asked.pictures,
                kind=asked.format,
                tell=warn,
            )
        finally:
            # Last, since a screen may fail.
            print(report.screen(evaluation, context))
    print(f"\nreport: {printable(page)}")
    print(f"scores: {printable(asked.out / 'metrics.json')}")


def _with_known(evaluation: suite.Evaluation, known: suite.Known) -> suite.Evaluation:
    """The evaluation with the scores that are known already; those of its own come first."""
    return dataclasses.replace(
        evaluation,
        scores={**known.scores, **evaluation.scores},
        slices=tuple(
            dataclasses.replace(
                part, scores={**known.slices.get((part.low, part.high), {}), **part.scores}
            )
            for part in evaluation.slices
        ),
        floor={**known.floor, **(evaluation.floor or {})} or None,
    )


def _digest(source: ShowerSource) -> str:
    """Digest of incident energies and showers: whatever the file's name, date and layout."""
    digest = hashlib.blake2b(digest_size=16)
    with progress_bar("read", len(source)) as bar:
        for energies, showers in source.batches(batch_size(source.detector)):
            digest.update(np.ascontiguousarray(energies))
            digest.update(np.ascontiguousarray(showers))
            bar.update(len(showers))
    return digest.hexdigest()


def _digest_of_all(generated: str, reference: str, detector: Detector, options: Options) -> str:
    """Digest of all that a score depends on."""
    settings = dataclasses.asdict(dataclasses.replace(options, metrics=(), floor=False))
    parts = (calojax.__version__, generated, reference, detector, settings)
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def _showers_of_run(
    run: pathlib.Path, reference: ShowerSource, asked: Evaluate, folder: pathlib.Path
) -> tuple[ShowerSource, str]:
    """The showers that a run samples or reconstructs, on disk to bound the memory; their digest."""
    model, variables, done = checkpoint.load(run)
    if model.detector.binning != reference.detector.binning:
        raise CalojaxError(
            f"{run}: was trained on geometry {model.detector.name!r}, but {asked.files[0]} has "
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
    origin = {TRAINED_ON: done.trained_on} if done.trained_on else {}
    write(path, reference.detector, len(reference), origin, batches, label=label)
    # Of the model, since the last bits of showers differ between devices.
    return ShowerFile(path, reference.detector), f"{label} {digest_of(variables)}"


def _multiclass(
    samples: dict[str, ShowerSource],
    reference: ShowerSource,
    options: Options,
    known: Sequence[classifiers.MulticlassScore],
) -> Iterator[classifiers.MulticlassScore]:
    """The multi-class scores that are not known yet, if there are rivals."""
    if len(samples) < 2:
        return
    kinds = [kind for kind in suite.CLASSIFIERS if kind in options.metrics] or ["high"]
    for kind in kinds:
        if kind not in {score.kind for score in known}:
            yield classifiers.multiclass(
                samples,
                reference,
                kind=kind,
                seeds=options.seeds,
                quick=options.quick,
                seed=options.seed,
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


def _published(against: str | None, geometry: Detector) -> tuple[scoreboard.Row, ...]:
    if against is None:
        return ()
    dataset = scoreboard.dataset_of(geometry)
    if dataset is None:
        raise CalojaxError(f"There are no published results for geometry {geometry.name!r}.")
    return (
        scoreboard.rows(dataset)
        if against == "published"
        else scoreboard.read(pathlib.Path(against), dataset)
    )
