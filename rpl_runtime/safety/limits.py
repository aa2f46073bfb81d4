"""The limits that a robot keeps: a profile for the simulated kitchen, one for the Panda, one for the FR3.

In: nothing. Out: `PROFILES`, by name, each number with its source. It does not know motions, targets or time.

Franka's tables are those of its public documentation, "Robot and interface specifications"
(https://frankaemika.github.io/docs/control_parameters.html). A robot aborts a motion that reaches a limit, so the
limits here are lower by the tolerances that libfranka's own rate limiter subtracts (its rate_limiting.h): 1e-3 from
velocity, acceleration and jerk, and on the Panda also the velocity that a joint gains while three packets are lost.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from rpl_runtime.errors import InvalidInput
from rpl_runtime.tasks.kitchen.elements import TARGET_HIGH, TARGET_LOW

ARM_JOINTS = 7  # the first entries of a target, where its profile has an arm


@dataclass(frozen=True)
class Box:
    """Where the flange may be, in the frame of the arm's base."""

    low: tuple[float, float, float]  # [m] x, y, z
    high: tuple[float, float, float]  # [m] x, y, z


@dataclass(frozen=True, eq=False)
class ArmLimits:
    """How an arm's joints may move.

    Where `slope` is not 0 a joint is slower near the ends of its range: at the angle q it moves up at no more than
    sqrt(slope * (end_high - q)) - offset, and down likewise.
    """

    velocity: np.ndarray  # (7,) [rad/s]
    acceleration: np.ndarray  # (7,) [rad/s^2]
    jerk: np.ndarray  # (7,) [rad/s^3]
    slope: np.ndarray  # (7,) [rad/s^2]
    offset: np.ndarray  # (7,) [rad/s]
    end_low: np.ndarray  # (7,) [rad]
    end_high: np.ndarray  # (7,) [rad]
    workspace: Box
    zero: np.ndarray  # (7,) [rad] added to a target's joints this gives the vendor's joint angles

    def velocity_range(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest velocity (..., 7) [rad/s] at a position (..., 7) [rad]."""
        up = np.sqrt(self.slope * np.maximum(0.0, self.end_high - position)) - self.offset
        down = np.sqrt(self.slope * np.maximum(0.0, position - self.end_low)) - self.offset
        return -np.clip(down, 0.0, self.velocity), np.clip(up, 0.0, self.velocity)


@dataclass(frozen=True, eq=False)
class Profile:
    """What a target (m,), and the motion toward it, must keep.

    The entries of a target that belong to no arm are set-points: they are brought inside their range and held.
    """

    name: str
    low: np.ndarray  # (m,) [rad, m]
    high: np.ndarray  # (m,) [rad, m]
    arm: ArmLimits | None = None  # of the first seven entries

    @property
    def joints(self) -> int:
        """How many entries of a target are joints of the arm."""
        return ARM_JOINTS if self.arm else 0

    def within(self, workspace: Box) -> Self:
        """This profile with a workspace of one's own.

        Raises:
            InvalidInput: the profile has no arm, or the box is empty.
        """
        if self.arm is None:
            raise InvalidInput(f"a workspace for the profile {self.name}; allowed is one for a profile with an arm")
        if not all(low < high for low, high in zip(workspace.low, workspace.high, strict=True)):
            raise InvalidInput(f"a workspace from {workspace.low} to {workspace.high}; allowed is low below high")
        return replace(self, arm=replace(self.arm, workspace=workspace))

    def slowed(self, velocity: float, acceleration: float, jerk: float) -> Self:
        """This profile with a share (0, 1] of each of its arm's limits of motion.

        Raises:
            InvalidInput: the profile has no arm, or a share is none.
        """
        if self.arm is None or not all(0 < share <= 1 for share in (velocity, acceleration, jerk)):
            raise InvalidInput(
                f"shares {velocity}, {acceleration}, {jerk} of the limits of the profile {self.name}; allowed are "
                f"more than 0 and at most 1, for an arm"
            )
        arm = replace(
            self.arm,
            velocity=velocity * self.arm.velocity,
            acceleration=acceleration * self.arm.acceleration,
            jerk=jerk * self.arm.jerk,
        )
        return replace(self, arm=arm)

    def rezeroed(self, zero: np.ndarray) -> Self:
        """This profile for targets with other joint zeros: zero (7,) [rad] is what the vendor's angles have more.

        Raises:
            InvalidInput: the profile has no arm, or the zeros are not seven finite numbers.
        """
        zero = np.asarray(zero, dtype=np.float64)
        if self.arm is None or zero.shape != (ARM_JOINTS,) or not np.isfinite(zero).all():
            raise InvalidInput(f"joint zeros {zero} for the profile {self.name}; allowed are 7 finite, for an arm")
        shift = np.append(zero, np.zeros(len(self.low) - ARM_JOINTS))
        arm = replace(
            self.arm,
            end_low=self.arm.end_low - zero,
            end_high=self.arm.end_high - zero,
            zero=self.arm.zero + zero,
        )
        return replace(self, low=self.low - shift, high=self.high - shift, arm=arm)


def profile(name: str) -> Profile:
    """The profile of this name.

    Raises:
        InvalidInput: there is none.
    """
    if name not in PROFILES:
        raise InvalidInput(f"there is no profile {name!r}; allowed are {', '.join(PROFILES)}")
    return PROFILES[name]


def _array(*values: float) -> np.ndarray:
    array = np.array(values)
    array.setflags(write=False)
    return array


_TOLERANCE = 1e-3  # [rad/s, rad/s^2, rad/s^3] kLimitEps
_LOST = 3e-3  # [s] kTolNumberPacketsLost * kDeltaT of the Panda; the FR3's is 0
_FINGER_LOW, _FINGER_HIGH = (0.0, 0.0), (0.04, 0.04)  # [m] the Franka hand's; how fast they move is the hand's affair
# [m] The arm's reach of 0.855 m (Franka's data sheet) about its shoulder, 0.333 m up; below, 0.05 m under the plane it
# stands on, which leaves the kitchen's counter in reach. Every site has a smaller one of its own.
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
# There are two public versions of the FR3's velocities near the ends of its range: the formulas of the documentation,
# which stand in rate_limiting.h, and those of the robot description that newer systems send (franka_description,
# robots/fr3). The slopes are the same; of offset and ends the stricter is taken, so that the limits hold for both.
_FR3_SLOPE = _array(12.0, 5.17, 7.0, 8.0, 34.0, 11.0, 34.0)
_FR3_OFFSET = _array(0.652, 0.25, 0.2005, 0.3542, 0.5738, 0.4885, 0.4592) + _TOLERANCE
_FR3_END_LOW = _array(-2.7501, -1.7918, -2.9007, -3.0481, -2.8101, 0.54092, -3.0196)
_FR3_END_HIGH = _array(2.7501, 1.7918, 2.9007, -0.1458, 2.8101, 4.5205, 3.0196)
_FR3_STILL = _FR3_OFFSET**2 / _FR3_SLOPE  # [rad] before an end, where the velocity is 0: no joint gets further
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
# FrankaKitchen-v1's servos hold a set-point for a whole period. Its other rule, that a set-point moves at most
# 0.16 rad from the last reading, is the simulator's own: it clips to it, whatever it is given.
_KITCHEN = Profile(
    name="kitchen",
    low=_array(*TARGET_LOW.astype(np.float64)),
    high=_array(*TARGET_HIGH.astype(np.float64)),
)

PROFILES = {each.name: each for each in (_KITCHEN, _PANDA, _FR3)}
