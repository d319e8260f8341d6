"""How long until the first shower? Seconds of a process, the first one and those after it.

    python benchmarks/startup.py examples/calovq-ds2

Each figure is a process of its own: Python alone, the imports of ``calojax sample``, and ``calojax
sample --num 1``, first with an empty cache of compiled programs, then with what the first one left
there, then without a cache (CALOJAX_COMPILATION_CACHE=off).
"""

import dataclasses
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import rows
import tyro
from rows import Row


@dataclasses.dataclass(frozen=True)
class Benchmark(rows.Options):
    """Options; ``repeats`` is the number of processes of each kind.

    Attributes:
      model: folder of a trained run.
    """

    model: tyro.conf.Positional[pathlib.Path] = pathlib.Path("examples/calovq-ds2")
    repeats: int = 5


def seconds(arguments: list[str], environment: dict[str, str]) -> float:
    """Wall time of a Python process."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    took = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return took


def main(b: Benchmark) -> Iterator[Row]:
    """A row for each kind of process."""
    b = b.small()
    # Caches that the user has set would hide what is measured.
    clean = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        out = str(pathlib.Path(folder) / "showers.hdf5")
        sample = ["-m", "calojax", "sample", str(b.model), "--num", "1", "--out", out, "--force"]
        for number in range(b.repeats):
            cached = clean | {"CALOJAX_CACHE": str(pathlib.Path(folder) / str(number))}
            for part, arguments, environment in (
                ("python", ["-c", ""], clean),
                ("imports", ["-c", "import calojax.cli.sample"], clean),
                ("first start", sample, cached),
                ("second start", sample, cached),
                ("without cache", sample, clean | {"CALOJAX_COMPILATION_CACHE": "off"}),
            ):
                found.setdefault(part, []).append(seconds(arguments, environment))
    for part, times in found.items():
        row = {"benchmark": "startup", "subject": b.model.resolve().name, "part": part}
        yield row | {"seconds": statistics.median(times), "repeats": len(times)}


if __name__ == "__main__":
    rows.run(Benchmark, main, __doc__)
