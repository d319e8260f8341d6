"""How long does a model take for a shower? ms/shower, whole and in parts, beside the limits.

    python benchmarks/generation.py runs/NAME --batch 1 100 10000
    python benchmarks/generation.py --preset calovq-ds2 pointflow-ds3 --best

The CaloChallenge's protocol: batches of 1, 100 and 10,000 showers, 10 repetitions. Compilation is
timed apart; every figure is the median of repeats after a warm-up, each waited for on the device.
The copy of the showers to the host is a row of its own. ``--best`` looks for the batch with the
least ms/shower, four times as large from try to try. One JSON line a figure, on standard output.
"""

import dataclasses
import pathlib
import sys
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
from subjects import Subject

from calojax import models, rng
from calojax.presets import PRESETS
from calojax.sampling.generation import Precision, rounding


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What to time.

    Attributes:
      run: folder of a trained run.
      preset: presets to time with random weights, instead of a run.
      batch: batch sizes.
      best: look for the best batch size too.
      largest: batch that it tries.
      precision: of matrix products, as `calojax sample` has it; their limit is the default one's.
      parts: time the networks of the model one by one.
      repeats: timed repetitions of each figure.
      seconds: a figure stops repeating after this long; batches that would take longer are left
        out.
      smoke: small presets and batches, once, to see that the benchmark runs.
    """

    run: tyro.conf.Positional[pathlib.Path | None] = None
    preset: tuple[str, ...] = ()
    batch: tuple[int, ...] = (1, 100, 10_000)
    best: bool = False
    largest: int = 4**9
    precision: Precision = "default"
    parts: bool = True
    repeats: int = 10
    seconds: float = 60.0
    smoke: bool = False


def time_call(
    function: Callable[..., Any], arguments: tuple[Any, ...], b: Benchmark, limit: Limits, size: int
) -> tuple[dict[str, Any], Any]:
    """Columns of a function that makes ``size`` showers, and what it returns."""
    with rounding(b.precision):
        program, compilation = stopwatch.compiled(function, *arguments)
    times = stopwatch.repeat(lambda: program(*arguments), repeats=b.repeats, seconds=b.seconds)
    columns = times.per_shower(size) | {"compile_seconds": compilation}
    columns |= limits.shares(work.of(function, *arguments), times.median, limit, size)
    return columns, program(*arguments)


def figures(subject: Subject, size: int, b: Benchmark, limit: Limits) -> Iterator[dict[str, Any]]:
    """Rows of a batch: the whole, the copy to the host, and the parts."""
    model, variables = subject.model, subject.variables
    energies = subjects.incident(subject, size)
    keys = rng.per_item(rng.root(0), np.arange(size))
    whole, showers = time_call(model.sample, (variables, keys, energies), b, limit, size)
    yield {"part": "whole"} | whole | {"hits_per_shower": float(jnp.sum(showers > 0)) / size}
    # An array that was fetched once is kept on the host, so every repetition gets a new one.
    copies = stopwatch.repeat(
        np.asarray,
        repeats=b.repeats,
        seconds=b.seconds,
        prepare=lambda: (jnp.copy(showers),),
    )
    yield {"part": "host copy"} | copies.per_shower(size)
    if b.parts:
        del showers
        for part, (function, arguments) in model.parts(variables, keys, energies).items():
            yield {"part": part} | time_call(function, arguments, b, limit, size)[0]


def too_long(subject: Subject, size: int, milliseconds: float | None, b: Benchmark) -> bool:
    """Whether a batch would take too long by the ms/shower of a smaller one; says so if it is."""
    expected = 0.0 if milliseconds is None else 1e-3 * milliseconds * size
    if expected > b.seconds:
        print(
            f"{subject.name}: a batch of {size} would take {expected:.0f} s; left out, ask for it "
            "with a larger --seconds.",
            file=sys.stderr,
        )
    return expected > b.seconds


def best_batch(subject: Subject, b: Benchmark, limit: Limits) -> Iterator[dict[str, Any]]:
    """The whole at growing batches, until two in a row gain nothing, as rows; then the best one."""
    tried: list[dict[str, Any]] = []
    size = 1
    while size <= b.largest:
        if too_long(subject, size, tried[-1]["ms_per_shower"] if tried else None, b):
            break
        try:
            row = {"batch": size} | next(figures(subject, size, b, limit))
        except jax.errors.JaxRuntimeError as error:
            print(f"{subject.name}: a batch of {size} fails: {error}", file=sys.stderr)
            break
        yield row
        tried.append(row)
        times = [row["ms_per_shower"] for row in tried]
        if len(times) > 2 and min(times[-2:]) > 0.97 * min(times[:-2]):
            break
        size *= 4
    if tried:
        yield min(tried, key=lambda row: row["ms_per_shower"]) | {"best": True}


def main() -> None:
    """Prints a JSON line for every model, batch size and part."""
    b = tyro.cli(Benchmark, description=__doc__)
    if b.smoke:
        tiny = ("calovq-tiny", "pointflow-tiny")
        b = dataclasses.replace(b, preset=tiny, batch=(4,), repeats=1, best=True, largest=1)
    if (b.run is None) == (not b.preset):
        sys.exit("Name a run or a preset (--preset), and not both.")
    unknown = set(b.preset) - set(PRESETS)
    if unknown:
        sys.exit(f"There is no preset {', '.join(unknown)}; there are {', '.join(PRESETS)}.")
    limit = limits.measured(smoke=b.smoke)
    for name in b.preset or (b.run,):
        subject = subjects.untrained(name) if b.preset else subjects.trained(b.run)
        common = {
            "benchmark": "generation",
            "model": models.name_of(subject.model),
            "subject": subject.name,
            "geometry": subject.model.detector.name,
            "precision": b.precision,
        }
        latest = None
        for size in b.batch:
            if too_long(subject, size, latest, b):
                continue
            for row in figures(subject, size, b, limit):
                show(common | {"batch": size} | row)
                latest = row["ms_per_shower"] if row["part"] == "whole" else latest
        if b.best:
            for row in best_batch(subject, b, limit):
                show(common | row)


if __name__ == "__main__":
    main()
