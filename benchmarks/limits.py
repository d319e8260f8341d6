"""What can the device do at best? Rate of matrix products, memory bandwidth, and a call's latency.

    python benchmarks/limits.py

Other benchmarks hold their figures against these (``share_of_matrix_rate`` and
``share_of_bandwidth``), in the same run. The last lines hold the count of operations (see
``work.py``) against XLA's on a product and on a loop of products, which XLA counts once.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import stopwatch
import tyro
import work
from environment import show
from work import Work

# Bytes of an array, large enough for no cache, and rows of a matrix; by platform.
SIZES = {"cpu": (2**27, 3072), "gpu": (2**30, 8192), "tpu": (2**30, 8192)}


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What to time.

    Attributes:
      repeats: timed repetitions of each figure.
      smoke: everything small, to see that it runs.
    """

    repeats: int = 10
    smoke: bool = False


class Limits(NamedTuple):
    """What a device can do at best.

    Attributes:
      matrix: operations per second of float32 matrix products in the default precision.
      bandwidth: bytes per second of its memory, read and written.
    """

    matrix: float
    bandwidth: float


@functools.cache
def measured(*, repeats: int = 10, smoke: bool = False) -> Limits:
    """The limits of the default device."""
    array, rows = sizes(smoke)
    return Limits(matrix_rate(jnp.float32, None, rows, repeats), memory_bandwidth(array, repeats))


def sizes(smoke: bool) -> tuple[int, int]:
    """Bytes of an array, and rows of a matrix, to measure with."""
    return (2**20, 256) if smoke else SIZES.get(jax.default_backend(), SIZES["cpu"])


def matrix_rate(dtype: Any, precision: str | None, rows: int, repeats: int) -> float:
    """Operations per second of products of square matrices; the fastest repetition."""
    x = jax.random.normal(jax.random.key(0), (rows, rows)).astype(dtype)
    product, _ = stopwatch.compiled(lambda x, y: jnp.matmul(x, y, precision=precision), x, x)
    return 2.0 * rows**3 / stopwatch.repeat(lambda: product(x, x), repeats=repeats).fastest


def memory_bandwidth(size: int, repeats: int) -> float:
    """Bytes per second of a <- a / 2 + b on arrays of ``size`` bytes, in place; the fastest."""
    a, b = jnp.ones(size // 4), jnp.ones(size // 4)
    triad = jax.jit(lambda a, b: 0.5 * a + b, donate_argnums=0)

    def call() -> jax.Array:
        nonlocal a
        a = triad(a, b)
        return a

    return 3.0 * size / stopwatch.repeat(call, repeats=repeats).fastest


def latency(repeats: int) -> float:
    """Seconds from a call of the smallest program to its result."""
    x = jnp.zeros(())
    program, _ = stopwatch.compiled(lambda x: x + 1, x)
    return stopwatch.repeat(lambda: program(x), repeats=10 * repeats).median


def shares(done: Work, seconds: float, limits: Limits, batch: int) -> dict[str, float | str]:
    """As columns: work per shower, the shares of both limits reached, and the one that binds."""
    matrix = done.operations / limits.matrix
    bandwidth = done.bytes / limits.bandwidth
    return {
        "mflop_per_shower": done.operations / batch / 1e6,
        "mbyte_per_shower": done.bytes / batch / 1e6,
        "share_of_matrix_rate": matrix / seconds,
        "share_of_bandwidth": bandwidth / seconds,
        "bound": "matrix" if matrix > bandwidth else "bandwidth",
    }


def compared(function: Callable[..., Any], *arguments: Any) -> dict[str, float]:
    """Operations of a program, by our count and by XLA's."""
    program, _ = stopwatch.compiled(function, *arguments)
    return {
        "operations": work.of(function, *arguments).operations,
        "operations_xla": float(program.cost_analysis()["flops"]),
    }


def main() -> None:
    """Prints a JSON line for every limit, and for every comparison of counts."""
    b = tyro.cli(Benchmark, description=__doc__)
    b = dataclasses.replace(b, repeats=1) if b.smoke else b
    array, rows = sizes(b.smoke)
    rates = {
        "float32": (jnp.float32, None),
        "float32, highest precision": (jnp.float32, "highest"),
        "bfloat16": (jnp.bfloat16, None),
    }
    for name, (dtype, precision) in rates.items():
        rate = matrix_rate(dtype, precision, rows, b.repeats)
        show({"benchmark": "limits", "limit": f"matrix, {name}", "gflop_per_second": rate / 1e9})
    bandwidth = memory_bandwidth(array, b.repeats)
    show({"benchmark": "limits", "limit": "bandwidth", "gbyte_per_second": bandwidth / 1e9})
    show({"benchmark": "limits", "limit": "latency", "ms": 1e3 * latency(b.repeats)})

    def loop(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, _: (x @ x, None), x, length=100)[0]

    x = jnp.eye(128)
    for name, function in {"a product": lambda x: x @ x, "a loop of 100 products": loop}.items():
        show({"benchmark": "limits", "count": name} | compared(function, x))


if __name__ == "__main__":
    main()
