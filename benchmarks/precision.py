"""Do the scores change when matrix units round their inputs, as tf32 and bf16 do?

    python benchmarks/precision.py RUN --reference TEST.hdf5
    python benchmarks/precision.py PRESET --steps 100          # the losses of a training instead

Generates the same showers with the inputs of all matrix products and convolutions rounded to the
mantissa of tf32 (10 bits) and of bf16 (7 bits), sums in float32, and scores each against the
reference. The program itself rounds, so the result is the same on all devices. ``changed`` is the
fraction of voxels that differ from float32.

With --steps every stage of an untrained model is trained for so many steps on showers of the
parametric generator. ``loss`` is the mean over the last quarter of the steps.
"""

import contextlib
import dataclasses
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import rows
import subjects
import tyro
from jax.extend.core.primitives import conv_general_dilated_p, dot_general_p
from rows import Row
from training import Trainer

from calojax import distributed
from calojax.evaluation import suite
from calojax.geometry import DETECTORS, Detector
from calojax.io import ShowerArrays, open_showers
from calojax.presets import PRESETS
from calojax.training import batches
from calojax.training.balanced_batches import balanced

# Bits of the mantissa.
MANTISSA = {"float32": 23, "tf32": 10, "bf16": 7}


@dataclasses.dataclass(frozen=True)
class Benchmark(rows.Options):
    """Options.

    Attributes:
      model: folder of a trained run.
      reference: file of Geant4 showers; the generated ones have the same energies.
      showers: largest number of showers.
      metrics: metrics of `calojax evaluate`.
      seed: seed of the showers.
      steps: number of training steps of each stage; 0 to score showers.
      batch: showers of a training step.
    """

    model: tyro.conf.Positional[str] = "examples/calovq-ds2"
    reference: pathlib.Path = pathlib.Path("examples/geant4_ds2_test.hdf5")
    showers: int = 5000
    metrics: tuple[str, ...] = ("histograms", "fpd", "correlations")
    seed: int = 0
    steps: int = 0
    batch: int = 32


@contextlib.contextmanager
def rounded(mantissa: int) -> Iterator[None]:
    """Rounds the inputs of products in programs that are traced inside of this context.

    A primitive's ``bind`` is what every product calls, also in scans and loops.
    """

    def rounding(bind: Any) -> Any:
        def rounded_bind(left: jax.Array, right: jax.Array, **options: Any) -> Any:
            operands = (jax.lax.reduce_precision(x, 8, mantissa) for x in (left, right))
            return bind(*operands, **options)

        return rounded_bind

    primitives = (dot_general_p, conv_general_dilated_p)
    for primitive in primitives:
        primitive.bind = rounding(primitive.bind)
    # Otherwise JAX takes programs that were traced before from its cache.
    jax.clear_caches()
    try:
        yield
    finally:
        for primitive in primitives:
            del primitive.bind
        jax.clear_caches()


def first_showers(b: Benchmark, detector: Detector) -> ShowerArrays:
    """The showers of the reference that the generated ones are compared with."""
    source = open_showers(b.reference, detector)
    num = min(b.showers, len(source))
    return ShowerArrays(detector, source.energies[:num], source.read(0, num))


def scores(b: Benchmark, showers: np.ndarray, reference: ShowerArrays) -> Row:
    """Columns of a row: number of showers [n, v] in MeV with the reference's energies, scores."""
    sample = ShowerArrays(reference.detector, reference.energies, showers)
    found = suite.evaluate(sample, reference, suite.Options(metrics=b.metrics, slices=()))
    return {"showers": len(sample)} | {k: float(value) for k, value in found.scores.items()}


def main(b: Benchmark) -> Iterator[Row]:
    """A row for each precision, and in training for each stage."""
    b = b.small(showers=64, metrics=("histograms",))
    yield from losses(b) if b.steps else showers_of(b)


def losses(b: Benchmark) -> Iterator[Row]:
    """Losses of a training of all stages of a preset."""
    detector = DETECTORS[PRESETS[b.model].geometry]
    dataset = subjects.simulated(detector, 8 * b.batch)
    subject = subjects.untrained(b.model, dataset, b.batch)
    mesh = distributed.make_mesh(jax.devices()[:1])
    for stage in subject.model.stages:
        inputs = dataset
        if stage.prepare is not None:
            inputs = batches.prepared(stage, subject.variables, dataset, mesh)
        plan = balanced(np.arange(len(dataset.energies)), batches.count_hits(dataset), b.batch)
        for name, mantissa in MANTISSA.items():
            options = {"seed": b.seed, "stage": stage.name, "steps": range(b.steps)}
            stream = batches.stream(inputs, plan, distributed.sharded(mesh), **options)
            with rounded(mantissa):
                train = Trainer(subject, stage, mesh, batch := next(stream))
                values = [train(one)[1]["loss"] for one in itertools.chain([batch], stream)]
            last = jax.device_get(values)[-max(b.steps // 4, 1) :]
            row = {"benchmark": "precision", **subject.columns, "stage": stage.name}
            row |= {"precision": name, "batch": b.batch, "steps": b.steps}
            yield row | {"loss": float(np.mean(last))}


def showers_of(b: Benchmark) -> Iterator[Row]:
    """Scores of the showers of a trained run."""
    subject = subjects.find(b.model)
    reference = first_showers(b, subject.model.detector)
    exact = None
    for name, mantissa in MANTISSA.items():
        with rounded(mantissa):
            showers = subject.showers(reference.energies, seed=b.seed)
        exact = showers if exact is None else exact
        row = {"benchmark": "precision", **subject.columns, "precision": name}
        row |= {"changed": float(np.mean(showers != exact))}
        yield row | scores(b, showers, reference)


if __name__ == "__main__":
    rows.run(Benchmark, main, __doc__)
