"""The loop over the steps of one stage: dispatch, log one step late, validate, save, stop."""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from calojax import distributed, rng
from calojax.checkpoint import Checkpoints, Progress
from calojax.errors import CalojaxError
from calojax.evaluation import suite
from calojax.io import ShowerArrays
from calojax.models.base import Batch, Model, Stage, Variables
from calojax.progress import progress_bar
from calojax.training import batches, metrics, step
from calojax.training.batches import Arrays, Data, Dataset
from calojax.training.interruption import Interrupted

Log = metrics.MetricsFile | None
"""File for the metrics of a run; None in all processes but the first."""

# The text of the progress bar until the first step is done.
_COMPILING = "compiling"
# Showers that are generated at once for scores.
_SCORED = 100


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a training; the settings of the model are apart.

    Attributes:
      seed: seed of all random numbers: split, initial values, batches, augmentation.
      validation_fraction: fraction of the showers that is kept for validation.
      log_every: number of steps between lines of metrics.
      validate_every: number of steps between validations; each stage also ends with one.
      score_showers: number of showers that are generated at each validation of the last stage, for
        their separation powers from validation showers; 0 for none.
      checkpoint_every: number of steps between checkpoints; each stage also ends with one.
      tensorboard: write metrics for TensorBoard too, to the run folder.
    """

    seed: int = 0
    validation_fraction: float = 0.05
    log_every: int = 50
    validate_every: int = 1000
    score_showers: int = 500
    checkpoint_every: int = 1000
    tensorboard: bool = False


class Run(NamedTuple):
    """Everything that the stages of a run share."""

    model: Model
    data: Data
    options: Options
    mesh: Mesh
    checkpoints: Checkpoints
    # Function that tells whether to stop, the same in all processes; called once per step.
    stop: Callable[[], bool]


def train_stage(
    run: Run, log: Log, stage: Stage, variables: Variables, progress: Progress
) -> tuple[Variables, Progress]:
    """Trains a stage from ``progress.step`` to its end.

    Raises:
      CalojaxError: if the loss is not finite, or a step does not fit into memory.
      Interrupted: if the run was asked to stop, after a checkpoint was written.
    """
    schedule, options = stage.schedule, run.options
    state = step.start(variables, stage)
    best = step.best_of(variables, stage, np.inf) if schedule.best else None
    if progress.step > 0:
        optimizer, best = run.checkpoints.load_optimizer((state.optimizer, best))
        state = step.State(jnp.int32(progress.step), variables, optimizer)
    state = distributed.replicate(state, run.mesh)
    inputs = run.data.dataset
    if stage.prepare is not None:
        inputs = batches.prepared(stage, state.variables, inputs, run.mesh)
    train_step = step.make(run.model, stage, options.seed, run.mesh)
    validate = step.make_validation(run.model, stage, options.seed, run.mesh)
    judge = _judge(run, stage, progress)
    showers = batches.stream(
        inputs,
        run.data.batches(run.data.training, schedule.batch_size),
        distributed.sharded(run.mesh),
        seed=options.seed,
        stage=stage.name,
        steps=range(progress.step, schedule.steps),
    )

    def save(count: int) -> Progress:
        done = (*progress.done, stage.name) if count == schedule.steps else progress.done
        total = progress.total + count - progress.step
        now = progress._replace(total=total, step=count, done=done)
        run.checkpoints.save(run.model, state.variables, (state.optimizer, best), now)
        return now

    advice = (
        f"{schedule.batch_size} showers per step are too many for it; use a smaller "
        f"--{stage.name}.schedule.batch-size"
    )
    saved = progress
    recorder = _Recorder(run, log, stage, progress.step)
    with distributed.full_memory_reported(advice), contextlib.closing(recorder):
        for count in range(progress.step + 1, schedule.steps + 1):
            state, values = train_step(state, next(showers))
            recorder.add(values)
            last = count == schedule.steps
            # Asked only once: a signal between two calls would stop the run without a checkpoint.
            stopping = run.stop()
            if last or count % options.validate_every == 0:
                summary = _validate(run, stage, inputs, validate, state.variables)
                recorder.validation(summary | judge(state.variables))
                if best and summary.get("loss", np.inf) < best.loss:
                    best = step.best_of(state.variables, stage, summary["loss"])
            if last and best:
                state = state._replace(variables=step.restored(state.variables, best))
            if last or count % options.checkpoint_every == 0 or stopping:
                # Nothing is saved before its losses are known to be finite.
                recorder.flush()
                saved = save(count)
            if stopping and not last:
                run.checkpoints.wait()
                raise Interrupted(
                    f"Stopped in stage {stage.name!r} after step {count} of {schedule.steps}; "
                    "continue with --resume."
                )
    run.checkpoints.wait()
    return state.variables, saved


class _Recorder:
    """Metrics on their way to the file and the screen, fetched when the device is past them."""

    def __init__(self, run: Run, log: Log, stage: Stage, done: int):
        self._run, self._log, self._stage = run, log, stage
        self._written = done
        self._waiting: list[dict[str, jax.Array]] = []
        self._clock = time.perf_counter()
        size = stage.schedule.batch_size
        self._bar = progress_bar(
            stage.name,
            stage.schedule.steps * size,
            done=done * size,
            disable=not distributed.is_first(),
        )
        self._bar.set_postfix_str(_COMPILING)

    def close(self) -> None:
        self._bar.close()

    def add(self, values: dict[str, jax.Array]) -> None:
        """Adds the metrics of a step that was just dispatched."""
        self._waiting.append(values)
        if self._bar.postfix == _COMPILING:
            self._bar.set_postfix_str("")
        self._bar.update(self._stage.schedule.batch_size)
        # One step late: while the host waits here, the device works on the next step.
        if len(self._waiting) > self._run.options.log_every:
            self._write(self._run.options.log_every)

    def flush(self) -> None:
        """Writes all metrics that were added."""
        if self._waiting:
            self._write(len(self._waiting))

    def validation(self, summary: dict[str, float]) -> None:
        """Writes the metrics of a validation after the last step that was added."""
        if summary and self._log:
            count = self._written + len(self._waiting)
            named = {f"validation/{name}": value for name, value in summary.items()}
            self._log.write(self._stage.name, count, named)

    def _write(self, num: int) -> None:
        host = jax.device_get(self._waiting[:num])
        del self._waiting[:num]
        for offset, values in enumerate(host):
            if not np.isfinite(values["loss"]):
                raise CalojaxError(
                    f"Stage {self._stage.name!r}: the loss is not finite at step "
                    f"{self._written + offset + 1}; the last checkpoint is kept: lower the "
                    "learning rate of the stage or look at the data with calojax check."
                )
        self._written += num
        now = time.perf_counter()
        rate = num * self._stage.schedule.batch_size / (now - self._clock)
        self._clock = now
        summary = self._run.model.summarise(_mean(host)) | {"showers_per_second": rate}
        if self._log:
            self._log.write(self._stage.name, self._written, summary)
        self._bar.set_postfix(loss=f"{summary['loss']:.4g}", refresh=False)


def _validate(
    run: Run,
    stage: Stage,
    inputs: Dataset | Arrays,
    validate: Callable[[Variables, Batch, int], dict[str, jax.Array]],
    variables: Variables,
) -> dict[str, float]:
    """Metrics averaged over the validation showers; empty if these do not fill the devices."""
    size = batches.fitting(stage.schedule.batch_size, len(run.data.validation))
    size -= size % run.mesh.size
    if size == 0:
        return {}
    plan = run.data.batches(run.data.validation, size)
    stream = batches.stream(
        inputs,
        plan,
        distributed.sharded(run.mesh),
        seed=0,
        stage="validation",
        steps=range(plan.per_epoch),
    )
    values = [
        jax.device_get(validate(variables, batch, number)) for number, batch in enumerate(stream)
    ]
    return run.model.summarise(_mean(values))


def _judge(run: Run, stage: Stage, progress: Progress) -> Callable[[Variables], dict[str, float]]:
    """A function of the variables for the separation powers of generated from validation showers.

    It gives none before all other stages are trained, nor where a voxel is not a valid energy, as
    early in a training. The random numbers of the generated showers are the same at every call.
    """
    model, dataset = run.model, run.data.dataset
    others = {other.name for other in model.stages} - {stage.name}
    wanted = run.options.score_showers > 0 and others <= set(progress.done)
    if not wanted or not distributed.is_first():
        return lambda variables: {}
    number = min(run.options.score_showers, len(run.data.validation))
    size = min(_SCORED, number)
    index = run.data.validation[: number - number % size]
    energies = dataset.energies[index]
    reference = ShowerArrays(
        model.detector, energies, dataset.showers[index], name="validation showers"
    )
    root = rng.stream(rng.root(run.options.seed), "scores")
    sample = jax.jit(model.sample)

    def judge(variables: Variables) -> dict[str, float]:
        # On one device, so that no other process has to take part.
        variables = jax.device_put(jax.device_get(variables), jax.local_devices()[0])
        parts = [
            sample(variables, rng.per_item(root, jnp.arange(i, i + size)), energies[i : i + size])
            for i in range(0, len(index), size)
        ]
        showers = np.concatenate([np.asarray(part) for part in parts])
        if not ((showers >= 0) & (showers < np.inf)).all():
            return {}
        generated = ShowerArrays(model.detector, energies, showers, name="generated showers")
        options = suite.Options(metrics=("histograms",), slices=())
        found = suite.evaluate(generated, reference, options).scores
        return {name: found[name] for name in suite.SCORES if name in found}

    return judge


def _mean(values: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.asarray(np.mean([value[name] for value in values], 0)) for name in values[0]}
