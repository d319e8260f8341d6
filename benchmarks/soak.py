"""Does memory stay flat over a long sampling? Showers go to files until the time is over.

    python benchmarks/soak.py examples/calovq-ds2 --minutes 20

Showers come from one endless sequence and are written to part after part, each removed as soon as
it is complete. One JSON line an interval, on standard output: the resident memory of the process,
and showers/s since the line before. A last line compares the median of the memory after the warm-up
(the first fifth of the time) with that of the last fifth; if it has grown by more than the
tolerance, the script ends with status 1.
"""

import contextlib
import dataclasses
import itertools
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator

import subjects
import tyro
from environment import show

from calojax.cli.compilation import keep_programs
from calojax.io import ShowerWriter
from calojax.sampling import generation
from calojax.sampling.incident_energies import energy_source

# More than any machine makes in the time, and as many as have a number of their own.
_ENDLESS = 2**32 - 1
_STATUS = pathlib.Path("/proc/self/status")


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What to soak.

    Attributes:
      run: folder of a trained run.
      minutes: how long.
      interval: seconds between lines.
      batch: showers a device computes at a time.
      part_size: showers of a file.
      tolerance: by which share of itself the memory may grow.
      folder: where to write; default: the system's folder for temporary files.
      smoke: a few seconds of a small preset with random weights.
    """

    run: tyro.conf.Positional[pathlib.Path | None] = None
    minutes: float = 20.0
    interval: float = 30.0
    batch: int = 1000
    part_size: int = 20_000
    tolerance: float = 0.03
    folder: pathlib.Path | None = None
    smoke: bool = False


def resident() -> float:
    """MiB of memory that this process has now (Linux)."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def written(b: Benchmark, subject: subjects.Subject, folder: pathlib.Path) -> Iterator[int]:
    """Writes parts without end; after each batch, how many showers it was."""
    model = subject.model
    energies = energy_source(
        None, model.detector, num=_ENDLESS, seed=0, trained=subject.energy_range
    )
    batches = generation.generate(model, subject.variables, energies, batch_size=b.batch)
    for number in itertools.count():
        path = folder / f"part-{number:06d}.hdf5"
        with ShowerWriter(path, model.detector, b.part_size) as writer:
            while (missing := writer.count - writer.written) > 0:
                batch = [array[:missing] for array in next(batches)]
                writer.append(*batch)
                yield len(batch[0])
        path.unlink()


def soak(b: Benchmark, subject: subjects.Subject, folder: pathlib.Path) -> list[float]:
    """Prints a line an interval; the memory in MiB at each of them."""
    memory: list[float] = []
    with contextlib.closing(written(b, subject, folder)) as counts:
        next(counts)  # Which compiles.
        start = told = time.monotonic()
        made = last = 0
        while not memory or told - start < 60 * b.minutes:
            made += next(counts)
            now = time.monotonic()
            if now - told < b.interval:
                continue
            memory.append(resident())
            show(
                {
                    "benchmark": "soak",
                    "subject": subject.name,
                    "geometry": subject.model.detector.name,
                    "batch": b.batch,
                    "minute": (now - start) / 60,
                    "showers": made,
                    "showers_per_second": (made - last) / (now - told),
                    "resident_mib": memory[-1],
                }
            )
            told, last = now, made
    return memory


def growth(memory: list[float]) -> float:
    """By which share of itself memory grew between the second and the last fifth of the time."""
    fifth = max(1, len(memory) // 5)
    early, late = memory[fifth : 2 * fifth] or memory[:1], memory[-fifth:]
    return statistics.median(late) / statistics.median(early) - 1


def main() -> None:
    """Soaks, and ends with status 1 if memory grew."""
    b = tyro.cli(Benchmark, description=__doc__)
    if b.smoke:
        b = dataclasses.replace(
            b, run=None, minutes=0.1, interval=0.5, batch=64, part_size=200, tolerance=0.5
        )
    elif b.run is None:
        sys.exit("error: name a run, or say --smoke.")
    keep_programs()
    subject = subjects.untrained("calovq-tiny") if b.run is None else subjects.trained(b.run)
    with tempfile.TemporaryDirectory(dir=b.folder) as folder:
        memory = soak(b, subject, pathlib.Path(folder))
    grown = growth(memory)
    show({"benchmark": "soak", "subject": subject.name, "growth": grown, "limit": b.tolerance})
    if grown > b.tolerance:
        sys.exit(f"error: resident memory grew by {grown:.1%}, more than {b.tolerance:.1%}.")


if __name__ == "__main__":
    main()
