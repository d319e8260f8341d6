"""Rounding as matrix units do it (tf32, bf16) leaves a trained model's showers what they were."""

import pathlib
import sys

import jax
import numpy as np
import pytest

from calojax import checkpoint, rng

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
from precision import MANTISSA, rounded  # noqa: E402


def test_products_are_rounded_inside_loops_too_and_only_within():
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
    model, variables, _ = checkpoint.load(ROOT / "examples" / "calovq-ds2")
    keys = rng.per_item(rng.root(0), np.arange(24))
    energies = np.geomspace(2e3, 6e4, 24).astype(np.float32)
    found = []
    for mantissa in (MANTISSA["float32"], MANTISSA["bf16"]):
        with rounded(mantissa):
            found.append(np.asarray(jax.jit(model.sample)(variables, keys, energies)))
    exact, coarse = found
    assert (exact != coarse).any()
    assert coarse.sum(1) == pytest.approx(exact.sum(1), rel=0.02)
    assert np.mean(coarse > 0) == pytest.approx(np.mean(exact > 0), rel=0.03)
