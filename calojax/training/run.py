"""A training run: where it begins, which stages it trains, and how it is resumed."""

import contextlib
import json
import math
import os
import pathlib
import shutil
import sys
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh

from calojax import checkpoint, distributed, files, models, rng
from calojax.checkpoint import Checkpoint, Checkpoints, Progress, check_shapes, shapes
from calojax.errors import CalojaxError
from calojax.io import marks
from calojax.models.base import Model, Variables
from calojax.training import batches, metrics
from calojax.training.batches import Data, Dataset
from calojax.training.interruption import StopFlag
from calojax.training.loop import Log, Options, Run, train_stage

METRICS_FILE = "metrics.jsonl"
ORIGIN = "run.json"
"""File of a run folder that says how the run was started."""


def train(
    model: Model,
    dataset: Dataset,
    out: pathlib.Path,
    options: Options,
    *,
    resume: bool = False,
    again: tuple[str, ...] = (),
    initial: str | os.PathLike | None = None,
    mesh: Mesh | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Variables:
    """Trains the stages of a model that are not trained yet.

    Args:
      model: model to train.
      dataset: showers of the model's detector.
      out: run folder.
      options: options of the training.
      resume: continue the run in ``out`` from its newest checkpoint.
      again: stages of the run in ``out`` to train afresh, with those that need them; their
        settings may have changed. With ``initial`` the other stages are those of that run.
      initial: trained run, or name of a model that comes with calojax, whose arrays a new run
        starts from where their shapes fit.
      mesh: devices to train on (default: all).
      origin: description of how the run is started, to be written into its folder.

    Returns:
      The variables after the last stage.

    Raises:
      CalojaxError: if ``out`` holds a run and it is neither resumed nor trained again, if another
        process trains into it, if the run there has other settings or another seed, if the showers
        have nothing to learn, or if a loss or an array is not finite.
      Interrupted: on a signal of `StopFlag`, after a checkpoint was written.
    """
    mesh = distributed.make_mesh() if mesh is None else mesh
    _check_options(options)
    if resume and again and initial is None:
        raise CalojaxError("Give either --resume or --stages: a run is continued or done again.")
    data = _divided(model, dataset, options, again, mesh)
    with _folder(out), Checkpoints(out) as checkpoints, StopFlag() as stop:
        distributed.check_same(
            settings=(models.to_json(model), options, resume, again),
            data=(dataset.showers.shape, zlib.crc32(dataset.energies.tobytes())),
            the_checkpoint_in_the_run=checkpoints.latest,
        )
        run = Run(model, data, options, mesh, checkpoints, distributed.agreed(stop))
        if checkpoints.latest is None:
            if again and initial is None:
                raise CalojaxError(f"{out}: holds no run of which a stage could be done again.")
            if origin and distributed.is_first():
                with files.replacing(out / ORIGIN) as partial:
                    partial.write_text(json.dumps(origin, indent=2) + "\n")
            variables, progress = _begin(run) if initial is None else _adopted(run, initial, again)
        elif resume:
            variables, progress = _resumed(run, out)
        elif again and initial is None:
            variables, progress = _again(run, out, again)
        else:
            raise CalojaxError(
                f"{out}: already holds a run; continue it with --resume, train a stage of it "
                "afresh with --stages, or choose another --out."
            )
        with _metrics_file(out, progress, options) as log:
            for stage in model.stages:
                if stage.name not in progress.done:
                    if stage.name != progress.stage:
                        progress = progress._replace(stage=stage.name, step=0)
                    variables, progress = train_stage(run, log, stage, variables, progress)
    return variables


def _divided(
    model: Model, dataset: Dataset, options: Options, again: tuple[str, ...], mesh: Mesh
) -> Data:
    """Training and validation showers, checked against the stages to train."""
    training, validation = batches.split(
        len(dataset.energies), options.validation_fraction, options.seed
    )
    _check_stages(model, again, mesh, len(training))
    batches.check_variety(dataset, training)
    packed = any(stage.packing for stage in model.stages)
    # Without buffers for hits, energies balance batches as well, and no shower needs to be read.
    hits = batches.count_hits(dataset) if packed else dataset.energies
    for stage in model.stages:
        if stage.name in again or not again:
            batches.check_packing(stage, hits[training])
    return Data(dataset, training, validation, hits)


def _begin(run: Run) -> tuple[Variables, Progress]:
    """Variables and progress of a new run."""
    dataset, training = run.data.dataset, run.data.training
    _report(f"fitting scales to {len(training):,} showers")
    transforms = run.model.fit(batches.chunks(dataset, training))
    _check_size(run.model, transforms)
    progress = _started(run)
    return _initial(run, transforms, progress), progress


def _adopted(
    run: Run, initial: str | os.PathLike, again: tuple[str, ...]
) -> tuple[Variables, Progress]:
    """Variables and progress of a new run that starts from the arrays of a trained one.

    The fitted transforms are those of the trained run, which its weights depend on. The progress
    counts its showers as trained on.
    """
    model, found, before = checkpoint.load(initial)
    if type(model) is not type(run.model) or model.detector.layers != run.model.detector.layers:
        raise CalojaxError(
            f"{initial}: holds a {models.name_of(model)} of {model.detector.name}, which a "
            f"{models.name_of(run.model)} of {run.model.detector.name} cannot start from."
        )
    _check_size(run.model, found["transforms"])
    progress = _started(run)
    low, high = zip(progress.energy_range, before.energy_range, strict=True)
    progress = progress._replace(
        energy_range=(min(low), max(high)),
        energies=tuple(sorted({*progress.energies, *before.energies}))
        if progress.energies and before.energies
        else (),
        trained_on=progress.trained_on + before.trained_on,
    )
    fresh = jax.device_get(_initial(run, found["transforms"], progress))
    names: dict[str, Any] = traverse_util.flatten_dict(fresh, sep="/")
    old: dict[str, Any] = traverse_util.flatten_dict(found, sep="/")
    fits = {n for n, x in names.items() if n in old and np.shape(old[n]) == np.shape(x)}
    taken = {name: old[name] if name in fits else x for name, x in names.items()}
    # A model without state has an empty dict there.
    variables = {name: {} for name in fresh} | traverse_util.unflatten_dict(taken, sep="/")
    _report(f"{len(fits)} of {len(names)} arrays are those of {initial}")
    if not again:
        return variables, progress
    progress = progress._replace(done=tuple(stage.name for stage in run.model.stages))
    variables, progress = _start_again(run.model, variables, variables, progress, again)
    for stage in run.model.stages:
        own = [("params", name) for name in stage.parameters]
        own += [("state", name) for name in stage.state]
        new = [name for name in sorted(names.keys() - fits) if tuple(name.split("/")[:2]) in own]
        if new and stage.name in progress.done:
            raise CalojaxError(
                f"{initial}: its array {new[0]!r} does not fit stage {stage.name!r} of the new "
                f"settings; add that stage to --stages."
            )
    return variables, progress


def _started(run: Run) -> Progress:
    """The progress of a run before its first step."""
    dataset, training = run.data.dataset, run.data.training
    energies = dataset.energies[training]
    distinct = np.unique(energies)
    return Progress(
        total=0,
        stage=run.model.stages[0].name,
        step=0,
        done=(),
        seed=run.options.seed,
        energy_range=(float(distinct[0]), float(distinct[-1])),
        energies=tuple(distinct.tolist() if 10 * len(distinct) <= len(energies) else ()),
        trained_on=_marks(dataset, training),
    )


def _resumed(run: Run, out: pathlib.Path) -> tuple[Variables, Progress]:
    """Variables and progress of the run in ``out``, if it has the same settings."""
    model, variables, progress = _same_seed(run, out)
    if model != run.model:
        differing = ", ".join(models.differing(model, run.model))
        raise CalojaxError(
            f"{out}: the run there has other settings ({differing}); resume it with --resume --out "
            "alone, which uses the settings that it was started with."
        )
    return variables, progress


def _again(run: Run, out: pathlib.Path, stages: tuple[str, ...]) -> tuple[Variables, Progress]:
    """Variables and progress of the run in ``out``, with some stages untrained."""
    _, variables, progress = _same_seed(run, out)
    fresh = _initial(run, variables["transforms"], progress)
    variables, progress = _start_again(run.model, variables, fresh, progress, stages)
    check_shapes(out, run.model, variables)
    return variables, progress


def _same_seed(run: Run, out: pathlib.Path) -> Checkpoint:
    found = run.checkpoints.load()
    if found.progress.seed != run.options.seed:
        raise CalojaxError(
            f"{out}: the run there has seed {found.progress.seed}, not {run.options.seed}; "
            f"continue it with --seed {found.progress.seed}."
        )
    return found


def _initial(run: Run, transforms: Variables, progress: Progress) -> Variables:
    """Untrained variables; a codebook may start on some training showers."""
    _report("compiling the initial values")
    training = run.data.training
    largest = max(stage.schedule.batch_size for stage in run.model.stages)
    plan = run.data.batches(training, batches.fitting(largest, len(training)))
    everywhere = distributed.replicated(run.mesh)
    rows = next(batches.rows(plan, run.options.seed, "init", range(1)))
    batch = batches.put(run.data.dataset, rows, everywhere)
    key = rng.stream(rng.root(run.options.seed), "init", progress.total)
    return jax.jit(run.model.init, out_shardings=everywhere)(key, transforms, batch)


def _report(doing: str) -> None:
    """Prints what takes time before the first progress bar."""
    if distributed.is_first():
        print(doing, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _metrics_file(out: pathlib.Path, progress: Progress, options: Options) -> Iterator[Log]:
    """The metrics file, without the lines of steps that will be done again."""
    if not distributed.is_first():
        yield None
        return
    path = out / METRICS_FILE
    records = [
        record
        for record in metrics.read(path)
        if record["stage"] in progress.done
        or (record["stage"] == progress.stage and record["step"] <= progress.step)
    ]
    file = metrics.MetricsFile(path, keep=records, tensorboard=options.tensorboard)
    with contextlib.closing(file):
        yield file


def _marks(dataset: Dataset, index: np.ndarray, *, count: int = 32) -> str:
    """Marks of some showers, evenly spread over the rows ``index``."""
    chosen = np.unique(index[np.linspace(0, len(index) - 1, count).astype(int)])
    showers = dataset.showers[chosen]
    return marks.to_text(marks.marks(showers[showers.sum(1) > 0]))


@contextlib.contextmanager
def _folder(out: pathlib.Path) -> Iterator[None]:
    """Makes and locks the folder of a run; removes a new one if no checkpoint was written."""
    if not distributed.is_first():
        yield
        return
    new = not out.exists()
    files.make_folder(out)
    try:
        with files.locked(out):
            yield
    finally:
        if new and not any(out.glob("checkpoints/[0-9]*")):
            shutil.rmtree(out, ignore_errors=True)


def _check_options(options: Options) -> None:
    rng.checked_seed(options.seed)
    if not 0 < options.validation_fraction < 1:
        raise CalojaxError(
            f"--validation-fraction must be between 0 and 1, got {options.validation_fraction}."
        )
    for name in ("log_every", "validate_every", "checkpoint_every"):
        if getattr(options, name) < 1:
            raise CalojaxError(
                f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}."
            )


def _check_size(model: Model, transforms: Variables) -> None:
    """Refuses networks that no memory of this machine can hold, before any is allocated."""
    params = shapes(model, transforms)["params"]
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    room = distributed.device_memory()
    # float32: parameters, gradients and two moments of the optimiser; and averages of the weights.
    size = 4 * count * (5 if any(stage.schedule.average for stage in model.stages) else 4)
    if size > room:
        sizes = {
            name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(part))
            for name, part in params.items()
        }
        largest = max(sizes, key=lambda name: sizes[name])
        raise CalojaxError(
            f"The model has {count:,} parameters, which need {1e-9 * size:,.1f} GB to train, but "
            f"the memory has {1e-9 * room:,.1f} GB; make the network {largest!r} smaller."
        )


def _check_stages(model: Model, again: tuple[str, ...], mesh: Mesh, num: int) -> None:
    names = [stage.name for stage in model.stages]
    for name in again:
        if name not in names:
            raise CalojaxError(f"There is no stage {name!r}; the stages are {', '.join(names)}.")
    for stage in model.stages:
        size = stage.schedule.batch_size
        if size > num and (stage.name in again or not again):
            raise CalojaxError(
                f"Stage {stage.name!r} takes {size} showers per step but there are only {num} to "
                f"train on; give more data, or a smaller --{stage.name}.schedule.batch-size."
            )
        if size % mesh.size:
            raise CalojaxError(
                f"Stage {stage.name!r} takes {size} showers per step, which {mesh.size} devices "
                f"cannot share evenly; choose a multiple of {mesh.size}."
            )


def _start_again(
    model: Model,
    variables: Variables,
    fresh: Variables,
    progress: Progress,
    again: tuple[str, ...],
) -> tuple[Variables, Progress]:
    """Puts the chosen stages, and those that need them, back to ``fresh``."""
    chosen = set(again)
    params, state = dict(variables["params"]), dict(variables["state"])
    for stage in model.stages:
        if chosen & set(stage.needs):
            chosen.add(stage.name)
        if stage.name not in chosen:
            continue
        missing = set(stage.needs) - set(progress.done) - chosen
        if missing:
            raise CalojaxError(
                f"Stage {stage.name!r} needs {' and '.join(sorted(missing))} to be trained first."
            )
        params |= {name: fresh["params"][name] for name in stage.parameters}
        state |= {name: fresh["state"][name] for name in stage.state}
    first = next(stage.name for stage in model.stages if stage.name in chosen)
    done = tuple(name for name in progress.done if name not in chosen)
    variables = variables | {"params": params, "state": state}
    return variables, progress._replace(stage=first, step=0, done=done)
