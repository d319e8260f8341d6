"""The training loop: stages in turn, progress, validation, checkpoints, and an orderly stop."""

import dataclasses
import pathlib
import signal
import time
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from calojax import mesh as meshes
from calojax import rng
from calojax.checkpoint import Checkpoints, Progress
from calojax.errors import CalojaxError
from calojax.models.base import Model, Stage, Variables
from calojax.training import batches, metrics, step
from calojax.training.batches import Dataset, Split

METRICS_FILE = "metrics.jsonl"


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run is trained; what is trained is in the model.

    Attributes:
      seed: root of all random numbers: split, start, batches, augmentation.
      validation_fraction: share of the showers that is kept from training.
      stages: train only these again, on top of the others (default: all).
      log_every: steps between lines of metrics.
      validate_every: steps between validations; also one at the end of a stage.
      checkpoint_every: steps between checkpoints; also one at the end of a stage.
    """

    seed: int = 0
    validation_fraction: float = 0.05
    stages: tuple[str, ...] = ()
    log_every: int = 50
    validate_every: int = 1000
    checkpoint_every: int = 1000


class Interrupted(CalojaxError):
    """Training was asked to stop and did, with a checkpoint."""


@dataclasses.dataclass
class _Run:
    """What the stages of one run share."""

    model: Model
    options: Options
    dataset: Dataset
    split: Split
    mesh: Mesh
    checkpoints: Checkpoints
    log: metrics.MetricsFile
    stop: Callable[[], bool]


def train(
    model: Model,
    dataset: Dataset,
    layer_energy: Callable[[], np.ndarray],
    out: pathlib.Path,
    options: Options,
    *,
    resume: bool = False,
    mesh: Mesh | None = None,
) -> Variables:
    """Trains the stages of a model that are not trained yet.

    Args:
      model: to train.
      dataset: its showers.
      layer_energy: gives the layer energies [n, l] in MeV of the dataset; called at the start of a
        new run only.
      out: folder of the run.
      options: see there.
      resume: continue the run in ``out`` from its newest checkpoint.
      mesh: devices to train on (default: all).

    Returns:
      The variables after the last stage.

    Raises:
      CalojaxError: if ``out`` holds a run and ``resume`` is off, if the run there is of another
        model or seed, or if the loss is not finite.
      Interrupted: on SIGTERM or SIGINT, after a checkpoint was written.
    """
    mesh = meshes.make() if mesh is None else mesh
    names = [stage.name for stage in model.stages]
    for name in options.stages:
        if name not in names:
            raise CalojaxError(f"There is no stage {name!r}; the stages are {', '.join(names)}.")
    for stage in model.stages:
        if stage.schedule.batch_size % mesh.size:
            raise CalojaxError(
                f"Stage {stage.name!r} takes {stage.schedule.batch_size} showers a step, which "
                f"{mesh.size} devices cannot share evenly; choose a multiple of {mesh.size}."
            )
    parts = batches.split(len(dataset.energies), options.validation_fraction, options.seed)

    with Checkpoints(out) as checkpoints, _stop_flag() as stop:
        if checkpoints.latest is not None and not (resume or options.stages):
            raise CalojaxError(
                f"{out}: already holds a run; continue it with --resume, train one stage of it "
                "again with --stages, or choose another --out."
            )
        if checkpoints.latest is None:
            fresh = _initial(model, dataset, layer_energy(), parts, options)
            variables, progress = fresh, Progress(0, names[0], 0, (), options.seed)
        else:
            found = checkpoints.load()
            variables, progress = found.variables, found.progress
            _check_same(out, found.model, model, progress, options)
            if options.stages and not (resume and progress.stage in options.stages):
                variables, progress = _forget(model, variables, progress, options, dataset, parts)
        done = [s for s in progress.done if not (s == progress.stage and progress.step == 0)]
        records = [
            record
            for record in metrics.read(out / METRICS_FILE)
            if record.get("stage") in done
            or (record.get("stage") == progress.stage and record.get("step", 0) <= progress.step)
        ]
        log = metrics.MetricsFile(out / METRICS_FILE, keep=records)
        run = _Run(model, options, dataset, parts, mesh, checkpoints, log, stop)
        try:
            for stage in model.stages:
                if stage.name in progress.done:
                    continue
                if stage.name != progress.stage:
                    progress = progress._replace(stage=stage.name, step=0)
                variables, progress = _train_stage(run, stage, variables, progress)
        finally:
            log.close()
    return variables


def _initial(model, dataset, layer_energy, parts: Split, options: Options) -> Variables:
    """Fits the transforms to the training showers and starts the networks on a batch of them."""
    transforms = model.fit(layer_energy[parts.training], dataset.energies[parts.training])
    size = max(stage.schedule.batch_size for stage in model.stages)
    first = parts.training[:: max(1, len(parts.training) // size)][:size]
    batch = {
        "energies": np.asarray(dataset.energies[first], np.float32),
        "showers": np.asarray(dataset.showers[first], np.float32),
    }
    key = rng.stream(rng.root(options.seed), "init")
    return jax.jit(model.init)(key, transforms, batch)


def _check_same(out, found: Model, model: Model, progress: Progress, options: Options) -> None:
    if found != model:
        raise CalojaxError(
            f"{out}: the run there has other settings or another geometry "
            f"({found.detector.name!r}); resume with the settings that it was started with."
        )
    if progress.seed != options.seed:
        raise CalojaxError(
            f"{out}: the run there has seed {progress.seed}, not {options.seed}; resume with "
            f"--seed {progress.seed}."
        )


def _forget(
    model: Model,
    variables: Variables,
    progress: Progress,
    options: Options,
    dataset: Dataset,
    parts: Split,
) -> tuple[Variables, Progress]:
    """Puts the chosen stages, and those that need them, back to the start."""
    again = set(options.stages)
    for stage in model.stages:
        if again & set(stage.needs):
            again.add(stage.name)
        missing = set(stage.needs) - set(progress.done) - again
        if stage.name in again and missing:
            raise CalojaxError(
                f"Stage {stage.name!r} needs {' and '.join(sorted(missing))} to be trained first."
            )
    size = min(len(parts.training), max(s.schedule.batch_size for s in model.stages))
    batch = {
        "energies": np.asarray(dataset.energies[parts.training[:size]], np.float32),
        "showers": np.asarray(dataset.showers[parts.training[:size]], np.float32),
    }
    key = rng.stream(rng.root(options.seed), "init", progress.total)
    fresh = jax.jit(model.init)(key, variables["transforms"], batch)
    params, state = dict(variables["params"]), dict(variables["state"])
    for stage in model.stages:
        if stage.name in again:
            params |= {name: fresh["params"][name] for name in stage.parameters}
            state |= {name: fresh["state"][name] for name in stage.state}
    done = tuple(name for name in progress.done if name not in again)
    first = next(stage.name for stage in model.stages if stage.name in again)
    return (
        variables | {"params": params, "state": state},
        progress._replace(stage=first, step=0, done=done),
    )


def _train_stage(
    run: _Run, stage: Stage, variables: Variables, progress: Progress
) -> tuple[Variables, Progress]:
    schedule, options = stage.schedule, run.options
    state = step.start(variables, stage)
    if progress.step > 0:
        optimizer = run.checkpoints.load_optimizer(state.optimizer)
        state = step.State(np.int32(progress.step), variables, optimizer)
    state = jax.device_put(state, meshes.replicated(run.mesh))
    train_step = step.make(run.model, stage, options.seed, run.mesh)
    validate = step.make_validation(run.model, stage, options.seed, run.mesh)
    steps = range(progress.step, schedule.steps)
    showers = batches.stream(
        run.dataset,
        run.split.training,
        meshes.sharded(run.mesh),
        batch_size=schedule.batch_size,
        seed=options.seed,
        stage=stage.name,
        steps=steps,
    )
    window: list[dict[str, jax.Array]] = []
    clock = time.perf_counter()
    bar = metrics.progress(
        stage.name,
        schedule.steps * schedule.batch_size,
        done=progress.step * schedule.batch_size,
    )

    def flush(last: int) -> None:
        """Logs the mean of the window, whose last step was ``last``."""
        nonlocal clock
        host = jax.device_get(window[: options.log_every])
        del window[: options.log_every]
        first = last - len(host)
        for offset, values in enumerate(host):
            if not np.isfinite(values["loss"]):
                raise CalojaxError(
                    f"Stage {stage.name!r}: the loss is not finite at step {first + offset + 1}; "
                    "the last checkpoint is kept: lower the learning rate and start a new run."
                )
        now = time.perf_counter()
        rate = len(host) * schedule.batch_size / (now - clock)
        clock = now
        mean = {name: np.mean([values[name] for values in host], 0) for name in host[0]}
        summary = run.model.summarise(mean)
        run.log.write(stage.name, last, summary | {"showers_per_second": rate})
        bar.set_postfix(loss=f"{summary['loss']:.4g}", refresh=False)

    def save(done_steps: int, *, finished: bool) -> Progress:
        now = progress._replace(
            total=progress.total + done_steps - progress.step,
            step=done_steps,
            done=(*progress.done, stage.name) if finished else progress.done,
        )
        run.checkpoints.save(run.model, state.variables, state.optimizer, now)
        return now

    with bar:
        for number in steps:
            state, values = train_step(state, next(showers))
            window.append(values)
            bar.update(schedule.batch_size)
            # One step late: the device is already at work on the next one.
            if len(window) > options.log_every:
                flush(number)
            count = number + 1
            last = count == schedule.steps
            if last or count % options.validate_every == 0:
                _validate(run, stage, validate, state.variables, count)
            if not last and count % options.checkpoint_every == 0:
                while window:
                    flush(count if len(window) <= options.log_every else number)
                save(count, finished=False)
            if run.stop() and not last:
                save(count, finished=False)
                run.checkpoints.wait()
                raise Interrupted(
                    f"Stopped in stage {stage.name!r} after step {count} of {schedule.steps}; "
                    "continue with --resume."
                )
        while window:
            flush(schedule.steps if len(window) <= options.log_every else schedule.steps - 1)
        progress = save(schedule.steps, finished=True)
    run.checkpoints.wait()
    return state.variables, progress


def _validate(run: _Run, stage: Stage, validate, variables: Variables, count: int) -> None:
    size = min(stage.schedule.batch_size, len(run.split.validation))
    size -= size % run.mesh.size
    if size == 0:
        return
    sums: dict[str, np.ndarray] = {}
    number = 0
    for batch in batches.in_order(
        run.dataset, run.split.validation, meshes.sharded(run.mesh), batch_size=size
    ):
        values = jax.device_get(validate(variables, batch, np.uint32(number)))
        sums = {name: sums.get(name, 0.0) + value for name, value in values.items()}
        number += 1
    summary = run.model.summarise({name: value / number for name, value in sums.items()})
    run.log.write(
        stage.name, count, {f"validation/{name}": value for name, value in summary.items()}
    )


class _stop_flag:
    """Within it, SIGTERM and SIGINT only set a flag; the object says whether it is set."""

    def __enter__(self) -> Callable[[], bool]:
        self._set = False
        self._before = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[number] = signal.signal(number, self._raise_flag)
            except ValueError:  # Not in the main thread: the caller handles signals.
                break
        return lambda: self._set

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _raise_flag(self, *_) -> None:
        self._set = True
