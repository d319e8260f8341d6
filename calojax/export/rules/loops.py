"""Loops and branches: primitives with functions inside."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr

from calojax.export.graph import Graph, Tensor, like

# Loops of so few steps are written out: ONNX's Scan costs as much as several nodes per step.
_WRITTEN_OUT = 16

Walk = Callable[[ClosedJaxpr, Sequence[Tensor]], list[Tensor]]
"""Adds a function inside to the graph, and returns its results."""


def _scan(walk: Walk, graph: Graph, equation: Any, *values: Tensor) -> list[Tensor]:
    p = equation.params
    if "ft_in" in p:  # Since JAX 0.11.
        first, second, _ = map(len, p["ft_in"].unpack())
    else:
        first, second = p["num_consts"], p["num_carry"]
    consts, carry = list(values[:first]), list(values[first : first + second])
    xs = values[first + second :]

    def step(carry: list[Tensor], elements: list[Tensor]):
        results = walk(p["jaxpr"], [*consts, *carry, *elements[: len(xs)]])
        return results[: len(carry)], results[len(carry) :]

    if p["length"] > _WRITTEN_OUT:
        return graph.scan(step, carry, xs, p["length"], reverse=p["reverse"])
    all_ys = []
    for i in range(p["length"])[:: -1 if p["reverse"] else 1]:
        carry, ys = step(carry, [graph.take(x, np.asarray(i), 0) for x in xs])
        all_ys.append(ys)
    if p["reverse"]:
        all_ys.reverse()
    return [*carry, *(graph.stack(ys, 0) for ys in zip(*all_ys, strict=True))]


def _while(walk: Walk, graph: Graph, equation: Any, *values: Tensor) -> list[Tensor]:
    p = equation.params
    first = p["cond_nconsts"]
    second = first + p["body_nconsts"]
    of_test, of_body, carry = values[:first], values[first:second], values[second:]
    return graph.loop(
        lambda carry: walk(p["cond_jaxpr"], [*of_test, *carry])[0],
        lambda carry: walk(p["body_jaxpr"], [*of_body, *carry]),
        carry,
    )


def _cond(walk: Walk, graph: Graph, equation: Any, index: Tensor, *values: Tensor) -> list[Tensor]:
    branches = equation.params["branches"]
    if isinstance(index, np.ndarray):
        return walk(branches[int(index)], values)

    def chosen(first: int) -> list[Tensor]:
        """Results of the branch of the index, which is at least ``first``."""
        if first == len(branches) - 1:
            return walk(branches[first], values)
        return graph.branch(
            graph.op("Equal", index, like(index, first), dtype=bool),
            lambda: walk(branches[first], values),
            lambda: chosen(first + 1),
        )

    return chosen(0)


RULES: dict[str, Callable[..., list[Tensor]]] = {"scan": _scan, "while": _while, "cond": _cond}
