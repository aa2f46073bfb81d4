"""How far a state is from what a policy was trained on.

In: the statistics of a bundle, then states. Out: a score for each, 1 where the training data thins out. It does not
know policies, runs or the wire.

The score is a Mahalanobis distance, in which a state whose numbers are each ordinary, but not together, lies far out.
A policy may still do well there, and badly where the score is low: it says how much the training data has to say.
"""

from typing import NamedTuple

import numpy as np

from rpl_runtime.policy.manifest import Statistics

FLAGGED = 1.0  # a score above it is that of a state far from the training data


class Novelty(NamedTuple):
    """A score for the states of one policy."""

    mean: np.ndarray  # (n,) of the training states
    whitening: np.ndarray  # (n, n) what a row of deviations is multiplied by

    @classmethod
    def of(cls, statistics: Statistics | None) -> "Novelty | None":
        """The score that a bundle's statistics allow for; None where they hold none."""
        if statistics is None or statistics.whitening is None:
            return None
        whitening = np.zeros((len(statistics.mean),) * 2, dtype=np.float32)
        for dim, row in enumerate(statistics.whitening):
            whitening[: len(row), dim] = row
        return cls(np.array(statistics.mean, dtype=np.float32), whitening)

    def score(self, states: np.ndarray) -> np.ndarray:
        """Scores (B,) of finite states (B, n); above `FLAGGED` lie the outermost hundredth of the training data."""
        away = (states - self.mean) @ self.whitening
        return np.sqrt(np.vecdot(away, away))
