"""Inner functions of models that have a name: ONNX has an operator, or JAX's versions differ."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from calojax.export.graph import Graph, Tensor, inputs_of


def _gru(
    graph: Graph, state: Tensor, gates: Tensor, recurrent: Any, new_bias: Any
) -> list[Tensor] | None:
    """ONNX's GRU for a step of `calojax.nn.priors.gru`, if its gates are ``x @ kernel + bias``."""
    product, bias = inputs_of(gates, "Add")
    x, kernel = inputs_of(product, "MatMul")
    constants = bias, kernel, recurrent, new_bias
    if not all(isinstance(c, np.ndarray) for c in constants):
        return None
    width, number = state.shape[1], state.shape[0]

    # ONNX has the gates as rows, and "update" before "reset".
    def ordered(array: np.ndarray) -> np.ndarray:
        reset, update, new = np.split(np.asarray(array).reshape(-1, 3 * width).T, 3)
        return np.concatenate([update, reset, new])

    biases = np.concatenate([ordered(bias)[:, 0], np.zeros(2 * width), np.ravel(new_bias)])
    shape = (1, number, width)
    after = graph.emit(
        "GRU",
        [
            graph.reshape(x, (1, number, x.shape[-1])),
            ordered(kernel)[None],
            ordered(recurrent)[None],
            biases[None].astype(np.float32),
            None,
            graph.reshape(state, shape),
        ],
        [(1, 1, number, width), shape],
        [np.float32] * 2,
        hidden_size=width,
        linear_before_reset=1,
    )[1]
    return [graph.reshape(after, state.shape)]


# Quantiles of the normal distribution (Wichura, Applied Statistics 37, 1988, AS 241, PPND7):
# numerators and denominators in the centre, in the tails and far out, highest power first.
_QUANTILES = {
    "centre": (
        (59.109374720, 159.29113202, 50.434271938, 3.3871327179),
        (67.187563600, 78.757757664, 17.895169469, 1.0),
    ),
    "tail": (
        (0.17023821103, 1.3067284816, 2.7568153900, 1.4234372777),
        (0.12021132975, 0.73700164250, 1.0),
    ),
    "far": (
        (0.017337203997, 0.42868294337, 3.0812263860, 6.6579051150),
        (0.012258202635, 0.24197894225, 1.0),
    ),
}


def _normal_quantile(p: jax.Array) -> jax.Array:
    """`calojax.rng.normal_quantile`; JAX computes with bits of numbers since 0.12."""

    def ratio(where: str, x: jax.Array) -> jax.Array:
        above, below = (
            functools.reduce(lambda total, number: total * x + number, coefficients)
            for coefficients in _QUANTILES[where]
        )
        return above / below

    centre = p - 0.5
    share = jax.numpy.minimum(p, 1 - p)
    root = jax.numpy.sqrt(-jax.numpy.log(share))
    tail = jax.numpy.where(root > 5, ratio("far", root - 5), ratio("tail", root - 1.6))
    tail = jax.numpy.where(share == 0, np.inf, tail)
    near = centre * ratio("centre", 0.180625 - centre * centre)
    return jax.numpy.where(abs(centre) <= 0.425, near, jax.numpy.sign(centre) * tail)


def _normal_share(x: jax.Array) -> jax.Array:
    """`calojax.rng.normal_share`; JAX adds a formula for the centre."""
    return 0.5 * jax.lax.erfc(-(0.5**0.5) * x)


def _softplus(x: jax.Array) -> jax.Array:
    """`jax.nn.softplus`; log1p(y) = 2 artanh(y / (2 + y)) keeps all digits for y in [0, 1]."""
    y = jax.numpy.exp(-abs(x))
    return jax.numpy.maximum(x, 0) + 2 * jax.numpy.arctanh(y / (2 + y))


def _choose(u: jax.Array, logits: jax.Array) -> jax.Array:
    """`calojax.nn.priors.categorical.choose` without groups, which need three times the nodes."""
    cumulative = jax.numpy.cumsum(jax.nn.softmax(logits), -1)
    end = cumulative[..., -1:]
    value = jax.numpy.minimum(u[..., None] * end, end * (1 - 2**-23))
    return jax.numpy.sum(cumulative <= value, -1, dtype=jax.numpy.int32)


IN_ONNX: dict[str, Callable[..., list[Tensor] | None]] = {"gru_step": _gru}
"""Functions for which ONNX has an operator; None where it does not suit the arguments."""

IN_JAX: dict[str, Callable[..., Any]] = {
    "choose": _choose,
    "normal_quantile": _normal_quantile,
    "normal_share": _normal_share,
    "softplus": _softplus,
}
"""Functions that are converted in this form: few nodes, the same in all versions of JAX."""
