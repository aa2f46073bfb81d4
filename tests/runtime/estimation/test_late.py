"""A late arm is predicted from its targets, and its lateness can be measured."""

from collections.abc import Sized

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpl_runtime.estimation.late import ArmPredictor, arm_age

PERIOD_S = 0.08
RATE = np.array([8.0, 12.0])
AGES = st.floats(0.01, 0.6)
LOADS = st.lists(st.floats(-0.05, 0.05), min_size=2, max_size=2).map(np.array)
SEEDS = st.integers(0, 2**32 - 1)


def spring(position: np.ndarray, target: np.ndarray, load: np.ndarray, duration_s: float) -> np.ndarray:
    """Two joints that near a place beside their target."""
    rest = target + load
    return rest + (position - rest) * np.exp(-RATE * duration_s)


def place(targets: np.ndarray, load: np.ndarray, time_s: float) -> np.ndarray:
    """Where the joints are at a time, having begun at zero."""
    position = np.zeros(2)
    for number, target in enumerate(targets):
        position = spring(position, target, load, float(np.clip(time_s - number * PERIOD_S, 0.0, PERIOD_S)))
    return position


def wander(seed: int, steps: int) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).normal(scale=0.05, size=(steps, 2)), axis=0)


@given(seed=SEEDS, load=LOADS, ages=st.lists(AGES, min_size=30, max_size=30))
def test_a_late_arm_is_predicted_whatever_its_age_and_load(seed: int, load: np.ndarray, ages: list[float]) -> None:
    """The load is learned from the readings, whose ages may all differ."""
    targets, arm, wrong = wander(seed, 30), ArmPredictor(spring, PERIOD_S), []
    for number, (target, age_s) in enumerate(zip(targets, ages, strict=True)):
        now_s = number * PERIOD_S
        found = arm.now(place(targets, load, max(0.0, now_s - age_s)), min(age_s, now_s))
        wrong.append(abs(found - place(targets, load, now_s)).max())
        arm.command(target)
    assert max(wrong[-5:]) < 2e-3  # of up to 0.05 that the load moves it, and far more that the targets do


def test_a_long_run_needs_no_more_memory_than_a_short_one_and_is_predicted_as_well() -> None:
    """Also after a time without readings that is longer than any age that counts."""
    targets, load, arm = wander(1, 1000), np.array([0.02, -0.01]), ArmPredictor(spring, PERIOD_S)
    places, kept = [np.zeros(2)], set[int]()
    for number, target in enumerate(targets):
        late = min(2, number)  # [periods]
        if not 300 <= number < 600:
            found = arm.now(places[number - late], late * PERIOD_S)
            if number > 50:
                np.testing.assert_allclose(found, places[number], atol=2e-3)
        arm.command(target)
        places.append(spring(places[-1], target, load, PERIOD_S))
        kept.add(sum(len(held) for held in vars(arm).values() if isinstance(held, Sized)))
    assert max(kept) < 300


@given(seed=SEEDS, age_s=AGES)
def test_an_arm_without_a_target_stays(seed: int, age_s: float) -> None:
    arm, here = ArmPredictor(spring, PERIOD_S), np.array([0.3, -0.2])
    arm.now(here, age_s)
    for _ in range(5):
        arm.command(None)
    np.testing.assert_array_equal(arm.now(here, age_s), here)


@pytest.mark.parametrize("age_s", [0.0, 0.04, 0.08, 0.2, 0.4])
def test_the_age_of_readings_shows_in_a_motion(age_s: float) -> None:
    load = np.array([0.02, -0.01])
    targets = 0.06 * (1 - np.cos(np.arange(48) / 2.5))[:, None] * np.ones(2)
    noise = np.random.default_rng(1).normal(scale=5e-4, size=(48, 2))
    readings = np.array([place(targets, load, (number + 1) * PERIOD_S - age_s) for number in range(48)]) + noise
    assert arm_age(spring, readings, list(targets), PERIOD_S) == pytest.approx(age_s, abs=0.01)
