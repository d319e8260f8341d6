"""Classifier tests: how well a network tells generated showers from reference showers.

The CaloChallenge's binary classifiers (arXiv:2410.21611, section 4.3) and its multi-class one. An
AUC of 0.5 means that the network found no difference, 1 that it recognises every shower.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from calojax import distributed, rng
from calojax.errors import CalojaxError
from calojax.evaluation import calibration, features
from calojax.evaluation.classifier_training import (
    ClassifierSettings,
    Split,
    Trainer,
    log_posteriors,
    place,
    split_rows,
)
from calojax.evaluation.metric import Found, Metric, Options, Score, with_error
from calojax.evaluation.samples import Samples, equal_in_number, tabulate
from calojax.geometry import Detector
from calojax.io import ShowerSource
from calojax.nn.classifier import DenseClassifier, ResNetClassifier
from calojax.progress import progress_bar

Kind = Literal["low", "low-normed", "high", "cnn"]
"""Kind of input: ``low`` is voxel energies over the incident energy, ``low-normed`` voxels over the
energy of their layer, ``high`` the feature vector, ``cnn`` the same as ``low`` as an image."""

GENERATED, REFERENCE = 0, 1

# Fewest validation showers of each sample for an AUC in a slice.
_AUC_SHOWERS = 20

OFFICIAL = ClassifierSettings()
QUICK = ClassifierSettings(width=256, epochs=15, quick=True)


@dataclasses.dataclass(frozen=True, repr=False)
class Predictions:
    """Outputs of the classifier of one seed for the m showers of its validation part.

    They are incident energies in MeV, labels (1 for reference showers, 0 for generated ones), and
    calibrated probabilities of label 1, each [m].
    """

    energies: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray

    def within(self, low: float, high: float) -> "Predictions":
        """The showers with incident energies in [low, high) MeV."""
        inside = (self.energies >= low) & (self.energies < high)
        return Predictions(self.energies[inside], self.labels[inside], self.probabilities[inside])


@dataclasses.dataclass(frozen=True)
class MulticlassScore:
    """Which of several samples the reference showers look like.

    Attributes:
      log_posterior: by name of the sample, the mean over reference showers and seeds of the
        log-probability that the shower is of that sample; higher is better.
      log_posterior_error: standard deviation over seeds.
      uniform: value of a sample that is like the others, -ln(number of samples).
      cross_check: the same for the samples' own validation showers: [true sample, assigned sample],
        in the order of `log_posterior`; its diagonal is highest where the classifier works.
    """

    kind: Kind
    log_posterior: Mapping[str, float]
    log_posterior_error: Mapping[str, float]
    uniform: float
    cross_check: tuple[tuple[float, ...], ...]
    settings: ClassifierSettings


_DESCRIPTIONS: Mapping[Kind, str] = {
    "low": "classifier on voxels",
    "low-normed": "classifier on voxels over layer energies",
    "high": "classifier on features",
    "cnn": "3-D ResNet-18 on voxels",
}


class Classifier(Metric):
    """AUC and JSD of a binary classifier on its validation showers.

    A slice is scored by the classifier of all energies.
    """

    def __init__(self, kind: Kind):
        self.kind: Kind = kind
        self._auc, self._jsd = (f"{score}_{kind.replace('-', '_')}" for score in ("auc", "jsd"))
        network = _DESCRIPTIONS[kind]
        self.scores = {
            self._auc: Score(f"binary cls {kind}", f"AUC of the {network}"),
            self._jsd: Score(f"JSD {kind}", f"Jensen-Shannon divergence by the {network}"),
        }

    def check(self, detector: Detector, showers: int, options: Options) -> None:
        _check(self.kind, detector, showers, settings_for(detector, options.quick))

    def settings(self, samples: Samples, options: Options) -> dict[str, Any]:
        settings = settings_for(samples.detector, options.quick)
        return dataclasses.asdict(settings) | {"seeds": options.seeds}

    def compute_all(
        self, samples: Samples, slices: Sequence[tuple[float, float]], options: Options
    ) -> list[Found]:
        settings = settings_for(samples.detector, options.quick)
        generated, reference = samples.generated.source, samples.reference.source
        predictions = predict(
            self.kind, generated, reference, settings, seeds=options.seeds, seed=options.seed
        )
        found = []
        for part in (predictions, *([p.within(*ends) for p in predictions] for ends in slices)):
            scores = {}
            fewest = min(np.bincount(p.labels, minlength=2).min() for p in part)
            if part is predictions or fewest >= _AUC_SHOWERS:
                (auc, jsd), (auc_error, jsd_error) = score(part)
                scores = with_error(self._auc, float(auc), float(auc_error))
                scores |= with_error(self._jsd, float(jsd), float(jsd_error))
            found.append(Found(scores))
        return found


def official_split(detector: Detector) -> tuple[int, int, int]:
    """Proportions of training, test and validation part in the official evaluation."""
    splits = {"photon": (800, 200, 210), "pion": (800, 200, 208)}
    return splits.get(detector.particle, (60, 20, 20))


def settings_for(detector: Detector, quick: bool) -> ClassifierSettings:
    """The official or the reduced settings, with the split written out."""
    return dataclasses.replace(QUICK if quick else OFFICIAL, split=official_split(detector))


def predict(
    kind: Kind,
    generated: ShowerSource,
    reference: ShowerSource,
    settings: ClassifierSettings,
    *,
    seeds: int = 10,
    seed: int = 0,
) -> list[Predictions]:
    """Calibrated outputs of classifiers for their validation showers.

    There are ``seeds`` classifiers, each with a split, initial weights and a training of its own;
    ``seed`` is that of all together. Of the larger sample as many showers are used as the smaller
    one has.

    Raises:
      CalojaxError: if there are too few showers, or ``cnn`` is asked for layers that differ.
    """
    # A window of energy may hold more showers of one of them.
    generated, reference = equal_in_number(generated, reference)
    n = len(reference)
    energies = np.concatenate([generated.energies, reference.energies])
    labels = np.repeat([GENERATED, REFERENCE], n)
    predictions = []
    for split, logits in _train(kind, (generated, reference), (), settings, seeds, seed):
        _, test, rows = split
        # In float64, where different logits below 36 stay different.
        fitted, outputs = (
            scipy.special.expit(np.asarray(logits(part))[:, 0].astype(np.float64))
            for part in (test, rows)
        )
        probabilities = calibration.calibrate(fitted, labels[test], outputs)
        predictions.append(Predictions(energies[rows], labels[rows], probabilities))
    return predictions


def score(predictions: Sequence[Predictions]) -> tuple[np.ndarray, np.ndarray]:
    """Area under the ROC curve and Jensen-Shannon divergence in bits of several seeds: [2] and [2].

    These are means over seeds, and standard deviations over seeds (of one run, not of the mean);
    nan for one seed. The predictions of each seed hold both labels.
    """
    values = [
        (
            calibration.auc(p.probabilities, p.labels),
            calibration.jensen_shannon(p.probabilities, p.labels),
        )
        for p in predictions
    ]
    return _mean_and_spread(values)


def multiclass(
    kind: Kind,
    generated: Mapping[str, ShowerSource],
    reference: ShowerSource,
    settings: ClassifierSettings,
    *,
    seeds: int = 10,
    seed: int = 0,
) -> MulticlassScore:
    """Trains classifiers between several generated samples, and applies them to the reference.

    The classifiers never see reference showers in training (arXiv:2410.21611, section 4.3): the
    best sample is the one that these are most likely taken for. Arguments and errors are those of
    `predict`, with two or more generated samples by name.
    """
    *samples, reference = equal_in_number(*generated.values(), reference)
    n = len(reference)
    of_reference, of_samples = [], []
    for split, logits in _train(kind, samples, (reference,), settings, seeds, seed):
        rows = len(samples) * n + np.arange(n, dtype=np.int32)
        of_reference.append(log_posteriors(logits(rows)).mean(axis=0))
        # The parts hold the same number of rows of every class, class after class.
        posteriors = log_posteriors(logits(split.validation))
        of_samples.append(posteriors.reshape(len(samples), -1, len(samples)).mean(axis=1))
    means, spreads = _mean_and_spread(of_reference)
    return MulticlassScore(
        kind=kind,
        log_posterior=dict(zip(generated, means.tolist(), strict=True)),
        log_posterior_error=dict(zip(generated, spreads.tolist(), strict=True)),
        uniform=-math.log(len(samples)),
        cross_check=tuple(map(tuple, np.mean(of_samples, axis=0).tolist())),
        settings=settings,
    )


def inputs(kind: Kind, sources: Sequence[ShowerSource]) -> np.ndarray:
    """Inputs [n, d] float32 of a classifier for all n showers of the sources, in order.

    Energies are in MeV and logarithms decimal; there is no further normalisation, as in the
    official evaluation.
    """
    if kind == "high":
        rows = [features.vector(features.stream(source)) for source in sources]
        return np.concatenate(rows).astype(np.float32)
    detector = sources[0].detector
    starts = [layer.start for layer in detector.layer_slices]

    def incident_normed(energies: np.ndarray, showers: np.ndarray) -> np.ndarray:
        """log10 E_inc and voxels over E_inc, [b, 1 + v]."""
        voxels = features.apply_threshold(showers, detector)
        return np.concatenate([np.log10(energies[:, None]), voxels / energies[:, None]], axis=1)

    def layer_normed(energies: np.ndarray, showers: np.ndarray) -> np.ndarray:
        """log10 E_inc, voxels over layer energies, log10 of these, [b, 1 + v + layers].

        As in the official evaluation the layer energies are sums over voxels above the threshold,
        but the voxels themselves are not cut: one below it, in a layer without others, becomes
        huge.
        """
        voxels = features.apply_threshold(showers, detector)
        layers = np.add.reduceat(voxels, starts, axis=1, dtype=np.float64)
        divisor = layers[:, detector.voxels.layer] + 1e-16
        return np.concatenate(
            [np.log10(energies[:, None]), showers / divisor, np.log10(layers + 1e-8)], axis=1
        )

    if kind == "low-normed":
        return tabulate(sources, 1 + detector.n_voxels + detector.n_layers, layer_normed)
    return tabulate(sources, 1 + detector.n_voxels, incident_normed)


def _train(
    kind: Kind,
    samples: Sequence[ShowerSource],
    others: Sequence[ShowerSource],
    settings: ClassifierSettings,
    seeds: int,
    seed: int,
) -> Iterator[tuple[Split, Callable[[np.ndarray], jax.Array]]]:
    """Trains a classifier between ``samples``; the rows of ``others`` follow, without a class.

    Yields for each seed its split, and the function from rows [m] to logits [m, outputs].
    """
    sources = (*samples, *others)
    detector, n = sources[0].detector, len(sources[0])
    _check(kind, detector, n, settings)
    labels = np.repeat([*range(len(samples)), *[0] * len(others)], n)
    mesh = distributed.make_mesh()
    rows = place(inputs(kind, sources), labels, mesh)
    outputs = 1 if len(samples) == 2 else len(samples)
    network = (
        ResNetClassifier(grid=detector.grid, outputs=outputs)
        if kind == "cnn" and detector.grid
        else DenseClassifier(settings.width, settings.hidden_layers, outputs)
    )
    trainer = Trainer(network, settings, mesh)
    with progress_bar(f"classifier {kind}", seeds * settings.epochs, unit="epoch") as bar:

        def report(accuracy: float) -> None:
            bar.set_postfix(accuracy=f"{accuracy:.4f}", refresh=False)
            bar.update()

        for key in rng.per_item(rng.root(seed), jnp.arange(seeds)):
            split = split_rows(key, n, len(samples), settings.split)
            variables = trainer.fit(rows, split, key, report)
            yield split, functools.partial(trainer.logits, variables, rows)


def _check(kind: Kind, detector: Detector, n: int, settings: ClassifierSettings) -> None:
    """Refuses samples of n showers each on which a classifier cannot be trained."""
    least = -(-sum(settings.split) // min(settings.split))
    if n < least:
        raise CalojaxError(
            f"A classifier needs {least} showers or more in each sample, got {n}: generate more."
        )
    if kind == "cnn" and detector.grid is None:
        raise CalojaxError(
            f"The cnn classifier needs layers that are all alike, but those of {detector.name!r} "
            f"differ: use low or high."
        )


def _mean_and_spread(values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over seeds of values [s, k]; the latter nan for one seed."""
    values = np.asarray(values, np.float64)
    spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.full(values.shape[1], math.nan)
    return values.mean(axis=0), spread
