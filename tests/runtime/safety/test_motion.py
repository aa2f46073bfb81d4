"""Motions at 1 kHz: through a target, and to rest."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rpl_runtime.safety.motion import DT, Motion, State, braking, sample_times, through

ACCELERATION, JERK = np.array([10.0, 7.5, 20.0]), np.array([5000.0, 3750.0, 10000.0])
STATES = st.tuples(
    *[st.lists(st.floats(-top, top), min_size=3, max_size=3).map(np.array) for top in (3.0, 5.0, 7.5)]
).map(lambda parts: State(*parts))


@given(STATES)
@settings(max_examples=200)
def test_braking_ends_at_rest_within_its_acceleration_and_jerk(start: State) -> None:
    motion = braking(start, ACCELERATION, JERK)
    assert abs(motion.velocity[-1]).max() < 1e-9
    assert abs(motion.acceleration[-1]).max() < 1e-9
    assert (abs(motion.acceleration) <= ACCELERATION + 1e-9).all()
    assert (abs(np.diff(motion.acceleration, axis=0)) / DT <= JERK + 1e-6).all()


@given(STATES)
def test_braking_takes_no_longer_than_the_limits_make_it(start: State) -> None:
    """No joint needs more than to undo its acceleration, its velocity, and two ramps of the acceleration."""
    ramps = abs(start.acceleration) / JERK + 2 * ACCELERATION / JERK
    left = abs(start.velocity) + start.acceleration**2 / (2 * JERK)
    assert len(braking(start, ACCELERATION, JERK).position) * DT <= (left / ACCELERATION + ramps).max() + 2 * DT


@given(STATES)
def test_samples_of_a_braking_motion_are_its_own_derivatives(start: State) -> None:
    motion = braking(start, ACCELERATION, JERK)
    position = np.vstack([start.position, motion.position])
    velocity = np.vstack([start.velocity, motion.velocity])
    acceleration = np.vstack([start.acceleration, motion.acceleration])
    np.testing.assert_allclose(np.diff(position, axis=0) / DT, (velocity[1:] + velocity[:-1]) / 2, atol=1e-3)
    np.testing.assert_allclose(np.diff(velocity, axis=0) / DT, (acceleration[1:] + acceleration[:-1]) / 2, atol=5.1)


@given(STATES, STATES, st.floats(0.02, 2.0))
def test_a_motion_through_a_state_is_there_when_it_is_to_be(start: State, end: State, duration: float) -> None:
    begun, ended = (through(start, end, duration, np.array([[t]])).at(0) for t in (0.0, duration))
    for got, wanted in ((begun, start), (ended, end)):
        for mine, its, unit in zip(got, wanted, (1, duration, duration**2), strict=True):
            np.testing.assert_allclose(mine * unit, its * unit, atol=1e-9)


def test_a_held_motion_stays_where_it_ended() -> None:
    motion = braking(State(np.zeros(3), np.ones(3), np.zeros(3)), ACCELERATION, JERK)
    held = motion.held(500)
    assert len(held.position) == 500
    assert (held.position[len(motion.position) :] == motion.position[-1]).all()
    assert not held.velocity[len(motion.position) :].any()
    assert motion.held(3) is motion


def test_a_share_of_the_way_to_another_motion() -> None:
    one, other = (Motion(*[np.full((4, 2), value)] * 3) for value in (0.1, 0.3))
    shared = one.toward(other, np.array([0.5, 1.0]))
    np.testing.assert_allclose(shared.position, [[0.2, 0.3]] * 4)
    assert (shared.position[:, 1] == other.position[:, 1]).all()


def test_samples_are_a_millisecond_apart() -> None:
    np.testing.assert_allclose(sample_times(3)[:, 0], [0.001, 0.002, 0.003])
