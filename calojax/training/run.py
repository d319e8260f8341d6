"""A training run: where it starts, what of it is done, what is done again, and how it stops."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import shutil
import signal
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from calojax import distributed, files, models, rng
from calojax.checkpoint import Checkpoints, Progress, check_shapes, shapes
from calojax.errors import CalojaxError
from calojax.io import marks
from calojax.models.base import Model, Variables
from calojax.training import balanced_batches, batches, metrics
from calojax.training.batches import Dataset
from calojax.training.loop import Cadence, Run, train_stage

METRICS_FILE = "metrics.jsonl"
# How a run was started, as JSON.
ORIGIN = "run.json"


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run is trained; what is trained is in the model.

    Attributes:
      seed: root of all random numbers: split, start, batches, augmentation.
      validation_fraction: share of the showers that is kept from training.
      log_every: steps between lines of metrics.
      validate_every: steps between validations; there is also one at the end of each stage.
      checkpoint_every: steps between checkpoints; there is also one at the end of each stage.
    """

    seed: int = 0
    validation_fraction: float = 0.05
    log_every: int = 50
    validate_every: int = 1000
    checkpoint_every: int = 1000


def train(
    model: Model,
    dataset: Dataset,
    out: pathlib.Path,
    options: Options,
    *,
    resume: bool = False,
    again: tuple[str, ...] = (),
    mesh: Mesh | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Variables:
    """Trains the stages of a model that are not trained yet.

    Args:
      model: to train.
      dataset: its showers.
      out: folder of the run.
      options: see there.
      resume: continue the run in ``out`` from its newest checkpoint.
      again: stages of the run in ``out`` to train afresh, with those that need them; their
        settings may differ from those before.
      mesh: devices to train on (default: all).
      origin: how the run is started, to be written into its folder.

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
    if resume and again:
        raise CalojaxError("Give either --resume or --stages: a run is continued or done again.")
    split = batches.split(len(dataset.energies), options.validation_fraction, options.seed)
    _check_stages(model, again, mesh, len(split.training))
    batches.check_variety(dataset, split.training)
    packed = any(stage.packing for stage in model.stages)
    # Without buffers for hits, energies balance batches as well, and no shower needs to be read.
    hits = batches.count_hits(dataset) if packed else dataset.energies
    for stage in model.stages:
        if stage.name in again or not again:
            batches.check_packing(stage, hits[split.training])
    cadence = Cadence(options.log_every, options.validate_every, options.checkpoint_every)
    with _folder(out), Checkpoints(out) as checkpoints, StopFlag() as stop:
        distributed.check_same(
            settings=(models.to_json(model), options, resume, again),
            data=(dataset.showers.shape, zlib.crc32(np.ascontiguousarray(dataset.energies))),
            the_checkpoint_in_the_run=checkpoints.latest,
        )
        if checkpoints.latest is not None and not (resume or again):
            raise CalojaxError(
                f"{out}: already holds a run; continue it with --resume, train a stage of it "
                "afresh with --stages, or choose another --out."
            )

        def fresh(transforms: Variables, total: int) -> Variables:
            """Untrained variables; a codebook may start on these showers."""
            largest = max(stage.schedule.batch_size for stage in model.stages)
            size = batches.fitting(largest, len(split.training))
            cut = balanced_batches.cut(split.training, hits[split.training], size)
            batch = batches.put(
                dataset, batches.rows(cut, options.seed, "init", 0), distributed.replicated(mesh)
            )
            key = rng.stream(rng.root(options.seed), "init", total)
            init = jax.jit(model.init, out_shardings=distributed.replicated(mesh))
            return init(key, transforms, batch)

        if checkpoints.latest is None:
            if again:
                raise CalojaxError(f"{out}: holds no run of which a stage could be done again.")
            energies = dataset.energies[split.training]
            distinct = np.unique(energies)
            if origin and distributed.is_first():
                with files.replacing(out / ORIGIN) as partial:
                    partial.write_text(json.dumps(origin, indent=2) + "\n")
            fitted = model.fit(batches.chunks(dataset, split.training))
            _check_size(model, fitted)
            variables = fresh(fitted, 0)
            progress = Progress(
                total=0,
                stage=model.stages[0].name,
                step=0,
                done=(),
                seed=options.seed,
                energy_range=(float(distinct[0]), float(distinct[-1])),
                energies=tuple(distinct.tolist() if 10 * len(distinct) <= len(energies) else ()),
                trained_on=_marks(dataset, split.training),
            )
        else:
            found = checkpoints.load()
            variables, progress = found.variables, found.progress
            if progress.seed != options.seed:
                raise CalojaxError(
                    f"{out}: the run there has seed {progress.seed}, not {options.seed}; go on "
                    f"with --seed {progress.seed}."
                )
            if again:
                started = fresh(variables["transforms"], progress.total)
                variables, progress = _start_again(model, variables, started, progress, again)
                check_shapes(out, model, variables)
            elif found.model != model:
                differing = ", ".join(models.differing(found.model, model))
                raise CalojaxError(
                    f"{out}: the run there has other settings ({differing}); resume it with "
                    "--resume --out alone, which takes those that it was started with."
                )
        log = _open_log(out / METRICS_FILE, progress)
        stop = distributed.agreed(stop)
        run = Run(model, dataset, split, hits, options.seed, cadence, mesh, checkpoints, log, stop)
        try:
            for stage in model.stages:
                if stage.name in progress.done:
                    continue
                if stage.name != progress.stage:
                    progress = progress._replace(stage=stage.name, step=0)
                variables, progress = train_stage(run, stage, variables, progress)
        finally:
            log.close()
    return variables


def _open_log(path: pathlib.Path, progress: Progress) -> metrics.MetricsFile | metrics.Nowhere:
    """The metrics file, without the lines of steps that will be done again."""
    if not distributed.is_first():
        return metrics.Nowhere()
    records = [
        record
        for record in metrics.read(path)
        if record["stage"] in progress.done
        or (record["stage"] == progress.stage and record["step"] <= progress.step)
    ]
    return metrics.MetricsFile(path, keep=records)


def _marks(dataset: Dataset, index: np.ndarray, *, count: int = 32) -> str:
    """Marks of some showers of an index, spread over it."""
    chosen = np.unique(index[np.linspace(0, len(index) - 1, count).astype(int)])
    showers = dataset.showers[chosen]
    return marks.to_text(marks.marks(showers[showers.sum(1) > 0]))


@contextlib.contextmanager
def _folder(out: pathlib.Path) -> Iterator[None]:
    """The folder of a run, locked by this process; removed if it is new and nothing came of it."""
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
    statistics = jax.local_devices()[0].memory_stats() or {}
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    room = statistics.get("bytes_limit", physical)
    # float32: parameters, gradients and two moments of the optimiser.
    if 16 * count > room:
        sizes = {
            name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(part))
            for name, part in params.items()
        }
        largest = max(sizes, key=sizes.get)
        raise CalojaxError(
            f"The model has {count:,} parameters, which need {16e-9 * count:,.1f} GB to train, but "
            f"the memory has {1e-9 * room:,.1f} GB; make the network {largest!r} smaller."
        )


def _check_stages(model: Model, again: tuple[str, ...], mesh: Mesh, num: int) -> None:
    names = [stage.name for stage in model.stages]
    for name in again:
        if name not in names:
            raise CalojaxError(f"There is no stage {name!r}; the stages are {', '.join(names)}.")
    for stage in model.stages:
        if min(stage.schedule.steps, stage.schedule.batch_size) < 1:
            raise CalojaxError(
                f"Stage {stage.name!r} needs at least 1 step and 1 shower a step, got "
                f"{stage.schedule.steps} steps of {stage.schedule.batch_size}."
            )
        if stage.schedule.batch_size > num and (stage.name in again or not again):
            raise CalojaxError(
                f"Stage {stage.name!r} takes {stage.schedule.batch_size} showers a step but there "
                f"are only {num} to train on; give more data, or a smaller "
                f"--{stage.name}.schedule.batch-size."
            )
        if stage.schedule.batch_size % mesh.size:
            raise CalojaxError(
                f"Stage {stage.name!r} takes {stage.schedule.batch_size} showers a step, which "
                f"{mesh.size} devices cannot share evenly; choose a multiple of {mesh.size}."
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


class StopFlag:
    """Within it, the first signal to end sets a flag; a second one does what it did before.

    ``with StopFlag() as stop: ... if stop(): ...``
    """

    # Seconds in which further signals are copies of the first one.
    ECHO = 0.1

    def __enter__(self) -> Callable[[], bool]:
        self._since: float | None = None
        self._before = {}
        for number in files.SIGNALS:
            # SIGHUP under nohup, for example, stays ignored.
            if signal.getsignal(number) is signal.SIG_IGN:
                continue
            try:
                self._before[number] = signal.signal(number, self._handle)
            except ValueError:  # Not in the main thread, where signals are not ours to handle.
                break
        return lambda: self._since is not None

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _) -> None:
        if self._since is None:
            self._since = time.monotonic()
            with contextlib.suppress(OSError):
                os.write(2, b"\nstopping after this step, with a checkpoint; again: at once\n")
        elif time.monotonic() - self._since > self.ECHO:
            signal.signal(number, self._before[number])
            signal.raise_signal(number)
