"""How fast is calojax beside the released codes, in one run on one machine?

    python benchmarks/rivals.py --calovq FOLDER --pointflow FOLDER --batch 1 10000

FOLDERs are checkouts of github.com/qibin2020/calo-VQ and github.com/simonschnake/CaloPointFlow; see
`released_calovq` and `released_pointflow` for what else they need and what of them is timed. All
networks have random weights and run on one device in one precision, up to voxels on the device.

- Calo-VQ: generation. ``like for like`` is the same network in calojax (the ``-paper`` presets);
  ``default`` is the preset that calojax proposes for the geometry instead.
- CaloPointFlow: training and generation of the same balanced, simulated showers.

``ratio`` is the released code's time over that of calojax.
"""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

# Two libraries share the device, so neither may take all of its memory at the start.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
import released_calovq
import released_pointflow
import rows
import stopwatch
import subjects
import training
from rows import Row
from stopwatch import Times
from subjects import Subject

from calojax import distributed, rng
from calojax.geometry import DETECTORS
from calojax.presets import PRESETS
from calojax.sampling.incident_energies import energy_range


@dataclasses.dataclass(frozen=True)
class Benchmark(rows.Options):
    """Options.

    Attributes:
      calovq: checkout of the released Calo-VQ.
      pointflow: checkout of the released CaloPointFlow.
      geometry: geometries of Calo-VQ.
      preset: presets of CaloPointFlow.
      version: version of the released CaloPointFlow.
      batch: showers to generate at a time; by default 1 and 10,000, or 1,000 on a CPU.
      trained: showers of a training step.
      precision: precision of matrix products in both codes; tf32 only on GPUs.
    """

    calovq: pathlib.Path | None = None
    pointflow: pathlib.Path | None = None
    geometry: tuple[Literal["ds1-photons", "ds1-pions", "ds2", "ds3"], ...] = ("ds1-photons", "ds2")
    preset: tuple[str, ...] = ("pointflow-ds2",)
    version: Literal["I", "II"] = "II"
    batch: tuple[int, ...] = ()
    trained: int = 256
    precision: Literal["float32", "tf32"] = "float32"


def compared(released: Times, ours: Mapping[str, Times], size: int, half: int = 1) -> Iterator[Row]:
    """Rows of both codes; the released one made ``half`` times as many showers."""
    yield {"code": "released", "batch": size} | released.per_shower(half * size)
    for how, times in ours.items():
        ratio = released.median / half / times.median
        row = {"code": "calojax", "batch": size, "compared": how, "ratio": ratio}
        yield row | times.per_shower(size)


def sampler(subject: Subject, energies: jax.Array) -> Callable[[], jax.Array]:
    """A call that draws the showers of incident energies [n] in MeV."""
    keys = rng.per_item(rng.root(0), jnp.arange(len(energies)))
    program, _ = stopwatch.compiled(subject.model.sample, subject.variables, keys, energies)
    return lambda: program(subject.variables, keys, energies)


def calovq(b: Benchmark, folder: pathlib.Path, geometry: str, device: str) -> Iterator[Row]:
    """Rows of generation with Calo-VQ."""
    limits = {"repeats": b.repeats, "seconds": b.seconds}
    released = released_calovq.build(folder, geometry, device)
    presets = {"like for like": f"calovq-{geometry}-paper", "default": f"calovq-{geometry}"}
    named = {how: subjects.untrained(preset) for how, preset in presets.items()}
    presets["released"] = released_calovq.CONFIGURATIONS[geometry]
    for size in b.batch:
        # The released code cannot draw a single shower; half the time of two favours it.
        half = 2 if size == 1 else 1
        call = released_calovq.sampler(released, incident_energies(geometry, half * size), device)
        theirs = stopwatch.repeat(call, **limits)
        energies = jax.device_put(incident_energies(geometry, size))
        ours = {
            how: stopwatch.repeat(sampler(subject, energies), **limits)
            for how, subject in named.items()
        }
        for row in compared(theirs, ours, size, half):
            subject = presets[row.get("compared", "released")]
            common = {"model": "calovq", "geometry": geometry, "part": "generation"}
            yield common | {"subject": subject} | row


def incident_energies(geometry: str, num: int) -> np.ndarray:
    """Incident energies [n] in MeV that both codes know: powers of two on dataset 1."""
    if geometry.startswith("ds1"):
        return (2.0 ** (8 + np.arange(num) % 15)).astype(np.float32)
    return np.geomspace(*energy_range(DETECTORS[geometry]), num).astype(np.float32)


def pointflow(b: Benchmark, folder: pathlib.Path, preset: str, device: str) -> Iterator[Row]:
    """Rows of training and generation with CaloPointFlow."""
    limits = {"repeats": b.repeats, "seconds": b.seconds}
    geometry = PRESETS[preset].geometry
    dataset = subjects.simulated(DETECTORS[geometry], 2 * max(b.trained, *b.batch))
    released = released_pointflow.build(folder, geometry, b.version, device)
    subject = subjects.untrained(preset, dataset, b.trained)

    def named(part: str, row: Row) -> Row:
        name = preset if row["code"] == "calojax" else f"{geometry}-{b.version}"
        return {"model": "pointflow", "geometry": geometry, "part": part, "subject": name} | row

    batch = next(subjects.stream(dataset, b.trained))
    theirs = stopwatch.repeat(released_pointflow.trainer(released, batch, device), **limits)
    one = distributed.make_mesh(jax.devices()[:1])
    stages = [
        training.time_step(training.Trainer(subject, stage, one, batch), batch, b)
        for stage in subject.model.stages
    ]
    # The released step trains everything, so each shower goes through all of our stages.
    ours = Times(*(sum(column) for column in zip(*stages, strict=True)))
    ours = ours._replace(repeats=min(times.repeats for times in stages))
    for row in compared(theirs, {"default": ours}, b.trained):
        yield named("training", row)

    for size in b.batch:
        energies = next(subjects.stream(dataset, size))["energies"]
        call = sampler(subject, energies)
        # The released code is told how many hits to draw: as many as ours.
        batch = {"energies": energies, "showers": call()}
        hits = float(jnp.mean((batch["showers"] > 0).sum(1)))
        theirs = stopwatch.repeat(released_pointflow.sampler(released, batch, device), **limits)
        ours = stopwatch.repeat(call, **limits)
        for row in compared(theirs, {"default": ours}, size):
            yield named("generation", row) | {"hits_per_shower": hits}


def torch_device(precision: str) -> str:
    """Device of torch, with the precision of matrix products set; ends if JAX has another one."""
    import torch  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if (device == "cuda") != (jax.default_backend() == "gpu"):
        sys.exit(f"JAX runs on {jax.default_backend()} but torch on {device}.")
    return device


def main(b: Benchmark) -> Iterator[Row]:
    """Rows of each model, batch and code."""
    if b.calovq is None and b.pointflow is None:
        sys.exit("Name a checkout of released code: --calovq FOLDER, --pointflow FOLDER or both.")
    b = b.small(geometry=("ds1-photons",), batch=(2,), trained=32)
    device = torch_device(b.precision)
    if not b.batch:
        b = dataclasses.replace(b, batch=(1, 1000 if device == "cpu" else 10_000))
    precision: Any = "tensorfloat32" if b.precision == "tf32" else "float32"
    common = {"benchmark": "rivals", "precision": b.precision}
    with jax.default_matmul_precision(precision):
        if b.calovq is not None:
            for geometry in b.geometry:
                yield from (common | row for row in calovq(b, b.calovq, geometry, device))
        if b.pointflow is not None:
            for preset in b.preset:
                yield from (common | row for row in pointflow(b, b.pointflow, preset, device))


if __name__ == "__main__":
    rows.run(Benchmark, main, __doc__)
