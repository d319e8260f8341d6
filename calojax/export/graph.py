"""An ONNX graph under construction, with NumPy-like operations on its values.

A value is a NumPy array while it is known (constants are folded), otherwise a `Value`. Its stored
shape may have ones where the array in JAX is broadcast: ONNX broadcasts as NumPy does, so `full`
expands a value only where an operation needs it. Equal nodes are made once. A node belongs to the
innermost graph of its inputs, so what does not change in a loop is computed outside.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from calojax.errors import CalojaxError

OPSET = 17
# Operators that change nothing if one input is this number.
_NEUTRAL = {"Mul": 1, "Div": 1, "Add": 0, "Max": -np.inf}
# Operators with graphs inside, which may use any value of the graphs around them.
_WITH_BODY = {"Scan", "Loop", "If"}
# A constant is broadcast in the graph rather than stored, if that saves so many numbers.
_WORTH_A_NODE = 4096
# The oldest format with this opset.
IR_VERSION = 8

_WIDER = {
    np.dtype(jnp.bfloat16): np.dtype(np.float32),
    np.dtype(np.uint32): np.dtype(np.int64),
}
_TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(np.int64): TensorProto.INT64,
    np.dtype(bool): TensorProto.BOOL,
}


class NoRule(CalojaxError):
    """A model does something in JAX that has no rule in ONNX."""

    def __init__(self, what: str):
        super().__init__(
            f"The model {what}, for which there is no rule in ONNX; take --format stablehlo."
        )


def wider(dtype: Any) -> np.dtype:
    """The type in which ONNX computes what JAX computes in a type."""
    dtype = np.dtype(dtype)
    return _WIDER.get(dtype, dtype)


def _stored(dtype: Any) -> np.dtype:
    """The type in a graph, one of `_TYPES`; few operators of ONNX take any other."""
    dtype = wider(dtype)
    if dtype not in _TYPES:
        raise NoRule(f"has arrays of type {dtype}")
    return dtype


@dataclasses.dataclass(eq=False)
class Scope:
    """A graph: the whole, the body of a loop, or a branch."""

    depth: int = 0  # number of graphs around it
    optional: bool = False  # its nodes are not always needed, as in a branch, so they stay inside
    nodes: list[onnx.NodeProto] = dataclasses.field(default_factory=list)
    known: dict[Any, Sequence["Value"]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """A tensor that is known only when the graph runs, of a stored shape.

    The operator ``op`` computes it from its inputs and attributes, in the graph ``scope``; it is ""
    for an input. ``highest`` is the largest value of an index whose smallest value is 0, if known.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    # Not shown by `repr`, which would go through the whole graph.
    scope: Scope = dataclasses.field(repr=False)
    op: str = ""
    inputs: tuple[Any, ...] = dataclasses.field(default=(), repr=False)
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    highest: int | None = None


Tensor = Value | np.ndarray


class Graph:
    """Builds one ONNX model."""

    def __init__(self):
        self._scopes = [Scope()]
        self._inputs: list[onnx.ValueInfoProto] = []
        self._initializers: dict[Any, onnx.TensorProto] = {}
        self._number = 0

    def input(self, name: str, shape: tuple[int, ...]) -> Value:
        """A float32 input of the model."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return Value(name, shape, np.dtype(np.float32), self._scopes[0])

    def emit(
        self,
        op: str,
        inputs: Sequence[Tensor | None],
        shapes: Sequence[tuple[int, ...]],
        dtypes: Sequence[Any],
        **attributes: Any,
    ) -> Sequence[Value]:
        """Adds a node, or finds one that is equal; returns its outputs."""
        names = [self._name(x) for x in inputs]
        scopes = [x.scope for x in inputs if isinstance(x, Value)]
        scopes += [scope for scope in self._scopes if scope.optional]
        scope = max(scopes, key=lambda scope: scope.depth, default=self._scopes[0])
        if op in _WITH_BODY:
            scope = self._scopes[-1]
        key = op, tuple(names), tuple(sorted((k, str(v)) for k, v in attributes.items()))
        if key not in scope.known:
            made = op, tuple(inputs), attributes
            outputs = [
                Value(self.fresh(op), tuple(shape), _stored(dtype), scope, *made)
                for shape, dtype in zip(shapes, dtypes, strict=True)
            ]
            names_after = [x.name for x in outputs]
            # Optimisers of ONNX Runtime derive names from these, which must differ.
            node = helper.make_node(op, names, names_after, names_after[0], **attributes)
            scope.nodes.append(node)
            scope.known[key] = outputs
        return scope.known[key]

    def one(
        self,
        op: str,
        inputs: Sequence[Tensor | None],
        shape: Sequence[int],
        dtype: Any,
        **more: Any,
    ) -> Value:
        """`emit` for an operator with one output."""
        return self.emit(op, inputs, [tuple(shape)], [dtype], **more)[0]

    def fresh(self, word: str) -> str:
        """A new name."""
        self._number += 1
        return f"{word.lower()}_{self._number}"

    def _name(self, x: Tensor | None) -> str:
        """The name of a value; a constant becomes an initializer of the whole graph."""
        if x is None:
            return ""
        if isinstance(x, Value):
            return x.name
        small = _shrunk(x)
        if x.size - small.size > _WORTH_A_NODE:
            shape = np.asarray(x.shape, np.int64)
            return self.one("Expand", [small, shape], x.shape, x.dtype).name
        x = np.asarray(x, _stored(x.dtype), order="C")
        key = x.dtype.str, x.shape, x.tobytes()
        if key not in self._initializers:
            self._initializers[key] = numpy_helper.from_array(x, self.fresh("constant"))
        return self._initializers[key].name

    # --- operations -------------------------------------------------------------------------------

    def op(self, name: str, *inputs: Tensor, dtype: Any = None, **attributes: Any) -> Tensor:
        """An elementwise operator; its inputs broadcast."""
        inputs = tuple(_shrunk(x) if isinstance(x, np.ndarray) else x for x in inputs)
        shape = np.broadcast_shapes(*(x.shape for x in inputs))
        for x, other in (inputs, inputs[::-1]) if name in _NEUTRAL else ():
            # Such as a temperature of 1.
            if isinstance(other, np.ndarray) and x.shape == shape:
                right = other is inputs[1] or name != "Div"
                if right and (other == _NEUTRAL[name]).all():
                    return x
        dtype = inputs[0].dtype if dtype is None else dtype
        return self.one(name, inputs, shape, dtype, **attributes)

    def full(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """The value, broadcast to a shape."""
        shape = tuple(shape)
        if x.shape == shape:
            return x
        if isinstance(x, np.ndarray):
            return np.broadcast_to(x, shape)
        return self.one("Expand", [x, np.asarray(shape, np.int64)], shape, x.dtype)

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        shape = tuple(int(n) for n in shape)
        if x.shape == shape:
            return x
        if isinstance(x, np.ndarray):
            return x.reshape(shape)
        if x.op == "Reshape":
            return self.reshape(x.inputs[0], shape)
        if x.op.startswith("Reduce") and x.inputs[0].shape != x.shape:
            axes = reduced_axes(x)
            kept = tuple(1 if i in axes else n for i, n in enumerate(x.inputs[0].shape))
            if shape == kept and not x.attributes["keepdims"]:
                return self.one(x.op, x.inputs, shape, x.dtype, **x.attributes | {"keepdims": 1})
        if x.op == "Slice" and (place := self._single(x)) and shape == place[2]:
            return self.take(x.inputs[0], np.asarray(place[1]), place[0])
        return self.one("Reshape", [x, np.asarray(shape, np.int64)], shape, x.dtype)

    @staticmethod
    def _single(x: Value) -> tuple[int, int, tuple[int, ...]] | None:
        """Axis, index, and shape without the axis, of a slice that takes one element of it."""
        starts, _, axes, _ = (np.ravel(number).tolist() for number in x.inputs[1:])
        if len(axes) != 1 or x.shape[axes[0]] != 1:
            return None
        return axes[0], starts[0], x.shape[: axes[0]] + x.shape[axes[0] + 1 :]

    def transpose(self, x: Tensor, order: Sequence[int]) -> Tensor:
        order = [int(axis) for axis in order]
        if isinstance(x, np.ndarray):
            return x.transpose(order)
        shape = tuple(x.shape[axis] for axis in order)
        moved = [axis for axis in order if x.shape[axis] != 1]
        if moved == sorted(moved):  # Only axes of length one move.
            return self.reshape(x, shape)
        return self.one("Transpose", [x], shape, x.dtype, perm=order)

    def cast(self, x: Tensor, dtype: Any) -> Tensor:
        if isinstance(x, np.ndarray):
            return x.astype(wider(dtype))
        dtype = _stored(dtype)
        if x.dtype == dtype:
            return x
        return self.one("Cast", [x], x.shape, dtype, to=_TYPES[dtype])

    def slice(
        self,
        x: Tensor,
        starts: Sequence[int],
        stops: Sequence[int],
        steps: Sequence[int] | None = None,
    ) -> Tensor:
        """``x[start:stop:step, ...]``; numbers as in Python, and steps may be negative."""
        steps = [1] * len(x.shape) if steps is None else list(steps)
        where = [range(n)[a:b:c] for n, a, b, c in zip(x.shape, starts, stops, steps, strict=True)]
        shape = tuple(map(len, where))
        if isinstance(x, np.ndarray):
            return x[tuple(slice(a, b, c) for a, b, c in zip(starts, stops, steps, strict=True))]
        axes = [i for i, (n, own) in enumerate(zip(x.shape, where, strict=True)) if own != range(n)]
        if not axes:
            return x
        # The end before the first element is not a number but anything small enough.
        ends = [where[i].stop if where[i].stop >= 0 else -(2**31) for i in axes]
        numbers = [[where[i].start for i in axes], ends, axes, [where[i].step for i in axes]]
        arrays = [np.asarray(n, np.int64) for n in numbers]
        return self.one("Slice", [x, *arrays], shape, x.dtype)

    def concatenate(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        known = [x for x in parts if isinstance(x, np.ndarray)]
        if len(known) == len(parts):
            return np.concatenate(known, axis)
        if len(parts) == 1:
            return parts[0]
        shape = list(parts[0].shape)
        shape[axis] = sum(x.shape[axis] for x in parts)
        return self.one("Concat", parts, shape, parts[0].dtype, axis=axis)

    def stack(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        shape = list(parts[0].shape)
        shape.insert(axis, 1)
        return self.concatenate([self.reshape(x, shape) for x in parts], axis)

    def take(self, x: Tensor, index: Tensor, axis: int) -> Tensor:
        """``np.take`` of valid indices."""
        if isinstance(x, np.ndarray) and isinstance(index, np.ndarray):
            return np.asarray(np.take(x, index, axis))
        shape = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
        return self.one("Gather", [x, index], shape, x.dtype, axis=axis)

    def where(self, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return self.op("Where", condition, x, y, dtype=x.dtype)

    def reduce(self, op: str, x: Tensor, axes: Sequence[int]) -> Tensor:
        axes = sorted(int(axis) for axis in axes)
        shape = tuple(n for axis, n in enumerate(x.shape) if axis not in axes)
        if op == "ReduceSum":  # The only one whose axes are an input in opset 17.
            return self.one(op, [x, np.asarray(axes, np.int64)], shape, x.dtype, keepdims=0)
        return self.one(op, [x], shape, x.dtype, axes=axes, keepdims=0)

    # --- loops ------------------------------------------------------------------------------------

    def scan(
        self,
        body: Callable[[list[Tensor], list[Tensor]], tuple[list[Tensor], list[Tensor]]],
        carry: Sequence[Tensor],
        xs: Sequence[Tensor],
        length: int,
        *,
        reverse: bool = False,
    ) -> list[Tensor]:
        """ONNX's Scan over the first axis of ``xs``: the last carry and the stacked ys.

        ``body`` adds the nodes of a step: (carry, elements of xs) -> (carry, elements of ys).
        """
        # ONNX counts the steps by the elements.
        xs = [*xs] or [np.arange(length)]
        inputs = [*carry, *xs]
        self._opened()
        before = [self._inside(x, x.shape) for x in carry]
        elements = [self._inside(x, x.shape[1:], _highest(x)) for x in xs]
        after, ys = body(list(before), list(elements))
        graph, outputs = self._closed([*before, *elements], [*after, *ys])
        directions = {"scan_input_directions": [int(reverse)] * len(xs)}
        if ys:
            directions["scan_output_directions"] = [int(reverse)] * len(ys)
        shapes = [x.shape for x in outputs]
        shapes[len(before) :] = [(length, *shape) for shape in shapes[len(before) :]]
        dtypes = [x.dtype for x in outputs]
        attributes = {"body": graph, "num_scan_inputs": len(xs), **directions}
        return [*self.emit("Scan", inputs, shapes, dtypes, **attributes)]

    def loop(
        self,
        test: Callable[[list[Tensor]], Tensor],
        body: Callable[[list[Tensor]], list[Tensor]],
        carry: Sequence[Tensor],
    ) -> list[Tensor]:
        """ONNX's Loop: the carry after ``body`` as often as ``test`` of it is true."""
        first = test(list(carry))
        self._opened()
        number = self._inside(np.zeros((), np.int64), ())
        again = self._inside(first, ())
        before = [self._inside(x, x.shape) for x in carry]
        after = body(list(before))
        graph, outputs = self._closed([number, again, *before], [test(after), *after])
        shapes, dtypes = zip(*((x.shape, x.dtype) for x in outputs[1:]), strict=True)
        return [*self.emit("Loop", [None, first, *carry], shapes, dtypes, body=graph)]

    def branch(
        self,
        which: Tensor,
        then: Callable[[], list[Tensor]],
        otherwise: Callable[[], list[Tensor]],
    ) -> list[Tensor]:
        """ONNX's If: only the function that is taken is computed."""
        graphs, outputs = [], []
        for function in (then, otherwise):
            self._opened(optional=True)
            graph, outputs = self._closed([], function())
            graphs.append(graph)
        shapes, dtypes = zip(*((x.shape, x.dtype) for x in outputs), strict=True)
        bodies = {"then_branch": graphs[0], "else_branch": graphs[1]}
        return [*self.emit("If", [which], shapes, dtypes, **bodies)]

    def _opened(self, *, optional: bool = False) -> None:
        """Begins a graph inside."""
        self._scopes.append(Scope(len(self._scopes), optional))

    def _inside(self, x: Tensor, shape: tuple[int, ...], highest: int | None = None) -> Value:
        """An input of the graph inside, of the type of a value outside."""
        return Value(self.fresh("inside"), shape, x.dtype, self._scopes[-1], highest=highest)

    def _closed(
        self, inputs: Sequence[Value], results: Sequence[Tensor]
    ) -> tuple[onnx.GraphProto, list[Value]]:
        """Ends the graph inside; returns it and its outputs."""
        scope, outputs = self._scopes.pop(), list[Value]()
        for x in results:
            if not isinstance(x, Value) or x.scope is not scope or not x.op or x in outputs:
                # A graph returns values of its own, each once.
                value = Value(self.fresh("output"), x.shape, x.dtype, scope)
                scope.nodes.append(self._identity(x, value.name))
                x = value
            outputs.append(x)
        before, after = list(map(_info, inputs)), list(map(_info, outputs))
        return helper.make_graph(scope.nodes, self.fresh("body"), before, after), outputs

    def _identity(self, x: Tensor, name: str) -> onnx.NodeProto:
        """A node that gives a value another name."""
        return helper.make_node("Identity", [self._name(x)], [name], name)

    # --- the end ----------------------------------------------------------------------------------

    def model(self, name: str, output: Tensor, metadata: dict[str, str]) -> onnx.ModelProto:
        """The model with one output of that name, without nodes that it does not use."""
        last = self._identity(output, name)
        nodes, used = _needed([*self._scopes[0].nodes, last], {name})
        info = helper.make_tensor_value_info(name, _TYPES[output.dtype], output.shape)
        initializers = [x for x in self._initializers.values() if x.name in used]
        graph = helper.make_graph(nodes, "calojax", self._inputs, [info], initializers)
        model = helper.make_model(
            graph,
            producer_name="calojax",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model)
        return model


def like(x: Tensor, value: float) -> np.ndarray:
    """A number of the type of a tensor."""
    return np.asarray(value, x.dtype)


def inputs_of(x: Tensor | None, op: str) -> tuple[Any, Any]:
    """First and last input of the operator that computes ``x``, or (None, None) for others."""
    if isinstance(x, Value) and x.op == op:
        return x.inputs[0], x.inputs[-1]
    return None, None


def reduced_axes(x: Value) -> list[int]:
    """The axes of a reduction."""
    return [int(axis) for axis in x.attributes.get("axes", np.ravel(x.inputs[-1]))]


def _shrunk(x: np.ndarray) -> np.ndarray:
    """The array with length one along axes where it does not change."""
    for axis, n in enumerate(x.shape):
        if n > 1 and (x == x.take([0], axis)).all():
            x = x.take([0], axis)
    return x


def _highest(x: Tensor) -> int | None:
    """The largest element of known indices."""
    if isinstance(x, np.ndarray) and x.dtype.kind in "iu" and x.min() >= 0:
        return int(x.max())
    return None


def _info(x: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(x.name, _TYPES[x.dtype], x.shape)


def _needed(
    nodes: Sequence[onnx.NodeProto], outputs: set[str]
) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that outputs depend on, and the names that these use."""
    used, kept = set(outputs), []
    for node in reversed(nodes):
        if not used & set(node.output):
            continue
        kept.append(node)
        used.update(node.input)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                body = attribute.g
                inner, names = _needed(body.node, {x.name for x in body.output})
                del body.node[:]
                body.node.extend(inner)
                used |= names
    return kept[::-1], used
