"""Two conventions for one arm and one room: the simulated kitchen's, and those of Franka's own software.

In: joints or a pose in one of them. Out: the same in the other. It does not know robots, policies or simulators.

The kitchen's arm is a Panda whose model has two joint zeros moved: its link 6 is turned by 1.57 about its axis, its
link 7 by 0.7854. People and policies in the kitchen turn joint 7 more than 0.3 rad further than an FR3 can. But a
parallel hand that is turned by half a turn is the same hand with its fingers changed over, and so it is here: joint 7
is counted pi lower, and what they do lies within the FR3's range.

The model also writes 1.57 for pi/2 where the axes of joints 6 and 7 stand upright on the ones before them, so both
lean by 0.0008 rad, which no change of joint angles undoes everywhere. With 0.0003 rad of it given to joint 7, every
link lies within 1e-3 rad and 0.1 mm of Franka's model wherever the kitchen's set-points lead; a test compares them.
"""

import numpy as np

# (7,) [rad] what Franka's angles have more than the kitchen's; also the zeros with which the profiles of limits.py hold
# for the kitchen's targets.
JOINT_ZERO = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 1.57, 0.7851 - np.pi])
JOINT_ZERO.setflags(write=False)

# Where the arm's base stands in the kitchen, from FrankaKitchen-v1's model: z is up in both frames.
_BASE_POSITION = np.array([0.0, 0.0, 1.8])  # [m] in the kitchen's frame
_BASE_YAW = 1.57  # [rad] from the kitchen's x axis to the base's


def to_franka(joints: np.ndarray) -> np.ndarray:
    """Arm joints (..., 7) [rad] of the kitchen, as Franka counts them."""
    return np.asarray(joints, dtype=np.float64) + JOINT_ZERO


def to_kitchen(joints: np.ndarray) -> np.ndarray:
    """Arm joints (..., 7) [rad] as Franka counts them, in the kitchen's way."""
    return np.asarray(joints, dtype=np.float64) - JOINT_ZERO


def pose_in_kitchen(pose_in_base: np.ndarray) -> np.ndarray:
    """A pose (7,) [m, quaternion wxyz] in the frame of the arm's base, in the kitchen's frame, with w at least 0."""
    position, quaternion = pose_in_base[:3], _turned(pose_in_base[3:], _BASE_YAW)
    # A quaternion and its negative are one rotation; the kitchen compares numbers, and its goal has w near 1.
    return np.append(_BASE_POSITION + _yawed(position, _BASE_YAW), np.copysign(1.0, quaternion[0]) * quaternion)


def pose_in_base(pose_in_kitchen: np.ndarray) -> np.ndarray:
    """A pose (7,) [m, quaternion wxyz] in the kitchen's frame, in the frame of the arm's base."""
    position, quaternion = pose_in_kitchen[:3], pose_in_kitchen[3:]
    return np.append(_yawed(position - _BASE_POSITION, -_BASE_YAW), _turned(quaternion, -_BASE_YAW))


def _yawed(position: np.ndarray, yaw: float) -> np.ndarray:
    x, y, z = position
    return np.array([np.cos(yaw) * x - np.sin(yaw) * y, np.sin(yaw) * x + np.cos(yaw) * y, z])


def _turned(quaternion: np.ndarray, yaw: float) -> np.ndarray:
    """A rotation about z by an angle [rad], after the one of a quaternion (4,) wxyz."""
    (w, x, y, z), c, s = quaternion, np.cos(yaw / 2), np.sin(yaw / 2)
    return np.array([c * w - s * z, c * x - s * y, c * y + s * x, c * z + s * w])
