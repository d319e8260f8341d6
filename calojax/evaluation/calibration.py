"""From classifier outputs to numbers: AUC, isotonic calibration, Jensen-Shannon divergence.

All on the host in float64: ties and tails of the outputs decide the last digits.
"""

import numpy as np
import scipy.optimize
import scipy.stats

# A calibrated probability of exactly 0 or 1 would make one misclassified event an infinite
# divergence; the CaloChallenge (evaluate.py) keeps this distance from both.
MARGIN = 1e-6


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: the probability that a random 1 scores above a random 0.

    Of scores [n] with labels [n] of 0 and 1, both of which occur; a tie counts one half.
    """
    ones, zeros = scores[labels == 1], scores[labels == 0]
    test = scipy.stats.mannwhitneyu(ones, zeros, method="asymptotic")
    return float(test.statistic / (len(ones) * len(zeros)))


def calibrate(scores: np.ndarray, labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Probabilities of label 1 of other scores [m], by isotonic regression of labels on scores [n].

    Linear between the scores of the fit and constant outside (Zadrozny and Elkan, KDD 2002), and
    `MARGIN` away from 0 and 1.
    """
    knots, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    means = np.bincount(group, weights=labels) / counts
    fitted = scipy.optimize.isotonic_regression(means, weights=counts).x
    return np.interp(others, knots, np.clip(fitted, MARGIN, 1 - MARGIN))


def jensen_shannon(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Jensen-Shannon divergence of the two classes in bits, (ln 2 - cross entropy) / ln 2.

    From the probabilities [n] of label 1, strictly between 0 and 1. Exact for the true posterior
    of equally frequent classes, else a lower bound (Goodfellow et al., arXiv:1406.2661, theorem 1);
    a badly calibrated classifier can make it negative.
    """
    return float(1 + np.mean(np.log2(np.where(labels == 1, probabilities, 1 - probabilities))))
