"""Rounding like that of matrix units (tf32, bf16) hardly changes the showers of a trained model."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
from precision import MANTISSA, rounded

from calojax import checkpoint, rng
from calojax.io import open_showers
from calojax.training import step

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def test_products_are_rounded_inside_the_context_also_in_loops():
    x = np.float32([[1.0 + 2.0**-9]])

    def loop(x):
        return jax.lax.scan(lambda c, _: (c @ np.eye(1, dtype=np.float32), None), x, None, 3)[0]

    exact, seen = jax.jit(loop)(x), {}
    for name in ("tf32", "bf16"):
        with rounded(MANTISSA[name]):
            seen[name] = jax.jit(loop)(x)
    assert exact == x
    assert seen["tf32"] == x
    assert seen["bf16"] == 1.0
    assert jax.jit(loop)(x) == x


def test_bf16_moves_neither_energies_nor_hits():
    model, variables, _ = checkpoint.load(EXAMPLES / "calovq-ds2")
    source = open_showers(EXAMPLES / "geant4_ds2_test.hdf5", model.detector)
    keys = rng.per_item(rng.root(0), np.arange(8))
    batch = {"energies": source.energies[:8], "showers": source.read(0, 8)}
    found = []
    for mantissa in (MANTISSA["float32"], MANTISSA["bf16"]):
        with rounded(mantissa):
            found.append(np.asarray(jax.jit(model.reconstruct)(variables, keys, batch)))
    exact, coarse = found
    assert (exact != coarse).any()
    assert coarse.sum(1) == pytest.approx(exact.sum(1), rel=0.02)
    assert np.mean(coarse > 0) == pytest.approx(np.mean(exact > 0), rel=0.03)


def test_the_precision_of_a_stage_is_that_of_its_steps_backwards_too(
    model, variables, batch, one_device
):
    """As the program is handed to the compiler, which ignores the setting on a CPU."""
    (stage,) = (stage for stage in model.stages if stage.name == "energies")
    schedule = dataclasses.replace(stage.schedule, precision="bf16")
    stage = dataclasses.replace(stage, schedule=schedule)
    assert stage.prepare
    given = stage.prepare(variables, batch)
    traced = step.make(model, stage, 0, one_device).trace(step.start(variables, stage), given)
    text = traced.lower(lowering_platforms=("cuda", "tpu")).as_text()
    # Sums of energies stay exact.
    products = [line for line in text.splitlines() if "dot_general" in line]
    rounded = [line for line in products if "HIGHEST" not in line]
    assert len(rounded) > 5
    assert all("lhs_precision_type = bf16, rhs_precision_type = bf16" in line for line in rounded)
