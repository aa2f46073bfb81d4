"""What a page or a log shows of a task: its model, and how a state poses it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rpl_runtime.tasks.mujoco import load_mujoco

Model = Any  # mujoco.MjModel, which is compiled and untyped

POLICY, OPERATOR = (0, 145, 255), (255, 140, 0)  # colours of a ghost: who set the subgoal
OPACITY = 0.6  # of a ghost
_GROUPS = 3  # geoms of groups 0, 1 and 2 are to be seen, as in MuJoCo's own viewers
# An object's ghost is drawn if the subgoal moves the object further than this, or turns it by more.
_MOVED, _TURNED = 0.01, 0.05  # [m], [1] change of a quaternion


class Scenery(NamedTuple):
    """A task that can be drawn."""

    model: Model
    qpos: Callable[[np.ndarray], np.ndarray]  # state (n,) -> (nq,) configuration of the model
    rest: np.ndarray  # (n,) a state in which no element is done
    robot: frozenset[int]  # bodies of the robot
    flange: int  # body whose way is drawn
    elements: Mapping[int, str]  # body -> the element that moves it
    eye: tuple[float, float, float]  # [m] where one looks from
    look_at: tuple[float, float, float]  # [m]

    def visible(self) -> dict[int, list[int]]:
        """The geoms to be drawn of each body that has some."""
        model, seen = self.model, dict[int, list[int]]()
        for geom in range(model.ngeom):
            if model.geom_group[geom] < _GROUPS and model.geom_rgba[geom, 3] > 0:
                seen.setdefault(int(model.geom_bodyid[geom]), []).append(geom)
        return seen


class Poses(NamedTuple):
    """Where the bodies of B robots and of their worlds are."""

    positions: np.ndarray  # (B, nbody, 3) [m] in the model's own frame
    turns: np.ndarray  # (B, nbody, 4) quaternions wxyz


class Poser:
    """Poses the bodies of a scenery.

    Raises:
        MissingExtra: the `sim` extra is not installed.
    """

    def __init__(self, scenery: Scenery) -> None:
        self._scenery, self._mujoco = scenery, load_mujoco()
        self._data = self._mujoco.MjData(scenery.model)

    def __call__(self, states: Sequence[np.ndarray]) -> Poses:
        """The poses in each of B states (n,)."""
        model, data = self._scenery.model, self._data
        poses = Poses(np.empty((len(states), model.nbody, 3)), np.empty((len(states), model.nbody, 4)))
        for row, state in enumerate(states):
            data.qpos[:] = self._scenery.qpos(state)
            self._mujoco.mj_kinematics(model, data)
            poses.positions[row], poses.turns[row] = data.xpos, data.xquat
        return poses

    def ghosts(self, real: Poses, subgoals: Poses) -> np.ndarray:
        """Whether a ghost of each body is drawn (B, nbody) bool: of the robot's, and of those that are to move."""
        moved = np.linalg.norm(subgoals.positions - real.positions, axis=2) > _MOVED
        turned = 1.0 - np.abs(np.sum(subgoals.turns * real.turns, axis=2)) > _TURNED**2 / 2
        drawn = moved | turned
        drawn[:, sorted(self._scenery.robot)] = True
        return drawn
