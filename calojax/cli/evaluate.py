"""``calojax evaluate``: scores showers against a full simulation."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import tyro

import calojax
from calojax import checkpoint, files, report
from calojax.cli.allocator import keep_freed_memory
from calojax.cli.arguments import optional, required
from calojax.cli.showers import Output, warn_outside, write
from calojax.errors import CalojaxError, printable, warn
from calojax.evaluation import classifiers, scoreboard, suite
from calojax.evaluation.features import batch_size
from calojax.evaluation.suite import Options
from calojax.geometry import Detector, chosen_detector
from calojax.io import ShowerFile, ShowerSource, open_showers
from calojax.io.marks import TRAINED_ON
from calojax.progress import progress_bar
from calojax.rng import checked_seed
from calojax.sampling import generation
from calojax.sampling.incident_energies import parse_energy


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Scores showers by the CaloChallenge's metrics: a table, metrics.json and report.html.

    The same command again uses the scores that are in --out already, also those of a command
    that was interrupted.

    Attributes:
      files: GENERATED.hdf5 REFERENCE.hdf5, or with --run or --reconstruction the reference
        alone. Further files are joined to the reference in their order, unless --name names
        several models. A file may be a folder of parts.
      out: folder to write to; an evaluation of other showers in it is replaced.
      name: names of the generated samples, one for each: after --name A B the first two files are
        generated samples, and one report shows both.
      reference_name: name of the reference.
      run: trained run that is sampled with the reference's incident energies.
      reconstruction: run whose first stage encodes and decodes the reference: what the codes
        lose, apart from what the prior loses.
      metrics: scores: histograms fpd kpd prdc correlations low low-normed high cnn, or all that
        can be computed; the last four train classifiers, for which a GPU or --quick is needed.
      seeds: number of trainings of each classifier.
      seed: seed of sampling, splits and starts.
      quick: use small classifiers and 1,000 showers for prdc; not comparable with other scores.
      floor: also score one half of the reference against the other.
      energy_range: lowest and highest incident energy of the showers that are evaluated, such as
        10GeV 100GeV.
      slices: boundaries of slices of incident energy.
      rivals: further generated files for a multi-class classifier: which of all samples the
        reference resembles most (by the classifiers in --metrics, else high).
      against: published models to compare with: a results file, or "published" for the
        CaloChallenge's tables.
      timing: file of JSON lines with the keys part ("whole"), platform, batch and ms_per_shower,
        for the picture of quality against time.
      geometry: geometry of the files: a built-in name, or a binning file ending in .xml.
      particle: name or PDG number, if --geometry is a binning file of several particles.
      truncate: take as many showers of the larger samples as the smallest has, spread evenly over
        incident energy.
      pictures: draw pictures, which takes a minute or more.
      format: format of the pictures in --out; those in report.html are PNG.
      force: compute all scores again, and replace files in --out that another program wrote.
    """

    files: Annotated[tyro.conf.Positional[tuple[pathlib.Path, ...]], required("FILES")]
    out: pathlib.Path
    name: Annotated[tuple[str, ...], optional("NAMES", "the name of the file or run")] = ()
    reference_name: str = "Geant4"
    run: Annotated[pathlib.Path | None, optional("RUN", "none")] = None
    reconstruction: Annotated[pathlib.Path | None, optional("RUN", "none")] = None
    metrics: tuple[str, ...] = ("histograms", "fpd", "kpd", "prdc", "correlations")
    seeds: int = 10
    seed: int = 0
    quick: bool = False
    floor: bool = False
    energy_range: Annotated[tuple[str, str] | None, optional("LOW HIGH", "all energies")] = None
    slices: Annotated[
        tuple[str, ...] | None, optional("ENERGIES", "decades with enough showers")
    ] = None
    rivals: Annotated[tuple[pathlib.Path, ...], optional("FILES", "none")] = ()
    against: Annotated[str | None, optional("published|FILE", "none")] = None
    timing: Annotated[pathlib.Path | None, optional("FILE", "none")] = None
    geometry: Annotated[str | None, optional("NAME|XML", "what the files say")] = None
    particle: Annotated[str | None, optional("NAME", "the only one of the file")] = None
    truncate: bool = False
    pictures: bool = True
    format: report.PictureFormat = "png"
    force: bool = False

    @property
    def model(self) -> pathlib.Path | None:
        """Run folder of a model that makes the first sample."""
        return self.run or self.reconstruction

    def split_files(self) -> tuple[tuple[pathlib.Path, ...], tuple[pathlib.Path, ...]]:
        """Generated files and reference files.

        Raises:
          CalojaxError: if there are too few files for the names.
        """
        count = max(len(self.name), 1) - bool(self.model)
        if len(self.files) <= count:
            raise CalojaxError(
                f"{count} generated and at least 1 reference file are needed, got "
                f"{len(self.files)} files. Name the reference alone with --run or "
                "--reconstruction, else the generated file first, or one for each --name."
            )
        return self.files[:count], self.files[count:]


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    asked = tyro.cli(Evaluate, prog="calojax evaluate", args=list(arguments))
    keep_freed_memory()
    if asked.run and asked.reconstruction:
        raise CalojaxError("Give either --run or --reconstruction.")
    options = _options(asked)
    generated, references = asked.split_files()
    detector = chosen_detector(asked.geometry, asked.particle)
    for path in references if len(references) > 1 else ():
        if "model" in open_showers(path, detector).attributes:
            raise CalojaxError(
                f"{path}: was sampled from a model, but would be joined to the reference; to "
                "evaluate several samples, give a --name for each."
            )
    reference = open_showers(references, detector)
    paths = [*([asked.model] if asked.model else []), *generated]
    names = [printable(name) for name in asked.name or [path.stem for path in paths]]
    if len({*names, asked.reference_name}) <= len(names):
        raise CalojaxError(f"--name {' '.join(names)}: samples need different names.")
    # All that cannot be done is found before the long work.
    times = _times(asked.timing)
    published = _published(asked.against, reference.detector)
    opened = [open_showers(path, detector) for path in generated]
    rivals = {path: open_showers(path, reference.detector) for path in asked.rivals}
    if asked.truncate:
        # All are compared with the same showers of the reference.
        count = min(map(len, (reference, *opened, *rivals.values())))
        reference = suite.spread(reference, count)
        opened = [suite.spread(sample, count) for sample in opened]
    # The showers of a model will be as many as the reference's.
    expected = [*([reference] if asked.model else []), *opened]
    pairs = [suite.comparable(one, reference, options) for one in (*expected, *rivals.values())]
    rivals = {path: one for path, (one, _) in zip(rivals, pairs[len(expected) :], strict=True)}
    kinds = _multiclass_kinds(pairs, options) if rivals else []
    if not asked.force:
        report.check(asked.out)
    files.make_folder(asked.out)
    with contextlib.ExitStack() as stack:
        digests: list[str | None] = [None] * len(opened)
        if asked.model:
            folder = stack.enter_context(files.working_folder(asked.out, ".showers-"))
            sample, digest = _showers_of_run(asked.model, reference, asked, folder)
            opened, digests = [sample, *opened], [digest, *digests]
        pairs = [suite.comparable(sample, reference, options) for sample in opened]
        reference = pairs[0][1]
        samples = {name: sample for name, (sample, _) in zip(names, pairs, strict=True)}
        common: dict = {"reference": ", ".join(map(printable, references))}
        if rivals:
            common["rivals"] = {printable(p): _digest(sample) for p, sample in rivals.items()}
        truth = _digest(reference)
        inputs = [
            {
                "generated": printable(path),
                "reconstruction": bool(asked.reconstruction) and path == asked.model,
                "digest": _digest_of_all(
                    digest or _digest(sample), truth, reference.detector, options
                ),
                **common,
            }
            for path, digest, sample in zip(paths, digests, samples.values(), strict=True)
        ]
        rivals = {
            printable(path.stem if path.stem not in samples else path): sample
            for path, sample in rivals.items()
        }
        outline = report.Report(
            models=(),
            reference=reference,
            reference_name=printable(asked.reference_name),
            published=published,
        )
        found = _scored(samples, reference, inputs, times, outline, options, asked)
        for kind in kinds:
            if kind not in {score.kind for score in found.multiclass}:
                score = classifiers.multiclass(
                    samples | rivals,
                    reference,
                    kind=kind,
                    seeds=options.seeds,
                    quick=options.quick,
                    seed=options.seed,
                )
                found = dataclasses.replace(found, multiclass=(*found.multiclass, score))
                report.write_metrics(report.metrics(found), asked.out)
        try:
            page = report.write(
                found, asked.out, pictures=asked.pictures, kind=asked.format, warn=warn
            )
        finally:
            # Last, since a screen may fail.
            print(report.screen(found))
    print(f"\nreport: {printable(page)}")
    print(f"scores: {printable(asked.out / 'metrics.json')}")


def _options(asked: Evaluate) -> Options:
    window = asked.energy_range
    return Options(
        metrics=asked.metrics,
        seeds=asked.seeds,
        seed=checked_seed(asked.seed),
        quick=asked.quick,
        floor=asked.floor,
        energy_range=None if window is None else (parse_energy(window[0]), parse_energy(window[1])),
        slices=None if asked.slices is None else tuple(map(parse_energy, asked.slices)),
        truncate=asked.truncate,
    )


def _multiclass_kinds(
    pairs: Sequence[tuple[ShowerSource, ShowerSource]], options: Options
) -> list[classifiers.Kind]:
    """Classifiers in the metrics, else ``high``, to be trained between samples and reference.

    Raises:
      CalojaxError: if a sample has too few showers.
    """
    detector, fewest = pairs[0][0].detector, min(len(one) for pair in pairs for one in pair)
    possible = suite.possible(options, detector, fewest)[0].metrics
    kinds: list[classifiers.Kind] = [k for k in suite.CLASSIFIERS if k in possible] or ["high"]
    suite.possible(dataclasses.replace(options, metrics=tuple(kinds)), detector, fewest)
    return kinds


def _scored(
    samples: dict[str, ShowerSource],
    reference: ShowerSource,
    inputs: list[dict],
    times: dict[str, float],
    outline: report.Report,
    options: Options,
    asked: Evaluate,
) -> report.Report:
    """The outline with all models in it; metrics.json is written after each score."""
    digests = [one["digest"] for one in inputs]
    earlier, replaced = report.earlier(asked.out, digests, force=asked.force)
    for name in replaced:
        warn(f"{asked.out}: the evaluation of {name} in it is replaced.")
    contents = [one.content for one in earlier]
    if all(
        content.get("name") == name and content.get("inputs") == own
        for content, name, own in zip(contents, samples, inputs, strict=True)
    ):
        outline = dataclasses.replace(outline, multiclass=earlier[0].multiclass)
    measured, models = suite.measure(reference), []
    for index, (name, sample) in enumerate(samples.items()):
        known, chosen = earlier[index].known, options
        if models:
            # The floor is that of the reference, the same for all.
            known = known._replace(floor=models[0].evaluation.floor or known.floor)
            chosen = dataclasses.replace(options, floor=False)
        for evaluation in suite.scoring(suite.measure(sample), measured, chosen, known):
            model = report.Model(
                name=name,
                evaluation=evaluation,
                showers=sample,
                inputs=inputs[index],
                options=dataclasses.asdict(options)
                | {"metrics": suite.metrics_of(evaluation.scores)},
                times=times if index == 0 else {},
            )
            contents[index] = report.metrics(dataclasses.replace(outline, models=[model]))[0]
            report.write_metrics([content for content in contents if content], asked.out)
        models.append(model)
    return dataclasses.replace(outline, models=models)


def _digest(source: ShowerSource) -> str:
    """Digest of incident energies and showers, whatever the file's name, date and layout."""
    digest = hashlib.blake2b(digest_size=16)
    with progress_bar("read", len(source)) as bar:
        for energies, showers in source.batches(batch_size(source.detector)):
            digest.update(np.ascontiguousarray(energies).data)
            digest.update(np.ascontiguousarray(showers).data)
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
            f"{run}: was trained on geometry {model.detector.name!r}, but the reference "
            f"has {reference.detector.name!r}."
        )
    warn_outside(reference.energies, done.energy_range)
    if asked.reconstruction:
        label = "reconstruct"
        batches = generation.reconstruct(model, variables, reference, seed=asked.seed)
    else:
        label = "sample"
        batches = generation.generate(
            model, variables, reference.energies, seed=asked.seed, hits=True
        )
    path = folder / "showers.hdf5"
    origin = {TRAINED_ON: done.trained_on} if done.trained_on else {}
    write([Output(path, len(reference), origin)], reference.detector, batches, label=label)
    # Of the model, since the last bits of showers differ between devices.
    return ShowerFile(path, reference.detector), f"{label} {checkpoint.digest_of(variables)}"


def _times(path: pathlib.Path | None) -> dict[str, float]:
    """Key of `scoreboard.TIMES` -> ms per shower, from a file of JSON lines."""
    if path is None:
        return {}
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        whole = [row for row in rows if row["part"] == "whole"]
        if len({row.get("subject") for row in whole}) > 1:
            raise ValueError("it has several models; keep the lines of one")
        return {
            f"{'cpu' if row['platform'] == 'cpu' else 'gpu'}_ms_{row['batch']}": float(
                row["ms_per_shower"]
            )
            for row in whole
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CalojaxError(
            f"{path}: --timing needs JSON lines with part, platform, batch and ms_per_shower, but "
            f"reading failed ({error})."
        ) from None


def _published(against: str | None, geometry: Detector) -> tuple[scoreboard.Row, ...]:
    if against is None:
        return ()
    dataset = scoreboard.dataset_of(geometry)
    if dataset is None:
        raise CalojaxError(f"There are no published results for geometry {geometry.name!r}.")
    return scoreboard.rows(dataset, None if against == "published" else against)
