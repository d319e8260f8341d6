"""The loop over the steps of one stage: dispatch, log one step late, validate, save, stop."""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from calojax import distributed
from calojax.checkpoint import Checkpoints, Progress
from calojax.errors import CalojaxError
from calojax.models.base import Model, Stage, Variables
from calojax.progress import progress_bar
from calojax.training import batches, metrics, step
from calojax.training.batches import Dataset, Split

# What the progress bar says until the first step is done.
_COMPILING = "compiling"


class Cadence(NamedTuple):
    """Steps between lines of metrics, between validations, and between checkpoints."""

    log: int
    validate: int
    checkpoint: int


class Run(NamedTuple):
    """What the stages of one run share.

    Attributes:
      model: that is trained.
      dataset: all showers.
      split: which of them train and which validate.
      hits: how many each of them has [n].
      seed: root of all random numbers.
      cadence: how often things are written.
      mesh: the devices.
      checkpoints: where checkpoints go.
      log: where metrics go.
      stop: says whether the run was asked to stop, the same to all processes; asked once a step.
    """

    model: Model
    dataset: Dataset
    split: Split
    hits: np.ndarray
    seed: int
    cadence: Cadence
    mesh: Mesh
    checkpoints: Checkpoints
    log: metrics.MetricsFile | metrics.Nowhere
    stop: Callable[[], bool]


class Interrupted(CalojaxError):
    """Training was asked to stop and did, with a checkpoint."""


def train_stage(
    run: Run, stage: Stage, variables: Variables, progress: Progress
) -> tuple[Variables, Progress]:
    """Trains a stage from ``progress.step`` to its end.

    Raises:
      CalojaxError: if the loss is not finite, or there are fewer showers than a batch holds.
      Interrupted: if the run was asked to stop, after a checkpoint was written.
    """
    schedule, cadence = stage.schedule, run.cadence
    state = step.start(variables, stage)
    if progress.step > 0:
        optimizer = run.checkpoints.load_optimizer(state.optimizer)
        state = step.State(np.int32(progress.step), variables, optimizer)
    state = distributed.replicate(state, run.mesh)
    train_step = step.make(run.model, stage, run.seed, run.mesh)
    validate = step.make_validation(run.model, stage, run.seed, run.mesh)
    showers = batches.stream(
        run.dataset,
        run.split.training,
        run.hits,
        distributed.sharded(run.mesh),
        batch_size=schedule.batch_size,
        seed=run.seed,
        stage=stage.name,
        steps=range(progress.step, schedule.steps),
    )

    def save(count: int) -> Progress:
        done = (*progress.done, stage.name) if count == schedule.steps else progress.done
        total = progress.total + count - progress.step
        now = progress._replace(total=total, step=count, done=done)
        run.checkpoints.save(run.model, state.variables, state.optimizer, now)
        return now

    advice = (
        f"{schedule.batch_size} showers a step are too many for it; take a smaller "
        f"--{stage.name}.schedule.batch-size"
    )
    with distributed.full_memory_reported(advice), _Recorder(run, stage, progress.step) as recorder:
        for count in range(progress.step + 1, schedule.steps + 1):
            state, values = train_step(state, next(showers))
            recorder.add(values)
            last = count == schedule.steps
            # Asked once: a signal between two looks would stop the run without a checkpoint.
            stopping = run.stop()
            if last or count % cadence.validate == 0:
                recorder.validation(_validate(run, stage, validate, state.variables))
            if last or count % cadence.checkpoint == 0 or stopping:
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

    def __init__(self, run: Run, stage: Stage, done: int):
        self._run, self._stage = run, stage
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

    def __enter__(self) -> "_Recorder":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def add(self, values: dict[str, jax.Array]) -> None:
        """Takes the metrics of a step that was just dispatched."""
        self._waiting.append(values)
        if self._bar.postfix == _COMPILING:
            self._bar.set_postfix_str("")
        self._bar.update(self._stage.schedule.batch_size)
        # One step late: while the host waits here, the device has the next step to work on.
        if len(self._waiting) > self._run.cadence.log:
            self._write(self._run.cadence.log)

    def flush(self) -> None:
        """Writes what waits."""
        if self._waiting:
            self._write(len(self._waiting))

    def validation(self, summary: dict[str, float]) -> None:
        """Writes the numbers of a validation after the last step that was added."""
        if summary:
            count = self._written + len(self._waiting)
            named = {f"validation/{name}": value for name, value in summary.items()}
            self._run.log.write(self._stage.name, count, named)

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
        mean = {name: np.asarray(np.mean([values[name] for values in host], 0)) for name in host[0]}
        summary = self._run.model.summarise(mean) | {"showers_per_second": rate}
        self._run.log.write(self._stage.name, self._written, summary)
        self._bar.set_postfix(loss=f"{summary['loss']:.4g}", refresh=False)


def _validate(run: Run, stage: Stage, validate, variables: Variables) -> dict[str, float]:
    """Metrics averaged over the validation showers; none if they do not fill the devices."""
    size = batches.fitting(stage.schedule.batch_size, len(run.split.validation))
    size -= size % run.mesh.size
    if size == 0:
        return {}
    stream = batches.in_order(
        run.dataset, run.split.validation, run.hits, distributed.sharded(run.mesh), batch_size=size
    )
    values = [
        jax.device_get(validate(variables, batch, np.uint32(number)))
        for number, batch in enumerate(stream)
    ]
    return run.model.summarise(
        {name: np.asarray(np.mean([value[name] for value in values], 0)) for name in values[0]}
    )
