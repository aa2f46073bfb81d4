"""Statistics of the training states, for the networks and the manifest.

The whitening comes from the correlation matrix, shrunk towards the identity. Some dimensions move together in all of
the data, as a knob and its burner do; without shrinkage, sensor noise on them would count as out of distribution. The
shrinkage was chosen on kitchens with other seeds than the reported ones (docs/lab-notes.md).
"""

import numpy as np

from rpl_runtime.policy.manifest import Statistics

_SHRINKAGE = 0.03  # towards uncorrelated dimensions
_BEYOND = 0.01  # share of the training states that scores above 1
STD_FLOOR = 0.01  # [rad, m] lower bound of a standard deviation: a dimension that hardly moves still has sensor noise


def state_statistics(states: np.ndarray) -> Statistics:
    """The statistics of states (N, n)."""
    return Statistics(
        mean=_floats(states.mean(0)),
        std=_floats(states.std(0)),
        low=_floats(states.min(0)),
        high=_floats(states.max(0)),
        whitening=_whitening(states.astype(np.float64)),
    )


def _whitening(states: np.ndarray) -> tuple[tuple[float, ...], ...]:
    """The rows of the triangle W such that |W (x - mean)| is a Mahalanobis distance, scaled to 1 at the quantile."""
    deviations = states - states.mean(0)
    scale = np.maximum(states.std(0), STD_FLOOR)
    scaled = deviations / scale
    shrunk = (1 - _SHRINKAGE) * scaled.T @ scaled / len(scaled) + _SHRINKAGE * np.eye(len(scale))
    triangle = np.linalg.inv(np.linalg.cholesky(shrunk)) / scale
    distances = np.linalg.norm(deviations @ triangle.T, axis=1)
    triangle /= np.quantile(distances, 1 - _BEYOND)
    # Six digits exceed the data's precision and take a third of the space in a manifest.
    return tuple(tuple(float(f"{value:.6g}") for value in row[: dim + 1]) for dim, row in enumerate(triangle))


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
