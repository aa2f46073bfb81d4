"""The types of a robot's limits; the limits of particular robots are in robots/profiles.py."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from rpl_runtime.errors import InvalidInput

ARM_JOINTS = 7  # the first entries of a target, where its profile has an arm


@dataclass(frozen=True)
class Box:
    """A workspace for the flange, in the frame of the arm's base."""

    low: tuple[float, float, float]  # [m] x, y, z
    high: tuple[float, float, float]  # [m] x, y, z


@dataclass(frozen=True, eq=False)
class ArmLimits:
    """Limits of an arm's motion.

    If `slope` is not 0, the velocity limit falls near the ends of a joint's range: upwards from the angle q it is
    sqrt(slope * (end_high - q)) - offset, and downwards likewise.
    """

    velocity: np.ndarray  # (7,) [rad/s]
    acceleration: np.ndarray  # (7,) [rad/s^2]
    jerk: np.ndarray  # (7,) [rad/s^3]
    slope: np.ndarray  # (7,) [rad/s^2]
    offset: np.ndarray  # (7,) [rad/s]
    end_low: np.ndarray  # (7,) [rad]
    end_high: np.ndarray  # (7,) [rad]
    workspace: Box
    zero: np.ndarray  # (7,) [rad] the vendor's joint angles minus a target's

    def velocity_range(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest velocity (..., 7) [rad/s] at a position (..., 7) [rad]."""
        up = np.sqrt(self.slope * np.maximum(0.0, self.end_high - position)) - self.offset
        down = np.sqrt(self.slope * np.maximum(0.0, position - self.end_low)) - self.offset
        return -np.clip(down, 0.0, self.velocity), np.clip(up, 0.0, self.velocity)


@dataclass(frozen=True, eq=False)
class Profile:
    """The limits of a target (m,) and of the motion toward it.

    Entries of a target that belong to no arm are set-points: they are clipped to their range and held.
    """

    name: str
    low: np.ndarray  # (m,) [rad, m]
    high: np.ndarray  # (m,) [rad, m]
    arm: ArmLimits | None = None  # of the first seven entries

    @property
    def joints(self) -> int:
        """The number of arm joints in a target."""
        return ARM_JOINTS if self.arm else 0

    def within(self, workspace: Box) -> Self:
        """This profile with another workspace.

        Raises:
            InvalidInput: the profile has no arm, or the box is empty.
        """
        if self.arm is None:
            raise InvalidInput(f"a workspace for the profile {self.name}; must be a profile with an arm")
        if not all(low < high for low, high in zip(workspace.low, workspace.high, strict=True)):
            raise InvalidInput(f"a workspace from {workspace.low} to {workspace.high}; low must be below high")
        return replace(self, arm=replace(self.arm, workspace=workspace))

    def slowed(self, velocity: float, acceleration: float, jerk: float) -> Self:
        """This profile with a share (0, 1] of each of its arm's limits of motion.

        Raises:
            InvalidInput: the profile has no arm, or a share is out of range.
        """
        if self.arm is None or not all(0 < share <= 1 for share in (velocity, acceleration, jerk)):
            raise InvalidInput(
                f"shares {velocity}, {acceleration}, {jerk} of the limits of the profile {self.name}; must be "
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
        """This profile for targets with other joint zeros: zero (7,) [rad] is the vendor's angles minus theirs.

        Raises:
            InvalidInput: the profile has no arm, or the zeros are not seven finite numbers.
        """
        zero = np.asarray(zero, dtype=np.float64)
        if self.arm is None or zero.shape != (ARM_JOINTS,) or not np.isfinite(zero).all():
            raise InvalidInput(f"joint zeros {zero} for the profile {self.name}; must be 7 finite, for an arm")
        shift = np.append(zero, np.zeros(len(self.low) - ARM_JOINTS))
        arm = replace(
            self.arm,
            end_low=self.arm.end_low - zero,
            end_high=self.arm.end_high - zero,
            zero=self.arm.zero + zero,
        )
        return replace(self, low=self.low - shift, high=self.high - shift, arm=arm)
