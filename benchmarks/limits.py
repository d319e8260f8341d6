"""What can the device do at best? The rate of matrix products, memory bandwidth, and latency.

    python benchmarks/limits.py

Other benchmarks measure the first two again in their own run and compare their figures with them.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import rows
import stopwatch
from rows import Row
from work import Work

# Bytes of an array that fits into no cache, and rows of a square matrix, by platform.
SIZES = {"cpu": (2**27, 3072), "gpu": (2**30, 8192), "tpu": (2**30, 8192)}


class Limits(NamedTuple):
    """Limits of a device."""

    matrix: float  # operations per second of float32 matrix products in the default precision
    bandwidth: float  # bytes per second that its memory reads and writes

    def columns(self, work: Work, seconds: float, batch: int) -> Row:
        """Columns of a row: work per shower, its share of both limits, and the limit that binds."""
        matrix, bandwidth = work.operations / self.matrix, work.bytes / self.bandwidth
        return {
            "mflop_per_shower": work.operations / batch / 1e6,
            "mbyte_per_shower": work.bytes / batch / 1e6,
            "share_of_matrix_rate": matrix / seconds,
            "share_of_bandwidth": bandwidth / seconds,
            "bound": "matrix" if matrix > bandwidth else "bandwidth",
        }


@functools.cache
def measured(b: rows.Options) -> Limits:
    """Limits of the default device."""
    return Limits(matrix_rate(b, jnp.float32), memory_bandwidth(b))


def sizes(b: rows.Options) -> tuple[int, int]:
    """Bytes of an array and rows of a matrix to measure with."""
    return (2**20, 256) if b.smoke else SIZES.get(jax.default_backend(), SIZES["cpu"])


def matrix_rate(b: rows.Options, dtype: Any, precision: str | None = None) -> float:
    """Operations per second of products of square matrices, from the fastest repetition."""
    _, size = sizes(b)
    x = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    product, _ = stopwatch.compiled(lambda x, y: jnp.matmul(x, y, precision=precision), x, x)
    return 2.0 * size**3 / stopwatch.repeat(lambda: product(x, x), repeats=b.repeats).fastest


def memory_bandwidth(b: rows.Options) -> float:
    """Bytes per second of a <- a / 2 + b in place, from the fastest repetition."""
    size, _ = sizes(b)
    x, y = jnp.ones(size // 4), jnp.ones(size // 4)
    triad = jax.jit(lambda x, y: 0.5 * x + y, donate_argnums=0)

    def call() -> jax.Array:
        nonlocal x
        x = triad(x, y)
        return x

    return 3.0 * size / stopwatch.repeat(call, repeats=b.repeats).fastest


def latency(b: rows.Options) -> float:
    """Seconds from the call of the smallest program to its result."""
    x = jnp.zeros(())
    program, _ = stopwatch.compiled(lambda x: x + 1, x)
    return stopwatch.repeat(lambda: program(x), repeats=10 * b.repeats).median


def main(b: rows.Options) -> Iterator[Row]:
    """A row for each limit."""
    b = b.small()
    for name, dtype, precision in (
        ("float32", jnp.float32, None),
        ("float32, highest precision", jnp.float32, "highest"),
        ("bfloat16", jnp.bfloat16, None),
    ):
        rate = matrix_rate(b, dtype, precision) / 1e9
        yield {"benchmark": "limits", "limit": f"matrix, {name}", "gflop_per_second": rate}
    bandwidth = memory_bandwidth(b) / 1e9
    yield {"benchmark": "limits", "limit": "bandwidth", "gbyte_per_second": bandwidth}
    yield {"benchmark": "limits", "limit": "latency", "ms": 1e3 * latency(b)}


if __name__ == "__main__":
    rows.run(rows.Options, main, __doc__)
