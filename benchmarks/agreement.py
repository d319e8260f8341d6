"""Does this device make the showers that a CPU makes, in every precision and batch size?

    python benchmarks/agreement.py RUN --reference TEST.hdf5

The same showers (energies of the reference, one seed) come from the CPU in float32 and from the
default device in each of its precisions; all are scored against the reference. ``changed`` is the
share of showers with a voxel that differs by more than a thousandth of its energy from the first
row's: an early code or hit that falls the other way changes the rest of a shower.
"""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import rows
import subjects
import tyro
from rows import Row

from calojax.evaluation import suite
from calojax.io import ShowerArrays, open_showers
from calojax.sampling import generation


@dataclasses.dataclass(frozen=True)
class Benchmark(rows.Options):
    """Options.

    Attributes:
      model: folder of a trained run.
      reference: file of Geant4 showers; the generated ones have the same energies.
      showers: largest number of showers.
      metrics: metrics of `calojax evaluate`.
      batch: batch size, and another one for the second row of the device.
    """

    model: tyro.conf.Positional[str] = "examples/calovq-ds2"
    reference: pathlib.Path = pathlib.Path("examples/geant4_ds2_test.hdf5")
    showers: int = 5000
    metrics: tuple[str, ...] = ("histograms", "fpd", "correlations")
    batch: tuple[int, int] = (1000, 250)


def main(b: Benchmark) -> Iterator[Row]:
    """A row for each device, precision and batch size."""
    b = b.small(showers=64, metrics=("histograms",), batch=(32, 16))
    subject = subjects.find(b.model)
    detector = subject.model.detector
    source = open_showers(b.reference, detector)
    num = min(b.showers, len(source))
    reference = ShowerArrays(detector, source.energies[:num], source.read(0, num))
    size, other = b.batch
    cpu, device = jax.devices("cpu")[:1], jax.devices()[:1]
    precisions = ("float32", "tf32", "bf16") if device != cpu else ()
    cases: list[Any] = [(cpu, "float32", size), (device, "float32", other)]
    cases[1:1] = [(device, precision, size) for precision in precisions]
    exact = None
    for where, precision, batch in cases:
        blocks = generation.generate(
            subject.model,
            subject.variables,
            reference.energies,
            batch_size=batch,
            precision=precision,
            devices=where,
        )
        showers = np.concatenate([block for _, block in blocks])
        exact = showers if exact is None else exact
        changed = (np.abs(showers - exact) > 1e-3 * exact).any(1)
        sample = ShowerArrays(detector, reference.energies, showers)
        found = suite.evaluate(sample, reference, suite.Options(metrics=b.metrics, slices=()))
        row = {"benchmark": "agreement", **subject.columns, "on": where[0].platform}
        row |= {"precision": precision, "batch": batch, "showers": num}
        row |= {"changed": float(changed.mean()), "equal": bool((showers == exact).all())}
        yield row | {key: float(value) for key, value in found.scores.items()}


if __name__ == "__main__":
    rows.run(Benchmark, main, __doc__)
