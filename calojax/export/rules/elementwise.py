"""Elementwise primitives, whose inputs broadcast: JAX name -> function of graph and inputs."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax.lax import RoundingMethod

from calojax.export.graph import Graph, NoRule, Tensor, Value, inputs_of, like, reduced_axes


def _simple(name: str, dtype: Any = None) -> Callable[..., Tensor]:
    return lambda graph, *inputs: graph.op(name, *inputs, dtype=dtype)


def _logical(name: str) -> Callable[..., Tensor]:
    def rule(graph: Graph, *inputs: Tensor) -> Tensor:
        if inputs[0].dtype != bool:
            raise NoRule("combines the bits of integers")
        return graph.op(name, *inputs)

    return rule


def _div(graph: Graph, x: Tensor, y: Tensor) -> Tensor:
    axis = len(x.shape) - 1
    logits, largest = inputs_of(inputs_of(x, "Exp")[0], "Sub")
    if _reduced(largest, "ReduceMax", logits, axis) and _reduced(y, "ReduceSum", x, axis):
        return graph.one("Softmax", [logits], x.shape, x.dtype, axis=axis)
    return graph.op("Div", x, y)


def _reduced(x: Tensor | None, op: str, of: Tensor | None, axis: int) -> bool:
    """Whether ``x`` is a reduction of the value ``of`` over one axis, which has length one."""
    if not isinstance(x, Value) or x.op != op or x.inputs[0] is not of:
        return False
    return reduced_axes(x) == [axis] and x.attributes["keepdims"] == 1


def _select(graph: Graph, which: Tensor, *cases: Tensor) -> Tensor:
    if len(cases) != 2 or which.dtype != bool:
        raise NoRule("selects among several arrays")
    if isinstance(which, Value) and which.op == "Less":
        index, zero = which.inputs
        # Of an index that is not negative, as in loops over positions.
        if isinstance(index, Value) and index.highest is not None and np.all(zero == 0):
            return cases[0]
    return graph.where(which, cases[1], cases[0])


def _log1p(graph: Graph, x: Tensor) -> Tensor:
    # log(u) x / (u - 1) with u = 1 + x rounded: the errors of both factors cancel (Kahan).
    u = graph.op("Add", x, like(x, 1))
    less = graph.op("Sub", u, like(x, 1))
    same = graph.op("Equal", less, like(x, 0), dtype=bool)
    safe = graph.where(same, like(x, 1), less)
    ratio = graph.op("Div", x, safe)
    # At infinity the ratio is not a number, but the logarithm is.
    ratio = graph.where(graph.op("IsInf", u, dtype=bool), like(x, 1), ratio)
    return graph.where(same, x, graph.op("Mul", graph.op("Log", u), ratio))


def _expm1(graph: Graph, x: Tensor) -> Tensor:
    # (u - 1) x / log(u) with u = exp(x) rounded (Kahan), where the quotient is well defined.
    u = graph.op("Exp", x)
    less = graph.op("Sub", u, like(x, 1))
    same = graph.op("Equal", less, like(x, 0), dtype=bool)
    far = graph.op("Greater", graph.op("Abs", x), like(x, 1), dtype=bool)
    plain = graph.op("Or", same, far)
    safe = graph.where(plain, like(x, 2), u)
    near = graph.op("Div", graph.op("Mul", less, x), graph.op("Log", safe))
    return graph.where(same, x, graph.where(far, less, near))


# erfc(x) = t exp(P(t) - x^2) with t = 1 / (1 + x / 2) for x >= 0: a least-squares fit of
# log(erfc(x) exp(x^2) / t) at 4,000 Chebyshev nodes of t, relative error 1e-7, highest power first.
_ERFC = (
    *(0.17087278, -0.82215223, 1.4885159, -1.135204, 0.27886808),
    *(-0.18628806, 0.096784189, 0.37409196, 1.0000237, -1.2655122),
)


def _erfc(graph: Graph, x: Tensor) -> Tensor:
    # ONNX has erf only, and 1 - erf has no digits left in the tail.
    half = graph.op("Mul", graph.op("Abs", x), like(x, 0.5))
    t = graph.op("Reciprocal", graph.op("Add", half, like(x, 1)))
    power: Tensor = like(x, _ERFC[0])
    for number in _ERFC[1:]:
        power = graph.op("Add", graph.op("Mul", t, power), like(x, number))
    power = graph.op("Sub", power, graph.op("Mul", x, x))
    tail = graph.op("Mul", t, graph.op("Exp", power))
    low = graph.op("Less", x, like(x, 0), dtype=bool)
    return graph.where(low, graph.op("Sub", like(x, 2), tail), tail)


def _atan2(graph: Graph, y: Tensor, x: Tensor) -> Tensor:
    # ONNX has the angle of a ratio only, which is at most 1 here.
    height, width = graph.op("Abs", y), graph.op("Abs", x)
    steep = graph.op("Greater", height, width, dtype=bool)
    large = graph.op("Max", height, width)
    origin = graph.op("Equal", large, like(x, 0), dtype=bool)
    safe = graph.where(origin, like(x, 1), large)
    angle = graph.op("Atan", graph.op("Div", graph.op("Min", height, width), safe))
    angle = graph.where(steep, graph.op("Sub", like(x, np.pi / 2), angle), angle)
    back = graph.op("Less", x, like(x, 0), dtype=bool)
    angle = graph.where(back, graph.op("Sub", like(x, np.pi), angle), angle)
    below = graph.op("Less", y, like(y, 0), dtype=bool)
    return graph.where(below, graph.op("Neg", angle), angle)


def _round(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    if equation.params["rounding_method"] != RoundingMethod.TO_NEAREST_EVEN:
        raise NoRule("rounds halves away from zero")
    return graph.op("Round", x)


def _integer_power(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    y = equation.params["y"]
    result, square = None, x
    for bit in reversed(f"{abs(y):b}"):
        if bit == "1":
            result = square if result is None else graph.op("Mul", result, square)
        square = graph.op("Mul", square, square)
    result = like(x, 1) if result is None else result
    return graph.op("Reciprocal", result) if y < 0 else result


# ONNX has the same names but for the capital.
_ALIKE = (
    *("add", "sub", "mul", "max", "min", "pow", "neg", "abs", "sign", "floor", "ceil"),
    *("exp", "log", "tanh", "atanh", "sin", "cos", "sqrt", "erf"),
)
_COMPARISONS = {
    "eq": "Equal",
    "lt": "Less",
    "le": "LessOrEqual",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
    # In the total order of searches; only not-a-number and the sign of zero differ.
    "lt_to": "Less",
    "le_to": "LessOrEqual",
}
# What leaves the elements as they are.
_NOTHING = ("stop_gradient", "copy", "reduce_precision", "sharding_constraint", "layout_constraint")

RULES: dict[str, Callable[..., Tensor]] = {
    **{name: _simple(name.title()) for name in _ALIKE},
    **{name: _logical(name.title()) for name in ("and", "or", "xor", "not")},
    **{name: _simple(op, np.dtype(bool)) for name, op in _COMPARISONS.items()},
    **dict.fromkeys(_NOTHING, lambda graph, x, *_: x),
    "add_any": _simple("Add"),
    "logistic": _simple("Sigmoid"),
    "div": _div,
    "ne": lambda graph, x, y: graph.op("Not", graph.op("Equal", x, y, dtype=bool)),
    "rem": lambda graph, x, y: graph.op("Mod", x, y, fmod=1),
    "square": lambda graph, x: graph.op("Mul", x, x),
    "rsqrt": lambda graph, x: graph.op("Reciprocal", graph.op("Sqrt", x)),
    "is_finite": lambda graph, x: graph.op("Less", graph.op("Abs", x), like(x, np.inf), dtype=bool),
    "clamp": lambda graph, low, x, high: graph.op("Min", graph.op("Max", x, low), high),
    "select_n": _select,
    "log1p": _log1p,
    "expm1": _expm1,
    "log2": lambda graph, x: graph.op("Div", graph.op("Log", x), like(x, np.log(2))),
    "erfc": _erfc,
    "atan2": _atan2,
}

WITH_PARAMETERS = {"round": _round, "integer_pow": _integer_power}
