"""How fast is calojax beside the released codes, in one run on one machine? Ratios.

    python benchmarks/rivals.py --calovq FOLDER --pointflow FOLDER --batch 1 10000

FOLDERs are checkouts of github.com/qibin2020/calo-VQ and github.com/simonschnake/CaloPointFlow; the
environment has torch too (see `released_calovq` and `released_pointflow` for what else, and for
what is timed of theirs). All networks have random weights and run on the same device, in the same
precision, up to voxels on the device.

- Calo-VQ: generation. ``like for like`` is the same network, number for number, in calojax (the
  ``-paper`` presets); ``default`` is the preset that calojax proposes for the geometry instead.
- CaloPointFlow: training and generation, on the same balanced showers, simulated here.

Every row of calojax has ``ratio``: their time over ours. One JSON line a figure.
"""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal

# Two libraries share the device: neither may take all of its memory at the start.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import numpy as np
import released_calovq
import released_pointflow
import stopwatch
import subjects
import training
import tyro
from environment import show
from stopwatch import Times
from subjects import Subject

from calojax import rng
from calojax.geometry import DETECTORS
from calojax.presets import PRESETS

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What to time.

    Attributes:
      calovq: a checkout of the released Calo-VQ.
      pointflow: a checkout of the released CaloPointFlow.
      geometry: of the showers of Calo-VQ.
      preset: of PointFlow.
      version: of the released CaloPointFlow, "I" or "II".
      batch: showers that are generated at a time (default: 1 and 10,000, on a CPU 1,000).
      trained: showers of a training step.
      precision: of matrix products, in both; tf32 on GPUs alone.
      repeats: timed repetitions of each figure.
      seconds: a figure stops repeating after this long.
      smoke: the smallest networks and batches, once, to see that the benchmark runs.
    """

    calovq: pathlib.Path | None = None
    pointflow: pathlib.Path | None = None
    geometry: tuple[Literal["ds1-photons", "ds1-pions", "ds2", "ds3"], ...] = ("ds1-photons", "ds2")
    preset: tuple[str, ...] = ("pointflow-ds2",)
    version: Literal["I", "II"] = "II"
    batch: tuple[int, ...] = ()
    trained: int = 256
    precision: Literal["float32", "tf32"] = "float32"
    repeats: int = 10
    seconds: float = 60.0
    smoke: bool = False


def compare(
    b: Benchmark,
    theirs: Callable[[], Any],
    ours: dict[str, Callable[[], Any]],
    size: int,
    their_size: int,
) -> Iterator[Row]:
    """Rows of the released code and of ours, by how we compare, with ratios of time a shower."""
    reference = stopwatch.repeat(theirs, repeats=b.repeats, seconds=b.seconds)
    yield {"code": "released", "batch": their_size} | reference.per_shower(their_size)
    for how, call in ours.items():
        times = stopwatch.repeat(call, repeats=b.repeats, seconds=b.seconds)
        ratio = reference.median / their_size / (times.median / size)
        yield {"code": "calojax", "compared": how, "ratio": ratio} | times.per_shower(size)


def sampler(subject: Subject, energies: np.ndarray) -> Callable[[], jax.Array]:
    """A call that draws the showers of incident energies [n] in MeV."""
    keys = rng.per_item(rng.root(0), np.arange(len(energies)))
    arguments = subject.variables, keys, jax.device_put(energies)
    program, _ = stopwatch.compiled(subject.model.sample, *arguments)
    return lambda: program(*arguments)


def calovq(b: Benchmark, geometry: str, device: str) -> Iterator[Row]:
    """Rows of generation with Calo-VQ."""
    model = released_calovq.build(b.calovq, geometry, device)
    presets = {"like for like": f"calovq-{geometry}-paper", "default": f"calovq-{geometry}"}
    named = {how: subjects.untrained(preset) for how, preset in presets.items()}
    for size in b.batch:
        energies = incident(geometry, size)
        ours = {how: sampler(subject, energies) for how, subject in named.items()}
        # The released code cannot draw a single shower. Two that share their time favour it.
        their_size = max(size, 2)
        theirs = released_calovq.sampler(model, incident(geometry, their_size), device)
        for row in compare(b, theirs, ours, size, their_size):
            subject = presets.get(row.get("compared"), released_calovq.CONFIGURATIONS[geometry])
            yield {
                "model": "calovq",
                "geometry": geometry,
                "subject": subject,
                "part": "generation",
                "batch": size,
            } | row


def incident(geometry: str, num: int) -> np.ndarray:
    """Incident energies [n] in MeV that both codes know: on dataset 1, powers of two."""
    low, high = DETECTORS[geometry].energy_range
    if geometry.startswith("ds1"):
        return (2.0 ** (8 + np.arange(num) % 15)).astype(np.float32)
    return np.geomspace(low, high, num).astype(np.float32)


def pointflow(b: Benchmark, preset: str, device: str) -> Iterator[Row]:
    """Rows of training and generation with CaloPointFlow."""
    geometry = PRESETS[preset].geometry
    dataset = subjects.simulated(DETECTORS[geometry], 2 * max(b.trained, *b.batch))
    model = released_pointflow.build(b.pointflow, geometry, b.version, device)
    subject = subjects.untrained(preset, dataset, b.trained)
    common = {"model": "pointflow", "geometry": geometry}

    batch = subjects.balanced(dataset, b.trained)
    train = released_pointflow.trainer(model, batch, device)
    reference = stopwatch.repeat(train, repeats=b.repeats, seconds=b.seconds)
    stages = [
        training.time_stage(subject, stage, batch, repeats=b.repeats, seconds=b.seconds)
        for stage in subject.model.stages
    ]
    # Theirs trains everything at once: every shower once through each of our stages.
    ours = Times(*(sum(column) for column in zip(*stages, strict=True)))
    ours = ours._replace(repeats=min(times.repeats for times in stages))
    for row in (
        {"code": "released", "subject": f"{geometry}-{b.version}"}
        | reference.per_shower(b.trained),
        {"code": "calojax", "subject": preset, "ratio": reference.median / ours.median}
        | ours.per_shower(b.trained),
    ):
        yield common | {"part": "training", "batch": b.trained} | row

    for size in b.batch:
        batch = subjects.balanced(dataset, size)
        call = sampler(subject, batch.energies)
        # Both draw showers of as many hits: the released code takes their number as given.
        batch = batch._replace(showers=np.asarray(call()))
        theirs = released_pointflow.sampler(model, batch, device)
        hits = float(np.mean(np.count_nonzero(batch.showers, axis=1)))
        for row in compare(b, theirs, {"default": call}, size, size):
            subject_name = preset if row["code"] == "calojax" else f"{geometry}-{b.version}"
            extra = {"subject": subject_name, "hits_per_shower": hits}
            yield common | {"part": "generation", "batch": size} | extra | row


def torch_device(precision: str) -> str:
    """Where torch runs, in the same precision as JAX; ends the script if it is elsewhere."""
    import torch

    torch.manual_seed(0)
    tf32 = precision == "tf32"
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if (device == "cuda") != (jax.default_backend() == "gpu"):
        sys.exit(f"JAX runs on {jax.default_backend()} and torch on {device}.")
    return device


def main() -> None:
    """Prints JSON lines for every model, batch and code."""
    b = tyro.cli(Benchmark, description=__doc__)
    if b.calovq is None and b.pointflow is None:
        sys.exit("Name a checkout of released code: --calovq FOLDER, --pointflow FOLDER or both.")
    if b.smoke:
        b = dataclasses.replace(b, geometry=("ds1-photons",), batch=(2,), trained=32, repeats=1)
    device = torch_device(b.precision)
    if not b.batch:
        b = dataclasses.replace(b, batch=(1, 1000 if device == "cpu" else 10_000))
    jax.config.update(
        "jax_default_matmul_precision", "tensorfloat32" if b.precision == "tf32" else "float32"
    )
    rows: list[Callable[[], Iterator[Row]]] = []
    if b.calovq is not None:
        rows += [lambda geometry=g: calovq(b, geometry, device) for g in b.geometry]
    if b.pointflow is not None:
        rows += [lambda preset=p: pointflow(b, preset, device) for p in b.preset]
    for make in rows:
        for row in make():
            show({"benchmark": "rivals"} | row | {"precision": b.precision})


if __name__ == "__main__":
    main()
