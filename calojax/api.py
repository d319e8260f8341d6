"""The public interface for Python programs: train, load a trained model, generate, evaluate."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from calojax import checkpoint, models
from calojax.checkpoint import Progress
from calojax.errors import CalojaxError
from calojax.geometry import Detector
from calojax.io import ShowerArrays, ShowerSource, open_showers
from calojax.io.cache import open_cached
from calojax.io.reader import Paths
from calojax.io.stored_geometry import guess_detector
from calojax.models.base import Model, Variables
from calojax.presets import PRESETS, ModelConfig
from calojax.sampling import generation
from calojax.training import run
from calojax.training.batches import Dataset

if TYPE_CHECKING:
    from calojax.evaluation.suite import Evaluation

Showers = Paths | ShowerSource | tuple[np.ndarray, np.ndarray]
"""Paths of shower files, a source of showers, or arrays (incident energies [n], showers [n, v])."""


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


def evaluate(
    generated: Showers | np.ndarray,
    reference: Showers,
    *,
    metrics: Sequence[str] = ("histograms", "fpd", "kpd", "prdc", "correlations"),
    slices: Sequence[float] | None = None,
    detector: Detector | None = None,
    **options: Any,
) -> "Evaluation":
    """Scores generated showers against reference showers by the CaloChallenge's metrics.

    Args:
      generated: showers to judge; an array [n, v] in MeV has the reference's incident energies, as
        from ``generate(trained, reference.energies)``.
      reference: as many showers of the full simulation, of the same incident energies.
      metrics: names in `calojax.evaluation.suite.METRICS`; or "all", which leaves out what cannot
        be computed. ``low``, ``low-normed``, ``high`` and ``cnn`` train classifiers, which takes a
        GPU or ``quick=True``.
      slices: boundaries in MeV of slices of incident energy; by default decades with enough
        showers, and none if empty.
      detector: geometry of files that do not name theirs, and of arrays.
      **options: further fields of `calojax.evaluation.suite.Options`, such as ``truncate=True``
        for samples that differ in number, and ``floor=True``.

    Returns:
      The evaluation. ``scores`` has the values by the keys of `calojax.evaluation.suite.SCORES`,
      their errors by ``<key>_error`` and chance levels by ``<key>_chance``; ``histograms``,
      ``slices``, ``floor`` and ``warnings`` are further attributes.

    Raises:
      CalojaxError: if the samples cannot be compared, or an option is not valid.
    """
    from calojax.evaluation import suite

    judge = _source(reference, detector)
    if isinstance(generated, np.ndarray | jax.Array):
        generated = judge.energies, np.asarray(generated)
    sample = _source(generated, judge.detector)
    chosen = suite.Options(
        metrics=tuple([metrics] if isinstance(metrics, str) else metrics),
        slices=None if slices is None else tuple(slices),
        **options,
    )
    return suite.evaluate(sample, judge, chosen)


def _source(showers: Showers, detector: Detector | None) -> ShowerSource:
    match showers:
        case (energies, np.ndarray() | jax.Array() as voxels):
            detector = detector or guess_detector(voxels.shape[-1])
            if detector is None:
                raise CalojaxError(
                    f"No built-in geometry has {voxels.shape[-1]} voxels; give the showers' "
                    "detector."
                )
            return ShowerArrays(detector, np.asarray(energies), np.asarray(voxels))
        case str() | os.PathLike() | [*_]:
            return open_showers(showers, detector)
        case _:
            return showers


def train(
    config: str | ModelConfig,
    data: Paths,
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
    if isinstance(config, str) and config not in PRESETS:
        raise CalojaxError(f"There is no preset {config!r}; choose one of {', '.join(PRESETS)}.")
    settings = PRESETS[config].model if isinstance(config, str) else config
    source = open_showers(data, detector)
    cached = open_cached(source)
    out = pathlib.Path(out)
    run.train(
        models.build(settings, source.detector.spanning(source.energies)),
        Dataset(cached.energies, cached.showers),
        out,
        run.Options(**options),
        resume=resume,
    )
    return load(out)
