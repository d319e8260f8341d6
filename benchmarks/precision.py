"""Do the scores move when matrix units round their inputs, as tf32 and bf16 do?

    python benchmarks/precision.py RUN --reference TEST.hdf5

Generates the same showers (same seed, same energies) with the inputs of every matrix product and
convolution rounded to the mantissa of tf32 (10 bits) and of bf16 (7 bits), products summed in
float32 as matrix units do, and scores each against the reference. Rounding is done in the program,
so the answer is the same on any device; how much time it saves only a device with matrix units
tells (there, ``calojax sample --precision bf16`` turns it on for all products but convolutions;
tf32 is JAX's default on NVIDIA GPUs). One JSON line a precision; ``changed`` is the share of voxels
that differ from float32.
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator

import jax
import numpy as np
import tyro
from environment import environment
from jax.extend.core.primitives import conv_general_dilated_p, dot_general_p

from calojax import checkpoint, models
from calojax.evaluation import suite
from calojax.io import ShowerArrays, ShowerSource, open_showers
from calojax.sampling import generation

# Bits of the mantissa; IEEE float32 has 23.
MANTISSA = {"float32": 23, "tf32": 10, "bf16": 7}


@dataclasses.dataclass(frozen=True)
class Precision:
    """What to score.

    Attributes:
      run: folder of a trained run.
      reference: Geant4's showers; those generated have their energies.
      showers: at most so many of them.
      metrics: of `calojax.evaluation.suite`.
      seed: of the showers.
    """

    run: tyro.conf.Positional[pathlib.Path]
    reference: pathlib.Path
    showers: int = 5000
    metrics: tuple[str, ...] = ("histograms", "fpd", "correlations")
    seed: int = 0


@contextlib.contextmanager
def rounded(mantissa: int) -> Iterator[None]:
    """Within it, programs that are traced round what they multiply to that many bits.

    A primitive's ``bind`` is where every product passes, inside of scans and loops too.
    """
    if mantissa >= MANTISSA["float32"]:
        yield
        return

    def rounding(bind):
        def rounded_bind(left, right, **options):
            operands = (jax.lax.reduce_precision(x, 8, mantissa) for x in (left, right))
            return bind(*operands, **options)

        return rounded_bind

    primitives = (dot_general_p, conv_general_dilated_p)
    for primitive in primitives:
        primitive.bind = rounding(primitive.bind)
    # A program that was traced before would be taken from the cache as it is.
    jax.clear_caches()
    try:
        yield
    finally:
        for primitive in primitives:
            del primitive.bind
        jax.clear_caches()


def showers_of(
    run: pathlib.Path, reference: ShowerSource, mantissa: int, seed: int
) -> ShowerArrays:
    """Showers of a run at the reference's energies."""
    model, variables, _ = checkpoint.load(run)
    with rounded(mantissa):
        batches = generation.generate(model, variables, reference.energies, seed=seed)
        parts = [showers for _, showers in batches]
    return ShowerArrays(model.detector, reference.energies, np.concatenate(parts))


def main() -> None:
    """Prints a JSON line a precision."""
    asked = tyro.cli(Precision, description=__doc__)
    model, _, _ = checkpoint.load(asked.run)
    source = open_showers(asked.reference, model.detector)
    num = min(asked.showers, len(source))
    reference = ShowerArrays(model.detector, source.energies[:num], source.read(0, num))
    exact = None
    for name, mantissa in MANTISSA.items():
        sample = showers_of(asked.run, reference, mantissa, asked.seed)
        exact = sample if exact is None else exact
        found = suite.evaluate(sample, reference, suite.Options(metrics=asked.metrics, slices=()))
        row = {"benchmark": "precision", "model": models.name_of(model), "run": asked.run.name}
        row |= {"precision": name, "showers": num}
        row["changed"] = float(np.mean(sample.showers != exact.showers))
        row |= {key: float(value) for key, value in found.scores.items()}
        rounded_row = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()}
        print(json.dumps(rounded_row | environment()), flush=True)


if __name__ == "__main__":
    main()
