"""Everything that is worth measuring on a device, the most useful first, in one command.

    python benchmarks/run.py --out benchmarks/results --minutes 8

Each benchmark is a process of its own that writes its rows as it goes, to files named after the
benchmark and the kind of device. First all of them run side by side, which uses all cores to
compile programs that JAX keeps; those that measure no times are done then. The others run again one
by one. Finished benchmarks are not repeated: after an interruption the same command goes on. A
benchmark that does not fit into the rest of the time is stopped, and its rows so far stay.
"""

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
PRESETS = ("calovq-ds1-photons", "calovq-ds2", "calovq-ds2-flow", "calovq-ds3")
POINTFLOW = ("pointflow-ds2", "pointflow-ds3")
# Share of the time in which benchmarks run side by side.
TOGETHER = 0.4


class Step(NamedTuple):
    """A benchmark.

    Attributes:
      script: name of the script.
      models: models that it measures one after the other.
      options: its other arguments.
      timed: whether it measures times, and so needs the device for itself.
    """

    script: str
    models: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    timed: bool = True

    @property
    def name(self) -> str:
        """The step in the list of finished ones."""
        return " ".join((self.script, *self.models, *self.options))

    def split(self) -> "list[Step]":
        """A step for each model."""
        return [self._replace(models=(model,)) for model in self.models] or [self]


@dataclasses.dataclass(frozen=True)
class Measurements:
    """Options.

    Attributes:
      out: folder of the rows.
      minutes: time for everything.
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
        short = ("--repeats", "10", "--seconds", "4")
        batches = ("--batch", "1", "100", "10000", *short)
        found = [
            Step("limits", options=short),
            *Step("agreement", EXAMPLES, timed=False).split(),
            Step("generation", EXAMPLES, batches),
            Step("generation", PRESETS, (*batches, "--no-parts")),
            Step("training", ("calovq-ds2", "calovq-ds2-flow"), short),
            Step("generation", POINTFLOW, (*batches, "--no-parts")),
            Step("pipeline", EXAMPLES[:1], ("--num", "200000", "--batch", "10000")),
        ]
        rivals = ("--repeats", "5", "--seconds", "6", "--batch", "1", "100")
        for geometry in ("ds1-photons", "ds2") if self.calovq else ():
            chosen = ("--calovq", str(self.calovq), "--geometry", geometry)
            found.append(Step("rivals", options=(*chosen, *rivals, "10000")))
        if self.pointflow:
            chosen = ("--pointflow", str(self.pointflow), "--trained", "256")
            found.append(Step("rivals", options=(*chosen, *rivals, "1000")))
        return [*found, Step("training", ("pointflow-ds2",), short)]

    def start(self, step: Step, *more: str) -> subprocess.Popen[bytes]:
        """The process of a step."""
        script, small = str(HERE / f"{step.script}.py"), ("--smoke",) if self.smoke else ()
        command = [sys.executable, script, *step.models, *step.options, *small, *more]
        return subprocess.Popen(command)


def main(m: Measurements) -> None:
    """Runs the benchmarks that are not finished."""
    begin = time.monotonic()
    # Processes side by side share the memory of the device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(m.out.absolute() / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    m.out.mkdir(parents=True, exist_ok=True)
    list_of_finished = m.out / "finished.txt"
    asked = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    kind = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()

    def left(share: float = 1.0) -> float:
        return share * 60.0 * m.minutes - (time.monotonic() - begin)

    def rows(step: Step) -> tuple[str, str]:
        return "--out", str(m.out / f"{step.script}_{kind}.jsonl")

    def end(step: Step, process: subprocess.Popen[bytes], seconds: float) -> None:
        try:
            good = process.wait(timeout=max(seconds, 0.1)) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            good = False
        report(f"{'done' if good else 'failed'}: {step.name}; {left():.0f} s left")
        if good:
            with list_of_finished.open("a") as file:
                file.write(f"{step.name}\n")

    done = list_of_finished.read_text().splitlines() if list_of_finished.exists() else []
    waiting = [step for step in m.steps() if step.name not in done]
    quick = ("--repeats", "1", "--seconds", "0", "--out", os.devnull)
    timed = [one for step in waiting if step.timed for one in step.split()]
    compiling = [] if m.smoke else [m.start(step, *quick) for step in timed]
    for step, process in {s: m.start(s, *rows(s)) for s in waiting if not s.timed}.items():
        end(step, process, left(TOGETHER))
    for process in compiling:
        try:
            process.wait(timeout=max(left(TOGETHER), 0.1))
        except subprocess.TimeoutExpired:
            process.kill()
    report(f"compiled; {left():.0f} s left")
    for step in waiting:
        if step.timed and left() > 5.0:
            end(step, m.start(step, *rows(step)), left())


def report(sentence: str) -> None:
    """Prints what is done."""
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(tyro.cli(Measurements, description=__doc__))
