"""Classifier tests: how well a network tells generated showers from reference showers.

The CaloChallenge's binary classifiers (arXiv:2410.21611, section 4.3) and its multi-class one. An
AUC of 0.5 means that the network found no difference, 1 that every shower gives itself away.
"""

import dataclasses
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from calojax import distributed, rng
from calojax.errors import CalojaxError
from calojax.evaluation import calibration, ensemble, features
from calojax.geometry import Detector
from calojax.io.reader import ShowerSource
from calojax.nn.classifier import DenseClassifier, ResNetClassifier
from calojax.progress import progress_bar

Kind = Literal["low", "low-normed", "high", "cnn"]

GENERATED, REFERENCE = 0, 1

_READ = 1000  # showers read at once


@dataclasses.dataclass(frozen=True)
class ClassifierSettings:
    """How a classifier is trained; the defaults are the CaloChallenge's.

    Attributes:
      width: nodes of every hidden layer of the dense network.
      hidden_layers: its hidden layers beyond the first.
      batch: showers per step.
      epochs: passes over the training part; the one of best test accuracy counts.
      learning_rate: of Adam.
      split: proportions of training, test and validation part; None: the official ones.
      quick: whether these are the reduced settings, whose scores are not comparable.
    """

    width: int = 2048
    hidden_layers: int = 2
    batch: int = 1000
    epochs: int = 50
    learning_rate: float = 2e-4
    split: tuple[int, int, int] | None = None
    quick: bool = False


OFFICIAL = ClassifierSettings()
QUICK = ClassifierSettings(width=256, epochs=15, quick=True)


class Predictions(NamedTuple):
    """What one seed's classifier says of its validation part.

    Attributes:
      energies: incident energies in MeV, [m].
      labels: 1 for reference showers, 0 for generated ones, [m].
      probabilities: calibrated, of label 1, [m].
    """

    energies: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray

    def within(self, low: float, high: float) -> "Predictions":
        """The showers with incident energies in [low, high) MeV."""
        inside = (self.energies >= low) & (self.energies < high)
        return Predictions(*(column[inside] for column in self))


@dataclasses.dataclass(frozen=True)
class ClassifierScore:
    """How well a classifier told two samples apart.

    Attributes:
      kind: what it saw.
      auc: mean over seeds of the area under the ROC curve.
      auc_error: standard deviation over seeds (of one run, not of the mean); nan for one seed.
      jsd: mean over seeds of the Jensen-Shannon divergence, in bits.
      jsd_error: its standard deviation over seeds.
      auc_per_seed: the areas.
      settings: how it was trained.
    """

    kind: Kind
    auc: float
    auc_error: float
    jsd: float
    jsd_error: float
    auc_per_seed: tuple[float, ...]
    settings: ClassifierSettings


@dataclasses.dataclass(frozen=True)
class MulticlassScore:
    """Which of several samples the reference showers look like.

    Attributes:
      kind: what the classifier saw.
      log_posterior: by name of the sample, the mean over reference showers and seeds of the
        log-probability that the shower is of that sample; higher is better.
      log_posterior_error: its standard deviation over seeds.
      uniform: the value at which a sample is like the others, -ln(number of samples).
      cross_check: the same for the samples' own validation showers: [true sample, assigned sample],
        in the order of `log_posterior`; its diagonal is highest where the classifier works.
      settings: how it was trained.
    """

    kind: Kind
    log_posterior: Mapping[str, float]
    log_posterior_error: Mapping[str, float]
    uniform: float
    cross_check: tuple[tuple[float, ...], ...]
    settings: ClassifierSettings


def resolve(settings: ClassifierSettings, detector: Detector) -> ClassifierSettings:
    """The settings with the official split written out where they name none.

    That is 80/20/21 thousand showers of each sample for photons, 80/20/20.8 for pions and 60/20/20
    for all others; samples of other sizes are divided in proportion.
    """
    if settings.split is not None:
        return settings
    splits = {"photon": (800, 200, 210), "pion": (800, 200, 208)}
    return dataclasses.replace(settings, split=splits.get(detector.particle, (60, 20, 20)))


def train_and_score(
    kind: Kind,
    generated: ShowerSource,
    reference: ShowerSource,
    *,
    seeds: int = 10,
    quick: bool = False,
    seed: int = 0,
    settings: ClassifierSettings | None = None,
) -> ClassifierScore:
    """Trains ``seeds`` classifiers and scores their calibrated outputs on the validation part.

    Args:
      kind: ``low`` sees voxel energies over the incident energy, ``low-normed`` voxels over the
        energy of their layer, ``high`` the feature vector, ``cnn`` what ``low`` sees as an image.
      generated: the showers to judge.
      reference: as many showers of the full simulation, in the same detector.
      seeds: number of independent splits, starts and trainings.
      quick: use `QUICK` settings; the score's settings say so.
      seed: of all of them together.
      settings: instead of the official or quick ones.

    Raises:
      CalojaxError: if the samples do not match, are too few or hold values that are not finite, or
        if ``cnn`` is asked for a detector that is not a regular grid.
    """
    settings = resolve(settings or (QUICK if quick else OFFICIAL), reference.detector)
    predictions = predict(kind, generated, reference, settings, seeds=seeds, seed=seed)
    return score(kind, predictions, settings)


def score(
    kind: Kind, predictions: Sequence[Predictions], settings: ClassifierSettings
) -> ClassifierScore:
    """The score of the predictions of several seeds, for example of one slice of energy.

    Raises:
      ValueError: if a seed's predictions lack one of the labels.
    """
    aucs = [calibration.auc(p.probabilities, p.labels) for p in predictions]
    jsds = [calibration.jensen_shannon(p.probabilities, p.labels) for p in predictions]
    (auc, auc_error), (jsd, jsd_error) = _mean_and_spread(aucs), _mean_and_spread(jsds)
    return ClassifierScore(kind, auc, auc_error, jsd, jsd_error, tuple(aucs), settings)


def predict(
    kind: Kind,
    generated: ShowerSource,
    reference: ShowerSource,
    settings: ClassifierSettings,
    *,
    seeds: int = 10,
    seed: int = 0,
) -> list[Predictions]:
    """Trains ``seeds`` classifiers; see `train_and_score`, which scores what this returns."""
    settings = resolve(settings, reference.detector)
    n = len(reference)
    energies = np.concatenate([generated.energies, reference.energies])
    labels = np.repeat([GENERATED, REFERENCE], n)
    predictions = []
    for members in _train(kind, (generated, reference), (), settings, seeds, seed):
        _, test, validation = members.split
        test_outputs = _sigmoid(members.logits(test)[..., 0])
        outputs = _sigmoid(members.logits(validation)[..., 0])
        for i, rows in enumerate(validation):
            calibrate = calibration.isotonic(test_outputs[i], labels[test[i]])
            predictions.append(Predictions(energies[rows], labels[rows], calibrate(outputs[i])))
    return predictions


def multiclass(
    generated: Mapping[str, ShowerSource],
    reference: ShowerSource,
    *,
    kind: Kind = "high",
    seeds: int = 10,
    quick: bool = False,
    seed: int = 0,
    settings: ClassifierSettings | None = None,
) -> MulticlassScore:
    """Trains classifiers between several generated samples and asks them about the reference.

    The classifiers never see reference showers in training (arXiv:2410.21611, section 4.3): of all
    samples, the best is the one that these are most likely taken for.

    Args:
      generated: the samples by name, at least two, each of as many showers as the reference.
      reference: showers of the full simulation.
      kind: what the classifiers see.
      seeds: number of independent splits, starts and trainings.
      quick: use `QUICK` settings.
      seed: of all of them together.
      settings: instead of the official or quick ones.

    Raises:
      CalojaxError: as `train_and_score`, and if there are less than two samples.
    """
    if len(generated) < 2:
        raise CalojaxError(
            f"A multi-class score needs two or more generated samples, got {len(generated)}: "
            f"name more files."
        )
    settings = resolve(settings or (QUICK if quick else OFFICIAL), reference.detector)
    samples, n = tuple(generated.values()), len(reference)
    of_reference, of_samples = [], []
    for members in _train(kind, samples, (reference,), settings, seeds, seed):
        size = len(members.split.test)
        rows = np.broadcast_to(len(samples) * n + np.arange(n, dtype=np.int32), (size, n))
        posteriors = ensemble.log_posteriors(members.logits(rows))
        of_reference.append(np.asarray(posteriors.mean(axis=1)))
        # The parts hold the same number of rows of every class, class after class.
        posteriors = ensemble.log_posteriors(members.logits(members.split.validation))
        posteriors = posteriors.reshape(size, len(samples), -1, len(samples))
        of_samples.append(np.asarray(posteriors.mean(axis=2)))
    of_reference = np.concatenate(of_reference)
    values = {
        name: _mean_and_spread(column)
        for name, column in zip(generated, of_reference.T, strict=True)
    }
    return MulticlassScore(
        kind=kind,
        log_posterior={name: mean for name, (mean, _) in values.items()},
        log_posterior_error={name: spread for name, (_, spread) in values.items()},
        uniform=-math.log(len(samples)),
        cross_check=tuple(map(tuple, np.concatenate(of_samples).mean(axis=0).tolist())),
        settings=settings,
    )


def inputs(kind: Kind, sources: Sequence[ShowerSource]) -> np.ndarray:
    """What a classifier sees of the showers of several sources, one after the other.

    Energies are in MeV and logarithms decimal; nothing is normalised further, as in the official
    evaluation.

    Returns:
      [sum of lengths, d] float32; mapped to a temporary file, which vanishes with the array, where
      it would fill more than half of the machine's memory.

    Raises:
      CalojaxError: if a value is not finite.
    """
    if kind == "high":
        rows = np.concatenate([features.vector(features.stream(source)) for source in sources])
        _check_finite(kind, rows)
        return rows.astype(np.float32)

    detector = sources[0].detector
    width = 1 + detector.n_voxels + (detector.n_layers if kind == "low-normed" else 0)
    rows = _allocate((sum(map(len, sources)), width))
    start = 0
    for source in sources:
        for energies, showers in source.batches(_READ):
            block = _layer_normed if kind == "low-normed" else _incident_normed
            block = block(np.asarray(energies), np.asarray(showers), detector)
            _check_finite(kind, block)
            rows[start : start + len(block)] = block
            start += len(block)
    return rows


def _incident_normed(energies: np.ndarray, showers: np.ndarray, detector: Detector) -> np.ndarray:
    """log10 E_inc and voxels over E_inc: energies [b], showers [b, v] -> [b, 1 + v]."""
    energies = energies[:, None]
    voxels = np.where(showers < detector.evaluation_threshold, 0, showers)
    return np.concatenate([np.log10(energies), voxels / energies], axis=1)


def _layer_normed(energies: np.ndarray, showers: np.ndarray, detector: Detector) -> np.ndarray:
    """log10 E_inc, voxels over layer energies, log10 of these: [b], [b, v] -> [b, 1 + v + layers].

    As in the official evaluation the layer energies are sums over voxels above the threshold, but
    the voxels themselves are not cut: one below it, in a layer without others, becomes huge.
    """
    voxels = np.where(showers < detector.evaluation_threshold, 0, showers)
    starts = [layer.start for layer in detector.layer_slices]
    layers = np.add.reduceat(voxels, starts, axis=1, dtype=np.float64)
    divisor = layers[:, detector.voxels.layer] + 1e-16
    return np.concatenate(
        [np.log10(energies[:, None]), showers / divisor, np.log10(layers + 1e-8)], axis=1
    )


class _Members(NamedTuple):
    """Some trained seeds: the ensemble, the rows it was trained on, their splits [s, m]."""

    recipe: ensemble.Ensemble
    rows: ensemble.Rows
    split: ensemble.Split
    variables: dict

    def logits(self, which: np.ndarray) -> np.ndarray:
        """Logits [s, m, outputs] of the rows ``which`` [s, m]."""
        return np.asarray(self.recipe.logits(self.variables, self.rows, jnp.asarray(which)))


def _train(
    kind: Kind,
    samples: Sequence[ShowerSource],
    others: Sequence[ShowerSource],
    settings: ClassifierSettings,
    seeds: int,
    seed: int,
) -> Iterator[_Members]:
    """Trains a classifier between ``samples``; the rows of ``others`` follow, without a class.

    Yields as many seeds at a time as fit on the device.
    """
    detector, n = _check(kind, (*samples, *others), settings.split)
    labels = np.repeat([*range(len(samples)), *[0] * len(others)], n)
    mesh = distributed.make_mesh()
    rows = ensemble.place(inputs(kind, (*samples, *others)), labels, mesh)
    outputs = 1 if len(samples) == 2 else len(samples)
    recipe = ensemble.Ensemble(
        network=_network(kind, detector, settings, outputs),
        learning_rate=settings.learning_rate,
        batch=settings.batch,
        epochs=settings.epochs,
        mesh=mesh,
    )
    # Kernels of several seeds would make grouped convolutions, for which there are no fast ones.
    at_once = 1 if kind == "cnn" else recipe.members_at_once(rows)
    groups = np.array_split(np.arange(seeds), -(-seeds // at_once))
    keys = rng.per_item(rng.root(seed), np.arange(seeds))
    epochs = len(groups) * settings.epochs
    with progress_bar(f"classifier {kind}", epochs, unit="epoch") as bar:

        def report(accuracy: np.ndarray) -> None:
            bar.set_postfix(accuracy=f"{accuracy.mean():.4f}", refresh=False)
            bar.update()

        for group in groups:
            split = ensemble.split_rows(keys[group], n, len(samples), settings.split)
            variables = recipe.fit(rows, split, keys[group], report)
            yield _Members(recipe, rows, jax.device_get(split), variables)


def _network(
    kind: Kind, detector: Detector, settings: ClassifierSettings, outputs: int
) -> nn.Module:
    if kind == "cnn":
        return ResNetClassifier(grid=detector.grid, outputs=outputs)
    return DenseClassifier(settings.width, settings.hidden_layers, outputs)


def _check(
    kind: Kind, sources: Sequence[ShowerSource], split: tuple[int, int, int]
) -> tuple[Detector, int]:
    """The detector and number of showers that all sources share; raises if they do not."""
    if kind not in get_args(Kind):
        raise CalojaxError(f"There is no classifier {kind!r}: use one of {get_args(Kind)}.")
    detector, n = sources[0].detector, len(sources[0])
    for source in sources:
        if source.detector.binning != detector.binning:
            raise CalojaxError(
                f"A classifier needs showers of one detector, got {source.detector.name!r} and "
                f"{detector.name!r}: convert or choose another sample."
            )
        if len(source) != n:
            raise CalojaxError(
                f"A classifier needs samples of equal size, got {len(source)} and {n} showers: "
                f"cut the larger one."
            )
    _check_sample(kind, detector, n, split)
    return detector, n


def check(kind: Kind, detector: Detector, showers: int, quick: bool) -> None:
    """Refuses a classifier that cannot be trained on so many showers of each sample.

    Raises:
      CalojaxError: with the reason.
    """
    settings = resolve(QUICK if quick else OFFICIAL, detector)
    _check_sample(kind, detector, showers, settings.split)


def _check_sample(kind: Kind, detector: Detector, n: int, split: tuple[int, int, int]) -> None:
    least = -(-sum(split) // min(split))
    if n < least:
        raise CalojaxError(
            f"A classifier needs {least} showers or more in each sample, got {n}: generate more."
        )
    if kind == "cnn" and detector.grid is None:
        raise CalojaxError(
            f"The cnn classifier needs layers that are all alike, but those of {detector.name!r} "
            f"differ: use low or high."
        )


def _check_finite(kind: Kind, block: np.ndarray) -> None:
    if not np.isfinite(block).all():
        raise CalojaxError(
            f"The inputs of classifier {kind!r} are not finite: "
            f"look for NaN and for incident energies of zero in the showers."
        )


def _allocate(shape: tuple[int, int]) -> np.ndarray:
    """Space for float32 rows: in memory, or in a temporary file if it would take half of that."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 4 * math.prod(shape) <= memory / 2:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.float32, mode="w+", shape=shape)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    """In float64, where different logits below 36 stay different; log-add-exp cannot overflow."""
    return np.exp(-np.logaddexp(0, -logits.astype(np.float64)))


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    values = np.asarray(values, np.float64)
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else math.nan
