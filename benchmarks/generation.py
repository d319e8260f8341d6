"""How long does a trained model take for a shower? ms/shower, whole and in parts.

    python benchmarks/generation.py runs/NAME --batch 1 100 10000

Compilation is timed apart; every figure is the median of repeats after a warm-up, each waited for
on the device, without the copy to the host. One JSON line a figure, on standard output.
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import tyro
from environment import environment

from calojax import checkpoint, models, rng
from calojax.incident import incident_energies


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What to time.

    Attributes:
      run: folder of a trained run.
      batch: batch sizes.
      repeats: timed repetitions of each figure.
      seconds: a figure stops repeating after this long (at least three repetitions).
    """

    run: tyro.conf.Positional[pathlib.Path]
    batch: tuple[int, ...] = (1, 100, 10_000)
    repeats: int = 10
    seconds: float = 60.0


def measure(
    function: Callable[..., Any], arguments: tuple[Any, ...], benchmark: Benchmark, *, batch: int
) -> dict[str, float]:
    """Median and quartiles of ms per shower of a batch, and seconds to compile; four digits."""
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    compile_seconds = time.perf_counter() - start
    jax.block_until_ready(compiled(*arguments))
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < benchmark.repeats and (
        len(times) < 3 or time.perf_counter() - begin < benchmark.seconds
    ):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - start)
    low, median, high = np.percentile(times, [25, 50, 75])
    figures = {
        "ms_per_shower": 1e3 * median / batch,
        "ms_per_shower_low": 1e3 * low / batch,
        "ms_per_shower_high": 1e3 * high / batch,
        "compile_seconds": compile_seconds,
    }
    rounded = {name: float(f"{value:.4g}") for name, value in figures.items()}
    return rounded | {"repeats": len(times)}


def main() -> None:
    """Prints a JSON line for every batch size and part."""
    benchmark = tyro.cli(Benchmark, description=__doc__)
    model, variables, progress = checkpoint.load(benchmark.run)
    variables = jax.device_put(variables)
    for size in benchmark.batch:
        wanted = incident_energies(
            None, model.detector, num=size, seed=0, trained=progress.energy_range
        )
        energies = jax.device_put(wanted)
        keys = rng.per_item(rng.root(0), np.arange(size))
        parts = {"whole": (model.sample, (variables, keys, energies))}
        parts |= model.parts(variables, keys, energies)
        for part, (function, arguments) in parts.items():
            row = {
                "benchmark": "generation",
                "model": models.name_of(model),
                "geometry": model.detector.name,
                "part": part,
                "batch": size,
            }
            figures = measure(function, arguments, benchmark, batch=size)
            print(json.dumps(row | figures | environment()), flush=True)


if __name__ == "__main__":
    main()
