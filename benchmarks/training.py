"""How fast does a model train? Showers/s of a step of each stage, beside the limits.

    python benchmarks/training.py calovq-ds2 pointflow-ds2

Random weights, simulated showers. ``step`` is the compiled step on a batch that is on the device;
``with batches`` adds the host's work: gathering showers and sending them.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import limits
import rows
import stopwatch
import subjects
import tyro
import work
from jax.sharding import Mesh
from rows import Row
from stopwatch import Times
from subjects import Subject

from calojax import distributed, models
from calojax.geometry import DETECTORS
from calojax.models.base import Batch, Stage
from calojax.presets import PRESETS
from calojax.training import step


@dataclasses.dataclass(frozen=True)
class Benchmark(rows.Options):
    """Options.

    Attributes:
      models: presets to train.
      batch: showers per step; by default those of each stage.
    """

    models: tyro.conf.Positional[tuple[str, ...]] = (
        "calovq-ds2",
        "calovq-ds2-mlp",
        "pointflow-ds2",
    )
    batch: int | None = None


class Trainer:
    """A stage in training, compiled once; each step reuses the memory of the state before it.

    ``function`` is the step before that, and ``columns`` are those of `stopwatch.compiled`.
    """

    def __init__(self, subject: Subject, stage: Stage, mesh: Mesh, batch: Batch):
        start = step.start(jax.tree.map(jnp.copy, subject.variables), stage)
        self.state = jax.device_put(start, distributed.replicated(mesh))
        self.function = step.make(subject.model, stage, 0, mesh)
        self._step, self.columns = stopwatch.compiled(self.function, self.state, batch)

    def __call__(self, batch: Batch) -> Any:
        """Trains one step and returns arrays to wait for."""
        self.state, metrics = self._step(self.state, batch)
        return self.state.step, metrics


def time_step(train: Trainer, batch: Batch, b: rows.Options) -> Times:
    """Times of a step on a batch that is on the device."""
    return stopwatch.repeat(lambda: train(batch), repeats=b.repeats, seconds=b.seconds)


def main(b: Benchmark) -> Iterator[Row]:
    """Rows of each preset, stage and part."""
    b = b.small(models=("calovq-tiny", "pointflow-tiny"), batch=32)
    one = distributed.make_mesh(jax.devices()[:1])
    for name in b.models:
        detector = DETECTORS[PRESETS[name].geometry]
        stages = models.build(PRESETS[name].model, detector).stages
        largest = b.batch or max(stage.schedule.batch_size for stage in stages)
        dataset = subjects.simulated(detector, 4 * largest)
        subject = subjects.untrained(name, dataset, b.batch)
        for stage in subject.model.stages:
            size = stage.schedule.batch_size
            common = {"benchmark": "training", **subject.columns}
            common |= {"stage": stage.name, "batch": size}

            batch = next(subjects.stream(dataset, size))
            train = Trainer(subject, stage, one, batch)
            done = work.of(train.function, train.state, batch)
            times = time_step(train, batch, b)
            shares = limits.measured(b).columns(done, times.median, size)
            yield common | {"part": "step"} | speed(times, size) | train.columns | shares

            stream = subjects.stream(dataset, size, b.repeats + 2)
            times = stopwatch.repeat(
                lambda stream=stream, train=train: train(next(stream)),
                repeats=b.repeats,
                seconds=b.seconds,
            )
            yield common | {"part": "with batches"} | speed(times, size)


def speed(times: Times, size: int) -> Row:
    """Columns of a step of ``size`` showers."""
    return {"showers_per_second": size / times.median} | times.per_shower(size)


if __name__ == "__main__":
    rows.run(Benchmark, main, __doc__)
