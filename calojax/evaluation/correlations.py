"""Linear correlations between layers and between global properties of a shower.

Layer energies as in the CaloChallenge (its ``reference_creation`` notebook); centres, widths, hits
and energy as in the CaloPointFlow talk, without voxels.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from calojax.evaluation.features import Features
from calojax.evaluation.metric import Found, Options, Score, SliceMetric
from calojax.evaluation.samples import Samples
from calojax.geometry import Detector

SHOWER_QUANTITIES = (
    *("centre z", "width z", "centre eta", "width eta", "centre phi", "width phi"),
    *("centre r", "width r", "hits", "energy"),
)
"""Columns of `shower_properties`: lengths in mm, energy in MeV."""


class Correlations(NamedTuple):
    """Pearson matrices of the generated showers and of the reference, [q, q] each."""

    generated: np.ndarray
    reference: np.ndarray

    def mean_difference(self) -> float:
        """Mean absolute difference of all elements, the diagonal included."""
        return float(np.abs(self.generated - self.reference).mean())

    def max_difference(self) -> float:
        """Largest absolute difference of an element."""
        return float(np.abs(self.generated - self.reference).max())

    def __repr__(self) -> str:
        size, mean = len(self.reference), self.mean_difference()
        return f"<Correlations of {size} quantities: mean |difference| {mean:.3g}>"


class LinearCorrelations(SliceMetric):
    """Differences of linear correlations."""

    scores: Mapping[str, Score] = {
        "correlation_layers": Score(
            "PCC Layer Energies", "mean |difference| of layer-energy correlations"
        ),
        "correlation_layers_max": Score(
            "PCC Layer Energies max", "largest |difference| of layer-energy correlations"
        ),
        "correlation_neighbours": Score(
            "PCC neighbours", "|difference| of the mean correlation of adjacent layers"
        ),
        "correlation_showers": Score(
            "PCC shower", "mean |difference| of centre, width, hit and energy correlations"
        ),
    }
    reusable = False

    def compute(self, samples: Samples, options: Options) -> Found:
        ours, theirs = samples.generated.features, samples.reference.features
        of_layers, of_showers = layers(ours, theirs), showers(ours, theirs, samples.detector)
        adjacent = [neighbours(matrix) for matrix in of_layers]
        return Found(
            {
                "correlation_layers": of_layers.mean_difference(),
                "correlation_layers_max": of_layers.max_difference(),
                "correlation_neighbours": abs(adjacent[0] - adjacent[1]),
                "correlation_showers": of_showers.mean_difference(),
            },
            {"layer_correlations": of_layers, "shower_correlations": of_showers},
        )


def layers(generated: Features, reference: Features) -> Correlations:
    """Correlations of the layer energies [l, l] of both samples, over all incident energies."""
    return Correlations(pearson(generated.layer_energy), pearson(reference.layer_energy))


def showers(generated: Features, reference: Features, detector: Detector) -> Correlations:
    """Correlations of the `SHOWER_QUANTITIES` of both samples."""
    return Correlations(
        *(pearson(shower_properties(sample, detector)) for sample in (generated, reference))
    )


def neighbours(matrix: np.ndarray) -> float:
    """Mean correlation of a layer with the next one, from a Pearson matrix [l, l]."""
    return float(np.diagonal(matrix, offset=1).mean()) if len(matrix) > 1 else 1.0


def pearson(columns: np.ndarray) -> np.ndarray:
    """Pearson matrix [q, q] of columns [n, q]; a constant column correlates with itself alone."""
    if len(columns) < 2:
        return np.eye(columns.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = np.atleast_2d(np.corrcoef(columns, rowvar=False))
    np.nan_to_num(matrix, copy=False, nan=0.0)
    np.fill_diagonal(matrix, 1.0)
    return matrix


def shower_properties(features: Features, detector: Detector) -> np.ndarray:
    """The `SHOWER_QUANTITIES` of every shower, [n, 10], from its layers.

    Variances over all layers are those within layers plus those of the layers' centres.
    """
    divided = np.array([layer.n_alpha > 1 for layer in detector.layers])
    energy = features.layer_energy
    z = np.broadcast_to((detector.z_edges[:-1] + detector.z_edges[1:]) / 2, energy.shape)
    size = np.array([layer.n_voxels for layer in detector.layers])
    columns = [
        *_combined(energy, z, np.zeros_like(z)),
        *_combined(energy[:, divided], features.center_eta, features.width_eta),
        *_combined(energy[:, divided], features.center_phi, features.width_phi),
        *_combined(energy, features.center_r, features.width_r),
        ((1.0 - features.sparsity) * size).sum(axis=1),
        features.total,
    ]
    return np.stack(columns, axis=1)


def _combined(
    energy: np.ndarray, center: np.ndarray, width: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Centre and width [n] of a shower from those of its layers, [n, l]; zero without energy."""
    total = energy.sum(axis=1, keepdims=True)
    weight = np.divide(energy, total, out=np.zeros_like(energy), where=total > 0)
    mean = (weight * center).sum(axis=1)
    variance = (weight * (width**2 + (center - mean[:, None]) ** 2)).sum(axis=1)
    return mean, np.sqrt(variance)
