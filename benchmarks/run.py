"""Everything that is worth checking and measuring on a device, the most useful first.

    python benchmarks/run.py --out benchmarks/results --minutes 8

Before that, the benchmarks run side by side without measuring, to fill the cache of compiled
programs, because compiling takes most of the time. Then they run one by one. Each writes its rows
as it goes, to a file named after the benchmark and the kind of device. Finished benchmarks are not
repeated: after an interruption the same command goes on. At the end of the time the rest is
stopped, and its rows so far stay.
"""

import concurrent.futures
import dataclasses
import os
import pathlib
import subprocess
import sys
import time
from typing import NamedTuple

import tyro

HERE = pathlib.Path(__file__).parent
EXAMPLES = ("examples/calovq-ds2", "examples/pointflow-ds2")
PRESETS = ("calovq-ds1-photons", "calovq-ds2", "calovq-ds2-flow", "pointflow-ds2")
LARGE = ("calovq-ds3", "pointflow-ds3")
# Scripts whose programs are worth compiling beforehand.
COMPILED = ("generation", "training", "rivals")


class Step(NamedTuple):
    """A benchmark: the name of its script, and arguments."""

    script: str
    arguments: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The step in the list of finished ones."""
        return " ".join((self.script, *self.arguments))


@dataclasses.dataclass(frozen=True)
class Measurements:
    """Options.

    Attributes:
      out: folder of the rows.
      minutes: time for everything; at most half of it to compile, on all cores.
      calovq: checkout of the released Calo-VQ, to compare with.
      pointflow: checkout of the released CaloPointFlow, to compare with.
      smoke: run everything once and small.
    """

    out: pathlib.Path = pathlib.Path("benchmarks/results")
    minutes: float = 8.0
    calovq: pathlib.Path | None = None
    pointflow: pathlib.Path | None = None
    smoke: bool = False

    def steps(self) -> list[Step]:
        """All benchmarks, the most useful first."""
        short = ("--repeats", "10", "--seconds", "3")
        batches = ("--batch", "1", "100", "10000", *short)
        found = [
            *(Step("agreement", (name,)) for name in EXAMPLES),
            *(Step("generation", (name, *batches)) for name in EXAMPLES),
            Step("pipeline", (EXAMPLES[0], "--num", "200000", "--batch", "10000")),
            *(Step("generation", (name, *batches, "--no-parts")) for name in PRESETS),
            Step("training", ("calovq-ds2", *short)),
            Step("training", ("calovq-ds2-flow", *short)),
        ]
        for geometry in ("ds1-photons", "ds2") if self.calovq else ():
            chosen = ("--calovq", str(self.calovq), "--geometry", geometry)
            found.append(Step("rivals", (*chosen, *batches)))
        if self.pointflow:
            chosen = ("--pointflow", str(self.pointflow), "--trained", "256", *short)
            found.append(Step("rivals", (*chosen, "--batch", "1", "100", "1000")))
        return [
            *found,
            *(Step("generation", (name, *batches, "--no-parts")) for name in LARGE),
            Step("training", ("pointflow-ds2", *short)),
            Step("limits", short),
        ]


def main(m: Measurements) -> None:
    """Runs the benchmarks that are not finished."""
    begin = time.monotonic()
    m.out.mkdir(parents=True, exist_ok=True)
    listed = m.out / "finished.partial"
    listed.touch()
    # Processes side by side share the memory of the device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(m.out.absolute() / "programs.partial"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    asked = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    kind = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()

    def left(share: float = 1.0) -> float:
        return 60.0 * share * m.minutes - (time.monotonic() - begin)

    def run(step: Step, share: float, *options: str) -> bool:
        script, small = str(HERE / f"{step.script}.py"), ("--smoke",) if m.smoke else ()
        command = [sys.executable, script, *step.arguments, *small, *options]
        try:
            return left(share) > 0 and not subprocess.run(command, timeout=left(share)).returncode
        except subprocess.TimeoutExpired:
            return False

    done = listed.read_text().splitlines()
    waiting = [step for step in m.steps() if step.name not in done]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for step in waiting:
            if step.script in COMPILED and not m.smoke:
                pool.submit(run, step, 0.5, "--repeats", "0")
    for step in waiting:
        good = run(step, 1.0, "--out", str(m.out / f"{step.script}_{kind}.jsonl"))
        print(f"{left():.0f} s left, {'done' if good else 'failed'}: {step.name}", file=sys.stderr)
        if good:
            with listed.open("a") as file:
                file.write(f"{step.name}\n")


if __name__ == "__main__":
    main(tyro.cli(Measurements, description=__doc__))
