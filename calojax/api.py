"""The public interface for Python programs: train, load a trained model, generate."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from calojax import checkpoint, models
from calojax.checkpoint import Progress
from calojax.geometry import Detector
from calojax.io import open_showers
from calojax.io.cache import open_cached
from calojax.models.base import Model, Variables
from calojax.presets import PRESETS, ModelConfig
from calojax.sampling import generation
from calojax.training import run
from calojax.training.batches import Dataset


@dataclasses.dataclass(frozen=True, repr=False)
class TrainedModel:
    """A trained model with its arrays.

    Attributes:
      model: model; its methods are pure functions of ``variables``.
      variables: arrays of the model, as JAX arrays.
      progress: progress of the training, with the range of incident energies that it saw.
    """

    model: Model
    variables: Variables
    progress: Progress

    @property
    def detector(self) -> Detector:
        """Geometry of the showers."""
        return self.model.detector

    def sample(
        self, keys: jax.Array, energies: jax.Array, *, temperature: float = 1.0
    ) -> jax.Array:
        """Showers [b, v] in MeV of keys [b] and incident energies [b] in MeV.

        A pure function: call it inside your own `jax.jit`. `generate` is simpler for most uses.
        """
        return self.model.sample(self.variables, keys, energies, temperature=temperature)

    def __repr__(self) -> str:
        low, high = self.progress.energy_range
        size = sum(leaf.size for leaf in jax.tree.leaves(self.variables["params"]))
        return (
            f"<{models.name_of(self.model)} of {self.detector.name}, {size:,} parameters, "
            f"trained on {low:g} to {high:g} MeV>"
        )


def load(folder: str | os.PathLike) -> TrainedModel:
    """Loads a trained model.

    Args:
      folder: folder of a training run, or the name of a model that comes with calojax
        (`calojax.checkpoint.shipped`).

    Raises:
      CalojaxError: if there is no such run, or its training has not finished.
    """
    model, variables, progress = checkpoint.load(folder)
    return TrainedModel(model, jax.tree.map(jnp.asarray, variables), progress)


def generate(trained: TrainedModel, energies: Any, *, seed: int = 0, **options: Any) -> np.ndarray:
    """Generates one shower for each incident energy, on all devices.

    Args:
      trained: model, from `load`.
      energies: incident energies in MeV, [n].
      seed: seed; shower i depends on the seed and on i, and on nothing else.
      **options: further arguments of `calojax.sampling.generation.generate`, which yields the
        same showers batch by batch.

    Returns:
      Showers [n, v] in MeV, float32; ``reshape(-1, *trained.detector.grid)`` gives layer, alpha
      and r where all layers are alike.

    Raises:
      CalojaxError: if an argument is not valid.
    """
    batches = generation.generate(trained.model, trained.variables, energies, seed=seed, **options)
    return np.concatenate([showers for _, showers in batches])


def train(
    config: str | ModelConfig,
    data: str | os.PathLike | Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    detector: Detector | None = None,
    resume: bool = False,
    **options: Any,
) -> TrainedModel:
    """Trains a model and returns it; the run folder keeps checkpoints and metrics.

    Args:
      config: name of a preset, or settings of a model, such as a changed `PRESETS` entry.
      data: shower files to train on.
      out: run folder.
      detector: geometry of the files; by default the one they name, or the built-in geometry with
        as many voxels.
      resume: continue the run in ``out``.
      **options: fields of `calojax.training.run.Options`, such as ``seed``.

    Raises:
      CalojaxError: if the data or the settings are not valid.
    """
    settings = PRESETS[config].model if isinstance(config, str) else config
    source = open_showers(data, detector)
    cached = open_cached(source, data)
    out = pathlib.Path(out)
    run.train(
        models.build(settings, source.detector.spanning(source.energies)),
        Dataset(cached.energies, cached.showers),
        out,
        run.Options(**options),
        resume=resume,
    )
    return load(out)
