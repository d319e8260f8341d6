"""Primitives that arrange the elements of arrays: reshapes, slices, joins, padding, types."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from calojax.export.graph import Graph, Tensor, Value


def broadcast(graph: Graph, equation: Any, x: Tensor, *_: Any) -> Tensor:
    """`broadcast_in_dim`: axes of length one where the array does not change.

    Axes of length one before all others are left out, since ONNX broadcasts as NumPy does.
    """
    shape = [1] * len(equation.params["shape"])
    axes = equation.params["broadcast_dimensions"]
    for axis, n in zip(axes[len(axes) - len(x.shape) :], x.shape, strict=True):
        shape[axis] = n
    # Reductions can keep their axes, and rules for indices look at where these come from.
    plain = isinstance(x, Value) and x.dtype == np.float32 and not x.op.startswith("Reduce")
    if plain and _without_ones(shape) == _without_ones(x.shape):
        return x
    return graph.reshape(x, shape)


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without axes of length one before all others."""
    return tuple(shape[next((i for i, n in enumerate(shape) if n != 1), len(shape)) :])


def _split(graph: Graph, equation: Any, x: Tensor) -> list[Tensor]:
    axis, sizes = equation.params["axis"], equation.params["sizes"]
    shapes = [x.aval.shape for x in equation.outvars]
    where = np.asarray(sizes, np.int64)
    return list(graph.emit("Split", [x, where], shapes, [x.dtype] * len(sizes), axis=axis))


def _unstack(graph: Graph, equation: Any, x: Tensor) -> list[Tensor]:
    axis = equation.params["axis"]
    return [graph.take(x, np.asarray(i), axis) for i in range(x.shape[axis])]


def _reverse(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    turned = [axis in equation.params["dimensions"] for axis in range(len(x.shape))]
    starts = [n - 1 if turn else 0 for n, turn in zip(x.shape, turned, strict=True)]
    stops = [-n - 1 if turn else n for n, turn in zip(x.shape, turned, strict=True)]
    return graph.slice(x, starts, stops, [-1 if turn else 1 for turn in turned])


def _pad(graph: Graph, equation: Any, x: Tensor, value: Tensor) -> Tensor:
    config = equation.params["padding_config"]
    for axis, (_, _, inner) in enumerate(config):
        if inner:
            x = spread(graph, x, value, axis, inner)
    starts = [max(-low, 0) for low, _, _ in config]
    stops = [n - max(-high, 0) for n, (_, high, _) in zip(x.shape, config, strict=True)]
    x = graph.slice(x, starts, stops)
    widths = [(max(low, 0), max(high, 0)) for low, high, _ in config]
    return padded(graph, x, value, widths)


def spread(graph: Graph, x: Tensor, value: Tensor, axis: int, inner: int) -> Tensor:
    """A number of values between the elements of an axis."""
    wide = graph.reshape(x, (*x.shape[: axis + 1], 1, *x.shape[axis + 1 :]))
    widths = [(0, inner * (i == axis + 1)) for i in range(len(wide.shape))]
    wide = padded(graph, wide, value, widths)
    stops = list(x.shape)
    stops[axis] *= inner + 1
    x = graph.reshape(wide, stops)
    stops[axis] -= inner
    return graph.slice(x, [0] * len(stops), stops)


def padded(graph: Graph, x: Tensor, value: Tensor, widths: Sequence[tuple[int, int]]) -> Tensor:
    """The array with numbers of values before and after each axis."""
    if not any(map(sum, widths)):
        return x
    shape = tuple(n + low + high for n, (low, high) in zip(x.shape, widths, strict=True))
    pads = np.asarray([low for low, _ in widths] + [high for _, high in widths], np.int64)
    return graph.one("Pad", [x, pads, value], shape, x.dtype)


def _to_out_shape(graph: Graph, equation: Any, x: Tensor, *_: Any) -> Tensor:
    return graph.reshape(x, equation.outvars[0].aval.shape)


RULES: dict[str, Callable[..., Any]] = {
    "convert_element_type": lambda graph, e, x: graph.cast(x, e.params["new_dtype"]),
    "reshape": _to_out_shape,
    "squeeze": _to_out_shape,
    "transpose": lambda graph, e, x: graph.transpose(x, e.params["permutation"]),
    "concatenate": lambda graph, e, *parts: graph.concatenate(parts, e.params["dimension"]),
    "stack": lambda graph, e, *parts: graph.stack(parts, e.params["axis"]),
    "slice": lambda graph, e, x: graph.slice(
        x, e.params["start_indices"], e.params["limit_indices"], e.params["strides"]
    ),
    "split": _split,
    "unstack": _unstack,
    "rev": _reverse,
    "pad": _pad,
}

OF_ARRAYS = RULES.keys() - {"split", "pad"}
"""Rules that take NumPy arrays too; JAX would compile a program for each."""
