"""How fast does PointFlow train and generate, beside the released CaloPointFlow?

    python benchmarks/pointflow.py --preset pointflow-ds2 [--released FOLDER] [--showers FILE]

Prints JSON lines of showers/s: for a training step of each stage, for all stages together (every
shower once through each of them), and for generation up to voxels on the device. With a checkout
of github.com/simonschnake/CaloPointFlow in FOLDER, and an environment that has torch, zuko 1.1,
pytorch-lightning and omegaconf too, its networks do the same in this run, on the same device,
showers and batch, both with random weights. The comparison favours them: a step of theirs starts
with points on the device, ours with voxels; their generation ends with as many points as the
showers of the batch have, without the loop over showers that fills voxels on the host, and runs
without gradients, which the released script does not switch off. Where torch_scatter is missing,
torch adds up.

Both run in float32, or both in tf32 (``--precision tf32``, on GPUs).
"""

import dataclasses
import importlib
import json
import os
import pathlib
import sys
import time
import types
from collections.abc import Callable
from typing import Any, Literal

# Two libraries share the device: neither may take all of its memory at the start.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from environment import environment

from calojax import generation, mesh, models, rng
from calojax.data import strata
from calojax.data.challenge import open_showers
from calojax.geometry import Detector, detector
from calojax.models.base import Batch, Model, Stage, Variables
from calojax.models.pointflow import PointFlowConfig
from calojax.presets import PRESETS
from calojax.training import batches, step
from calojax.training.batches import Dataset


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What to time.

    Attributes:
      preset: of PointFlow.
      showers: a file with showers of its geometry; without it they are simulated.
      released: a checkout of the released CaloPointFlow, to time that too.
      configuration: of the released networks: "II" for version II (see its ``configs``).
      batch: showers of a training step.
      generated: showers that are generated at a time.
      precision: of matrix products, in both.
      repeats: timed repetitions of each figure.
      smoke: everything small and once, to see that the benchmark runs.
    """

    preset: str = "pointflow-ds2"
    showers: pathlib.Path | None = None
    released: pathlib.Path | None = None
    configuration: str = "II"
    batch: int = 256
    generated: int = 1024
    precision: Literal["float32", "tf32"] = "float32"
    repeats: int = 5
    smoke: bool = False


def measure(function: Callable[[], Any], repeats: int) -> float:
    """Seconds (median) that a function takes, after one run to warm up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def load(benchmark: Benchmark, geometry: Detector) -> Dataset:
    """Showers enough for both batches, with energies of the geometry's range."""
    num = 2 * max(benchmark.batch, benchmark.generated)
    if benchmark.showers is None:
        energies = np.geomspace(*geometry.energy_range, num).astype(np.float32)
        parts = list(generation.simulate(geometry, energies))
        return Dataset(energies, np.concatenate([showers for _, showers in parts]))
    source = open_showers(benchmark.showers, geometry)
    num = min(num, len(source))
    return Dataset(np.asarray(source.energies[:num], np.float32), source.read(0, num))


def balanced(dataset: Dataset, size: int) -> Dataset:
    """A balanced batch, the same for both codes."""
    cut = strata.cut(np.arange(len(dataset.energies)), batches.count_hits(dataset), size)
    rows = batches.rows(cut, 0, "benchmark", 0)
    return Dataset(dataset.energies[rows], dataset.showers[rows])


def fitting(benchmark: Benchmark, dataset: Dataset) -> PointFlowConfig:
    """The preset with the batch asked for, and with buffers for the showers at hand."""
    config = PRESETS[benchmark.preset].model
    group = config.points.group
    bound = strata.bound(batches.count_hits(dataset), benchmark.batch, group)
    schedule = dataclasses.replace(config.points.schedule, batch_size=benchmark.batch)
    points = dataclasses.replace(
        config.points, points_per_shower=-(-bound // group), schedule=schedule
    )
    return dataclasses.replace(config, points=points)


def time_ours(benchmark: Benchmark, geometry: Detector, dataset: Dataset) -> dict[str, float]:
    """Seconds a shower, by what is done; and hits of a generated shower."""
    model = models.build(fitting(benchmark, dataset), geometry)
    batch = jax.device_put(balanced(dataset, benchmark.batch)._asdict())
    transforms = model.fit(batches.chunks(dataset, np.arange(len(dataset.energies))))
    variables = jax.jit(model.init)(rng.root(0), transforms, batch)
    found = {}
    for stage in model.stages:
        seconds = time_stage(model, stage, variables, batch, benchmark.repeats)
        found[f"training {stage.name}"] = seconds / benchmark.batch
    found["training"] = sum(found.values())

    keys = rng.per_item(rng.root(1), np.arange(benchmark.generated))
    energies = jax.device_put(balanced(dataset, benchmark.generated).energies)
    sample = jax.jit(model.sample)

    def draw() -> jax.Array:
        return jax.block_until_ready(sample(variables, keys, energies))

    found["generation"] = measure(draw, benchmark.repeats) / benchmark.generated
    return found | {"hits": float(np.mean(np.count_nonzero(np.asarray(draw()), axis=1)))}


def time_stage(
    model: Model, stage: Stage, variables: Variables, batch: Batch, repeats: int
) -> float:
    """Seconds of a training step."""
    one = mesh.make(jax.devices()[:1])
    # A step takes the memory of the state before it.
    state = step.start(jax.tree.map(jnp.copy, variables), stage)
    state = jax.device_put(state, mesh.replicated(one))
    batch = jax.device_put(batch, mesh.sharded(one))
    train_step = step.make(model, stage, 0, one)

    def train() -> None:
        nonlocal state
        state, metrics = train_step(state, batch)
        jax.block_until_ready((state, metrics))

    return measure(train, repeats)


# --- the released networks ------------------------------------------------------------------------


def scatter(src: Any, index: Any, dim: int = -1, reduce: str = "sum") -> Any:
    """The part of ``torch_scatter.scatter`` that the released code needs."""
    dim %= src.dim()
    shape = list(src.shape)
    shape[dim] = int(index.max()) + 1
    total = src.new_zeros(shape).index_add(dim, index, src)
    if reduce == "sum":
        return total
    count = index.bincount(minlength=shape[dim]).clamp(min=1)
    return total / count.view([-1 if axis == dim else 1 for axis in range(src.dim())])


def import_released(folder: pathlib.Path) -> types.ModuleType:
    """The released package, from its checkout."""
    try:
        import torch_scatter  # noqa: F401
    except ImportError:
        sys.modules["torch_scatter"] = types.ModuleType("torch_scatter")
        sys.modules["torch_scatter"].scatter = scatter
    sys.path.insert(0, str(folder))
    for module in ("model", "utils"):
        importlib.import_module(f"calopointflow.{module}")
    return sys.modules["calopointflow"]


def time_released(benchmark: Benchmark, geometry: Detector, dataset: Dataset) -> dict[str, float]:
    """Seconds a shower, by what is done; and points of a generated shower."""
    import torch
    from omegaconf import OmegaConf

    released = import_released(benchmark.released)
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high" if benchmark.precision == "tf32" else "highest")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if (device == "cuda") != (jax.default_backend() == "gpu"):
        raise SystemExit(f"JAX runs on {jax.default_backend()} and torch on {device}.")
    name = {"ds2": "d2", "ds3": "d3"}[geometry.name]
    load_config = released.utils.load_config
    configuration = load_config(f"{name}_{benchmark.configuration}")
    settings = OmegaConf.merge(load_config("base"), configuration)
    model = released.model.CaloPointFlow(settings).to(device)
    # There is no trainer to log to.
    model._log = lambda *_: None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def points(num: int) -> tuple[Any, ...]:
        energies, showers = balanced(dataset, num)
        owner, voxel = np.nonzero(showers > 0)
        counts = np.bincount(owner, minlength=num)
        columns = voxel[:, None], showers[owner, voxel], counts, energies[:, None]
        return tuple(torch.from_numpy(column).to(device) for column in columns)

    batch = points(benchmark.batch)

    def train() -> None:
        optimizer.zero_grad()
        model._step(batch, 0).backward()
        optimizer.step()
        wait()

    # The first step fits the transforms too; they are frozen after the first epoch.
    train()
    for transform in model._freezables:
        transform.freeze()
    found = {"training": measure(train, benchmark.repeats) / benchmark.batch}

    model.eval()
    _, _, counts, energies = points(benchmark.generated)
    owner = torch.repeat_interleave(torch.arange(len(counts), device=device), counts)

    @torch.no_grad()
    def generate() -> None:
        energy = model.transform_e_in(energies)
        shower = model.conditional_flow(energy).sample()
        model.deconstruct_conditional(shower, energies)
        context = torch.cat([energy, shower], -1)
        context = torch.cat([context, model.latent_flow(context).sample()], -1)
        context = torch.repeat_interleave(context, counts, dim=0)
        sets = (owner, counts) if settings.deepset_flow else ()
        model.deconstruct_points(model.point_flow(*sets, context).sample())
        wait()

    found["generation"] = measure(generate, benchmark.repeats) / benchmark.generated
    return found | {"hits": float(counts.double().mean())}


def main() -> None:
    """Prints a JSON line for each figure, ours and theirs."""
    b = tyro.cli(Benchmark, description=__doc__)
    if b.smoke:
        b = dataclasses.replace(b, preset="pointflow-tiny", batch=32, generated=32, repeats=1)
    jax.config.update(
        "jax_default_matmul_precision", "tensorfloat32" if b.precision == "tf32" else "float32"
    )
    geometry = detector(PRESETS[b.preset].geometry)
    dataset = load(b, geometry)
    hits = float(np.mean(batches.count_hits(dataset)))
    found = {"calojax": time_ours(b, geometry, dataset)}
    if b.released is not None:
        found["released"] = time_released(b, geometry, dataset)
    for who, figures in found.items():
        generated = figures.pop("hits")
        for part, seconds in figures.items():
            training = part.startswith("training")
            row = {
                "benchmark": "pointflow",
                "code": who,
                "part": part,
                "preset": b.preset if who == "calojax" else f"{geometry.name}-{b.configuration}",
                "batch": b.batch if training else b.generated,
                "showers_per_second": 1 / seconds,
                "ms_per_shower": 1e3 * seconds,
                "hits_per_shower": hits if training else generated,
                "precision": b.precision,
            }
            theirs = found.get("released", {}).get(part)
            if who == "calojax" and theirs is not None:
                row["ratio"] = theirs / seconds
            rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()}
            print(json.dumps(rounded | environment()), flush=True)


if __name__ == "__main__":
    main()
