"""How long until the first shower? Seconds of a start, the first one and those after it.

    python benchmarks/startup.py examples/calovq-ds2

Every figure is a process of its own: Python alone, the imports of ``calojax sample``, and
``calojax sample RUN --num 1`` to the end, first with an empty cache of compiled programs and then
with what the first left in it. ``without cache`` is what every start would take with
CALOJAX_COMPILATION_CACHE=off. One JSON line a figure, on standard output.
"""

import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import tyro
from environment import show


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What to time.

    Attributes:
      run: folder of a trained run.
      repeats: starts of each kind; the first one with an empty cache can be only one a cache.
      smoke: one start of each kind, to see that the benchmark runs.
    """

    run: tyro.conf.Positional[pathlib.Path] = pathlib.Path("examples/calovq-ds2")
    repeats: int = 5
    smoke: bool = False


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


def main() -> None:
    """Prints a JSON line for every kind of start."""
    b = tyro.cli(Benchmark, description=__doc__)
    b = dataclasses.replace(b, repeats=1) if b.smoke else b
    # What the user of this script has set for compiled programs is not what is timed.
    clean = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        out = str(pathlib.Path(folder) / "showers.hdf5")
        sample = ["-m", "calojax", "sample", str(b.run), "--num", "1", "--out", out, "--force"]
        off = clean | {"CALOJAX_COMPILATION_CACHE": "off"}
        for number in range(b.repeats):
            kept = clean | {"CALOJAX_CACHE": str(pathlib.Path(folder) / str(number))}
            for part, arguments, environment in (
                ("python", ["-c", ""], clean),
                ("imports", ["-c", "import calojax.cli.sample"], clean),
                ("first start", sample, kept),
                ("second start", sample, kept),
                ("without cache", sample, off),
            ):
                found.setdefault(part, []).append(seconds(arguments, environment))
    for part, times in found.items():
        row = {"benchmark": "startup", "subject": b.run.resolve().name, "part": part}
        row |= {"seconds": float(np.median(times)), "repeats": len(times)}
        if "start" in part:
            row["import_share"] = float(np.median(found["imports"])) / row["seconds"]
        show(row)


if __name__ == "__main__":
    main()
