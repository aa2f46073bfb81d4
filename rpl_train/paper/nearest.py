"""Nearest neighbour, open loop: play the demonstration whose end is nearest to the goal.

Its targets are played without looking at the state, and the last one is held. There is no policy and no server. A new
goal is another demonstration, from its beginning.
"""

from collections import deque
from collections.abc import Collection, Sequence

import numpy as np

from rpl_runtime.client.control import Control, Rows
from rpl_runtime.errors import ProtocolViolation
from rpl_runtime.evaluation.evaluate import EvaluateConfig, Played, content_of, episode_of, plan_trials
from rpl_runtime.evaluation.results import Episode
from rpl_runtime.files import JsonDict
from rpl_runtime.policy.spec import ResolvedGoal
from rpl_runtime.relay.messages import (
    Action,
    Finish,
    Finished,
    Goal,
    GoalSet,
    ModelInfo,
    Observation,
    Reply,
    Request,
    SetGoal,
    Start,
    Started,
    valid_until_ns,
)
from rpl_runtime.robots.kitchen.task import KITCHEN
from rpl_runtime.tasks.kitchen.elements import kitchen_spec
from rpl_runtime.tasks.kitchen.simulator import open_kitchen
from rpl_train.data.sources import Demonstrations
from rpl_train.data.trajectory import Trajectory

_SPEC = kitchen_spec("kitchen")


def evaluate_nearest(demonstrations: Demonstrations, config: EvaluateConfig) -> JsonDict:
    """Run the episodes of an evaluation, each with its nearest demonstration. Returns the evaluation's content."""
    steps, episodes = config.of(KITCHEN).steps or 0, list[Episode]()
    with open_kitchen() as kitchen:
        for trial in plan_trials(KITCHEN, config):
            start = KITCHEN.reset(kitchen, trial.seed, trial.start)
            targets = nearest(demonstrations.trajectories, trial.elements, start).targets
            done = []
            for step in range(steps):
                kitchen.step(targets[min(step, len(targets) - 1)])
                done.append(kitchen.done())
            episodes.append(episode_of(trial, Played(done, None), KITCHEN, kitchen))
    return content_of("nearest demonstration, open loop", "", KITCHEN, config, episodes)


def nearest(demonstrations: Sequence[Trajectory], elements: tuple[str, ...], state: np.ndarray) -> Trajectory:
    """The demonstration whose last state has the fewest elements that differ from the goal: not done, or done too much.

    Among equals, the one with the smallest sum of two distances: from its objects' end to the goal's objects, and from
    its first state to `state` (n,).
    """
    return nearest_to(demonstrations, _SPEC.resolve(elements, state).state, elements, state)


def nearest_to(
    demonstrations: Sequence[Trajectory], goal: np.ndarray, elements: Collection[str], state: np.ndarray
) -> Trajectory:
    """The same for a goal state (n,) in which some elements are done."""
    objects = list(_SPEC.goal_dims)

    def distance(demonstration: Trajectory) -> tuple[int, float]:
        last = demonstration.states[-1]
        wrong = sum(element.is_done(last) != (name in elements) for name, element in _SPEC.elements.items())
        away = np.linalg.norm((last - goal)[objects]) + np.linalg.norm(demonstration.states[0] - state)
        return wrong, float(away)

    return min(demonstrations, key=distance)


def open_loop(demonstrations: Sequence[Trajectory]) -> Control:
    """A control whose runs are nearest demonstrations, for the hard protocol."""
    return Control(ModelInfo(_SPEC, "", 1, {}), _OpenLoop(demonstrations))


class _OpenLoop:
    """A `Line` to runs that play the nearest demonstration."""

    def __init__(self, demonstrations: Sequence[Trajectory]) -> None:
        self._demonstrations = demonstrations
        self._left: dict[str, deque[np.ndarray]] = {}  # robot -> the targets still to be played, the last one held

    def exchange(self, rows: Rows) -> list[Reply]:
        return [self._reply(robot, request) for robot, request in rows]

    def close(self) -> None:
        self._left.clear()

    def _reply(self, robot: str, request: Request) -> Reply:
        match request:
            case Start():
                goal = self._choose(robot, request.goal, request.state)
                return Started(goal, "", _SPEC.period_s, _SPEC.horizon)
            case SetGoal():
                return GoalSet(self._choose(robot, request.goal, request.state))
            case Observation():
                left = self._left[robot]
                target = left.popleft() if len(left) > 1 else left[0]
                until_ns = valid_until_ns(request.observed_ns, round(_SPEC.period_s * 1e9))
                return Action(target, request.state, 0, False, until_ns)
            case Finish():
                del self._left[robot]
                return Finished(0)
            case _:
                return ProtocolViolation(f"robot {robot!r} plays a demonstration; it cannot be taken over")

    def _choose(self, robot: str, goal: Goal, state: np.ndarray) -> ResolvedGoal:
        if isinstance(goal, ResolvedGoal):
            resolved, elements = goal, _SPEC.done(goal.state)
        elif isinstance(goal, np.ndarray):
            resolved, elements = _SPEC.resolve_state(goal), _SPEC.done(goal)
        else:
            resolved, elements = _SPEC.resolve(goal, state), frozenset(goal)
        found = nearest_to(self._demonstrations, resolved.state, elements, state)
        self._left[robot] = deque(np.clip(found.targets, *_SPEC.action.bounds))  # a control refuses others
        return resolved
