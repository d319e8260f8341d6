"""The models that benchmarks measure, by name, and showers for them.

A name is that of a preset, which has random weights here, or the folder of a trained run. Weights
do not change shapes, so random ones do for timing. But the time of CaloPointFlow follows the number
of hits, which depends on the weights: its rows have ``hits_per_shower``.
"""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import calojax
from calojax import distributed, models, rng
from calojax.geometry import DETECTORS, Detector
from calojax.models.base import Batch, Model, ModelConfig, Variables
from calojax.models.pointflow.config import PointFlowConfig
from calojax.presets import PRESETS
from calojax.sampling import generation, incident_energies
from calojax.training import balanced_batches, batches
from calojax.training.batches import Dataset


class Subject(NamedTuple):
    """A model to measure."""

    name: str
    model: Model
    variables: Variables  # arrays of the model, on the device
    energy_range: tuple[float, float]  # lowest and highest incident energy in MeV

    @property
    def columns(self) -> dict[str, str]:
        """Columns of a row that name the model."""
        return {
            "model": models.name_of(self.model),
            "subject": self.name,
            "geometry": self.model.detector.name,
        }

    def incident_energies(self, num: int) -> jax.Array:
        """Incident energies [n] in MeV, spread evenly in the logarithm, in random order."""
        low, high = np.log(self.energy_range)
        # Middles of equal parts: a single one is the middle of the range.
        energies = np.exp(low + (high - low) * (np.arange(num) + 0.5) / num).astype(np.float32)
        return jax.device_put(np.random.default_rng(0).permutation(energies))

    def showers(self, energies: Any, **options: Any) -> np.ndarray:
        """Showers [n, v] in MeV by `calojax.sampling.generation.generate`."""
        blocks = generation.generate(self.model, self.variables, energies, **options)
        return np.concatenate([block for _, block in blocks])

    def inputs(self, num: int) -> tuple[Variables, jax.Array, jax.Array]:
        """Arguments of the model's ``sample`` for ``num`` showers."""
        keys = rng.per_item(rng.root(0), jnp.arange(num))
        return self.variables, keys, self.incident_energies(num)


def find(name: str) -> Subject:
    """The model with that name: a preset with random weights, or a trained run."""
    if name in PRESETS:
        return untrained(name)
    trained = calojax.load(name)
    # With its parent folder, because a run often has the name of its preset.
    label = "/".join(pathlib.Path(name).resolve().parts[-2:])
    return Subject(label, trained.model, trained.variables, trained.progress.energy_range)


def untrained(
    preset: str, dataset: Dataset | None = None, batch_size: int | None = None
) -> Subject:
    """The model of a preset with random weights.

    Its transforms are fitted to a dataset, by default of 256 simulated showers. Training steps have
    the batch size of each stage, or 64 if there is no dataset.
    """
    config, detector = PRESETS[preset].model, DETECTORS[PRESETS[preset].geometry]
    if dataset is None:
        dataset, batch_size = simulated(detector, 256), batch_size or 64
    if batch_size is not None:
        config = with_batch_size(config, batch_size)
    model = models.build(with_buffers(config, dataset), detector)
    num = len(dataset.energies)
    transforms = model.fit(batches.chunks(dataset, np.arange(num)))
    start = next(stream(dataset, min(64, num)))
    variables = jax.jit(model.init)(rng.root(0), transforms, start)
    return Subject(preset, model, variables, incident_energies.energy_range(detector))


def simulated(detector: Detector, num: int) -> Dataset:
    """Showers of the parametric generator, over the detector's range of energies."""
    energies = np.geomspace(*incident_energies.energy_range(detector), num).astype(np.float32)
    blocks = generation.simulate(detector, energies, batch_size=min(num, 256))
    return Dataset(energies, np.concatenate([showers for _, showers in blocks]))


def stream(dataset: Dataset, size: int, steps: int = 1) -> Iterator[Batch]:
    """Batches on one device with showers of all sizes, as in training."""
    every, hits = np.arange(len(dataset.energies)), batches.count_hits(dataset)
    plan = balanced_batches.balanced(every, hits, size)
    here = distributed.sharded(distributed.make_mesh(jax.devices()[:1]))
    return batches.stream(dataset, plan, here, seed=0, stage="benchmark", steps=range(steps))


def with_batch_size(config: ModelConfig, size: int) -> ModelConfig:
    """The settings with another batch size in all stages."""
    changed = {}
    for field in dataclasses.fields(config):
        part = getattr(config, field.name)
        if hasattr(part, "schedule"):
            schedule = dataclasses.replace(part.schedule, batch_size=size)
            changed[field.name] = dataclasses.replace(part, schedule=schedule)
    return dataclasses.replace(config, **changed)


def with_buffers(config: ModelConfig, dataset: Dataset) -> ModelConfig:
    """The settings with buffers that are large enough for the hits of these showers."""
    if not isinstance(config, PointFlowConfig):
        return config
    points, hits = config.points, batches.count_hits(dataset)
    bound = balanced_batches.bound(hits, points.schedule.batch_size, points.group)
    points = dataclasses.replace(points, points_per_shower=-(-bound // points.group))
    return dataclasses.replace(config, points=points)
