"""From JAX to ONNX: a walk over a jaxpr with a rule for each primitive that trained models use.

What depends on constants only is computed while walking.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal
from jax.interpreters import partial_eval

from calojax.export.graph import Graph, NoRule, Tensor, wider
from calojax.export.rules import elementwise, functions, indices, loops, products, shapes

# Primitives that call a function, and the parameter that has it.
_CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
# Since JAX 0.12, such as `jnp.searchsorted`: a primitive that is a function of others.
_COMPOSED = "call_hi_primitive"
# Rules of arrays that are not broadcast.
_RULES: dict[str, Callable[..., Any]] = {
    **elementwise.WITH_PARAMETERS,
    **shapes.RULES,
    **products.RULES,
    **indices.RULES,
}

PRIMITIVES = frozenset(
    {"broadcast_in_dim", _COMPOSED, *_CALLS, *elementwise.RULES, *_RULES, *loops.RULES}
)
"""The primitives that have a rule."""


def convert(graph: Graph, function: Callable, *values: Tensor) -> list[Tensor]:
    """Adds a function of JAX to a graph and returns the leaves of its result.

    Raises:
      NoRule: if the function uses a primitive, or a type of arrays, that has no rule.
    """
    avals = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in values]
    closed = jax.make_jaxpr(function)(*avals)
    jaxpr, used = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    values = tuple(value for value, keep in zip(values, used, strict=True) if keep)
    # So that integers of 64 bits stay what they are.
    with jax.enable_x64(True):
        results = _walk(graph, jaxpr, closed.consts, values)
    return [graph.full(x, aval.shape) for x, aval in zip(results, closed.out_avals, strict=True)]


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
        if getattr(equation.outvars[0].aval, "dtype", None) == np.uint32:
            results = [_unsigned(graph, equation.primitive.name, x) for x in results]
        known |= dict(zip(equation.outvars, results, strict=True))
    return [read(x) for x in jaxpr.outvars]


def _host(x: Any) -> np.ndarray:
    """A NumPy array of a type that ONNX computes with."""
    x = np.asarray(x)
    return x.astype(wider(x.dtype))


def _unsigned(graph: Graph, name: str, x: Tensor) -> Tensor:
    """A result that JAX has in 32 bits without a sign, and ONNX in 64 bits."""
    if name in ("mul", "integer_pow", "reduce_sum", "reduce_prod", "cumsum", "dot_general"):
        raise NoRule("multiplies or sums up unsigned numbers")
    if name not in ("add", "sub", "neg", "convert_element_type"):
        return x
    end = np.asarray(2**32, np.int64)
    return x % end if isinstance(x, np.ndarray) else graph.op("Mod", x, end)


def _equation(graph: Graph, equation: Any, values: list[Tensor]) -> list[Tensor]:
    name = equation.primitive.name
    if name in _CALLS:
        return _call(graph, equation.params.get("name", ""), equation.params[_CALLS[name]], values)
    if name == "broadcast_in_dim":
        return [shapes.broadcast(graph, equation, *values)]
    known = [x for x in values if isinstance(x, np.ndarray)]
    if name not in shapes.OF_ARRAYS and len(known) == len(values):
        return _folded(equation, known)
    if name in elementwise.RULES:
        return [elementwise.RULES[name](graph, *values)]
    full = [graph.full(x, of.aval.shape) for x, of in zip(values, equation.invars, strict=True)]
    if name == _COMPOSED:
        return convert(graph, equation.params["_prim"].expand, *full)
    if name in loops.RULES:

        def walk(closed: ClosedJaxpr, values: Sequence[Tensor]) -> list[Tensor]:
            results = _walk(graph, closed.jaxpr, closed.consts, values)
            return [
                graph.full(x, of.shape) for x, of in zip(results, closed.out_avals, strict=True)
            ]

        return loops.RULES[name](walk, graph, equation, *full)
    if name not in _RULES:
        raise NoRule(f"uses {name!r} of JAX")
    results = _RULES[name](graph, equation, *full)
    return list(results) if isinstance(results, (list, tuple)) else [results]


def _call(graph: Graph, name: str, inner: Any, values: list[Tensor]) -> list[Tensor]:
    if name in functions.IN_ONNX and (results := functions.IN_ONNX[name](graph, *values)):
        return results
    if name in functions.IN_JAX:
        return convert(graph, functions.IN_JAX[name], *values)
    if isinstance(inner, ClosedJaxpr):
        return _walk(graph, inner.jaxpr, inner.consts, values)
    return _walk(graph, inner, [], values)


def _folded(equation: Any, values: list[np.ndarray]) -> list[Tensor]:
    if equation.primitive.name in elementwise.RULES:
        full = [np.broadcast_shapes(*(x.shape for x in values))] * len(values)
    else:
        full = [x.aval.shape for x in equation.invars]
    arrays = [np.broadcast_to(x, shape) for x, shape in zip(values, full, strict=True)]
    results = equation.primitive.bind(
        *(np.asarray(x, order="C") for x in arrays), **equation.params
    )
    return [_host(x) for x in (results if equation.primitive.multiple_results else [results])]
