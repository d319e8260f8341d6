"""From classifier outputs to numbers: AUC, isotonic calibration, Jensen-Shannon divergence.

All on the host in float64: these are reductions over at most some 10^5 outputs, whose ties and
tails decide the last digits.
"""

import dataclasses

import numpy as np
import scipy.optimize
import scipy.stats

# A calibrated probability of exactly 0 or 1 would make one misclassified event an infinite
# divergence; the CaloChallenge (evaluate.py) keeps this distance from both.
MARGIN = 1e-6


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a random 1 scores above a random 0.

    The Mann-Whitney statistic of the mid-ranks, so that a tie counts one half.

    Args:
      scores: [n], larger means label 1.
      labels: [n] of 0 and 1.

    Raises:
      ValueError: if one of the two labels does not occur.
    """
    positive = np.asarray(labels, bool)
    n_positive = int(positive.sum())
    n_negative = positive.size - n_positive
    if not n_positive or not n_negative:
        raise ValueError("the AUC needs scores of both labels")
    ranks = scipy.stats.rankdata(scores)
    statistic = ranks[positive].sum() - n_positive * (n_positive + 1) / 2
    return float(statistic / (n_positive * n_negative))


@dataclasses.dataclass(frozen=True)
class Isotonic:
    """A monotone map from score to probability: linear between knots, constant outside.

    Attributes:
      scores: positions of the knots, increasing, [k].
      probabilities: the probabilities there, not decreasing, [k].
    """

    scores: np.ndarray
    probabilities: np.ndarray

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of scores [n] -> [n]."""
        return np.interp(scores, self.scores, self.probabilities)


def isotonic(scores: np.ndarray, labels: np.ndarray, *, margin: float = MARGIN) -> Isotonic:
    """The isotonic regression of labels on scores (Zadrozny and Elkan, KDD 2002).

    Args:
      scores: [n].
      labels: [n] of 0 and 1.
      margin: the probabilities are kept in [margin, 1 - margin].
    """
    knots, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    means = np.bincount(group, weights=labels) / counts
    fitted = scipy.optimize.isotonic_regression(means, weights=counts).x
    return Isotonic(knots.astype(np.float64), np.clip(fitted, margin, 1 - margin))


def jensen_shannon(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Jensen-Shannon divergence of the two classes in bits, (ln 2 - cross entropy) / ln 2.

    Exact for the true posterior of equally frequent classes, else a lower bound (Goodfellow et al.,
    arXiv:1406.2661, theorem 1); a badly calibrated classifier can make it negative.

    Args:
      probabilities: of label 1, strictly between 0 and 1, [n].
      labels: [n] of 0 and 1.
    """
    chosen = np.where(np.asarray(labels, bool), probabilities, 1 - np.asarray(probabilities))
    return float(1 + np.mean(np.log2(chosen)))
