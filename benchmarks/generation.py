"""How long does a model take for a shower? ms/shower, whole and in parts, beside the limits.

    python benchmarks/generation.py runs/NAME calovq-ds2 pointflow-ds3 --batch 1 100 10000 --best

Models are folders of trained runs, or presets with random weights. The batches are those of the
CaloChallenge. Compilation is timed on its own; copies to the host are rows of their own: of dense
showers, and of their hits, which are packed first. With ``--best`` the batch grows by factors of
four until ms/shower no longer falls.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import limits
import numpy as np
import rows
import stopwatch
import subjects
import tyro
import work
from rows import Row
from subjects import Subject

from calojax.nn.precision import Precision, rounding
from calojax.sampling import packing

# Largest batch size in the search for the best one.
LARGEST = 4**9


@dataclasses.dataclass(frozen=True)
class Benchmark(rows.Options):
    """Options; batches that would take longer than ``seconds`` are left out.

    Attributes:
      models: presets, which have random weights, or folders of trained runs.
      batch: batch sizes.
      best: look for the best batch size too.
      precision: precision of matrix products, as in `calojax sample`.
      parts: time the networks of the model one by one as well.
    """

    models: tyro.conf.Positional[tuple[str, ...]] = ("examples/calovq-ds2",)
    batch: tuple[int, ...] = (1, 100, 10_000)
    best: bool = False
    precision: Precision = "default"
    parts: bool = True


def timed(
    function: Callable[..., Any], arguments: tuple[Any, ...], b: Benchmark, size: int
) -> tuple[Row, Any]:
    """Columns of a function that makes ``size`` showers, and its result."""
    with rounding(b.precision):
        program, columns = stopwatch.compiled(function, *arguments)
    times = stopwatch.repeat(lambda: program(*arguments), repeats=b.repeats, seconds=b.seconds)
    shares = limits.measured(b).columns(work.of(function, *arguments), times.median, size)
    return times.per_shower(size) | columns | shares, program(*arguments)


def whole(subject: Subject, size: int, b: Benchmark) -> tuple[Row, jax.Array]:
    """The row of a batch from energies to showers, and the showers."""
    columns, showers = timed(subject.model.sample, subject.inputs(size), b, size)
    hits = float(jnp.sum(showers > 0)) / size
    return {"batch": size, "part": "whole", **columns, "hits_per_shower": hits}, showers


def parts(subject: Subject, size: int, b: Benchmark, showers: jax.Array) -> Iterator[Row]:
    """Rows of the copies of ``showers`` to the host and of the model's networks."""
    for part, copy in {
        "host copy": np.asarray,
        "packed host copy": lambda new: packing.fetch(packing.pack(new), new),
    }.items():
        # A new array for each repetition, because JAX keeps the copy of an old one.
        copies = stopwatch.repeat(
            copy, repeats=b.repeats, seconds=b.seconds, prepare=lambda: (jnp.copy(showers),)
        )
        yield {"batch": size, "part": part} | copies.per_shower(size)
    if b.parts:
        for part, (function, arguments) in subject.model.parts(*subject.inputs(size)).items():
            yield {"batch": size, "part": part} | timed(function, arguments, b, size)[0]


def too_long(subject: Subject, size: int, latest: Row | None, b: Benchmark) -> bool:
    """Whether a batch would take too long, judged by the latest row; if so, says it."""
    seconds = 1e-3 * latest["ms_per_shower"] * size if latest else 0.0
    if seconds > b.seconds:
        print(f"{subject.name}: left out batch {size}, about {seconds:.0f} s.", file=sys.stderr)
    return seconds > b.seconds


def best_batch(subject: Subject, b: Benchmark) -> Iterator[Row]:
    """Rows of growing batches until two in a row gain nothing; then the best one again."""
    found: list[Row] = []
    size = 1
    largest = 1 if b.smoke else LARGEST
    while size <= largest and not too_long(subject, size, found[-1] if found else None, b):
        try:
            found.append(whole(subject, size, b)[0])
        except jax.errors.JaxRuntimeError as error:
            print(f"{subject.name}: batch {size} fails: {error}", file=sys.stderr)
            break
        yield found[-1]
        times = [row["ms_per_shower"] for row in found]
        if len(times) > 2 and min(times[-2:]) > 0.97 * min(times[:-2]):
            break
        size *= 4
    if found:
        yield min(found, key=lambda row: row["ms_per_shower"]) | {"best": True}


def figures(subject: Subject, b: Benchmark) -> Iterator[Row]:
    """All rows of a model."""
    latest = None
    for size in b.batch:
        if not too_long(subject, size, latest, b):
            latest, showers = whole(subject, size, b)
            yield latest
            yield from parts(subject, size, b, showers)
    if b.best:
        yield from best_batch(subject, b)


def main(b: Benchmark) -> Iterator[Row]:
    """A row for each model, batch size and part."""
    b = b.small(models=("calovq-tiny", "pointflow-tiny"), batch=(4,), best=True)
    for name in b.models:
        subject = subjects.find(name)
        common = {"benchmark": "generation", **subject.columns, "precision": b.precision}
        for row in figures(subject, b):
            yield common | row


if __name__ == "__main__":
    rows.run(Benchmark, main, __doc__)
