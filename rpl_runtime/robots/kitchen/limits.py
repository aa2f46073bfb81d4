"""The kitchen's robot within a real arm's limits and with a real hand: its servos follow the limited motion."""

from collections import Counter
from collections.abc import Iterator
from math import ceil

import numpy as np

from rpl_runtime.robots.franka.frames import JOINT_ZERO
from rpl_runtime.robots.franka.hand import MAX_WIDTH, HandConfig, wanted_width
from rpl_runtime.robots.profiles import profile
from rpl_runtime.safety.filter import SafetyFilter
from rpl_runtime.safety.limits import Profile
from rpl_runtime.safety.motion import DT
from rpl_runtime.tasks.kitchen.elements import PERIOD, ROBOT_DIM, TARGET_HIGH, TARGET_LOW
from rpl_runtime.tasks.kitchen.servo import ARM_DIM, course, setpoint
from rpl_runtime.tasks.kitchen.simulator import Kitchen, checked_target

# FrankaKitchen-v1's servos hold a set-point for a whole period. That a set-point moves at most 0.16 rad from the last
# reading is kept by the simulator, which clips to it.
KITCHEN = Profile(name="kitchen", low=TARGET_LOW.astype(np.float64), high=TARGET_HIGH.astype(np.float64))


class LimitedKitchen:
    """The robot of a kitchen under the limits of a profile (the `Limited` protocol).

    Args:
        kitchen: at the start of an episode.
        name: the arm's profile; another than those of real arms leaves the kitchen's own servos.
        hand_time: [s] of one command of the hand; None: fingers follow every target.
    """

    def __init__(self, kitchen: Kitchen, name: str, hand_time: float | None) -> None:
        self._kitchen = kitchen
        self._arm = None if name == "own" else _LimitedArm(kitchen, name)
        self._hand = None if hand_time is None else _CommandedHand(hand_time)

    @property
    def violations(self) -> Counter[str]:
        """How often each kind of limit changed a motion."""
        return Counter() if self._arm is None else Counter[str](self._arm.filter.counts)

    def follow(self, target: np.ndarray) -> None:
        """Follow a position target (9,) [rad, m] for one control period of 0.08 s simulated time.

        Raises:
            InvalidInput: the target is not 9 finite numbers.
        """
        if self._hand is not None:
            target = np.append(target[:ARM_DIM], self._hand.fingers(checked_target(target)[ARM_DIM:]))
        if self._arm is None:
            self._kitchen.step(target)
        else:
            self._kitchen.follow(self._arm.setpoints(target))


class _CommandedHand:
    """The fingers of a Franka hand, which takes one command at a time (franka/hand.py)."""

    def __init__(self, command_s: float) -> None:
        self._config = HandConfig()
        self._commanded = self._width = MAX_WIDTH  # [m]
        self._periods, self._left = ceil(command_s / PERIOD), 0  # of a command; left of the current one

    def fingers(self, targets: np.ndarray) -> np.ndarray:
        """The set-points (2,) [m] for a control period with finger targets (2,) [m]."""
        self._left = max(0, self._left - 1)
        wanted = wanted_width(self._commanded, float(targets.sum()), self._config)
        if not self._left and wanted != self._commanded:
            self._commanded, self._left = wanted, self._periods
        reach = self._config.speed * PERIOD
        self._width += np.clip(self._commanded - self._width, -reach, reach)
        return np.full(2, self._width / 2)


class _LimitedArm:
    """Leads the kitchen's arm along the path that its servos would take, within the limits of a profile.

    A real arm is stiff and follows a motion at 1 kHz. The kitchen's servos are soft, so each physics step gets a
    set-point ahead of the motion, which makes up for damping and weight.
    """

    def __init__(self, simulator: Kitchen, name: str) -> None:
        limits = profile(name).rezeroed(JOINT_ZERO)
        self.filter = SafetyFilter(limits, PERIOD)
        self.filter.start(simulator.qpos[:ROBOT_DIM])
        self._simulator = simulator
        self._place = np.clip(simulator.qpos[:ROBOT_DIM], limits.low, limits.high)[:ARM_DIM]

    def setpoints(self, target: np.ndarray) -> Iterator[np.ndarray]:
        """The set-points (9,) [rad, m] of a control period, one for each physics step; read each just before its step.

        Raises:
            InvalidInput: the target is not 9 finite numbers.
        """
        target, data = checked_target(target), self._simulator.data
        reading = self._simulator.state[:ARM_DIM].astype(np.float64)
        aim = course(self._place, reading, target[:ARM_DIM], data.qfrc_bias[:ARM_DIM], PERIOD)
        motion = self.filter.step(np.append(aim.position, target[ARM_DIM:])).trajectory  # (80, 9) at 1 kHz
        velocity = np.diff(motion[:, :ARM_DIM], axis=0, prepend=self._place[None]) / DT
        self._place = motion[-1, :ARM_DIM]
        every = round(self._simulator.model.opt.timestep / DT)
        return (
            np.append(setpoint(place[:ARM_DIM], speed, data.qfrc_bias[:ARM_DIM]), place[ARM_DIM:])
            for place, speed in zip(motion[every - 1 :: every], velocity[every - 1 :: every], strict=True)
        )
