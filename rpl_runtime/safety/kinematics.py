"""The forward kinematics of a Panda or an FR3, which have the same dimensions: from joint angles to the flange.

Source: the Denavit-Hartenberg parameters in Craig's convention of Franka's public documentation
(https://frankaemika.github.io/docs/control_parameters.html#denavithartenberg-parameters).
"""

import numpy as np

# (a [m], d [m], alpha [rad]) of joints 1 to 7; then the flange, which lies _FLANGE_D along the last axis.
_DH = (
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -np.pi / 2),
    (0.0, 0.316, np.pi / 2),
    (0.0825, 0.0, np.pi / 2),
    (-0.0825, 0.384, -np.pi / 2),
    (0.0, 0.0, np.pi / 2),
    (0.088, 0.0, np.pi / 2),
)
_FLANGE_D = 0.107  # [m]


def flange_pose(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position (..., 3) [m] and rotation matrix (..., 3, 3) of the flange in the frame of the arm's base (link 0).

    Args:
        joints: (..., 7) [rad] as Franka counts them.
    """
    joints = np.asarray(joints, dtype=np.float64)
    position = np.zeros((*joints.shape[:-1], 3))
    x, y, z = (np.broadcast_to(axis, position.shape) for axis in np.eye(3))
    cosines, sines = np.cos(joints), np.sin(joints)
    for joint, (a, d, alpha) in enumerate(_DH):
        # Craig: along and about the old x by a and alpha, then along and about the new z by d and theta.
        position = position + a * x
        y, z = np.cos(alpha) * y + np.sin(alpha) * z, np.cos(alpha) * z - np.sin(alpha) * y
        position = position + d * z
        cosine, sine = cosines[..., joint, None], sines[..., joint, None]
        x, y = cosine * x + sine * y, cosine * y - sine * x
    return position + _FLANGE_D * z, np.stack([x, y, z], axis=-1)
