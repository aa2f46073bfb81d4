"""FrankaKitchen-v1 driven by joint position targets.

In: a seed, then a position target a step. Out: the 30-number state as the environment observes it (with its
default noise), and which elements are done. It does not know goals, policies or the wire.

The physics is gymnasium-robotics' own, unmodified; a step releases the GIL, so kitchens run in parallel threads.
"""

import contextlib
import ctypes.util
import io
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from rpl_runtime.errors import InvalidInput, require
from rpl_runtime.tasks.kitchen.elements import (
    ELEMENTS,
    MAX_TARGET_STEP,
    ROBOT_DIM,
    STATE_DIM,
    TARGET_HIGH,
    TARGET_LOW,
)

GL_LIBRARIES = {"osmesa": "OSMesa", "egl": "EGL"}  # what MUJOCO_GL may name -> the system library behind it
_KETTLE_XY = slice(23, 25)


@dataclass(frozen=True)
class StartNoise:
    """How far a start lies from the nominal one, each drawn uniformly from +- these bounds."""

    arm: float = 0.0  # [rad] each arm joint
    kettle: float = 0.0  # [m] the kettle's x and y


NOMINAL = StartNoise()
PERTURBED = StartNoise(arm=0.05, kettle=0.02)


class Kitchen:
    """One simulated kitchen.

    Raises:
        MissingExtra: the `sim` extra is not installed.
    """

    def __init__(self) -> None:
        self._env = new_environment()
        self._nominal_qpos = np.array(self._env.robot_env.init_qpos)  # (30,)
        self.model = self._env.model
        self.data = self._env.data
        self.state = self.reset(seed=0)

    def reset(self, seed: int, noise: StartNoise = NOMINAL) -> np.ndarray:
        """Start an episode; the same seed and noise give the same one. Returns the state (30,)."""
        self._env.robot_env.init_qpos = drawn_start(self._nominal_qpos, seed, noise)
        observation, _ = self._env.reset(seed=seed)
        self.state = _state(observation)
        return self.state

    def restore(self, qpos: np.ndarray, seed: int) -> np.ndarray:
        """Start an episode at rest in the configuration qpos (30,) [rad, m]. Returns the state (30,)."""
        self.reset(seed)
        self._env.robot_env.set_state(np.asarray(qpos, dtype=np.float64), np.zeros(self.model.nv))
        return self._observe()

    def step(self, target: np.ndarray) -> np.ndarray:
        """Hold a position target (9,) [rad, m] for one control period of 0.08 s. Returns the state (30,).

        The environment moves a joint's set-point at most 0.16 rad from its last reading: a target inside that
        is exact, one beyond it is clipped, joint by joint.

        Raises:
            InvalidInput: the target has another shape or is not finite.
        """
        reading = self._env.robot_env._last_robot_qpos
        observation, *_ = self._env.step((checked_target(target) - reading) / MAX_TARGET_STEP)
        self.state = _state(observation)
        return self.state

    def follow(self, setpoints: Iterable[np.ndarray]) -> np.ndarray:
        """Point the servos at each (9,) [rad, m] for one physics step of 2 ms. Returns the state (30,).

        Each is asked for when its step begins, so it may depend on where the one before has led.
        """
        for setpoint in setpoints:
            self._env.robot_env.do_simulation(setpoint, 1)
        return self._observe()

    def done(self) -> frozenset[str]:
        """The names of the elements at their goal now, read without noise."""
        return frozenset(name for name, element in ELEMENTS.items() if element.is_done(self.data.qpos))

    @property
    def qpos(self) -> np.ndarray:
        """The true configuration (30,) [rad, m, quaternion wxyz], without noise."""
        return self.data.qpos.copy()

    def close(self) -> None:
        """Release the simulator."""
        self._env.close()

    def _observe(self) -> np.ndarray:
        self.state = _state(self._env._get_obs(self._env.robot_env._get_obs()))
        return self.state


def drawn_start(nominal: np.ndarray, seed: int, noise: StartNoise) -> np.ndarray:
    """The configuration (30,) in which the episode of a seed starts, around the nominal one (30,) [rad, m]."""
    rng = np.random.default_rng(seed)
    qpos = nominal.copy()
    qpos[:7] += rng.uniform(-noise.arm, noise.arm, 7)
    qpos[_KETTLE_XY] += rng.uniform(-noise.kettle, noise.kettle, 2)
    return qpos


def checked_target(target: np.ndarray) -> np.ndarray:
    """A target (9,) [rad, m] as float64.

    Raises:
        InvalidInput: it has another shape or is not finite.
    """
    target = np.asarray(target, dtype=np.float64)
    if target.shape != (ROBOT_DIM,) or not np.isfinite(target).all():
        raise InvalidInput(f"a kitchen's target is 9 finite numbers; got {np.array2string(target, precision=3)}")
    return target


@contextlib.contextmanager
def open_kitchen() -> Iterator[Kitchen]:
    """A kitchen that is closed at the end of the block."""
    kitchen = Kitchen()
    try:
        yield kitchen
    finally:
        kitchen.close()


def new_environment() -> Any:
    """FrankaKitchen-v1 itself, which goes on whatever is done."""
    return _kitchen_env().KitchenEnv(terminate_on_tasks_completed=False, remove_task_when_completed=False)


_IMPORTING = threading.Lock()  # neither stderr nor the environment may be swapped by two threads at a time


def _kitchen_env() -> ModuleType:
    """The environment's module.

    MuJoCo takes up MUJOCO_GL when it is imported, and fails if that names a library which the system lacks; a
    simulator that draws nothing needs none. The package prints a notice about other environments on import.
    """
    wanted = os.environ.get("MUJOCO_GL", "")
    missing = wanted.lower() in GL_LIBRARIES and not ctypes.util.find_library(GL_LIBRARIES[wanted.lower()])
    with _IMPORTING, contextlib.redirect_stderr(io.StringIO()):
        if missing:
            os.environ["MUJOCO_GL"] = "disable"
        try:
            return require("gymnasium_robotics.envs.franka_kitchen.kitchen_env", "sim")
        finally:
            if missing:
                os.environ["MUJOCO_GL"] = wanted


def _state(observation: dict[str, np.ndarray]) -> np.ndarray:
    values = observation["observation"]  # robot qpos 9, robot qvel 9, object qpos 21, object qvel 20
    objects = values[2 * ROBOT_DIM : 2 * ROBOT_DIM + STATE_DIM - ROBOT_DIM]
    return np.concatenate([values[:ROBOT_DIM], objects]).astype(np.float32)


def clip_target(target: np.ndarray) -> np.ndarray:
    """A target (..., 9) [rad, m] brought inside the bounds to which the environment clips set-points."""
    return np.clip(target, TARGET_LOW, TARGET_HIGH)
