"""How much a program has to do: floating-point operations of matrix products, and bytes moved.

`jax.stages.Compiled.cost_analysis` counts the body of a loop once, however often it runs, so that a
prior of 417 steps looks 417 times cheaper than it is; and it knows nothing inside of a library's
kernels. So the program is counted as it was written, by a walk through its jaxpr that counts a
loop as often as it runs, where that hangs on the data by running it:

- operations: 2 m n k of a matrix product, and likewise of a convolution. Nothing else is counted,
  since the rate that they are held against is that of matrix products.
- bytes: what products and convolutions read and write, slices that are gathered or scattered, and
  the program's own arguments and results. Everything between is taken to be fused with them. This
  is the least that has to move, whatever the compiler makes of it, so rows of different versions
  compare; weights that stay in a cache near the cores can make a program faster than its bytes.

``python benchmarks/limits.py`` holds the count against XLA's on programs that it counts rightly.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core


class Work(NamedTuple):
    """What a program does, as numbers or, where they hang on data, as arrays [].

    Attributes:
      operations: of matrix products.
      bytes: that have to move.
    """

    operations: Any = 0.0
    bytes: Any = 0.0

    def plus(self, other: "Work") -> "Work":
        return Work(self.operations + other.operations, self.bytes + other.bytes)

    def times(self, count: Any) -> "Work":
        return Work(self.operations * count, self.bytes * count)

    @property
    def known(self) -> bool:
        """Whether it was told without running anything."""
        return all(isinstance(value, float | int) for value in self)


def of(function: Callable[..., Any], *arguments: Any) -> Work:
    """The work of ``function(*arguments)``; runs it once if it has loops that hang on data."""
    closed = jax.make_jaxpr(function)(*arguments)
    inputs = jax.tree.leaves(arguments)
    ends = Work(0.0, float(sum(_size(v.aval) for v in closed.jaxpr.invars + closed.jaxpr.outvars)))
    found: list[Work] = []

    def run(*inputs):
        _, work = _run(closed, inputs)
        found.append(work)
        return work

    jax.eval_shape(run, *inputs)
    work = found[-1]
    if not work.known:
        work = Work(*(float(value) for value in jax.jit(run)(*inputs)))
    return work.plus(ends)


def _run(closed: core.ClosedJaxpr, inputs: Sequence[Any]) -> tuple[list[Any], Work]:
    """Results of a program, and its work."""
    values: dict[core.Var, Any] = {}

    def read(atom):
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    values.update(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    values.update(zip(closed.jaxpr.invars, inputs, strict=True))
    work = Work()
    for equation in closed.jaxpr.eqns:
        given = [read(atom) for atom in equation.invars]
        name = equation.primitive.name
        if name in LOOPS:
            results, more = LOOPS[name](equation.params, given)
        elif name in CALLS:
            results, more = _run(_called(equation.params), given)
        else:
            results = equation.primitive.bind(*given, **equation.params)
            results = results if equation.primitive.multiple_results else [results]
            more = _step(equation)
        work = work.plus(more)
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in closed.jaxpr.outvars], work


def _called(params: dict[str, Any]) -> core.ClosedJaxpr:
    inner = params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"]
    return inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ())


# --- loops and branches ---------------------------------------------------------------------------


def _scan(params: dict[str, Any], given: list[Any]) -> tuple[list[Any], Work]:
    constants, carries = params["num_consts"], params["num_carry"]
    fixed, start, rows = _split(given, constants, carries)
    once: list[Work] = []

    def step(state, row):
        total, carry = state
        results, work = _run(params["jaxpr"], [*fixed, *carry, *row])
        once.append(work)
        return (_added(total, work), results[:carries]), results[carries:]

    (total, carry), out = jax.lax.scan(
        step, (_nothing(), start), rows, length=params["length"], reverse=params["reverse"]
    )
    # The same in every step, where it does not hang on data.
    work = once[-1].times(params["length"]) if once[-1].known else total
    return [*carry, *out], work


def _while(params: dict[str, Any], given: list[Any]) -> tuple[list[Any], Work]:
    tested, fixed, start = _split(given, params["cond_nconsts"], params["body_nconsts"])

    def step(state):
        total, carry = state
        results, work = _run(params["body_jaxpr"], [*fixed, *carry])
        return _added(total, work), results

    def test(state):
        return _run(params["cond_jaxpr"], [*tested, *state[1]])[0][0]

    total, carry = jax.lax.while_loop(test, step, (_nothing(), start))
    return carry, total


def _cond(params: dict[str, Any], given: list[Any]) -> tuple[list[Any], Work]:
    def branch(closed):
        def run(*inputs):
            results, work = _run(closed, inputs)
            return results, _added(_nothing(), work)

        return run

    return jax.lax.switch(given[0], [branch(b) for b in params["branches"]], *given[1:])


# By name in the jaxpr. Calls run a program as it is.
CALLS = ("jit", "pjit", "closed_call", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call")
LOOPS = {"scan": _scan, "while": _while, "cond": _cond}


def _split(given: list[Any], first: int, second: int) -> tuple[list[Any], list[Any], list[Any]]:
    return given[:first], given[first : first + second], given[first + second :]


def _nothing() -> Work:
    return Work(jnp.zeros(()), jnp.zeros(()))


def _added(total: Work, work: Work) -> Work:
    return Work(*(jnp.asarray(a + b, jnp.float32) for a, b in zip(total, work, strict=True)))


# --- single steps ---------------------------------------------------------------------------------


def _step(equation: core.JaxprEqn) -> Work:
    """The work of one primitive."""
    name = equation.primitive.name
    read = [atom.aval for atom in equation.invars]
    written = [variable.aval for variable in equation.outvars]
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        depth = math.prod(read[0].shape[axis] for axis in contracted)
        operations = 2.0 * math.prod(written[0].shape) * depth
        return Work(operations, float(sum(map(_size, read + written))))
    if name == "conv_general_dilated":
        numbers, kernel = equation.params["dimension_numbers"], read[1]
        # Bins of the kernel times channels of a group. Zeros between bins are not multiplied.
        depth = kernel.size / kernel.shape[numbers.rhs_spec[0]]
        apart = math.prod(equation.params["lhs_dilation"])
        operations = 2.0 * math.prod(written[0].shape) * depth / apart
        return Work(operations, float(sum(map(_size, read + written))))
    if name in ("gather", "dynamic_slice"):
        return Work(0.0, 2.0 * _size(written[0]))
    if name.startswith("scatter"):
        return Work(0.0, 2.0 * _size(read[2]))
    if name == "dynamic_update_slice":
        return Work(0.0, 2.0 * _size(read[1]))
    return Work()


def _size(aval: Any) -> int:
    """Bytes of an array; a key of random numbers has two words."""
    if jnp.issubdtype(aval.dtype, jax.dtypes.prng_key):
        return 8 * math.prod(aval.shape)
    return math.prod(aval.shape) * aval.dtype.itemsize
