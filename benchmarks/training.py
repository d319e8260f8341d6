"""How fast does a model train? Showers/s of a step of every stage, beside the limits.

    python benchmarks/training.py --preset calovq-ds2 pointflow-ds2

Random weights, simulated showers, and the batch size of the stage. ``step`` is the compiled step on
a batch that is on the device; ``with batches`` adds the host's share: gathering showers from the
data set and sending them. The share of the matrix rate is what others call model FLOP utilisation.
One JSON line a figure, on standard output.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import limits
import numpy as np
import stopwatch
import subjects
import tyro
import work
from environment import show
from limits import Limits
from stopwatch import Times
from subjects import Subject

from calojax import distributed, models
from calojax.geometry import DETECTORS
from calojax.models.base import Batch, Stage
from calojax.presets import PRESETS
from calojax.training import batches, step
from calojax.training.balanced_batches import balanced
from calojax.training.batches import Dataset


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What to time.

    Attributes:
      preset: what to train.
      batch: showers a step (default: that of the stage).
      repeats: timed repetitions of each figure.
      seconds: a figure stops repeating after this long.
      smoke: small presets, once, to see that the benchmark runs.
    """

    preset: tuple[str, ...] = ("calovq-ds2", "calovq-ds2-mlp", "pointflow-ds2")
    batch: int | None = None
    repeats: int = 10
    seconds: float = 60.0
    smoke: bool = False


class Trainer:
    """A stage in training on one device; holds the state, whose memory every step takes over."""

    def __init__(self, subject: Subject, stage: Stage):
        self._mesh = distributed.make_mesh(jax.devices()[:1])
        start = step.start(jax.tree.map(jnp.copy, subject.variables), stage)
        self._state = jax.device_put(start, distributed.replicated(self._mesh))
        self._step = step.make(subject.model, stage, 0, self._mesh)

    def train(self, batch: Batch) -> Any:
        """One step; what it returns can be waited for."""
        self._state, metrics = self._step(self._state, batch)
        return self._state.step, metrics

    def put(self, dataset: Dataset) -> Batch:
        """A batch on the device."""
        return jax.device_put(dataset._asdict(), distributed.sharded(self._mesh))

    def program(self, batch: Batch) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The step as a function with its arguments."""
        return self._step, (self._state, batch)


def time_stage(
    subject: Subject, stage: Stage, batch: Dataset, *, repeats: int, seconds: float = math.inf
) -> Times:
    """Times of a training step on a batch that is on the device."""
    trainer = Trainer(subject, stage)
    given = trainer.put(batch)
    return stopwatch.repeat(lambda: trainer.train(given), repeats=repeats, seconds=seconds)


def time_with_batches(subject: Subject, stage: Stage, dataset: Dataset, b: Benchmark) -> Times:
    """Times of steps on the batches that training makes of a data set."""
    trainer = Trainer(subject, stage)
    everything, hits = np.arange(len(dataset.energies)), batches.count_hits(dataset)
    stream = batches.stream(
        dataset,
        balanced(everything, hits, stage.schedule.batch_size),
        distributed.sharded(distributed.make_mesh(jax.devices()[:1])),
        seed=0,
        stage=stage.name,
        steps=range(b.repeats + 2),
    )
    return stopwatch.repeat(
        lambda: trainer.train(next(stream)), repeats=b.repeats, seconds=b.seconds
    )


def figures(
    subject: Subject, stage: Stage, dataset: Dataset, b: Benchmark, limit: Limits
) -> Iterator[dict[str, Any]]:
    """Rows of a stage."""
    size = stage.schedule.batch_size
    batch = subjects.balanced(dataset, size)
    times = time_stage(subject, stage, batch, repeats=b.repeats, seconds=b.seconds)
    trainer = Trainer(subject, stage)
    function, arguments = trainer.program(trainer.put(batch))
    done = work.of(function, *arguments)
    yield {"part": "step"} | speed(times, size) | limits.shares(done, times.median, limit, size)
    yield {"part": "with batches"} | speed(time_with_batches(subject, stage, dataset, b), size)


def speed(times: Times, size: int) -> dict[str, Any]:
    """Columns of a step of ``size`` showers."""
    return {"showers_per_second": size / times.median} | times.per_shower(size)


def main() -> None:
    """Prints a JSON line for every preset, stage and part."""
    b = tyro.cli(Benchmark, description=__doc__)
    if b.smoke:
        tiny = ("calovq-tiny", "pointflow-tiny")
        b = dataclasses.replace(b, preset=tiny, batch=32, repeats=1)
    limit = limits.measured(smoke=b.smoke)
    for name in b.preset:
        detector = DETECTORS[PRESETS[name].geometry]
        stages = models.build(PRESETS[name].model, detector).stages
        largest = b.batch or max(stage.schedule.batch_size for stage in stages)
        dataset = subjects.simulated(detector, 4 * largest)
        subject = subjects.untrained(name, dataset, b.batch)
        for stage in subject.model.stages:
            row = {
                "benchmark": "training",
                "model": models.name_of(subject.model),
                "subject": name,
                "geometry": detector.name,
                "stage": stage.name,
                "batch": stage.schedule.batch_size,
            }
            for columns in figures(subject, stage, dataset, b, limit):
                show(row | columns)


if __name__ == "__main__":
    main()
