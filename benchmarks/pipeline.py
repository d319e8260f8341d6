"""From incident energies to a file: showers/s, size of the file, and memory of the host.

    python benchmarks/pipeline.py examples/calovq-ds2 --num 20000
    python benchmarks/pipeline.py examples/calovq-ds2 --num 1000000 --steps sparse

``host`` brings showers to the host; ``dense`` and ``sparse`` also write them to a file of that
layout, in the folder that TMPDIR names. Each step is timed after a first block that compiles.
``host_gib`` is the peak memory of the process so far, ``start_gib`` its value after that block.
"""

import dataclasses
import pathlib
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Literal

import jax
import numpy as np
import rows
import subjects
import tyro
from rows import Row
from subjects import Subject

from calojax.io import ShowerWriter
from calojax.sampling import generation

Step = Literal["host", "dense", "sparse"]


@dataclasses.dataclass(frozen=True)
class Benchmark(rows.Options):
    """Options; each figure is measured once.

    Attributes:
      model: preset, which has random weights, or folder of a trained run.
      num: number of showers.
      batch: showers that a device computes at a time.
      steps: steps to measure.
      packed: copy hits from the devices, or dense showers; by default as `calojax sample` does.
    """

    model: tyro.conf.Positional[str] = "examples/calovq-ds2"
    num: int = 10_000
    batch: tuple[int, ...] = (1000,)
    steps: tuple[Step, ...] = ("host", "dense", "sparse")
    packed: bool | None = None


def host_peak() -> float:
    """Peak memory of this process in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return peak * (1 if sys.platform == "darwin" else 1024) / 2**30


def generate(
    subject: Subject,
    energies: np.ndarray,
    size: int,
    step: Step,
    path: pathlib.Path,
    packed: bool | None,
) -> None:
    """Generates a shower for each energy and takes it as far as ``step``."""
    arguments = subject.model, subject.variables, energies
    blocks = generation.generate(*arguments, batch_size=size, packed=packed, hits=step != "host")
    if step == "host":
        for _ in blocks:
            pass
        return
    with ShowerWriter(path, subject.model.detector, len(energies), layout=step) as writer:
        for block in blocks:
            writer.append(*block)


def main(b: Benchmark) -> Iterator[Row]:
    """A row for each batch size and step."""
    b = b.small(model="calovq-tiny", num=96, batch=(32,))
    subject = subjects.find(b.model)
    energies = np.asarray(subject.incident_energies(b.num))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "showers.hdf5"
        for size in b.batch:
            for step in b.steps:
                first = energies[: size * jax.local_device_count()]
                generate(subject, first, size, step, path, b.packed)
                start_gib = host_peak()
                start = time.perf_counter()
                generate(subject, energies, size, step, path, b.packed)
                seconds = time.perf_counter() - start
                written = path.stat().st_size if step != "host" else 0
                yield {
                    "benchmark": "pipeline",
                    **subject.columns,
                    "step": step,
                    "num": b.num,
                    "batch": size,
                    "packed": b.packed,
                    "seconds": seconds,
                    "showers_per_second": b.num / seconds,
                    "bytes_per_shower": written / b.num,
                    "host_gib": host_peak(),
                    "start_gib": start_gib,
                }


if __name__ == "__main__":
    rows.run(Benchmark, main, __doc__)
