"""Conversion between the simulated kitchen's joint angles and base frame and those of Franka's own software.

The kitchen's arm is a Panda whose model has two joint zeros moved: its link 6 is turned by 1.57 about its axis, its
link 7 by 0.7854. Demonstrations turn joint 7 more than 0.3 rad further than an FR3 can. A parallel hand turned by half
a turn is the same hand with its fingers swapped, so joint 7 is counted pi lower here, which brings them into the FR3's
range.

The model also writes 1.57 for pi/2 where the axes of joints 6 and 7 stand at right angles to those before them, so both
lean by 0.0008 rad, which no change of joint angles corrects everywhere. With 0.0003 rad of it given to joint 7, every
link lies within 1e-3 rad and 0.1 mm of Franka's model wherever the kitchen's set-points lead; a test compares them.
"""

import numpy as np

# (7,) [rad] Franka's angles minus the kitchen's; with it the profiles of robots/profiles.py hold for the kitchen's
# targets.
JOINT_ZERO = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 1.57, 0.7851 - np.pi])
JOINT_ZERO.setflags(write=False)

# The arm's base in FrankaKitchen-v1's model; z is up in both frames.
_BASE_POSITION = np.array([0.0, 0.0, 1.8])  # [m] in the kitchen's frame
_BASE_YAW = 1.57  # [rad] from the kitchen's x axis to the base's


def to_franka(joints: np.ndarray) -> np.ndarray:
    """Franka's angles (..., 7) [rad] for arm joints (..., 7) [rad] of the kitchen."""
    return np.asarray(joints, dtype=np.float64) + JOINT_ZERO


def to_kitchen(joints: np.ndarray) -> np.ndarray:
    """The kitchen's angles (..., 7) [rad] for arm joints (..., 7) [rad] of Franka."""
    return np.asarray(joints, dtype=np.float64) - JOINT_ZERO


def pose_in_kitchen(pose_in_base: np.ndarray) -> np.ndarray:
    """A pose (7,) [m, quaternion wxyz] in the kitchen's frame, with w at least 0, from one in the arm's base frame."""
    position, quaternion = pose_in_base[:3], _turned(pose_in_base[3:], _BASE_YAW)
    # A quaternion and its negative are the same rotation; the kitchen compares numbers, and its goal has w near 1.
    return np.append(_BASE_POSITION + _yawed(position, _BASE_YAW), np.copysign(1.0, quaternion[0]) * quaternion)


def pose_in_base(pose_in_kitchen: np.ndarray) -> np.ndarray:
    """A pose (7,) [m, quaternion wxyz] in the arm's base frame, from one in the kitchen's frame."""
    position, quaternion = pose_in_kitchen[:3], pose_in_kitchen[3:]
    return np.append(_yawed(position - _BASE_POSITION, -_BASE_YAW), _turned(quaternion, -_BASE_YAW))


def _yawed(position: np.ndarray, yaw: float) -> np.ndarray:
    x, y, z = position
    return np.array([np.cos(yaw) * x - np.sin(yaw) * y, np.sin(yaw) * x + np.cos(yaw) * y, z])


def _turned(quaternion: np.ndarray, yaw: float) -> np.ndarray:
    """The rotation of a quaternion (4,) wxyz, followed by one about z by an angle [rad]."""
    (w, x, y, z), c, s = quaternion, np.cos(yaw / 2), np.sin(yaw / 2)
    return np.array([c * w - s * z, c * x - s * y, c * y + s * x, c * z + s * w])
