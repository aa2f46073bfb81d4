"""The limits of an arm, checked on what was commanded by independent differences."""

import numpy as np

from rpl_runtime.safety.kinematics import flange_pose
from rpl_runtime.safety.limits import Profile

MS = 1e-3  # [s] between two samples


def assert_inside(profile: Profile, start: np.ndarray, commanded: np.ndarray) -> None:
    """Every limit of the arm, on samples at 1 kHz (T, m) after a start at rest and their differences."""
    assert_inside_while_moving(profile, np.vstack([[start] * 3, commanded]))


def assert_inside_while_moving(profile: Profile, commanded: np.ndarray) -> None:
    """Every limit of the arm, on samples at 1 kHz (T, m) from the midst of a motion and their differences."""
    arm = profile.arm
    assert arm is not None
    assert (commanded >= profile.low - 1e-9).all()
    assert (commanded <= profile.high + 1e-9).all()
    position = commanded[:, :7]
    velocity = np.diff(position, axis=0) / MS
    acceleration = np.diff(velocity, axis=0) / MS
    slowest, fastest = arm.velocity_range(position)
    for end in (slice(1, None), slice(None, -1)):  # the limit at both samples that a difference belongs to
        assert (velocity <= fastest[end] + 1e-9).all()
        assert (velocity >= slowest[end] - 1e-9).all()
    assert (abs(acceleration) <= arm.acceleration).all()
    assert (abs(np.diff(acceleration, axis=0)) / MS <= arm.jerk).all()
    flange = flange_pose(position + arm.zero)[0]
    assert (flange >= np.array(arm.workspace.low) - 1e-9).all()
    assert (flange <= np.array(arm.workspace.high) + 1e-9).all()
