"""The state estimator: from a robot's readings to the state that its policy decides in, and from actions to commands.

Four parts, each at work only where the calibration shows a fault of the senses:
- an object with noise is averaged while it rests (rest.py);
- an object that hardly moved in the training data can never move: it is where it was there;
- an arm that is seen late is predicted from the targets that it was given since (late.py);
- a hand that needs time for a command is opened and closed, and never asked for a width between (hand.py).
With perfect senses every state and every command passes unchanged, to the bit.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from rpl_runtime.estimation.body import Ages, Body
from rpl_runtime.estimation.calibration import NOISE_FLOOR, Calibration
from rpl_runtime.estimation.hand import OpenClosed
from rpl_runtime.estimation.late import ArmPredictor
from rpl_runtime.estimation.rest import RestFilter

_NEVER = 5e-3  # [the dimension's unit] an object that moved less in the training data can never move
_OUTSIDE = 3.0  # [sigma] a reading at rest that is further from the training mean has a bias
_UNKNOWN = Ages()


class Spread(Protocol):
    """The distribution of the training states, as a bundle's statistics have it."""

    @property
    def mean(self) -> Sequence[float]: ...  # (n,)
    @property
    def std(self) -> Sequence[float]: ...  # (n,)


class Estimator:
    """Estimates the states of one run after another.

    Args:
        body: the task's robot and objects.
        calibration: the faults of the robot's senses and hand.
        statistics: of the policy's training states; None: no object is known never to move.
        period_s: [s] one control period.
    """

    def __init__(self, body: Body, calibration: Calibration, statistics: Spread | None, period_s: float) -> None:
        self._body, self._calibration, self._period_s = body, calibration, period_s
        rest, self._sigma = np.asarray(calibration.rest), np.asarray(calibration.sigma)
        self._mean = rest if statistics is None else np.asarray(statistics.mean)
        std = np.full_like(rest, np.inf) if statistics is None else np.asarray(statistics.std)
        self._noisy, self._still = list[list[int]](), list[int]()
        for dims in map(list, body.objects):
            noisy = self._sigma[dims].max() > NOISE_FLOOR
            never = np.linalg.norm(std[dims]) < max(_NEVER, np.linalg.norm(self._sigma[dims]))
            away = abs(rest[dims] - self._mean[dims])
            if never and (noisy or (away > np.maximum(_OUTSIDE * std[dims], NOISE_FLOOR)).any()):
                self._still += dims
            elif noisy:
                self._noisy.append(dims)
        self.reset()

    @property
    def idle(self) -> bool:
        """Whether the calibration shows no fault. States and commands then pass unchanged, unless a reading is late."""
        return not (self._noisy or self._still or self._calibration.arm_age_s) and self._calibration.hand_s is None

    def reset(self) -> None:
        """Forget the run so far."""
        body, hand_s = self._body, self._calibration.hand_s
        # The floor keeps a dimension whose noise is tiny and far from normal, as a quaternion's w, from false alarms.
        self._rest = RestFilter(self._noisy, np.maximum(self._sigma, NOISE_FLOOR))
        self._arm = None if body.servo is None else ArmPredictor(body.servo, self._period_s)
        self._hand = None if body.hand is None or hand_s is None else OpenClosed(body.hand, hand_s, self._period_s)

    def see(self, reading: np.ndarray, ages: Ages = _UNKNOWN) -> np.ndarray:
        """The state (n,) float32 now, from a reading (n,) and its ages. Once a control period.

        If the arm's age is unknown, that in the calibration counts. Without either, the arm is not predicted.
        """
        state = np.array(reading, dtype=np.float32)
        if self._noisy:
            self._rest.see(reading)
            for dims in self._noisy:
                estimate = self._rest.mean[dims]
                if tuple(dims) in self._body.rotations:
                    estimate = estimate / max(np.linalg.norm(estimate), np.finfo(np.float32).eps)
                state[dims] = estimate
        state[self._still] = self._mean[self._still]
        age_s = self._calibration.arm_age_s if ages.arm_s is None else ages.arm_s
        if self._arm is not None and age_s is not None:
            arm = list(self._body.arm)
            now = self._arm.now(reading[arm], age_s)
            if age_s > 0:
                state[arm] = now
        return state

    def command(self, target: np.ndarray) -> np.ndarray:
        """The target (m,) to send to the robot for the period that begins, given the policy's."""
        if self._hand is not None:
            target = self._hand.command(target)
        if self._arm is not None:
            self._arm.command(target[list(self._body.arm_targets)])
        return target

    def hold(self) -> None:
        """Note that the period that begins has no command: the arm comes to rest."""
        if self._arm is not None:
            self._arm.command(None)
