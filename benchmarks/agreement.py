"""Does this device make the showers that a CPU makes, in every precision and batch size?

    python benchmarks/agreement.py RUN --reference TEST.hdf5

The same showers (energies of the reference, one seed) come from the CPU in float32 and from the
default device in each of its precisions; all are scored against the reference. ``changed`` is the
share of showers with a voxel that differs by more than a thousandth of its energy from the first
row's: an early code or hit that falls the other way changes the rest of a shower.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import precision
import rows
import subjects
from rows import Row


@dataclasses.dataclass(frozen=True)
class Benchmark(precision.Benchmark):
    """Options, beside those of `precision`.

    Attributes:
      batch: batch size, and another one for the last row.
    """

    batch: tuple[int, int] = (1000, 250)


def main(b: Benchmark) -> Iterator[Row]:
    """A row for each device, precision and batch size."""
    b = b.small(showers=64, metrics=("histograms",), batch=(32, 16))
    subject = subjects.find(b.model)
    reference = precision.first_showers(b, subject.model.detector)
    size, other = b.batch
    cpu, device = jax.devices("cpu")[:1], jax.devices()[:1]
    roundings = ("float32", "tf32", "bf16") if device != cpu else ()
    cases: list[Any] = [(cpu, "float32", size), (device, "float32", other)]
    cases[1:1] = [(device, rounding, size) for rounding in roundings]
    exact = None
    for where, rounding, batch in cases:
        options = {"seed": b.seed, "batch_size": batch, "precision": rounding, "devices": where}
        showers = subject.showers(reference.energies, **options)
        exact = showers if exact is None else exact
        changed = (np.abs(showers - exact) > 1e-3 * exact).any(1)
        row = {"benchmark": "agreement", **subject.columns, "on": where[0].platform}
        row |= {"precision": rounding, "batch": batch, "changed": float(changed.mean())}
        row |= {"equal": bool((showers == exact).all())}
        yield row | precision.scores(b, showers, reference)


if __name__ == "__main__":
    rows.run(Benchmark, main, __doc__)
