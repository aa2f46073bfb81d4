"""What a position target does to the kitchen's arm: a soft spring pulls it there, and gravity pulls it down.

In: where an arm is, a target, and the torque that gravity asks of its joints. Out: the `Course` on which the kitchen's
arm would go, or the set-point that leads it on another. It does not know simulators or robots.

A policy of the kitchen has learned with these servos: its targets lead the arm by up to 0.16 rad and lie a few
hundredths above where it is to be held. An arm that went to each target and stood there would move twice as fast and
too high, so a stiff one goes where the soft one would have gone. FrankaKitchen-v1's servos are so strongly damped that
a joint's own inertia hardly counts: with stiffness k and damping d it nears its resting place as exp(-t k / d).
"""

from typing import NamedTuple

import numpy as np

from rpl_runtime.tasks.kitchen.elements import MAX_TARGET_STEP, TARGET_HIGH, TARGET_LOW

ARM_DIM = 7

# (7,) each, of FrankaKitchen-v1's model; a test compares them with it.
STIFFNESS = np.array([870.0, 870.0, 870.0, 870.0, 120.0, 120.0, 120.0])  # [Nm/rad]
DAMPING = np.array([100.0, 100.0, 100.0, 100.0, 10.0, 10.0, 10.0])  # [Nms/rad]
RANGE_LOW = np.array([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -1.6573, -2.8973])  # [rad]
RANGE_HIGH = np.array([2.8973, 1.7628, 2.8973, -0.4, 2.8973, 2.1127, 2.8973])  # [rad]
RATE = STIFFNESS / DAMPING  # [1/s]


class Course(NamedTuple):
    """A motion that slows down toward a resting place."""

    position: np.ndarray  # (7,) [rad] where it is when the time is over
    rest: np.ndarray  # (7,) [rad] where it would end


def course(
    position: np.ndarray, reading: np.ndarray, target: np.ndarray, gravity: np.ndarray, duration_s: float
) -> Course:
    """How the kitchen's arm goes on from a position (7,) [rad] when it is given a target (7,) [rad].

    Args:
        position: where it is.
        reading: (7,) [rad] where it was measured last; the environment keeps its set-points within 0.16 rad of that.
        target: what the policy asked for.
        gravity: (7,) [Nm] the torque that holds the arm up.
        duration_s: [s] how long the target is held.
    """
    setpoint = np.clip(target, reading - MAX_TARGET_STEP, reading + MAX_TARGET_STEP)
    setpoint = np.clip(setpoint, TARGET_LOW[:ARM_DIM], TARGET_HIGH[:ARM_DIM])
    rest = np.clip(setpoint - gravity / STIFFNESS, RANGE_LOW, RANGE_HIGH)
    return Course(rest + (position - rest) * np.exp(-RATE * duration_s), rest)


def setpoint(position: np.ndarray, velocity: np.ndarray, gravity: np.ndarray) -> np.ndarray:
    """Where the kitchen's servo is to be pointed (7,) [rad] for its arm to be at a position at a velocity.

    Args:
        position: (7,) [rad]
        velocity: (7,) [rad/s]
        gravity: (7,) [Nm] the torque that holds the arm up.
    """
    return position + velocity / RATE + gravity / STIFFNESS
