"""From JAX to ONNX: a rule for each primitive of JAX that trained models use.

`convert` walks a jaxpr. What depends on constants only is computed while walking.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal
from jax.interpreters import partial_eval
from jax.lax import GatherScatterMode, RoundingMethod

from calojax.export.graph import Graph, NoRule, Tensor, Value, reduced_axes

# Loops of so few steps are written out: ONNX's Scan costs as much as several nodes per step.
_WRITTEN_OUT = 16


def convert(graph: Graph, function: Callable, *values: Tensor) -> list[Tensor]:
    """Adds a function of JAX to a graph and returns the leaves of its result.

    Raises:
      NoRule: if the function uses a primitive, or a type of arrays, that has no rule.
    """
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in values]
    closed = jax.make_jaxpr(function)(*shapes)
    jaxpr, used = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    values = tuple(value for value, keep in zip(values, used, strict=True) if keep)
    # So that integers of 64 bits stay what they are.
    with jax.enable_x64(True):
        results = _walk(graph, jaxpr, closed.consts, values)
    shapes = [x.shape for x in closed.out_avals]
    return [graph.full(x, shape) for x, shape in zip(results, shapes, strict=True)]


def _walk(
    graph: Graph, jaxpr: Any, consts: Sequence[Any], values: Sequence[Tensor]
) -> list[Tensor]:
    known = dict(zip(jaxpr.constvars, map(_host, consts), strict=True))
    known |= dict(zip(jaxpr.invars, values, strict=True))

    def read(x: Any) -> Tensor:
        if not isinstance(x, Literal):
            return known[x]
        aval: Any = x.aval
        return _host(np.asarray(x.val, aval.dtype))

    for equation in jaxpr.eqns:
        results = _equation(graph, equation, [read(x) for x in equation.invars])
        known |= dict(zip(equation.outvars, results, strict=True))
    return [read(x) for x in jaxpr.outvars]


def _host(x: Any) -> np.ndarray:
    """A NumPy array; ONNX computes in float32 what JAX computes in bfloat16."""
    x = np.asarray(x)
    return x.astype(np.float32) if x.dtype == jax.numpy.bfloat16 else x


def _equation(graph: Graph, equation: Any, values: list[Tensor]) -> list[Tensor]:
    name = equation.primitive.name
    if name in _CALLS:
        inner = equation.params[_CALLS[name]]
        special = _BY_NAME.get(equation.params.get("name", ""))
        if special and (results := special(graph, values)):
            return results
        if isinstance(inner, ClosedJaxpr):
            return _walk(graph, inner.jaxpr, inner.consts, values)
        return _walk(graph, inner, [], values)
    if name == "broadcast_in_dim":
        return [_broadcast(graph, equation, *values)]
    if name not in _OF_ARRAYS and all(isinstance(x, np.ndarray) for x in values):
        return _folded(graph, equation, values)
    if name in _ELEMENTWISE:
        return [_ELEMENTWISE[name](graph, *values)]
    if name not in _RULES:
        raise NoRule(f"uses {name!r} of JAX")
    shapes = [x.aval.shape for x in equation.invars]
    results = _RULES[name](
        graph,
        equation,
        *(graph.full(x, shape) for x, shape in zip(values, shapes, strict=True)),
    )
    return list(results) if isinstance(results, (list, tuple)) else [results]


def _folded(graph: Graph, equation: Any, values: list[Tensor]) -> list[Tensor]:
    if equation.primitive.name in _ELEMENTWISE:
        shape = np.broadcast_shapes(*(x.shape for x in values))
        shapes = [shape] * len(values)
    else:
        shapes = [x.aval.shape for x in equation.invars]
    full = [graph.full(x, shape) for x, shape in zip(values, shapes, strict=True)]
    arrays = [np.asarray(x, order="C") for x in full]
    results = equation.primitive.bind(*arrays, **equation.params)
    return [_host(x) for x in (results if equation.primitive.multiple_results else [results])]


_CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


def _broadcast(graph: Graph, equation: Any, x: Tensor, *_: Any) -> Tensor:
    shape = [1] * len(equation.params["shape"])
    for axis, n in zip(equation.params["broadcast_dimensions"], x.shape, strict=True):
        shape[axis] = n
    return graph.reshape(x, shape)


# --- elementwise ----------------------------------------------------------------------------------


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
    logits, largest = _inputs(_inputs(x, "Exp")[0], "Sub")
    if _reduced(largest, "ReduceMax", logits, axis) and _reduced(y, "ReduceSum", x, axis):
        return graph.emit("Softmax", [logits], [x.shape], [x.dtype], axis=axis)[0]
    return graph.op("Div", x, y)


def _reduced(x: Tensor | None, op: str, of: Tensor | None, axis: int) -> bool:
    """Whether ``x`` is a reduction of the value ``of`` over one axis, which has length one."""
    if not isinstance(x, Value) or x.op != op or x.inputs[0] is not of:
        return False
    return reduced_axes(x) == [axis] and x.attributes["keepdims"] == 1


def _inputs(x: Tensor | None, op: str) -> tuple[Any, Any]:
    """First and last input of the operator that computes ``x``, or (None, None) for others."""
    if isinstance(x, Value) and x.op == op:
        return x.inputs[0], x.inputs[-1]
    return None, None


def _like(x: Tensor, value: float) -> np.ndarray:
    return np.asarray(value, x.dtype)


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
    u = graph.op("Add", x, _like(x, 1))
    less = graph.op("Sub", u, _like(x, 1))
    same = graph.op("Equal", less, _like(x, 0), dtype=bool)
    safe = graph.where(same, _like(x, 1), less)
    ratio = graph.op("Div", x, safe)
    # At infinity the ratio is not a number, but the logarithm is.
    ratio = graph.where(graph.op("IsInf", u, dtype=bool), _like(x, 1), ratio)
    return graph.where(same, x, graph.op("Mul", graph.op("Log", u), ratio))


def _expm1(graph: Graph, x: Tensor) -> Tensor:
    # (u - 1) x / log(u) with u = exp(x) rounded (Kahan), where the quotient is well defined.
    u = graph.op("Exp", x)
    less = graph.op("Sub", u, _like(x, 1))
    same = graph.op("Equal", less, _like(x, 0), dtype=bool)
    far = graph.op("Greater", graph.op("Abs", x), _like(x, 1), dtype=bool)
    plain = graph.op("Or", same, far)
    safe = graph.where(plain, _like(x, 2), u)
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
    inverse = graph.op("Reciprocal", graph.op("Max", size, _like(x, 1)))
    y = graph.op("Mul", inverse, inverse)

    def polynomial(coefficients):
        total: Tensor = _like(x, coefficients[0])
        for number in coefficients[1:]:
            total = graph.op("Add", graph.op("Mul", y, total), _like(x, number))
        return total

    near = graph.op("Less", size, _like(x, 2), dtype=bool)
    p = graph.where(near, polynomial(_ERFC_NEAR), polynomial(_ERFC_FAR))
    scale = graph.op("Exp", graph.op("Neg", graph.op("Mul", x, x)))
    tail = graph.op("Mul", graph.op("Mul", scale, inverse), p)
    low = graph.op("Less", x, _like(x, 0), dtype=bool)
    tail = graph.where(low, graph.op("Sub", _like(x, 2), tail), tail)
    centre = graph.op("Sub", _like(x, 1), graph.op("Erf", x))
    return graph.where(graph.op("Greater", size, _like(x, 1), dtype=bool), tail, centre)


def _integer_power(graph: Graph, x: Tensor, y: int) -> Tensor:
    result, square = None, x
    for bit in reversed(f"{abs(y):b}"):
        if bit == "1":
            result = square if result is None else graph.op("Mul", result, square)
        square = graph.op("Mul", square, square)
    result = _like(x, 1) if result is None else result
    return graph.op("Reciprocal", result) if y < 0 else result


_ELEMENTWISE: dict[str, Callable[..., Tensor]] = {
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
            "gt": "Greater",
            "ge": "GreaterOrEqual",
        }.items()
    },
    "div": _div,
    "ne": lambda graph, x, y: graph.op("Not", graph.op("Equal", x, y, dtype=bool)),
    "rem": lambda graph, x, y: graph.op("Mod", x, y, fmod=1),
    "square": lambda graph, x: graph.op("Mul", x, x),
    "rsqrt": lambda graph, x: graph.op("Reciprocal", graph.op("Sqrt", x)),
    "is_finite": lambda graph, x: graph.op(
        "Less", graph.op("Abs", x), _like(x, np.inf), dtype=bool
    ),
    "clamp": lambda graph, low, x, high: graph.op("Min", graph.op("Max", x, low), high),
    "select_n": _select,
    "log1p": _log1p,
    "expm1": _expm1,
    "log2": lambda graph, x: graph.op("Div", graph.op("Log", x), _like(x, np.log(2))),
    "erfc": _erfc,
    "stop_gradient": _as_is,
    "copy": _as_is,
    "reduce_precision": _as_is,
    "sharding_constraint": _as_is,
    "layout_constraint": _as_is,
}


# --- shapes ---------------------------------------------------------------------------------------


def _convert_type(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    dtype = equation.params["new_dtype"]
    return graph.cast(x, np.float32 if dtype == jax.numpy.bfloat16 else dtype)


def _out_shape(graph: Graph, equation: Any, x: Tensor, *_: Any) -> Tensor:
    return graph.reshape(x, equation.outvars[0].aval.shape)


def _transpose(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    return graph.transpose(x, equation.params["permutation"])


def _concatenate(graph: Graph, equation: Any, *parts: Tensor) -> Tensor:
    return graph.concatenate(parts, equation.params["dimension"])


def _stack(graph: Graph, equation: Any, *parts: Tensor) -> Tensor:
    return graph.stack(parts, equation.params["axis"])


def _slice(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    p = equation.params
    return graph.slice(x, p["start_indices"], p["limit_indices"], p["strides"])


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
            x = _spread(graph, x, value, axis, inner)
    starts = [max(-low, 0) for low, _, _ in config]
    stops = [n - max(-high, 0) for n, (_, high, _) in zip(x.shape, config, strict=True)]
    x = graph.slice(x, starts, stops)
    widths = [(max(low, 0), max(high, 0)) for low, high, _ in config]
    return _padded(graph, x, value, widths)


def _spread(graph: Graph, x: Tensor, value: Tensor, axis: int, inner: int) -> Tensor:
    """A number of values between the elements of an axis."""
    wide = graph.reshape(x, (*x.shape[: axis + 1], 1, *x.shape[axis + 1 :]))
    wide = _padded(
        graph, wide, value, [(0, inner * (i == axis + 1)) for i in range(len(wide.shape))]
    )
    stops = list(x.shape)
    stops[axis] *= inner + 1
    x = graph.reshape(wide, stops)
    stops[axis] -= inner
    return graph.slice(x, [0] * len(stops), stops)


def _padded(graph: Graph, x: Tensor, value: Tensor, widths: Sequence[tuple[int, int]]) -> Tensor:
    if not any(map(sum, widths)):
        return x
    shape = tuple(n + low + high for n, (low, high) in zip(x.shape, widths, strict=True))
    pads = np.asarray([low for low, _ in widths] + [high for _, high in widths], np.int64)
    return graph.emit("Pad", [x, pads, value], [shape], [x.dtype])[0]


# --- sums and products ----------------------------------------------------------------------------


def _round(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    if equation.params["rounding_method"] != RoundingMethod.TO_NEAREST_EVEN:
        raise NoRule("rounds halves away from zero")
    return graph.op("Round", x)


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
        index = graph.emit(op, [x], [aval.shape], [np.int64], axis=axis, keepdims=0)[0]
        return graph.cast(index, aval.dtype)

    return rule


def _cumulative_sum(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    p = equation.params
    axis = np.asarray(p["axis"], np.int64)
    reverse = int(p["reverse"])
    return graph.emit("CumSum", [x, axis], [x.shape], [x.dtype], reverse=reverse)[0]


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
    product = graph.emit("MatMul", [x, y], [shape], [x.dtype])[0]
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
            x = _spread(graph, x, _like(x, 0), axis, dilation - 1)
    low, high = zip(*p["padding"], strict=True)
    shape = tuple(equation.outvars[0].aval.shape[axis] for axis in out_spec)
    out = graph.emit(
        "Conv",
        [x, kernel],
        [shape],
        [x.dtype],
        strides=list(p["window_strides"]),
        dilations=list(p["rhs_dilation"]),
        pads=[*low, *high],
        group=p["feature_group_count"],
        kernel_shape=list(kernel.shape[2:]),
    )[0]
    return graph.transpose(out, np.argsort(out_spec).tolist())


# --- indices --------------------------------------------------------------------------------------


def _dynamic_slice(graph: Graph, equation: Any, x: Tensor, *starts: Tensor) -> Tensor:
    for axis, (size, start) in enumerate(zip(equation.params["slice_sizes"], starts, strict=True)):
        n = x.shape[axis]
        if size < n:
            start = _clipped(graph, start, n - size)
            shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
            if size == 1:
                x = graph.reshape(graph.take(x, start, axis), shape)
                continue
            index = graph.op("Add", graph.reshape(start, (1,)), np.arange(size, dtype=start.dtype))
            x = graph.take(x, index, axis)
    return x


def _clipped(graph: Graph, x: Tensor, high: int) -> Tensor:
    """Indices, clipped to 0..high."""
    if isinstance(x, np.ndarray):
        return np.asarray(np.clip(x, 0, high))
    if x.highest is not None and x.highest <= high:
        return x
    return graph.op("Min", graph.op("Max", x, _like(x, 0)), _like(x, high))


def _dynamic_update(
    graph: Graph, equation: Any, x: Tensor, update: Tensor, *starts: Tensor
) -> Tensor:
    inside: Tensor | None = None
    for axis, start in enumerate(starts):
        n, size = x.shape[axis], update.shape[axis]
        if size == n:
            continue
        shape = [n if i == axis else 1 for i in range(len(x.shape))]
        place = np.arange(n, dtype=start.dtype).reshape(shape)
        start = graph.reshape(_clipped(graph, start, n - size), [1] * len(shape))
        if size == 1:
            here = graph.op("Equal", place, start, dtype=bool)
        else:
            after = graph.op("Sub", place, start)
            update = graph.take(update, graph.reshape(_clipped(graph, after, size - 1), (n,)), axis)
            low = graph.op("GreaterOrEqual", after, _like(after, 0), dtype=bool)
            here = graph.op("And", low, graph.op("Less", after, _like(after, size), dtype=bool))
        inside = here if inside is None else graph.op("And", inside, here)
    return update if inside is None else graph.where(inside, update, x)


def _gather(graph: Graph, equation: Any, x: Tensor, index: Tensor) -> Tensor:
    p, d = equation.params, equation.params["dimension_numbers"]
    sizes, out_shape = list(p["slice_sizes"]), equation.outvars[0].aval.shape
    batch, rank = list(d.operand_batching_dims), len(x.shape)
    mapped = [
        axis for axis in d.start_index_map if sizes[axis] != x.shape[axis] or sizes[axis] == 1
    ]
    rest = [axis for axis in range(rank) if axis not in (*batch, *mapped)]
    if any(sizes[axis] != 1 for axis in mapped):
        raise NoRule("gathers windows")
    if any(sizes[axis] != x.shape[axis] for axis in rest):
        x = graph.slice(
            x, [0] * rank, [sizes[i] if i in rest else n for i, n in enumerate(x.shape)]
        )
    index_axes = len(index.shape) - 1
    parts = [
        graph.slice(index, [0] * index_axes + [i], [*index.shape[:-1], i + 1])
        for i, axis in enumerate(d.start_index_map)
        if axis in mapped
    ]
    highest = [x.shape[axis] - 1 for axis in mapped]
    valid = None
    if p["mode"] == GatherScatterMode.FILL_OR_DROP:
        valid = _valid(graph, parts, highest)
    if p["mode"] != GatherScatterMode.PROMISE_IN_BOUNDS:
        parts = [_clipped(graph, i, high) for i, high in zip(parts, highest, strict=True)]

    # Axes of the result by what they are: an axis of the index, or one of the array.
    index_labels = [("index", axis) for axis in range(index_axes)]
    if len(mapped) == 1 and not batch:
        (axis,) = mapped
        which = graph.reshape(parts[0], index.shape[:-1])
        if p["mode"] == GatherScatterMode.PROMISE_IN_BOUNDS:
            which = _maybe_negative(which, x.shape[axis])
        taken = graph.take(x, graph.reshape(which, index.shape[:-1]), axis)
        labels = [("array", i) for i in range(rank)]
        labels[axis : axis + 1] = index_labels
    else:
        own = list(d.start_indices_batching_dims)
        others = [axis for axis in range(index_axes) if axis not in own]
        which = graph.cast(graph.concatenate(parts, index_axes), np.int64)
        which = graph.transpose(which, [*own, *others, index_axes])
        arranged = graph.transpose(x, [*batch, *mapped, *rest])
        labels = [index_labels[axis] for axis in (*own, *others)]
        labels += [("array", axis) for axis in rest]
        shape = (*which.shape[:-1], *(x.shape[axis] for axis in rest))
        taken = graph.emit(
            "GatherND", [arranged, which], [shape], [x.dtype], batch_dims=len(batch)
        )[0]
    window = [axis for axis in range(rank) if axis not in (*d.collapsed_slice_dims, *batch)]
    order, of_index, of_window = [], iter(range(index_axes)), iter(window)
    for axis in range(len(out_shape)):
        if axis in d.offset_dims:
            order.append(("array", next(of_window)))
        else:
            order.append(("index", next(of_index)))
    present = [label for label in order if label in labels]  # Others have length one.
    out = graph.reshape(graph.transpose(taken, [labels.index(x) for x in present]), out_shape)
    if valid is None:
        return out
    shape = [1 if kind == "array" else index.shape[axis] for kind, axis in order]
    return graph.where(graph.reshape(valid, shape), out, _fill(p["fill_value"], x.dtype))


def _maybe_negative(index: Tensor, size: int) -> Tensor:
    """The index from which JAX made one that is not negative; ONNX takes either."""
    inner = index.inputs[0] if isinstance(index, Value) and index.op == "Reshape" else index
    if isinstance(inner, Value) and inner.op == "Where":
        which, moved, own = inner.inputs
        added = isinstance(moved, Value) and moved.op == "Add" and moved.inputs
        compared = isinstance(which, Value) and which.op == "Less" and which.inputs[0] is own
        if added and compared and added[0] is own and np.all(added[1] == size):
            return own
    return index


def _valid(graph: Graph, parts: Sequence[Tensor], highest: Sequence[int]) -> Tensor | None:
    """Whether indices are in range, None if it is known that all are."""
    valid: Tensor | None = None
    for i, high in zip(parts, highest, strict=True):
        if isinstance(i, np.ndarray):
            if ((i >= 0) & (i <= high)).all():
                continue
            inside: Tensor = (i >= 0) & (i <= high)
        else:
            inside = graph.op("Equal", i, _clipped(graph, i, high), dtype=bool)
        valid = inside if valid is None else graph.op("And", valid, inside)
    return valid


def _fill(value: Any, dtype: np.dtype) -> np.ndarray:
    if value is None:
        value = np.nan if dtype.kind == "f" else dtype.kind == "b" or np.iinfo(dtype).min
    return np.asarray(value, dtype)


def _scatter(graph: Graph, equation: Any, x: Tensor, index: Tensor, update: Tensor) -> Tensor:
    d = equation.params["dimension_numbers"]
    if index.shape != (1,) or len(d.inserted_window_dims) != 1 or d.operand_batching_dims:
        raise NoRule("writes to several places")
    if equation.params["mode"] == GatherScatterMode.CLIP:
        raise NoRule("writes to a clipped index")
    (axis,) = d.inserted_window_dims
    shape = [n if i == axis else 1 for i, n in enumerate(x.shape)]
    # An index out of range is no place, so nothing is written.
    place = np.arange(x.shape[axis], dtype=index.dtype).reshape(shape)
    here = graph.op("Equal", place, graph.reshape(index, [1] * len(shape)), dtype=bool)
    kept = [1 if i == axis else n for i, n in enumerate(x.shape)]
    return graph.where(here, graph.reshape(update, kept), x)


# --- loops ----------------------------------------------------------------------------------------


def _scan(graph: Graph, equation: Any, *values: Tensor) -> list[Tensor]:
    p = equation.params
    if "ft_in" in p:  # Since JAX 0.11.
        first, second, _ = map(len, p["ft_in"].unpack())
    else:
        first, second = p["num_consts"], p["num_carry"]
    consts, carry = list(values[:first]), list(values[first : first + second])
    xs, inner = values[first + second :], p["jaxpr"]

    def step(carry: list[Tensor], elements: list[Tensor]):
        results = _walk(graph, inner.jaxpr, inner.consts, [*consts, *carry, *elements[: len(xs)]])
        shapes = [x.aval.shape for x in inner.jaxpr.outvars]
        full = [graph.full(x, shape) for x, shape in zip(results, shapes, strict=True)]
        return full[: len(carry)], full[len(carry) :]

    if p["length"] > _WRITTEN_OUT:
        return graph.scan(step, carry, xs, p["length"], reverse=p["reverse"])
    all_ys = []
    for i in range(p["length"])[:: -1 if p["reverse"] else 1]:
        carry, ys = step(carry, [graph.take(x, np.asarray(i), 0) for x in xs])
        all_ys.append(ys)
    if p["reverse"]:
        all_ys.reverse()
    return [*carry, *(graph.stack(ys, 0) for ys in zip(*all_ys, strict=True))]


def _gru(graph: Graph, values: list[Any]) -> list[Tensor] | None:
    """ONNX's GRU for a step of `calojax.nn.priors.gru`, if its gates are ``x @ kernel + bias``."""
    state, gates, recurrent, new_bias = values
    product, bias = _inputs(gates, "Add")
    x, kernel = _inputs(product, "MatMul")
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


def _normal_quantile(graph: Graph, values: list[Tensor]) -> list[Tensor]:
    """`calojax.rng.normal_quantile`; JAX computes with bits of numbers since 0.12."""

    def ratio(where: str, x: jax.Array) -> jax.Array:
        above, below = (
            functools.reduce(lambda total, number: total * x + number, coefficients)
            for coefficients in _QUANTILES[where]
        )
        return above / below

    def quantile(p: jax.Array) -> jax.Array:
        centre = p - 0.5
        share = jax.numpy.where(centre < 0, p, 1 - p)
        root = jax.numpy.sqrt(-jax.numpy.log(share))
        tail = jax.numpy.where(root > 5, ratio("far", root - 5), ratio("tail", root - 1.6))
        tail = jax.numpy.where(share == 0, np.inf, tail)
        near = centre * ratio("centre", 0.180625 - centre * centre)
        outside = jax.numpy.where(centre < 0, -tail, tail)
        return jax.numpy.where(abs(centre) <= 0.425, near, outside)

    return convert(graph, quantile, *values)


# Inner functions of JAX that ONNX has an operator for, or that differ between versions of JAX.
_BY_NAME: dict[str, Callable[[Graph, list[Tensor]], list[Tensor] | None]] = {
    "gru_step": _gru,
    "normal_quantile": _normal_quantile,
}

# Rules that take NumPy arrays too; JAX would compile a program for each.
_OF_ARRAYS = {
    *("convert_element_type", "reshape", "squeeze", "transpose", "concatenate"),
    *("stack", "unstack", "slice", "rev"),
}

_RULES: dict[str, Callable[..., Any]] = {
    "convert_element_type": _convert_type,
    "reshape": _out_shape,
    "squeeze": _out_shape,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "stack": _stack,
    "slice": _slice,
    "split": _split,
    "unstack": _unstack,
    "rev": _reverse,
    "pad": _pad,
    "reduce_sum": _reduction("ReduceSum"),
    "reduce_max": _reduction("ReduceMax"),
    "reduce_min": _reduction("ReduceMin"),
    "reduce_prod": _reduction("ReduceProd"),
    "reduce_or": _of_bools("ReduceMax"),
    "reduce_and": _of_bools("ReduceMin"),
    "argmax": _arg("ArgMax"),
    "argmin": _arg("ArgMin"),
    "cumsum": _cumulative_sum,
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update,
    "gather": _gather,
    "scatter": _scatter,
    "scan": _scan,
    "round": _round,
    "integer_pow": lambda graph, equation, x: _integer_power(graph, x, equation.params["y"]),
}

PRIMITIVES = frozenset(_CALLS) | _ELEMENTWISE.keys() | _RULES.keys() | {"broadcast_in_dim"}
"""The primitives that have a rule."""
