"""A kitchen for training: the states of `Kitchen`, bit for bit, in less time.

It leaves out what cannot change a state: pairs of geoms that never touch, geoms that are only visual, and the
environment's bookkeeping. It cannot be rendered. Evaluation and serving use the environment itself.
"""

import contextlib
import functools
from typing import NamedTuple

import numpy as np

from rpl_runtime.tasks.kitchen.elements import MAX_TARGET_STEP, ROBOT_DIM, STATE_DIM
from rpl_runtime.tasks.kitchen.simulator import (
    NOMINAL,
    Kitchen,
    StartNoise,
    checked_target,
    drawn_start,
    new_environment,
)
from rpl_runtime.tasks.mujoco import load_mujoco
from rpl_runtime.tasks.scenery import Model
from rpl_train.tasks.kitchen.contacts import bounds, leave_out, separate

mujoco = load_mujoco()

_DRAWS = STATE_DIM + 29  # noise of the robot's 9 positions and 9 velocities, then of the objects' 21 and 20
_POSITIONS = np.r_[:ROBOT_DIM, 2 * ROBOT_DIM : ROBOT_DIM + STATE_DIM]  # the draws that are part of a state


class FastKitchen(Kitchen):
    """One simulated kitchen. All fast kitchens share one model."""

    def __init__(self) -> None:
        self._physics = _physics()
        self.model = self._physics.model
        self.data = mujoco.MjData(self.model)
        self.state = self.reset(seed=0)

    def reset(self, seed: int, noise: StartNoise = NOMINAL) -> np.ndarray:
        """As `Kitchen.reset`."""
        self._rng = np.random.default_rng(seed)
        mujoco.mj_resetData(self.model, self.data)
        return self._settle(drawn_start(self._physics.nominal_qpos, seed, noise))

    def restore(self, qpos: np.ndarray, seed: int) -> np.ndarray:
        """As `Kitchen.restore`."""
        self.reset(seed)
        return self._settle(np.asarray(qpos, dtype=np.float64))

    def step(self, target: np.ndarray) -> np.ndarray:
        """As `Kitchen.step`.

        Raises:
            InvalidInput: the target has another shape or is not finite.
        """
        physics = self._physics
        velocity = _clip((checked_target(target) - self._reading) / MAX_TARGET_STEP, -1.0, 1.0) * physics.speed
        set_point = self._reading + _clip(velocity, *physics.velocity_bounds) * physics.period
        self.data.ctrl[:] = _clip(set_point, *physics.position_bounds)
        mujoco.mj_step(self._sufficient_model(), self.data, nstep=physics.substeps)
        return self._observe()

    def close(self) -> None:
        """Does nothing: there is no environment to close."""

    def _settle(self, qpos: np.ndarray) -> np.ndarray:
        self.data.qpos[:], self.data.qvel[:] = qpos, 0.0
        mujoco.mj_forward(self._sufficient_model(), self.data)
        return self._observe()

    def _sufficient_model(self) -> Model:
        """The whole model if a joint is so far past its stop that pairs that were left out might touch."""
        physics, qpos = self._physics, self.data.qpos
        within = ((qpos >= physics.low) & (qpos <= physics.high)).all()
        return physics.model if within else physics.whole

    def _observe(self) -> np.ndarray:
        """The state (30,) with the environment's noise."""
        noise = self._rng.uniform(-1.0, 1.0, _DRAWS)[_POSITIONS]
        observed = self.data.qpos + self._physics.noise * noise
        self._reading = observed[:ROBOT_DIM]
        self.state = observed.astype(np.float32)
        return self.state


class _Physics(NamedTuple):
    """Shared by all fast kitchens, and read from the environment."""

    model: Model  # without pairs that never touch
    whole: Model  # with all pairs, for joints that are forced past their stops
    low: np.ndarray  # (30,) [rad, m] a step that starts within these bounds ends within the proven ones
    high: np.ndarray  # (30,)
    nominal_qpos: np.ndarray  # (30,) [rad, m]
    noise: np.ndarray  # (30,) [rad, m] largest noise of each reading
    speed: np.ndarray  # (9,) [rad/s, m/s] of an action of 1
    velocity_bounds: np.ndarray  # (2, 9) [rad/s, m/s]
    position_bounds: np.ndarray  # (2, 9) [rad, m] of a set-point
    period: float  # [s]
    substeps: int


@functools.cache
def _physics() -> _Physics:
    with contextlib.closing(new_environment()) as env:
        robot = env.robot_env
    spec = mujoco.MjSpec.from_file(robot.fullpath)
    spec.compiler.discardvisual = True
    model, whole = spec.compile(), spec.compile()
    leave_out(model, separate(whole))
    low, high = bounds(whole, share=0.5)
    noise = [
        robot.robot_noise_ratio * robot.robot_pos_noise_amp[:ROBOT_DIM],
        env.object_noise_ratio * robot.robot_pos_noise_amp[8:],  # shifted by one joint, as in the environment
    ]
    return _Physics(
        model=model,
        whole=whole,
        low=low,
        high=high,
        nominal_qpos=robot.init_qpos,
        noise=np.concatenate(noise),
        speed=robot.act_rng,
        velocity_bounds=robot.robot_vel_bound[:ROBOT_DIM].T.copy(),
        position_bounds=robot.robot_pos_bound[:ROBOT_DIM].T.copy(),
        period=robot.dt,
        substeps=robot.frame_skip,
    )


def _clip(values: np.ndarray, low: float | np.ndarray, high: float | np.ndarray) -> np.ndarray:
    """np.clip, without its overhead for few values."""
    return np.minimum(np.maximum(values, low), high)
