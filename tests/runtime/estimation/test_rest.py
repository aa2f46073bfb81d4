"""Objects at rest are averaged, changes pass."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rpl_runtime.estimation.rest import RestFilter

SIGMA = np.array([0.005, 0.01, 0.01, 0.02])
OBJECTS = [[0], [1, 2]]  # the last dimension belongs to no object
SEEDS = st.integers(0, 2**32 - 1)
PLACES = st.lists(st.floats(-2, 2), min_size=4, max_size=4).map(np.array)


def seen(readings: np.ndarray) -> np.ndarray:
    """The estimates (T, 4) after each of the readings (T, 4)."""
    rest, means = RestFilter(OBJECTS, SIGMA), []
    for reading in readings:
        rest.see(reading)
        means.append(rest.mean.copy())
    return np.array(means)


def noise(seed: int, steps: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(steps, 4)) * SIGMA


@given(place=PLACES, seed=SEEDS)
def test_an_object_at_rest_is_known_better_than_it_is_seen(place: np.ndarray, seed: int) -> None:
    wrong = abs(seen(place + noise(seed, 120)) - place) / SIGMA
    # Of a hundred readings the mean has a tenth of their error; a false alarm in between may cost some of it.
    assert np.median(wrong[60:, :3]) < 0.3
    assert wrong[60:, :3].mean() < 0.6


@given(place=PLACES, seed=SEEDS, jump=st.floats(6, 500), sign=st.sampled_from([-1, 1]), at=st.integers(1, 60))
def test_a_jump_passes_at_once(place: np.ndarray, seed: int, jump: float, sign: int, at: int) -> None:
    """Whichever dimension of an object shows it, and no other object is disturbed."""
    readings = place + noise(seed, 80)
    still = seen(readings)
    moved = readings.copy()
    moved[at:, 1] += sign * 3 * jump * SIGMA[1]
    found = seen(moved)
    np.testing.assert_array_equal(found[at, 1:3], moved[at, 1:3])
    np.testing.assert_array_equal(found[:, 0], still[:, 0])


@given(seed=SEEDS, speed=st.floats(0.5, 3.0))
def test_a_moving_object_is_followed(seed: int, speed: float) -> None:
    """At a speed of a few sigma a period, the estimate trails by a few sigma, and not by the way it went."""
    path = np.arange(100)[:, None] * speed * SIGMA
    wrong = abs(seen(path + noise(seed, 100)) - path) / SIGMA
    assert wrong[20:, :3].mean() < 4.5


@given(place=PLACES, reading=PLACES, repeats=st.integers(1, 200))
def test_a_sensor_that_repeats_itself_says_nothing_new(place: np.ndarray, reading: np.ndarray, repeats: int) -> None:
    once = seen(np.array([place, reading]))
    np.testing.assert_array_equal(seen(np.array([place] + [reading] * repeats))[-1], once[-1])
