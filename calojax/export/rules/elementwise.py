"""Elementwise primitives, whose inputs broadcast: JAX name -> function of graph and inputs."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax.lax import RoundingMethod

from calojax.export.graph import Graph, NoRule, Tensor, Value, inputs_of, like, reduced_axes


def _as_is(graph: Graph, x: Tensor, *_: Any) -> Tensor:
    return x


def _simple(name: str, dtype: Any = None) -> Callable[..., Tensor]:
    return lambda graph, *inputs: graph.op(name, *inputs, dtype=dtype)


def _compare(name: str) -> Callable[..., Tensor]:
    return _simple(name, np.dtype(bool))


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
        return graph.emit("Softmax", [logits], [x.shape], [x.dtype], axis=axis)[0]
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


# Polynomials of erfc in 1/x^2 for 1 < |x| < 2 and beyond (Cephes, ndtrf.c), highest power first.
_ERFC_NEAR = (
    *(2.326819970068386e-2, -1.387039388740657e-1, 3.687424674597105e-1, -5.824733027278666e-1),
    *(6.210004621745983e-1, -4.944515323274145e-1, 3.404879937665872e-1, -2.741127028184656e-1),
    5.638259427386472e-1,
)
_ERFC_FAR = (
    *(-1.047766399936249e1, 1.297719955372516e1, -7.495518717768503, 2.921019019210786),
    *(-1.015265279202700, 4.218463358204948e-1, -2.820767439740514e-1, 5.641895067754075e-1),
)


def _erfc(graph: Graph, x: Tensor) -> Tensor:
    # ONNX has erf only, and 1 - erf has no digits left in the tail.
    size = graph.op("Abs", x)
    inverse = graph.op("Reciprocal", graph.op("Max", size, like(x, 1)))
    y = graph.op("Mul", inverse, inverse)

    def polynomial(coefficients):
        total: Tensor = like(x, coefficients[0])
        for number in coefficients[1:]:
            total = graph.op("Add", graph.op("Mul", y, total), like(x, number))
        return total

    near = graph.op("Less", size, like(x, 2), dtype=bool)
    p = graph.where(near, polynomial(_ERFC_NEAR), polynomial(_ERFC_FAR))
    scale = graph.op("Exp", graph.op("Neg", graph.op("Mul", x, x)))
    tail = graph.op("Mul", graph.op("Mul", scale, inverse), p)
    low = graph.op("Less", x, like(x, 0), dtype=bool)
    tail = graph.where(low, graph.op("Sub", like(x, 2), tail), tail)
    centre = graph.op("Sub", like(x, 1), graph.op("Erf", x))
    return graph.where(graph.op("Greater", size, like(x, 1), dtype=bool), tail, centre)


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


RULES: dict[str, Callable[..., Tensor]] = {
    **{
        name: _simple(onnx)
        for name, onnx in {
            "add": "Add",
            "add_any": "Add",
            "sub": "Sub",
            "mul": "Mul",
            "max": "Max",
            "min": "Min",
            "pow": "Pow",
            "neg": "Neg",
            "abs": "Abs",
            "sign": "Sign",
            "floor": "Floor",
            "ceil": "Ceil",
            "exp": "Exp",
            "log": "Log",
            "tanh": "Tanh",
            "sin": "Sin",
            "cos": "Cos",
            "sqrt": "Sqrt",
            "erf": "Erf",
            "logistic": "Sigmoid",
        }.items()
    },
    **{
        name: _logical(onnx)
        for name, onnx in {"and": "And", "or": "Or", "xor": "Xor", "not": "Not"}.items()
    },
    **{
        name: _compare(onnx)
        for name, onnx in {
            "eq": "Equal",
            "lt": "Less",
            "le": "LessOrEqual",
            # In the total order of searches; only not-a-number and the sign of zero differ.
            "lt_to": "Less",
            "le_to": "LessOrEqual",
            "gt": "Greater",
            "ge": "GreaterOrEqual",
        }.items()
    },
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
    "stop_gradient": _as_is,
    "copy": _as_is,
    "reduce_precision": _as_is,
    "sharding_constraint": _as_is,
    "layout_constraint": _as_is,
}

WITH_PARAMETERS = {"round": _round, "integer_pow": _integer_power}
