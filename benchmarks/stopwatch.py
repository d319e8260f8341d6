"""How long a call takes: warmed up, repeated, and waited for."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np


class Times(NamedTuple):
    """Seconds of a call.

    Attributes:
      low: first quartile.
      median: second.
      high: third.
      fastest: of all.
      repeats: how often it was timed.
    """

    low: float
    median: float
    high: float
    fastest: float
    repeats: int

    def per_shower(self, batch: int) -> dict[str, float | int]:
        """As columns: ms per shower of a call that makes ``batch`` of them."""
        return {
            "ms_per_shower": 1e3 * self.median / batch,
            "ms_per_shower_low": 1e3 * self.low / batch,
            "ms_per_shower_high": 1e3 * self.high / batch,
            "repeats": self.repeats,
        }


def repeat(
    call: Callable[..., Any],
    *,
    repeats: int,
    seconds: float = math.inf,
    prepare: Callable[[], tuple[Any, ...]] = tuple,
) -> Times:
    """Times a call after a first one to warm up, waiting for the arrays that it returns.

    Args:
      call: what is timed.
      repeats: how often.
      seconds: after this long, all in all, no further repetition starts; one there is always. A
        first call that takes longer than that is the one: what warms up is little of it.
      prepare: makes the arguments of each call, and is not timed.
    """
    arguments = jax.block_until_ready(prepare())
    begin = time.perf_counter()
    jax.block_until_ready(call(*arguments))
    first = time.perf_counter() - begin
    if first > seconds:
        return Times(first, first, first, first, 1)
    times: list[float] = []
    while not times or (len(times) < repeats and time.perf_counter() - begin < seconds):
        arguments = jax.block_until_ready(prepare())
        start = time.perf_counter()
        jax.block_until_ready(call(*arguments))
        times.append(time.perf_counter() - start)
    low, median, high = (float(value) for value in np.percentile(times, [25, 50, 75]))
    return Times(low, median, high, min(times), len(times))


def compiled(function: Callable[..., Any], *arguments: Any) -> tuple[Callable[..., Any], float]:
    """The compiled function, for arguments of these shapes, and the seconds that it took."""
    start = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    return program, time.perf_counter() - start
