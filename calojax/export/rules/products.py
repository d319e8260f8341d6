"""Sums, extremes and products: reductions, matrix products and convolutions."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from calojax.export.graph import Graph, NoRule, Tensor, like
from calojax.export.rules.shapes import spread


def _reduction(op: str) -> Callable[..., Tensor]:
    return lambda graph, equation, x: graph.reduce(op, x, equation.params["axes"])


def _of_bools(op: str) -> Callable[..., Tensor]:
    def rule(graph: Graph, equation: Any, x: Tensor) -> Tensor:
        reduced = graph.reduce(op, graph.cast(x, np.int32), equation.params["axes"])
        return graph.cast(reduced, bool)

    return rule


def _arg(op: str) -> Callable[..., Tensor]:
    def rule(graph: Graph, equation: Any, x: Tensor) -> Tensor:
        (axis,) = equation.params["axes"]
        aval = equation.outvars[0].aval
        return graph.cast(
            graph.one(op, [x], aval.shape, np.int64, axis=axis, keepdims=0), aval.dtype
        )

    return rule


def _cumulative_sum(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    axis, reverse = np.asarray(equation.params["axis"], np.int64), int(equation.params["reverse"])
    return graph.one("CumSum", [x, axis], x.shape, x.dtype, reverse=reverse)


def _cumulative_max(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    # ONNX has none. Each step takes the maximum over twice as many elements.
    axis, reverse = equation.params["axis"], equation.params["reverse"]
    length, distance = x.shape[axis], 1
    while distance < length:

        def part(first: int, last: int, x: Tensor = x) -> Tensor:
            starts, stops = [0] * len(x.shape), list(x.shape)
            starts[axis], stops[axis] = first, last
            return graph.slice(x, starts, stops)

        far, near = part(0, length - distance), part(distance, length)
        both = graph.op("Max", far, near)
        kept = part(length - distance, length) if reverse else part(0, distance)
        x = graph.concatenate([both, kept] if reverse else [kept, both], axis)
        distance *= 2
    return x


def _dot(graph: Graph, equation: Any, x: Tensor, y: Tensor) -> Tensor:
    (x_summed, y_summed), (x_batch, y_batch) = equation.params["dimension_numbers"]
    x_free, y_free = (
        [axis for axis in range(len(a.shape)) if axis not in (*summed, *batch)]
        for a, summed, batch in ((x, x_summed, x_batch), (y, y_summed, y_batch))
    )
    size = math.prod(x.shape[axis] for axis in x_summed)
    batch = [x.shape[axis] for axis in x_batch]
    rows, columns = [x.shape[i] for i in x_free], [y.shape[i] for i in y_free]
    x = graph.transpose(x, [*x_batch, *x_free, *x_summed])
    y = graph.transpose(y, [*y_batch, *y_summed, *y_free])
    # Without a batch the rows may stay as they are.
    rows_now = rows if rows and not batch else [math.prod(rows)]
    x = graph.reshape(x, [*batch, *rows_now, size])
    y = graph.reshape(y, [*batch, size, math.prod(columns)])
    shape = (*batch, *rows_now, math.prod(columns))
    product = graph.one("MatMul", [x, y], shape, x.dtype)
    return graph.reshape(product, [*batch, *rows, *columns])


def _convolution(graph: Graph, equation: Any, x: Tensor, kernel: Tensor) -> Tensor:
    p = equation.params
    x_spec, kernel_spec, out_spec = p["dimension_numbers"]
    if p["batch_group_count"] != 1:
        raise NoRule("groups the batch of a convolution")
    x = graph.transpose(x, x_spec)
    kernel = graph.transpose(kernel, kernel_spec)
    for axis, dilation in enumerate(p["lhs_dilation"], 2):
        if dilation != 1:
            x = spread(graph, x, like(x, 0), axis, dilation - 1)
    low, high = zip(*p["padding"], strict=True)
    shape = tuple(equation.outvars[0].aval.shape[axis] for axis in out_spec)
    attributes = {
        "strides": list(p["window_strides"]),
        "dilations": list(p["rhs_dilation"]),
        "pads": [*low, *high],
        "group": p["feature_group_count"],
        "kernel_shape": list(kernel.shape[2:]),
    }
    out = graph.one("Conv", [x, kernel], shape, x.dtype, **attributes)
    return graph.transpose(out, np.argsort(out_spec).tolist())


RULES: dict[str, Callable[..., Any]] = {
    "reduce_sum": _reduction("ReduceSum"),
    "reduce_max": _reduction("ReduceMax"),
    "reduce_min": _reduction("ReduceMin"),
    "reduce_prod": _reduction("ReduceProd"),
    "reduce_or": _of_bools("ReduceMax"),
    "reduce_and": _of_bools("ReduceMin"),
    "argmax": _arg("ArgMax"),
    "argmin": _arg("ArgMin"),
    "cumsum": _cumulative_sum,
    "cummax": _cumulative_max,
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
}
