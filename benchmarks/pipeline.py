"""From incident energies to a file on the disk: showers/s, where the time goes, and the memory.

    python benchmarks/pipeline.py examples/calovq-ds2 --num 20000
    python benchmarks/pipeline.py --preset calovq-ds3 --batch 1000 --num 5000
    python benchmarks/pipeline.py examples/calovq-ds2 --num 1000000 --steps sparse

Each step has all that the one before it has: ``compute`` leaves showers on the device, ``host``
copies them, ``dense`` and ``sparse`` write them to a file of that layout. Every row is of a process
of its own, timed after a first batch that compiles. ``host_gib`` is the peak of the whole process;
``start_gib`` of it was there when the clock started. One JSON line a figure, on standard output.
"""

import collections
import dataclasses
import functools
import multiprocessing
import pathlib
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Literal

import jax
import numpy as np
import subjects
import tyro
from environment import show

from calojax import rng
from calojax.cli.compilation import keep_programs
from calojax.io import ShowerWriter
from calojax.models.base import Model, Variables
from calojax.sampling import generation

Step = Literal["compute", "host", "dense", "sparse"]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What to measure.

    Attributes:
      run: folder of a trained run.
      preset: with random weights, instead of a run.
      num: showers.
      batch: showers a device computes at a time.
      steps: how far to go.
      folder: where to write; default: the system's folder for temporary files.
      smoke: few showers of a small preset, once.
    """

    run: tyro.conf.Positional[pathlib.Path | None] = None
    preset: str | None = None
    num: int = 10_000
    batch: tuple[int, ...] = (1000,)
    steps: tuple[Step, ...] = ("compute", "host", "dense", "sparse")
    folder: pathlib.Path | None = None
    smoke: bool = False


def host_peak() -> float:
    """GiB that this process had at its peak."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return peak * (1 if sys.platform == "darwin" else 1024) / 2**30


@functools.partial(jax.jit, static_argnames="model")
def sample(model: Model, variables: Variables, index: jax.Array, energies: jax.Array) -> jax.Array:
    """Showers of those indices, as `generation.generate` makes them."""
    return model.sample(variables, rng.per_item(rng.root(0), index), energies)


def computed(subject: subjects.Subject, energies: np.ndarray, size: int) -> Iterator[int]:
    """Numbers of showers of the batches that `generation.generate` makes, left on the devices."""
    devices = jax.local_devices()
    variables = [jax.device_put(subject.variables, device) for device in devices]
    under_way = collections.deque()
    for number, first in enumerate(range(0, len(energies), size)):
        if len(under_way) == 2 * len(devices):
            yield len(jax.block_until_ready(under_way.popleft()))
        device = number % len(devices)
        rows = np.arange(first, first + size) % len(energies)
        given = jax.device_put((rows.astype(np.uint32), energies[rows]), devices[device])
        under_way.append(sample(subject.model, variables[device], *given))
    for showers in under_way:
        yield len(jax.block_until_ready(showers))


def measure(b: Benchmark, size: int, step: Step) -> None:
    """Prints the row of a step, in a process of its own."""
    subject = subjects.untrained(b.preset) if b.run is None else subjects.trained(b.run)
    energies = np.asarray(subjects.incident(subject, b.num))
    size = min(size, b.num)

    def run(energies: np.ndarray, path: pathlib.Path) -> None:
        if step == "compute":
            for _ in computed(subject, energies, size):
                pass
            return
        batches = generation.generate(subject.model, subject.variables, energies, batch_size=size)
        if step == "host":
            for _ in batches:
                pass
            return
        with ShowerWriter(path, subject.model.detector, len(energies), layout=step) as writer:
            for batch in batches:
                writer.append(*batch)

    with tempfile.TemporaryDirectory(dir=b.folder) as folder:
        path = pathlib.Path(folder) / "showers.hdf5"
        run(energies[: size * jax.local_device_count()], path)
        start_gib = host_peak()
        start = time.perf_counter()
        run(energies, path)
        seconds = time.perf_counter() - start
        written = path.stat().st_size if path.exists() else 0
    show(
        {
            "benchmark": "pipeline",
            "subject": subject.name,
            "geometry": subject.model.detector.name,
            "step": step,
            "num": b.num,
            "batch": size,
            "seconds": seconds,
            "showers_per_second": b.num / seconds,
            "ms_per_shower": 1e3 * seconds / b.num,
            "bytes_per_shower": written / b.num,
            "host_gib": host_peak(),
            "start_gib": start_gib,
        }
    )


def main() -> None:
    """Prints a JSON line for every batch and step."""
    b = tyro.cli(Benchmark, description=__doc__)
    if b.smoke:
        b = dataclasses.replace(b, run=None, preset="calovq-tiny", num=96, batch=(32,))
    if (b.run is None) == (b.preset is None):
        sys.exit("error: name either a run or a --preset.")
    # For the processes: JAX has read this one's environment.
    keep_programs()
    # A fresh interpreter: what JAX holds in this one would count too.
    fresh = multiprocessing.get_context("spawn")
    for size in b.batch:
        for step in b.steps:
            process = fresh.Process(target=measure, args=(b, size, step))
            process.start()
            process.join()
            if process.exitcode:
                sys.exit(f"error: step {step} failed with status {process.exitcode}.")


if __name__ == "__main__":
    main()
