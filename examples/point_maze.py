"""A task of your own: gymnasium-robotics' PointMaze_Large-v3, where a ball is pushed through a maze to a place.

    rpl train models/maze --task examples.point_maze:make
    rpl evaluate models/maze --task examples.point_maze:make --episodes 200

The actions are forces, so no label is a position target. Start and goal are free cells, drawn at random, at least half
of the maze's longest way apart. The world draws the goal of each episode, a whole state of which x and y count.
"""

from collections import deque
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from rpl_runtime.errors import require
from rpl_runtime.policy.spec import PolicySpec, VectorSpec
from rpl_runtime.tasks import DRAWN, Scripted, Task

HELD = 5  # [physics steps of 0.01 s] for which a force is held
NEAR = 0.45  # [m] the environment's own distance from the goal that counts as success
SPEED = 2.5  # [m/s] of the script
Cell = tuple[int, int]  # row and column

SPEC = PolicySpec(
    name="maze",
    description="Pushes a ball through a maze to a place.",
    state=VectorSpec(
        names=("x", "y", "vx", "vy"),
        units=("m", "m", "m/s", "m/s"),
        low=(-7.0, -6.0, -6.0, -6.0),
        high=(7.0, 6.0, 6.0, 6.0),
    ),
    action=VectorSpec(names=("fx", "fy"), units=("1", "1"), low=(-1.0, -1.0), high=(1.0, 1.0)),
    horizon=8,
    period_s=HELD * 0.01,
    high_noise=4,
    low_noise=2,
    goal_dims=(0, 1),
)


class Maze:
    """The world: a ball in the large maze."""

    def __init__(self) -> None:
        maze = require("gymnasium_robotics.envs.maze.point_maze", "sim")
        maps = require("gymnasium_robotics.envs.maze.maps", "sim")
        self._env = maze.PointMazeEnv(maps.LARGE_MAZE, continuing_task=True, reset_target=False)
        Path(self._env.tmp_xml_file_path).unlink()  # the model, loaded by now; the environment leaves it behind
        self.free = frozenset((int(row), int(column)) for row, column in np.argwhere(np.array(maps.LARGE_MAZE) == 0))
        self.state = np.zeros(4, np.float32)
        self.goal = np.zeros(4)

    @property
    def truth(self) -> np.ndarray:
        return self.state

    def reset(self, seed: int, start: None) -> np.ndarray:
        ways = longest_ways(self.free)
        cell, goal = ways[np.random.default_rng(seed).integers(len(ways))]
        observed, _ = self._env.reset(seed=seed, options={"reset_cell": np.array(cell), "goal_cell": np.array(goal)})
        self.goal = np.append(observed["desired_goal"], [0.0, 0.0])
        return self._see(observed)

    def step(self, action: np.ndarray) -> np.ndarray:
        for _ in range(HELD):
            self._see(self._env.step(np.asarray(action))[0])
        return self.state

    def done(self) -> frozenset[str]:
        return frozenset({DRAWN} if np.linalg.norm(self.state[:2] - self.goal[:2]) <= NEAR else ())

    def close(self) -> None:
        self._env.close()

    def cell(self, place: np.ndarray) -> Cell:
        row, column = self._env.maze.cell_xy_to_rowcol(place)
        return int(row), int(column)

    def centre(self, cell: Cell) -> np.ndarray:
        return self._env.maze.cell_rowcol_to_xy(np.array(cell))

    def _see(self, observed: dict[str, np.ndarray]) -> np.ndarray:
        self.state = observed["observation"].astype(np.float32)
        return self.state


@cache
def steps_to(free: frozenset[Cell], goal: Cell) -> dict[Cell, int]:
    """The number of cells from each free one to the goal."""
    found, waiting = {goal: 0}, deque([goal])
    while waiting:
        row, column = waiting.popleft()
        for cell in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            if cell in free and cell not in found:
                found[cell] = found[row, column] + 1
                waiting.append(cell)
    return found


@cache
def longest_ways(free: frozenset[Cell]) -> list[tuple[Cell, Cell]]:
    """Start and goal of the ways that are at least half as long as the longest."""
    ways = {(start, goal): steps for goal in sorted(free) for start, steps in steps_to(free, goal).items()}
    return [way for way, steps in ways.items() if steps >= max(ways.values()) / 2]


def script(world: Maze, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Cell by cell along the shortest way, then rest at the goal."""
    ahead, arrived = steps_to(world.free, world.cell(world.goal[:2])), 0
    while arrived < 12:
        place, speed = world.state[:2], world.state[2:]
        row, column = world.cell(place)
        near = [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1), (row, column)]
        following = min((cell for cell in near if cell in ahead), key=lambda cell: ahead[cell])
        aim = world.goal[:2] if ahead.get((row, column), 9) <= 1 else world.centre(following)
        away = aim - place
        wanted = away * min(3.0, SPEED / max(float(np.linalg.norm(away)), 1e-6))
        arrived += bool(world.done())
        yield 2.0 * (wanted - speed)


def make() -> Task:
    """The factory for `--task`."""
    return Task(
        name="maze",
        spec=SPEC,
        open_world=Maze,
        episode_steps=200,
        starts={"far": None},
        demonstrator=Scripted(script=script, noise=0.3),
        settings={
            "play.sequences": 500,
            "imitate.steps": 8000,
            "imitate.pool.high_window": 200,
            "imitate.networks.high_components": 4,  # several ways lead around
            "imitate.networks.high_hidden": (256, 256),
            "imitate.networks.low_hidden": (256, 256),
            "parity.steps": 60,
            "finetune.env_steps": 60_000,
        },
        environment="PointMaze_Large-v3",
        packages=("gymnasium-robotics", "mujoco"),
    )
