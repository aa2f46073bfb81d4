"""The out-of-distribution score of a state: how far it is from the training data.

The score is a Mahalanobis distance, so a state whose numbers are each ordinary, but not in combination, scores high. A
policy may still do well on such a state, and badly on one with a low score: the score tells how much of the training
data was nearby.
"""

from typing import NamedTuple

import numpy as np

from rpl_runtime.policy.manifest import Statistics

FLAGGED = 1.0  # a state with a higher score is reported as far from the training data


class Novelty(NamedTuple):
    """The score of one policy's states."""

    mean: np.ndarray  # (n,) of the training states
    whitening: np.ndarray  # (n, n) factor of a row of deviations

    @classmethod
    def of(cls, statistics: Statistics | None) -> "Novelty | None":
        """The score defined by a bundle's statistics, or None if they lack a whitening."""
        if statistics is None or statistics.whitening is None:
            return None
        whitening = np.zeros((len(statistics.mean),) * 2, dtype=np.float32)
        for dim, row in enumerate(statistics.whitening):
            whitening[: len(row), dim] = row
        return cls(np.array(statistics.mean, dtype=np.float32), whitening)

    def score(self, states: np.ndarray) -> np.ndarray:
        """Scores (B,) of finite states (B, n). `FLAGGED` is the 99th percentile of the training data."""
        away = (states - self.mean) @ self.whitening
        return np.sqrt(np.vecdot(away, away))
