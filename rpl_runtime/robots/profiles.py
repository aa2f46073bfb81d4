"""The limits of each arm: the Panda's and the FR3's.

Source of Franka's: "Robot and interface specifications" (https://frankaemika.github.io/docs/control_parameters.html).
A robot aborts a motion that reaches a limit, so the limits here are lower by the tolerances of libfranka's own rate
limiter (rate_limiting.h): 1e-3 of velocity, acceleration and jerk, and on the Panda also the velocity that a joint
gains while three packets are lost.
"""

import numpy as np

from rpl_runtime.errors import InvalidInput
from rpl_runtime.safety.limits import ARM_JOINTS, ArmLimits, Box, Profile


def profile(name: str) -> Profile:
    """The profile with a name.

    Raises:
        InvalidInput: there is none.
    """
    if name not in PROFILES:
        raise InvalidInput(f"the profile is {name!r}; must be one of {', '.join(PROFILES)}")
    return PROFILES[name]


def _array(*values: float) -> np.ndarray:
    array = np.array(values)
    array.setflags(write=False)
    return array


_TOLERANCE = 1e-3  # [rad/s, rad/s^2, rad/s^3] kLimitEps
_LOST = 3e-3  # [s] kTolNumberPacketsLost * kDeltaT of the Panda; the FR3's is 0
_FINGER_LOW, _FINGER_HIGH = (0.0, 0.0), (0.04, 0.04)  # [m] the Franka hand's; the hand controls their speed itself
# [m] The arm's reach of 0.855 m (Franka's data sheet) around its shoulder, 0.333 m up; at the bottom 0.05 m below the
# plane it stands on, so that it reaches the kitchen's counter. A site should set a smaller one.
_WORKSPACE = Box((-0.855, -0.855, -0.05), (0.855, 0.855, 1.188))
_ZEROS = _array(*[0.0] * ARM_JOINTS)

_PANDA_ACCELERATION = _array(15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0) - _TOLERANCE
_PANDA = Profile(
    name="panda",
    low=_array(-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973, *_FINGER_LOW),
    high=_array(2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973, *_FINGER_HIGH),
    arm=ArmLimits(
        velocity=_array(2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61) - _TOLERANCE - _LOST * _PANDA_ACCELERATION,
        acceleration=_PANDA_ACCELERATION,
        jerk=_array(7500.0, 3750.0, 5000.0, 6250.0, 7500.0, 10000.0, 10000.0) - _TOLERANCE,
        slope=_ZEROS,
        offset=_array(*[-10.0] * ARM_JOINTS),  # the same velocity everywhere
        end_low=_ZEROS,
        end_high=_ZEROS,
        workspace=_WORKSPACE,
        zero=_ZEROS,
    ),
)
# Two public sources differ in the FR3's velocities near the ends of its range: the documentation (and rate_limiting.h),
# and the robot description that newer systems send (franka_description, robots/fr3). The slopes are the same; of offset
# and ends the stricter is taken, so that the limits hold for both.
_FR3_SLOPE = _array(12.0, 5.17, 7.0, 8.0, 34.0, 11.0, 34.0)
_FR3_OFFSET = _array(0.652, 0.25, 0.2005, 0.3542, 0.5738, 0.4885, 0.4592) + _TOLERANCE
_FR3_END_LOW = _array(-2.7501, -1.7918, -2.9007, -3.0481, -2.8101, 0.54092, -3.0196)
_FR3_END_HIGH = _array(2.7501, 1.7918, 2.9007, -0.1458, 2.8101, 4.5205, 3.0196)
_FR3_STILL = _FR3_OFFSET**2 / _FR3_SLOPE  # [rad] before an end, where the velocity limit reaches 0
_FR3_LOW = np.maximum(_FR3_END_LOW + _FR3_STILL, _array(-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159))
_FR3_HIGH = np.minimum(_FR3_END_HIGH - _FR3_STILL, _array(2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159))
_FR3 = Profile(
    name="fr3",
    low=_array(*_FR3_LOW, *_FINGER_LOW),
    high=_array(*_FR3_HIGH, *_FINGER_HIGH),
    arm=ArmLimits(
        velocity=_array(2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26) - _TOLERANCE,
        acceleration=_array(*[10.0] * ARM_JOINTS) - _TOLERANCE,
        jerk=_array(*[5000.0] * ARM_JOINTS) - _TOLERANCE,
        slope=_FR3_SLOPE,
        offset=_FR3_OFFSET,
        end_low=_FR3_END_LOW,
        end_high=_FR3_END_HIGH,
        workspace=_WORKSPACE,
        zero=_ZEROS,
    ),
)
PROFILES = {each.name: each for each in (_PANDA, _FR3)}
