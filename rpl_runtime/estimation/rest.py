"""Objects at rest are averaged until a change is detected; objects that move pass."""

from collections.abc import Sequence

import numpy as np

# Chosen on the kitchen with noise of 5 mm and 0.01 rad; half and twice that noise are told apart from motion as well.
_JUMP = 4.5  # [sigma] a single reading this far away is a change
_DRIFT, _LIMIT = 0.5, 8.0  # [sigma] of the two-sided CUSUM: it adds what exceeds the drift, and detects at the limit
_LONGEST = 100  # readings averaged at most
_MOVING, _SHORT = 5, 1.6  # for so many readings after a change, the average is over this many


class RestFilter:
    """A running mean of each object's dimensions, which begins again when its readings disagree with rest.

    Page's two-sided CUSUM (Biometrika 41, 1954) on the normalized distance of each reading from the mean.

    Args:
        objects: the dimensions of each object: if one of them changes, all of them have changed.
        sigma: (n,) standard deviation of each dimension's readings at rest, positive in these dimensions.
    """

    def __init__(self, objects: Sequence[Sequence[int]], sigma: np.ndarray) -> None:
        self._objects = [list(dims) for dims in objects]
        self._sigma = sigma
        self.mean = np.empty(0)  # (n,) the estimate; only the objects' dimensions mean something

    def see(self, reading: np.ndarray) -> None:
        """Take a reading (n,) into `mean`; the first one starts it."""
        if not self.mean.size:
            self.mean = reading.astype(np.float64)
            self._last = reading
            self._count = np.ones_like(self.mean)
            self._up, self._down = np.zeros_like(self.mean), np.zeros_like(self.mean)
            self._moving = np.zeros(len(self._objects), dtype=int)
        for number, dims in enumerate(self._objects):
            seen = reading[dims]
            # A sensor that saw nothing new repeats itself, which is not another sample of its noise.
            if np.array_equal(seen, self._last[dims]):
                continue
            away = (seen - self.mean[dims]) / (self._sigma[dims] * np.sqrt(1 + 1 / self._count[dims]))
            self._up[dims] = np.maximum(0.0, self._up[dims] + away - _DRIFT)
            self._down[dims] = np.maximum(0.0, self._down[dims] - away - _DRIFT)
            if max(self._up[dims].max(), self._down[dims].max()) > _LIMIT or abs(away).max() > _JUMP:
                self.mean[dims], self._count[dims], self._moving[number] = seen, 1.0, _MOVING
                self._up[dims] = self._down[dims] = 0.0
            else:
                self._moving[number] = max(0, self._moving[number] - 1)
                self._count[dims] = np.minimum(self._count[dims] + 1, _SHORT if self._moving[number] else _LONGEST)
                self.mean[dims] += (seen - self.mean[dims]) / self._count[dims]
        self._last = reading
