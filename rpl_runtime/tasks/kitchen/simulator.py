"""FrankaKitchen-v1 driven by joint position targets.

The physics and the observation noise are gymnasium-robotics' own. A step releases the GIL, so kitchens run in parallel
threads.
"""

import contextlib
import io
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rpl_runtime.errors import InvalidInput
from rpl_runtime.tasks.kitchen.elements import (
    ELEMENTS,
    MAX_TARGET_STEP,
    ROBOT_DIM,
    STATE_DIM,
    TARGET_HIGH,
    TARGET_LOW,
)
from rpl_runtime.tasks.mujoco import load_mujoco

_KETTLE_XY = slice(23, 25)


@dataclass(frozen=True)
class StartNoise:
    """Largest distances of a start from the nominal one, drawn uniformly from +- these bounds.

    Raises:
        InvalidInput: a bound is out of its range.
    """

    arm: float = 0.0  # [rad] each arm joint
    kettle: float = 0.0  # [m] the kettle's x and y

    def __post_init__(self) -> None:
        for name, value, unit in (("arm", self.arm, "rad"), ("kettle", self.kettle, "m")):
            if not 0 <= value <= 1:
                raise InvalidInput(f"the {name} starts off by up to {value} {unit}; must be 0 to 1")


NOMINAL = StartNoise()
PERTURBED = StartNoise(arm=0.05, kettle=0.02)


class Kitchen:
    """One simulated kitchen.

    Raises:
        MissingExtra: the `sim` extra is not installed.
    """

    goal: np.ndarray | None = None  # a kitchen draws none

    def __init__(self) -> None:
        self._env = new_environment()
        self._nominal_qpos = np.array(self._env.robot_env.init_qpos)  # (30,)
        self.model = self._env.model
        self.data = self._env.data
        self.state = self.reset(seed=0)

    def reset(self, seed: int, noise: StartNoise = NOMINAL) -> np.ndarray:
        """Start an episode; the same seed and noise give the same start. Returns the state (30,)."""
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

        The environment moves a joint's set-point at most 0.16 rad from its last reading: a target within that is
        reached exactly, a target beyond it is clipped, joint by joint.

        Raises:
            InvalidInput: the target has another shape or is not finite.
        """
        reading = self._env.robot_env._last_robot_qpos
        observation, *_ = self._env.step((checked_target(target) - reading) / MAX_TARGET_STEP)
        self.state = _state(observation)
        return self.state

    def follow(self, setpoints: Iterable[np.ndarray]) -> np.ndarray:
        """Point the servos at each set-point (9,) [rad, m] for one physics step of 2 ms. Returns the state (30,).

        A set-point is taken from the iterable when its step begins, so it may depend on the step before.
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

    truth = qpos  # the name that every world has for it

    def close(self) -> None:
        """Release the simulator."""
        self._env.close()

    def _observe(self) -> np.ndarray:
        self.state = _state(self._env._get_obs(self._env.robot_env._get_obs()))
        return self.state


def drawn_start(nominal: np.ndarray, seed: int, noise: StartNoise) -> np.ndarray:
    """The start (30,) of the episode with a seed, around the nominal configuration (30,) [rad, m]."""
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
        raise InvalidInput(
            f"a kitchen's target must be {ROBOT_DIM} finite numbers; got {np.array2string(target, precision=3)}"
        )
    return target


def open_kitchen() -> contextlib.closing[Kitchen]:
    """A kitchen that closes at the end of a `with` block."""
    return contextlib.closing(Kitchen())


_IMPORTING = threading.Lock()  # stderr must not be swapped by two threads at once


def new_environment() -> Any:
    """FrankaKitchen-v1 itself, whose episodes do not end when its tasks are done.

    Its package prints a notice about other environments on import.
    """
    with _IMPORTING, contextlib.redirect_stderr(io.StringIO()):
        module = load_mujoco("gymnasium_robotics.envs.franka_kitchen.kitchen_env")
    return module.KitchenEnv(terminate_on_tasks_completed=False, remove_task_when_completed=False)


def _state(observation: dict[str, np.ndarray]) -> np.ndarray:
    values = observation["observation"]  # robot qpos 9, robot qvel 9, object qpos 21, object qvel 20
    objects = values[2 * ROBOT_DIM : 2 * ROBOT_DIM + STATE_DIM - ROBOT_DIM]
    return np.concatenate([values[:ROBOT_DIM], objects]).astype(np.float32)


def clip_target(target: np.ndarray) -> np.ndarray:
    """A target (..., 9) [rad, m] clipped to the bounds of the environment's set-points."""
    return np.clip(target, TARGET_LOW, TARGET_HIGH)
