"""How the kitchen's servos move its arm: a soft spring pulls each joint to its target, and gravity pulls it down.

The kitchen's policies learned with these servos: their targets lead the arm by up to 0.16 rad, and lie a few hundredths
of a radian above where the arm should rest. An arm that went to each target and stopped there would move twice as fast
and too high, so a stiff arm must track the soft arm's trajectory. FrankaKitchen-v1's servos are damped so strongly that
a joint's inertia hardly matters: with stiffness k and damping d, a joint nears its resting place as exp(-t k / d).
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

    position: np.ndarray  # (7,) [rad] at the end of the duration
    rest: np.ndarray  # (7,) [rad] the resting place


def course(
    position: np.ndarray, reading: np.ndarray, target: np.ndarray, gravity: np.ndarray, duration_s: float
) -> Course:
    """The motion of the kitchen's arm while it holds a target.

    Args:
        position: (7,) [rad] at the beginning.
        reading: (7,) [rad] the last measurement; the environment keeps its set-points within 0.16 rad of it.
        target: (7,) [rad] the policy's target.
        gravity: (7,) [Nm] the torque that holds the arm up.
        duration_s: [s] how long the target is held.
    """
    setpoint = np.clip(target, reading - MAX_TARGET_STEP, reading + MAX_TARGET_STEP)
    setpoint = np.clip(setpoint, TARGET_LOW[:ARM_DIM], TARGET_HIGH[:ARM_DIM])
    rest = np.clip(setpoint - gravity / STIFFNESS, RANGE_LOW, RANGE_HIGH)
    return Course(rest + (position - rest) * np.exp(-RATE * duration_s), rest)


def follow(position: np.ndarray, target: np.ndarray, load: np.ndarray, duration_s: float) -> np.ndarray:
    """Where (7,) [rad] the arm is after a duration [s] with a target: `course`, from a measured position.

    The servo model of the state estimator (estimation/body.py); the load (7,) [Nm] is the torque that holds the arm up.
    """
    return course(position, position, target, load, duration_s).position


def setpoint(position: np.ndarray, velocity: np.ndarray, gravity: np.ndarray) -> np.ndarray:
    """The set-point (7,) [rad] of the kitchen's servo at which its arm has a position and a velocity.

    Args:
        position: (7,) [rad]
        velocity: (7,) [rad/s]
        gravity: (7,) [Nm] the torque that holds the arm up.
    """
    return position + velocity / RATE + gravity / STIFFNESS
