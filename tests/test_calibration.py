import numpy as np
import pytest

from calojax.evaluation import calibration


def _brute_force_auc(scores, labels):
    ones, zeros = scores[labels == 1][:, None], scores[labels == 0][None, :]
    return np.mean((ones > zeros) + 0.5 * (ones == zeros))


@pytest.mark.parametrize("levels", [3, 20, 10**6])
def test_auc_counts_pairs_and_halves_ties(levels):
    generator = np.random.default_rng(levels)
    labels = generator.integers(0, 2, 300)
    scores = (generator.integers(0, levels, 300) + labels * levels // 10) / levels
    np.testing.assert_allclose(
        calibration.auc(scores, labels), _brute_force_auc(scores, labels), rtol=1e-13
    )


def test_auc_at_its_limits():
    labels = np.array([0, 0, 0, 1, 1])
    assert calibration.auc(np.arange(5), labels) == 1
    assert calibration.auc(-np.arange(5), labels) == 0
    assert calibration.auc(np.zeros(5), labels) == 0.5


def test_isotonic_pools_ties_interpolates_and_clips():
    scores = np.array([0.2, 0.2, 0.4, 0.8, 0.6])
    labels = np.array([1, 0, 0, 1, 1])
    others = np.array([0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0])
    # The tie has mean 1/2 and violates the 0 after it: together 1/3.
    np.testing.assert_allclose(
        calibration.calibrate(scores, labels, others),
        [1 / 3, 1 / 3, 1 / 3, (1 / 3 + 1 - 1e-6) / 2, *[1 - 1e-6] * 3],
        rtol=1e-12,
    )


def test_jensen_shannon_limits():
    labels = np.array([0, 1, 0, 1])
    assert calibration.jensen_shannon(np.full(4, 0.5), labels) == 0
    certain = np.where(labels, 1 - 1e-12, 1e-12)
    assert calibration.jensen_shannon(certain, labels) == pytest.approx(1)
    # Two classes that overlap in half of their mass differ by half a bit.
    half = np.array([0.5, 0.5, 1e-12, 1 - 1e-12])
    assert calibration.jensen_shannon(half, np.array([0, 1, 0, 1])) == pytest.approx(0.5)
    assert calibration.jensen_shannon(np.array([0.9, 0.1]), np.array([0, 1])) < 0
