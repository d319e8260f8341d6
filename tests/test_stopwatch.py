"""The benchmarks' stopwatch: what counts as a repetition."""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "benchmarks"))
import stopwatch


def counting(pause: float = 0.0):
    calls = []

    def call():
        calls.append(time.perf_counter())
        time.sleep(pause)

    return call, calls


def test_the_first_call_warms_up_and_does_not_count():
    call, calls = counting()
    assert stopwatch.repeat(call, repeats=4).repeats == 4
    assert len(calls) == 5


def test_there_is_one_repetition_even_without_time_for_it():
    call, calls = counting(0.02)
    assert stopwatch.repeat(call, repeats=4, seconds=0.03).repeats == 1
    assert len(calls) == 2


def test_a_first_call_beyond_the_time_is_the_only_one():
    call, calls = counting(0.02)
    times = stopwatch.repeat(call, repeats=4, seconds=0.01)
    assert (times.repeats, len(calls)) == (1, 1)
    assert times.low == times.median == times.high >= 0.02
