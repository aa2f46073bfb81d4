"""The line that franky draws: what the robot receives, millisecond by millisecond, once franky is given waypoints.

franky, the vendor's client library, hands its waypoints to Ruckig and sends what comes back. Its source is modelled
here (`waypoint_motion.hpp`, `position_waypoint_motion.hpp`, `joint_waypoint_motion.cpp`) with the `ruckig` package, so
that a line can be checked before it is sent. A test compares the model with what franky sends.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rpl_runtime.errors import require
from rpl_runtime.safety.filter import Kind, LimitViolation
from rpl_runtime.safety.kinematics import flange_pose
from rpl_runtime.safety.limits import ArmLimits, Profile
from rpl_runtime.safety.motion import DT, State

# What a robot reports is rounded to single precision on its way here, and a line begins with it.
_POSITION_ROUNDING = 1e-6  # [rad, m]
_VELOCITY_ROUNDING = 1e-6  # [rad/s]
_ACCELERATION_ROUNDING = 1e-3  # [rad/s^2]
_JERK_ROUNDING = 1.0  # [rad/s^3]
_REACH = 1.2  # [m] more than any joint's axis and the flange are apart


class Waypoint(NamedTuple):
    """Where a line passes, and how fast: franky's `JointWaypoint` with a relative reference."""

    way: np.ndarray  # (7,) [rad] from the waypoint before, or from where the line begins
    velocity: np.ndarray  # (7,) [rad/s] there
    minimum_ms: int | None = None  # [ms] that the way takes at least


def line(start: State, waypoints: Sequence[Waypoint], limits: ArmLimits, share: float = 1.0) -> np.ndarray | None:
    """The commands (T, 7) [rad] that franky sends each millisecond, up to rest at the last waypoint.

    None where Ruckig finds no way: franky's motion would break off there.

    Args:
        start: the command before, and the velocity and acceleration that the robot reports when the line takes over.
        waypoints: the last one must be at rest.
        limits: the velocity, acceleration and jerk that franky has.
        share: of each of them that this line uses, franky's relative dynamics factor.
    """
    ruckig = require("ruckig", "franka")
    asked = ruckig.InputParameter(7)
    asked.synchronization = ruckig.Synchronization.Time
    asked.max_velocity = share * limits.velocity
    asked.max_acceleration = share * limits.acceleration
    asked.max_jerk = share * limits.jerk
    planner, commands = ruckig.Ruckig(7, DT), []
    place, state = start.position, (start.position, start.velocity, start.acceleration)
    for waypoint in waypoints:
        place = place + waypoint.way
        asked.current_position, asked.current_velocity, asked.current_acceleration = state
        asked.target_position, asked.target_velocity = place, waypoint.velocity
        asked.minimum_duration = None if waypoint.minimum_ms is None else waypoint.minimum_ms / 1000
        trajectory = ruckig.Trajectory(7)
        try:
            planner.calculate(asked, trajectory)
        except ruckig.RuckigError:
            return None
        # Times are added up as Ruckig adds them, and a waypoint is reached in the first sample beyond its duration.
        times = np.add.accumulate(np.full(int(trajectory.duration / DT) + 3, DT))
        samples = [trajectory.at_time(time) for time in times[: int(np.argmax(times > trajectory.duration)) + 1]]
        commands += [position for position, _, _ in samples]
        state = samples[-1]
    return np.array(commands)


def violations(profile: Profile, commands: np.ndarray, slides: np.ndarray) -> set[LimitViolation]:
    """The limits that a line violates, by its samples at 1 kHz and their differences.

    An arm that is a little outside of its range or workspace already must not go further out.

    Args:
        profile: the limits, in Franka's joint zeros.
        commands: (3 + T, 7) [rad] the last three commands before the line, then the line up to rest.
        slides: (S, 7) [rad] by which the whole may be shifted, the first by nothing, each further than the one before:
            a line that takes over later while the arm moves evenly is the same line further on.
    """
    limits, joints = profile.arm, commands.shape[1]
    assert limits is not None
    velocity, acceleration, jerk = (np.diff(commands, n=order, axis=0) / DT**order for order in (1, 2, 3))
    low = np.minimum(profile.low[:joints] + _POSITION_ROUNDING, commands[2])
    high = np.maximum(profile.high[:joints] - _POSITION_ROUNDING, commands[2])
    outside = wrong_speed = np.zeros(joints, dtype=bool)
    for there in (commands + slides[0], commands + slides[-1]):  # what is inside at both is inside between
        outside = outside | ((there[3:] < low) | (there[3:] > high)).any(axis=0)
        slowest, fastest = limits.velocity_range(there)
        # A difference belongs to two samples, so the stricter limit of both holds.
        slow = velocity < np.maximum(slowest[1:], slowest[:-1]) + _VELOCITY_ROUNDING
        fast = velocity > np.minimum(fastest[1:], fastest[:-1]) - _VELOCITY_ROUNDING
        wrong_speed = wrong_speed | ((slow | fast) & (velocity != 0))[2:].any(axis=0)
    hard = (abs(acceleration[1:]) > limits.acceleration - _ACCELERATION_ROUNDING).any(axis=0)
    jolted = (abs(jerk) > limits.jerk - _JERK_ROUNDING).any(axis=0)
    kinds: tuple[Kind, ...] = ("position", "velocity", "acceleration", "jerk")
    found = {
        LimitViolation(kinds[kind], int(joint)) for kind, joint in np.argwhere([outside, wrong_speed, hard, jolted])
    }
    if not _is_in_workspace(limits, commands[2:], slides):
        found.add(LimitViolation("workspace", None))
    return found


def _is_in_workspace(limits: ArmLimits, commands: np.ndarray, slides: np.ndarray) -> bool:
    """Whether the flange stays inside from the first command on, or does not go further out than it is there."""
    flange, _ = flange_pose(commands + slides[[0, -1], None])  # (2, T, 3)
    low = np.minimum(np.add(limits.workspace.low, _POSITION_ROUNDING), flange[0, 0])
    high = np.maximum(np.subtract(limits.workspace.high, _POSITION_ROUNDING), flange[0, 0])
    # Between the two it leaves their chord by at most an eighth of its second derivative, which no reach exceeds.
    bend = _REACH * abs(slides[-1]).sum() ** 2 / 8
    if ((flange >= low + bend) & (flange <= high - bend)).all():
        return True
    flange, _ = flange_pose(commands + slides[:, None])
    return bool(((flange >= low) & (flange <= high)).all())
