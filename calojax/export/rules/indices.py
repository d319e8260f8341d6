"""Primitives that read or write at indices."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.lax import GatherScatterMode

from calojax.export.graph import Graph, NoRule, Tensor, Value, like
from calojax.export.rules.shapes import padded


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
    return graph.op("Min", graph.op("Max", x, like(x, 0)), like(x, high))


def _dynamic_update(
    graph: Graph, equation: Any, x: Tensor, update: Tensor, *starts: Tensor
) -> Tensor:
    known = [x for x in starts if isinstance(x, np.ndarray)]
    if len(known) == len(starts):
        return _written(graph, x, update, np.clip(known, 0, np.subtract(x.shape, update.shape)))
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
            low = graph.op("GreaterOrEqual", after, like(after, 0), dtype=bool)
            here = graph.op("And", low, graph.op("Less", after, like(after, size), dtype=bool))
        inside = here if inside is None else graph.op("And", inside, here)
    return update if inside is None else graph.where(inside, update, x)


def _written(graph: Graph, x: Tensor, update: Tensor, low: np.ndarray) -> Tensor:
    """The array with another one written to it at known indices."""
    high = np.asarray(x.shape) - low - update.shape
    widths = list(zip(low.tolist(), high.tolist(), strict=True))
    changed = [axis for axis, width in enumerate(widths) if any(width)]
    if not changed:
        return update
    wide = padded(graph, update, like(x, 0), widths)
    if isinstance(x, np.ndarray) and not x.any():
        return wide
    # One mask of long rows: ONNX Runtime is slow where a mask is broadcast along short axes.
    inside = np.pad(np.ones(update.shape, bool), widths)[(0,) * changed[0]].reshape(1, -1)
    rows = math.prod(x.shape[: changed[0]]), inside.size
    flat = graph.where(inside, graph.reshape(wide, rows), graph.reshape(x, rows))
    return graph.reshape(graph.full(flat, rows), x.shape)


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
        taken = graph.one("GatherND", [arranged, which], shape, x.dtype, batch_dims=len(batch))
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
    if isinstance(index, np.ndarray) and index.ndim == 1 and len(update.shape) == len(x.shape):
        low = np.zeros(len(x.shape), np.int64)
        low[list(d.scatter_dims_to_operand_dims)] = index
        if ((low < 0) | (low + update.shape > x.shape)).any():
            raise NoRule("writes beyond the end")
        return _written(graph, x, update, low)
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


def _scatter_add(graph: Graph, equation: Any, x: Tensor, index: Tensor, update: Tensor) -> Tensor:
    d = equation.params["dimension_numbers"]
    rows = tuple(range(1, len(update.shape)))
    if d.inserted_window_dims != (0,) or d.update_window_dims != rows or index.shape[1:] != (1,):
        raise NoRule("adds to places of several axes")
    # Whatever is out of range goes to a row more, which is cut off.
    end = like(index, x.shape[0])
    index = graph.reshape(index, index.shape[:1])
    low = graph.op("Less", index, like(index, 0), dtype=bool)
    index = graph.op("Min", graph.where(low, end, index), end)
    index = graph.full(graph.reshape(index, (*index.shape, *[1] * len(rows))), update.shape)
    more = graph.concatenate([x, np.zeros((1, *x.shape[1:]), x.dtype)], 0)
    given, how = [more, index, update], {"axis": 0, "reduction": "add"}
    total = graph.one("ScatterElements", given, more.shape, x.dtype, **how)
    return graph.slice(total, [0] * len(x.shape), x.shape)


def _sort(graph: Graph, equation: Any, *arrays: Tensor) -> list[Tensor]:
    axis = equation.params["dimension"]
    if equation.params["num_keys"] != 1:
        raise NoRule("sorts by several arrays")
    keys, *others = arrays
    size = np.asarray([keys.shape[axis]], np.int64)
    how = {"axis": axis, "largest": 0, "sorted": 1}
    # Of equal elements the first comes first.
    keys, order = graph.emit("TopK", [keys, size], [keys.shape] * 2, [keys.dtype, np.int64], **how)
    moved = [graph.one("GatherElements", [x, order], x.shape, x.dtype, axis=axis) for x in others]
    return [keys, *moved]


RULES: dict[str, Callable[..., Any]] = {
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update,
    "gather": _gather,
    "scatter": _scatter,
    "scatter-add": _scatter_add,
    "sort": _sort,
}
