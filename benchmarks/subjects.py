"""What is timed: a trained model, or a preset with random weights, and showers to feed it.

Weights change no shape, so random ones do for timing. (Of CaloPointFlow they change the number of
hits a shower, which its time follows: its rows tell ``hits_per_shower``.)
"""

import dataclasses
import pathlib
from typing import NamedTuple

import jax
import numpy as np

from calojax import checkpoint, models, rng
from calojax.geometry import DETECTORS, Detector
from calojax.models.base import Model, Variables
from calojax.models.pointflow.config import PointFlowConfig
from calojax.presets import PRESETS, ModelConfig
from calojax.sampling import generation
from calojax.training import balanced_batches, batches
from calojax.training.batches import Dataset


class Subject(NamedTuple):
    """A model to time.

    Attributes:
      name: of the preset or of the run.
      model: the model.
      variables: its arrays, on the device.
      energy_range: of incident energies that it knows, in MeV.
    """

    name: str
    model: Model
    variables: Variables
    energy_range: tuple[float, float]


def trained(run: pathlib.Path) -> Subject:
    """The model of a finished run."""
    model, variables, progress = checkpoint.load(run)
    # With its folder: a run often has the name of its preset.
    name = "/".join(run.resolve().parts[-2:])
    return Subject(name, model, jax.device_put(variables), progress.energy_range)


def untrained(
    preset: str, dataset: Dataset | None = None, batch_size: int | None = None
) -> Subject:
    """The model of a preset with random weights.

    Args:
      preset: its name.
      dataset: showers to fit the transforms on (default: a few simulated ones).
      batch_size: showers of a training step (default: the preset's).
    """
    detector = DETECTORS[PRESETS[preset].geometry]
    config = PRESETS[preset].model
    if dataset is None:
        dataset, batch_size = simulated(detector, 256), batch_size or 64
    if batch_size is not None:
        config = with_batch(config, batch_size)
    model = models.build(fitting(config, dataset), detector)
    transforms = model.fit(batches.chunks(dataset, np.arange(len(dataset.energies))))
    start = balanced(dataset, min(64, len(dataset.energies)))._asdict()
    variables = jax.jit(model.init)(rng.root(0), transforms, start)
    return Subject(preset, model, variables, detector.energy_range)


def incident(subject: Subject, num: int) -> jax.Array:
    """Incident energies [n] in MeV on the device, spread over the range in no order."""
    # The middles of equal parts of the logarithm: one alone is in the middle of the range.
    low, high = np.log(subject.energy_range)
    energies = np.exp(low + (high - low) * (np.arange(num) + 0.5) / num).astype(np.float32)
    return jax.device_put(np.random.default_rng(0).permutation(energies))


def simulated(detector: Detector, num: int) -> Dataset:
    """Showers of the parametric generator, over the detector's range of energies."""
    energies = np.geomspace(*detector.energy_range, num).astype(np.float32)
    parts = list(generation.simulate(detector, energies, batch_size=min(num, 256)))
    return Dataset(energies, np.concatenate([showers for _, showers in parts]))


def balanced(dataset: Dataset, size: int) -> Dataset:
    """A batch of showers of all sizes, as training takes it."""
    everything = np.arange(len(dataset.energies))
    plan = balanced_batches.balanced(everything, batches.count_hits(dataset), size)
    rows = batches.rows(plan, 0, "benchmark", 0)
    return Dataset(dataset.energies[rows], dataset.showers[rows])


def with_batch(config: ModelConfig, size: int) -> ModelConfig:
    """The settings with another batch size in all stages."""
    parts = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    sized = {
        name: dataclasses.replace(
            part, schedule=dataclasses.replace(part.schedule, batch_size=size)
        )
        for name, part in parts.items()
        if hasattr(part, "schedule")
    }
    return dataclasses.replace(config, **sized)


def fitting(config: ModelConfig, dataset: Dataset) -> ModelConfig:
    """The settings, with buffers for the hits of the showers at hand."""
    if not isinstance(config, PointFlowConfig):
        return config
    group = config.points.group
    bound = balanced_batches.bound(
        batches.count_hits(dataset), config.points.schedule.batch_size, group
    )
    points = dataclasses.replace(config.points, points_per_shower=-(-bound // group))
    return dataclasses.replace(config, points=points)
