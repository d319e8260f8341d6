"""How much memory do generation and training take? Peaks on the device and on the host.

    python benchmarks/memory.py --preset calovq-ds2 calovq-ds3 --batch 100 1000

Every figure is of a process of its own, so that its peak is of nothing else. ``host_gib`` is the
peak of the whole process, with Python, JAX and all libraries: ``start_gib`` of it was there before
the first batch. Where the device keeps statistics (``memory_stats``, on GPUs) ``device_gib`` is
their peak; elsewhere, as on CPUs, whose device memory is the host's, it is what the compiled
program says that it needs (``memory_analysis``). One JSON line a figure, on standard output.
"""

import dataclasses
import json
import multiprocessing
import resource
import sys
from collections.abc import Callable
from typing import Any

import tyro

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What to measure.

    Attributes:
      preset: with random weights.
      batch: showers at a time, in generation and in training.
      batches: how many of them, to see what stays.
      smoke: small presets, once, to see that the benchmark runs.
    """

    preset: tuple[str, ...] = ("calovq-ds2", "calovq-ds3", "pointflow-ds2")
    batch: tuple[int, ...] = (100, 1000)
    batches: int = 5
    smoke: bool = False


def host_peak() -> float:
    """GiB that this process had at its peak."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return peak * (1 if sys.platform == "darwin" else 1024) / GIB


def generation(preset: str, size: int, count: int) -> None:
    """Prints the row of generating ``count`` batches on the way to a file."""
    import jax
    import numpy as np
    import subjects

    import calojax.sampling.generation
    from calojax import rng

    subject = subjects.untrained(preset)
    start = host_peak()
    energies = np.asarray(subjects.incident(subject, size * count))
    batches = calojax.sampling.generation.generate(
        subject.model, subject.variables, energies, batch_size=size
    )
    for _ in batches:
        pass
    keys = rng.per_item(rng.root(0), np.arange(size))
    arguments = subject.variables, keys, energies[:size]
    _show("generation", subject, size, start, jax.jit(subject.model.sample), arguments)


def training(preset: str, size: int, count: int) -> None:
    """Prints a row for every stage, of ``count`` steps."""
    import subjects
    from training import Trainer

    from calojax.geometry import DETECTORS
    from calojax.presets import PRESETS

    dataset = subjects.simulated(DETECTORS[PRESETS[preset].geometry], max(size, 64))
    subject = subjects.untrained(preset, dataset, size)
    for stage in subject.model.stages:
        start = host_peak()
        trainer = Trainer(subject, stage)
        batch = trainer.put(subjects.balanced(dataset, size))
        for _ in range(count):
            trainer.train(batch)
        _show(f"training {stage.name}", subject, size, start, *trainer.program(batch))


def _show(
    part: str,
    subject: Any,
    size: int,
    start: float,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """Prints a row; ``function`` and ``arguments`` are the program that was run."""
    import jax
    from environment import show

    # Before the program is compiled once more to ask it.
    host = host_peak()
    statistics = jax.devices()[0].memory_stats()
    if statistics:
        device, source = statistics["peak_bytes_in_use"], "memory_stats"
    else:
        needs = function.lower(*arguments).compile().memory_analysis()
        device = (
            needs.argument_size_in_bytes
            + needs.output_size_in_bytes
            + needs.temp_size_in_bytes
            - needs.alias_size_in_bytes
        )
        source = "memory_analysis"
    row = {
        "benchmark": "memory",
        "subject": subject.name,
        "geometry": subject.model.detector.name,
        "part": part,
        "batch": size,
        "device_gib": device / GIB,
        "device_source": source,
        "device_kib_per_shower": device / size / 1024,
        "host_gib": host,
        "start_gib": start,
    }
    show(row)


def main() -> None:
    """Prints JSON lines for every preset and batch."""
    b = tyro.cli(Benchmark, description=__doc__)
    if b.smoke:
        tiny = ("calovq-tiny",)
        b = dataclasses.replace(b, preset=tiny, batch=(32,), batches=2)
    # A fresh interpreter: what JAX holds in this one would count too.
    fresh = multiprocessing.get_context("spawn")
    for preset in b.preset:
        for size in b.batch:
            for part in (generation, training):
                process = fresh.Process(target=part, args=(preset, size, b.batches))
                process.start()
                process.join()
                if process.exitcode:
                    row = {"benchmark": "memory", "subject": preset, "batch": size}
                    print(json.dumps(row | {"part": part.__name__, "failed": process.exitcode}))


if __name__ == "__main__":
    main()
