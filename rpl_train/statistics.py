"""How training states are distributed: numbers that go into the networks and into the manifest.

In: the states. Out: their `Statistics`. It does not know where they come from.

The whitening comes from the correlation matrix, shrunk towards none: where dimensions move together in all of the data,
as a knob and its burner do, the matrix as it stands would take the noise of a sensor for a discovery. How much was
chosen among a few on kitchens whose seeds are not those reported (docs/lab-notes.md).
"""

import numpy as np

from rpl_runtime.policy.manifest import Statistics

_SHRINKAGE = 0.03  # towards dimensions that have nothing to do with each other
_BEYOND = 0.01  # the share of the states that scores above 1
STD_FLOOR = 0.01  # [rad, m] a deviation counts as no less: what hardly moved is still measured with noise


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
    """The rows of the triangle W for which |W (x - mean)| is a Mahalanobis distance, 1 at the quantile."""
    deviations = states - states.mean(0)
    scale = np.maximum(states.std(0), STD_FLOOR)
    scaled = deviations / scale
    shrunk = (1 - _SHRINKAGE) * scaled.T @ scaled / len(scaled) + _SHRINKAGE * np.eye(len(scale))
    triangle = np.linalg.inv(np.linalg.cholesky(shrunk)) / scale
    distances = np.linalg.norm(deviations @ triangle.T, axis=1)
    triangle /= np.quantile(distances, 1 - _BEYOND)
    # Six digits are more than the data has, and a third of the text in a manifest.
    return tuple(tuple(float(f"{value:.6g}") for value in row[: dim + 1]) for dim, row in enumerate(triangle))


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
