"""Nearest neighbour, open loop: play the demonstration whose end is nearest to the goal.

Its targets are played without looking at the state, and the last one is held. There is no policy and no server.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rpl_runtime.evaluation.evaluate import STARTS, EvaluateConfig, Played, Task, content_of, episode_of, plan_tasks
from rpl_runtime.evaluation.results import Episode
from rpl_runtime.tasks.kitchen.elements import kitchen_spec
from rpl_runtime.tasks.kitchen.simulator import Kitchen, open_kitchen
from rpl_train.data.sources import Demonstrations
from rpl_train.data.trajectory import Trajectory


def evaluate_nearest(demonstrations: Demonstrations, config: EvaluateConfig) -> dict[str, Any]:
    """Run the episodes of an evaluation, each with its nearest demonstration. Returns the evaluation's content."""
    with open_kitchen() as kitchen:
        episodes = [_play(kitchen, demonstrations.trajectories, task, config.steps) for task in plan_tasks(config)]
    return content_of("nearest demonstration, open loop", "", config, episodes)


def nearest(demonstrations: Sequence[Trajectory], elements: tuple[str, ...], state: np.ndarray) -> Trajectory:
    """The demonstration whose last state has the fewest elements that differ from the goal: not done, or done too much.

    Among equals, the one with the smallest sum of two distances: from its objects' end to the goal's objects, and from
    its first state to `state` (n,).
    """
    spec = kitchen_spec("kitchen")
    goal = spec.resolve(elements, state)
    objects = list(spec.goal_dims)

    def distance(demonstration: Trajectory) -> tuple[int, float]:
        last = demonstration.states[-1]
        wrong = sum(element.is_done(last) != (name in elements) for name, element in spec.elements.items())
        away = np.linalg.norm((last - goal.state)[objects]) + np.linalg.norm(demonstration.states[0] - state)
        return wrong, float(away)

    return min(demonstrations, key=distance)


def _play(kitchen: Kitchen, demonstrations: Sequence[Trajectory], task: Task, steps: int) -> Episode:
    targets = nearest(demonstrations, task.elements, kitchen.reset(task.seed, STARTS[task.start])).targets
    done = []
    for step in range(steps):
        kitchen.step(targets[min(step, len(targets) - 1)])
        done.append(kitchen.done())
    return episode_of(task, Played(done, None), kitchen.qpos)
