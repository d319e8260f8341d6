"""The work of a program: operations of its matrix products, and bytes that it has to move.

`jax.stages.Compiled.cost_analysis` counts the body of a loop once, so a prior of 417 steps looks
417 times cheaper than it is, and it does not see into kernels of libraries. Here the jaxpr is
counted, with each loop as often as it runs; where that depends on data, the program is run.

- Operations: 2 m n k of a matrix product, and the same sum for a convolution. Nothing else counts,
  because they are compared with the rate of matrix products.
- Bytes: operands and results of products and convolutions, slices that are gathered or scattered,
  arguments and results of the program. Everything between is taken as fused. This is a lower bound
  for any compiler; caches can make a program faster than its bytes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core


class Work(NamedTuple):
    """Work of a program: numbers or, where they depend on data, arrays []."""

    operations: Any = 0.0  # operations of matrix products
    bytes: Any = 0.0  # bytes to move

    def plus(self, other: "Work") -> "Work":
        return Work(self.operations + other.operations, self.bytes + other.bytes)

    def times(self, count: int) -> "Work":
        return Work(self.operations * count, self.bytes * count)

    def traced(self) -> "Work":
        """The same as float32 arrays, to be carried by a loop."""
        return Work(*(jnp.asarray(value, jnp.float32) for value in self))

    @property
    def known(self) -> bool:
        """Whether it does not depend on data."""
        return all(isinstance(value, float) for value in self)


def of(function: Callable[..., Any], *arguments: Any) -> Work:
    """Work of ``function(*arguments)``; runs it once if it has loops that depend on data."""
    closed = jax.make_jaxpr(function)(*arguments)
    found = Work()

    def run(*inputs: Any) -> Work:
        nonlocal found
        found = _run(closed, inputs)[1]
        return found

    inputs = jax.tree.leaves(arguments)
    jax.eval_shape(run, *inputs)
    work = found if found.known else Work(*(float(value) for value in jax.jit(run)(*inputs)))
    ends = [*closed.jaxpr.invars, *closed.jaxpr.outvars]
    return work.plus(Work(0.0, _size(*(variable.aval for variable in ends))))


def _run(closed: core.ClosedJaxpr, inputs: Sequence[Any]) -> tuple[list[Any], Work]:
    """Results of a program, and its work."""
    values: dict[Any, Any] = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    values.update(zip(closed.jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    work = Work()
    for equation in closed.jaxpr.eqns:
        given = [read(atom) for atom in equation.invars]
        primitive, params = equation.primitive, equation.params
        if primitive.name in _LOOPS:
            results, more = _LOOPS[primitive.name](params, given)
        elif primitive.name in _CALLS:
            inner = params.get("jaxpr", params.get("call_jaxpr"))
            inner = inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ())
            results, more = _run(inner, given)
        else:
            results = primitive.bind(*given, **params)
            results = results if primitive.multiple_results else [results]
            more = _single(equation)
        work = work.plus(more)
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in closed.jaxpr.outvars], work


def _counts(params: dict[str, Any]) -> tuple[int, int]:
    """Numbers of constants and of carries of a scan."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    constants, carry, _ = params["ft_in"].unpack()  # Since JAX 0.11.
    return len(constants), len(carry)


def _scan(params: dict[str, Any], given: list[Any]) -> tuple[list[Any], Work]:
    constants, count = _counts(params)
    carries = constants + count
    once = Work()

    def step(state: Any, row: Any) -> Any:
        nonlocal once
        total, carry = state
        results, once = _run(params["jaxpr"], [*given[:constants], *carry, *row])
        new, out = results[:count], results[count:]
        return (total.plus(once).traced(), new), out

    (total, carry), out = jax.lax.scan(
        step,
        (Work().traced(), given[constants:carries]),
        given[carries:],
        length=params["length"],
        reverse=params["reverse"],
    )
    return [*carry, *out], once.times(params["length"]) if once.known else total


def _while(params: dict[str, Any], given: list[Any]) -> tuple[list[Any], Work]:
    tested = params["cond_nconsts"]
    start = tested + params["body_nconsts"]

    def step(state: Any) -> Any:
        total, carry = state
        results, work = _run(params["body_jaxpr"], [*given[tested:start], *carry])
        return total.plus(work).traced(), results

    def test(state: Any) -> Any:
        return _run(params["cond_jaxpr"], [*given[:tested], *state[1]])[0][0]

    total, carry = jax.lax.while_loop(test, step, (Work().traced(), given[start:]))
    return carry, total


def _cond(params: dict[str, Any], given: list[Any]) -> tuple[list[Any], Work]:
    def branch(closed: core.ClosedJaxpr) -> Callable[..., Any]:
        def run(*inputs: Any) -> tuple[list[Any], Work]:
            results, work = _run(closed, inputs)
            return results, work.traced()

        return run

    return jax.lax.switch(given[0], [branch(b) for b in params["branches"]], *given[1:])


# Primitives by name: those that run a program once, and those that run it as data say.
_CALLS = (
    *("jit", "pjit", "closed_call", "remat2", "checkpoint"),
    *("custom_jvp_call", "custom_vjp_call"),
)
_LOOPS = {"scan": _scan, "while": _while, "cond": _cond}


def _single(equation: core.JaxprEqn) -> Work:
    """Work of one primitive."""
    name, params = equation.primitive.name, equation.params
    read: list[Any] = [atom.aval for atom in equation.invars]
    written: list[Any] = [variable.aval for variable in equation.outvars]
    if name == "dot_general":
        depth = math.prod(read[0].shape[axis] for axis in params["dimension_numbers"][0][0])
        return Work(2.0 * math.prod(written[0].shape) * depth, _size(*read, *written))
    if name == "conv_general_dilated":
        # Bins of the kernel times channels of a group; zeros between bins are not multiplied.
        depth = read[1].size / read[1].shape[params["dimension_numbers"].rhs_spec[0]]
        depth /= math.prod(params["lhs_dilation"])
        return Work(2.0 * math.prod(written[0].shape) * depth, _size(*read, *written))
    if name in ("gather", "dynamic_slice"):
        return Work(0.0, 2.0 * _size(written[0]))
    if name.startswith("scatter"):
        return Work(0.0, 2.0 * _size(read[2]))
    if name == "dynamic_update_slice":
        return Work(0.0, 2.0 * _size(read[1]))
    return Work()


def _size(*arrays: Any) -> float:
    """Bytes of arrays; a key of random numbers has two words."""
    keys = jax.dtypes.prng_key
    return float(
        sum(
            math.prod(aval.shape) * (8 if jnp.issubdtype(aval.dtype, keys) else aval.dtype.itemsize)
            for aval in arrays
        )
    )
