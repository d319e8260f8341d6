"""Times of calls: warmed up, repeated, and waited for on the device."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np


class Times(NamedTuple):
    """Seconds that a call takes."""

    low: float  # first quartile
    median: float  # second quartile
    high: float  # third quartile
    fastest: float  # shortest time
    repeats: int  # number of repetitions

    def per_shower(self, batch: int) -> dict[str, float | int]:
        """Columns of a row: ms per shower of a call that makes ``batch`` showers."""
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
    """Times a call after a first call to warm up, and waits for the arrays that it returns.

    Args:
      call: function to time.
      repeats: number of repetitions; 0 calls nothing, and the times are NaN.
      seconds: total time after which no repetition starts; there is always one. If the first call
        alone takes longer, its time is the result.
      prepare: makes the arguments of each call; its time does not count.
    """
    if repeats == 0:
        return Times(*4 * (math.nan,), 0)
    begin = time.perf_counter()
    first = _timed(call, prepare)
    times = [first] if first > seconds else [_timed(call, prepare)]
    while len(times) < repeats and time.perf_counter() - begin < seconds:
        times.append(_timed(call, prepare))
    return _summary(times)


def in_turns(
    calls: Sequence[Callable[[], Any]], *, repeats: int, seconds: float = math.inf
) -> list[Times]:
    """Times of several calls that take turns, so that what slows a machine down slows all of them.

    Each is called once to warm up. After ``seconds`` no turn starts; there is always one.
    """
    for call in calls:
        jax.block_until_ready(call())
    begin = time.perf_counter()
    turns = [[_timed(call) for call in calls]]
    while len(turns) < repeats and time.perf_counter() - begin < seconds:
        turns.append([_timed(call) for call in calls])
    return [_summary(times) for times in zip(*turns, strict=True)]


def _timed(call: Callable[..., Any], prepare: Callable[[], tuple[Any, ...]] = tuple) -> float:
    arguments = jax.block_until_ready(prepare())
    start = time.perf_counter()
    jax.block_until_ready(call(*arguments))
    return time.perf_counter() - start


def _summary(times: Sequence[float]) -> Times:
    low, median, high = (float(value) for value in np.percentile(times, [25, 50, 75]))
    return Times(low, median, high, min(times), len(times))


def compiled(
    function: Callable[..., Any], *arguments: Any
) -> tuple[Callable[..., Any], dict[str, float]]:
    """The compiled function for arguments of these shapes, and columns of a row.

    ``compile_seconds`` is the time to trace and compile; ``device_mib`` is the memory of arguments,
    results and temporary arrays.
    """
    jitted = function if hasattr(function, "lower") else jax.jit(function)
    start = time.perf_counter()
    program = jitted.lower(*arguments).compile()
    columns = {"compile_seconds": time.perf_counter() - start}
    if (memory := program.memory_analysis()) is not None:
        size = memory.argument_size_in_bytes + memory.output_size_in_bytes
        size += memory.temp_size_in_bytes - memory.alias_size_in_bytes
        columns["device_mib"] = size / 2**20
    return program, columns
