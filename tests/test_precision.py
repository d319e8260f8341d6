"""Rounding like that of matrix units (tf32, bf16) hardly changes the showers of a trained model."""

import pathlib

import jax
import numpy as np
import pytest
from precision import MANTISSA, rounded

from calojax import checkpoint, rng
from calojax.io import open_showers

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
