"""A task of your own: gymnasium-robotics' FetchPickAndPlace-v4, where an arm puts a block at a place.

    rpl train models/fetch --task examples.fetch_pick_and_place:make
    rpl evaluate models/fetch --task examples.fetch_pick_and_place:make --episodes 200

The actions are displacements of the gripper, so no label is a position target. The world draws the goal of each
episode, a whole state of which the block's position counts. A subgoal is a place of gripper, block and fingers; the low
level does not see its velocities.
"""

from collections.abc import Iterator

import numpy as np

from rpl_runtime.errors import require
from rpl_runtime.policy.spec import PolicySpec, VectorSpec
from rpl_runtime.tasks import DRAWN, Scripted, Task

NEAR = 0.05  # [m] the environment's own distance from the goal that counts as success
REACH = 0.05  # [m] that the gripper's target moves with an action of 1
OPEN, SHUT = 1.0, -1.0
GRIPPER, BLOCK = slice(0, 3), slice(3, 6)
_NAMES = (
    *(f"gripper_{axis}" for axis in "xyz"),
    *(f"block_{axis}" for axis in "xyz"),
    *("finger_right", "finger_left"),
    *(f"gripper_v{axis}" for axis in "xyz"),
    *(f"block_v{axis}" for axis in "xyz"),  # relative to the gripper
)

SPEC = PolicySpec(
    name="fetch",
    description="Puts a block at a place on or above a table with a Fetch arm.",
    state=VectorSpec(
        names=_NAMES,
        units=("m",) * 8 + ("m/s",) * 6,  # velocities times the environment's time step of 0.04 s
        low=(0.0, 0.0, 0.0) * 2 + (-0.1,) * 2 + (-2.0,) * 6,
        high=(2.5, 2.5, 2.5) * 2 + (0.2,) * 2 + (2.0,) * 6,
    ),
    action=VectorSpec(names=("dx", "dy", "dz", "hand"), units=("1",) * 4, low=(-1.0,) * 4, high=(1.0,) * 4),
    horizon=8,
    period_s=0.04,
    high_noise=14,
    low_noise=4,
    goal_dims=(3, 4, 5),
)


class Fetch:
    """The world: a Fetch arm over a table with a block."""

    def __init__(self) -> None:
        fetch = require("gymnasium_robotics.envs.fetch.pick_and_place", "sim")
        self._env = fetch.MujocoFetchPickAndPlaceEnv()
        self.state = np.zeros(SPEC.state.dim, np.float32)
        self.goal = np.zeros(SPEC.state.dim)

    @property
    def truth(self) -> np.ndarray:
        return self.state

    def reset(self, seed: int, start: None) -> np.ndarray:
        observed, _ = self._env.reset(seed=seed)
        self._see(observed)
        self.goal = self.state.astype(np.float64)
        self.goal[BLOCK] = observed["desired_goal"]
        return self.state

    def step(self, action: np.ndarray) -> np.ndarray:
        observed, *_ = self._env.step(np.asarray(action, dtype=np.float64))
        return self._see(observed)

    def done(self) -> frozenset[str]:
        return frozenset({DRAWN} if np.linalg.norm((self.state - self.goal)[BLOCK]) < NEAR else ())

    def close(self) -> None:
        self._env.close()

    def _see(self, observed: dict[str, np.ndarray]) -> np.ndarray:
        seen = observed["observation"]  # gripper, block, block from gripper, fingers, rotation, velocities
        self.state = np.concatenate([seen[0:6], seen[9:11], seen[20:23], seen[14:17]]).astype(np.float32)
        return self.state


def script(world: Fetch, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Above the block with an open hand, down, shut the hand, to the goal and stay there."""
    held = 0
    while True:
        gripper, block = (world.state[part].astype(np.float64) for part in (GRIPPER, BLOCK))
        away = block - gripper
        aside, hand = np.linalg.norm(away[:2]), OPEN
        if np.linalg.norm(away) > 0.03:  # also after the block was lost
            held = 0
        if held or np.linalg.norm(away) < 0.012:
            held += 1
            hand = SHUT
            wanted = world.goal[BLOCK] - block if held > 3 else np.zeros(3)
        elif aside > 0.015:
            wanted = away + np.array([0.0, 0.0, 0.06])
        else:
            wanted = away
        yield np.append(np.clip(wanted / REACH * 1.5, -1.0, 1.0), hand)


def make() -> Task:
    """The factory for `--task`."""
    return Task(
        name="fetch",
        spec=SPEC,
        open_world=Fetch,
        episode_steps=50,
        starts={"table": None},
        subgoal_dims=tuple(range(8)),
        demonstrator=Scripted(script=script, noise=0.15),
        settings={
            "play.sequences": 1000,
            "imitate.steps": 8000,
            "imitate.pool.high_window": 50,
            "imitate.networks.high_hidden": (256, 256),
            "imitate.networks.low_hidden": (256, 256),
        },
        environment="FetchPickAndPlace-v4",
        packages=("gymnasium-robotics", "mujoco"),
    )
