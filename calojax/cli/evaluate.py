"""``calojax evaluate``: scores showers against a full simulation."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Annotated

import tyro

import calojax
from calojax import checkpoint, files, report
from calojax.cli.arguments import optional, required
from calojax.cli.process import keep_freed_memory
from calojax.cli.showers import Output, warn_outside, write
from calojax.errors import CalojaxError, printable, warn
from calojax.evaluation import classifiers, scoreboard, suite
from calojax.evaluation.samples import Sample
from calojax.evaluation.suite import Options
from calojax.geometry import Detector, chosen_detector
from calojax.io import ShowerFile, ShowerSource, open_showers
from calojax.io.marks import TRAINED_ON
from calojax.sampling import generation
from calojax.sampling.incident_energies import parse_energy

# Energies have a unit on the command line.
_ENERGIES = tyro.constructors.ConstructorRegistry()
_ENERGIES.primitive_rule(
    lambda info: (
        tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="ENERGY",
            instance_from_str=lambda words: parse_energy(words[0]),
            is_instance=lambda value: isinstance(value, float),
            str_from_instance=lambda value: [f"{value:g}MeV"],
        )
        if info.type is float
        else None
    )
)


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
      options: options of the scores.
      multiclass: train classifiers between the samples that --name names, and say which of them the
        reference resembles most (by the classifiers in --metrics, else high).
      against: published models to compare with: a results file, or "published" for the
        CaloChallenge's tables.
      timing: file of JSON lines with the keys part ("whole"), platform, batch and ms_per_shower,
        for the picture of quality against time.
      geometry: geometry of the files: a built-in name, or a binning file ending in .xml.
      particle: name or PDG number, if --geometry is a binning file of several particles.
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
    options: Annotated[Options, tyro.conf.arg(name="")] = Options()
    multiclass: bool = False
    against: Annotated[str | None, optional("published|FILE", "none")] = None
    timing: Annotated[pathlib.Path | None, optional("FILE", "none")] = None
    geometry: Annotated[str | None, optional("NAME|XML", "what the files say")] = None
    particle: Annotated[str | None, optional("NAME", "the only one of the file")] = None
    pictures: bool = True
    format: report.PictureFormat = "png"
    force: bool = False

    @property
    def model(self) -> pathlib.Path | None:
        return self.run or self.reconstruction


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    asked = tyro.cli(Evaluate, prog="calojax evaluate", args=list(arguments), registry=_ENERGIES)
    keep_freed_memory()
    if asked.run and asked.reconstruction:
        raise CalojaxError("Give either --run or --reconstruction.")
    options = asked.options
    count = max(len(asked.name), 1) - bool(asked.model)
    generated, references = asked.files[:count], asked.files[count:]
    if not references:
        raise CalojaxError(
            f"{count} generated and at least 1 reference file are needed, got {len(asked.files)} "
            "files. Name the reference alone with --run or --reconstruction, else the generated "
            "file first, or one for each --name."
        )
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
    # The showers of a model will have the reference's energies.
    samples = [reference] if asked.model else []
    samples += [open_showers(path, detector) for path in generated]
    samples, reference = suite.comparable(samples, reference, options)
    kinds = _multiclass_kinds(samples, reference, options) if asked.multiclass else []
    if not asked.force:
        report.check(asked.out)
    files.make_folder(asked.out)
    with contextlib.ExitStack() as stack:
        drawn = ""
        if asked.model:
            stack.enter_context(files.locked(asked.out))
            path = asked.out / ".showers.hdf5"
            remove = functools.partial(path.unlink, missing_ok=True)
            stack.enter_context(files.unfinished(remove))
            samples[0], drawn = _showers_of_run(asked, reference, path)
        truth, measured = suite.measure(reference), list(map(suite.measure, samples))
        digests = [sample.digest for sample in measured]
        digests[0] = drawn or digests[0]
        inputs = [
            {
                "generated": printable(path),
                "reconstruction": bool(asked.reconstruction) and path == asked.model,
                "digest": _digest_of_all(digest, truth, options),
                "reference": ", ".join(map(printable, references)),
            }
            for path, digest in zip(paths, digests, strict=True)
        ]
        outline = report.Report(
            models=(),
            reference=reference,
            reference_name=printable(asked.reference_name),
            published=published,
        )
        ours = dict(zip(names, measured, strict=True))
        found = _scored(ours, truth, inputs, times, outline, asked)
        for kind in kinds:
            if kind not in {score.kind for score in found.multiclass}:
                score = classifiers.multiclass(
                    kind,
                    dict(zip(names, samples, strict=True)),
                    reference,
                    classifiers.settings_for(reference.detector, options.quick),
                    seeds=options.seeds,
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


def _multiclass_kinds(
    samples: Sequence[ShowerSource], reference: ShowerSource, options: Options
) -> list[classifiers.Kind]:
    """Classifiers in the metrics, else ``high``; `CalojaxError` if there are too few showers."""
    if len(samples) < 2:
        raise CalojaxError("--multiclass needs two or more generated samples, each with a --name.")
    detector, fewest = reference.detector, min(map(len, (*samples, reference)))
    possible = suite.possible(options, detector, fewest)[0].metrics
    kinds: list[classifiers.Kind] = [k for k in suite.CLASSIFIERS if k in possible] or ["high"]
    suite.possible(dataclasses.replace(options, metrics=tuple(kinds)), detector, fewest)
    return kinds


def _scored(
    samples: dict[str, Sample],
    reference: Sample,
    inputs: list[dict],
    times: dict[str, float],
    outline: report.Report,
    asked: Evaluate,
) -> report.Report:
    """The outline with all models in it; metrics.json is written after each score."""
    digests = [one["digest"] for one in inputs]
    earlier, replaced = report.earlier(asked.out, digests, force=asked.force)
    for name in replaced:
        warn(f"{asked.out}: the evaluation of {name} in it is replaced.")
    contents = [one.content for one in earlier]
    if [(one.name, one.inputs) for one in earlier] == list(zip(samples, inputs, strict=True)):
        same = [one for one in earlier[0].multiclass if list(one.log_posterior) == list(samples)]
        outline = dataclasses.replace(outline, multiclass=same)
    models = []
    for index, (name, sample) in enumerate(samples.items()):
        known, chosen = earlier[index].known, asked.options
        if models:
            # The floor is that of the reference, the same for all.
            known = known._replace(floor=models[0].evaluation.floor or known.floor)
            chosen = dataclasses.replace(chosen, floor=False)
        for evaluation in suite.scoring(sample, reference, chosen, known):
            model = report.Model(
                name=name,
                evaluation=evaluation,
                showers=sample.source,
                inputs=inputs[index],
                options=dataclasses.asdict(asked.options)
                | {"metrics": suite.metrics_of(evaluation.scores)},
                times=times if index == 0 else {},
            )
            contents[index] = report.metrics(dataclasses.replace(outline, models=[model]))[0]
            report.write_metrics([content for content in contents if content], asked.out)
        models.append(model)
    return dataclasses.replace(outline, models=models)


def _digest_of_all(generated: str, reference: Sample, options: Options) -> str:
    """Digest of all that a score depends on."""
    settings = dataclasses.asdict(dataclasses.replace(options, metrics=(), floor=False))
    detector = reference.source.detector
    parts = (calojax.__version__, generated, reference.digest, detector, settings)
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def _showers_of_run(
    asked: Evaluate, reference: ShowerSource, path: pathlib.Path
) -> tuple[ShowerSource, str]:
    """The showers that a run samples or reconstructs, in a file to bound memory; their digest."""
    run, seed = asked.run or asked.reconstruction or "", asked.options.seed
    model, variables, done = checkpoint.load(run)
    if model.detector.binning != reference.detector.binning:
        raise CalojaxError(
            f"{run}: was trained on geometry {model.detector.name!r}, but the reference "
            f"has {reference.detector.name!r}."
        )
    warn_outside(reference.energies, done.energy_range)
    if asked.reconstruction:
        label = "reconstruct"
        batches = generation.reconstruct(model, variables, reference, seed=seed)
    else:
        label = "sample"
        batches = generation.generate(model, variables, reference.energies, seed=seed, hits=True)
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
