"""The rewards of relay fine-tuning: one for each step of the low level, one for each subgoal of the high level.

Let s' be the state after a step (for the high level, after the subgoal's last step) and g the commanded subgoal (for
the high level, the commanded goal). s'_e are the dimensions of element e, and sigma is the standard deviation of each
dimension over the demonstrations, at least 0.01:

    sparse-objects  1 if every element has |s'_e - g_e| < a third of its tolerance; else 0 (high level: 1 if every named
                    element is done). In the kitchen that third is 0.1
    sparse          the same, and for the low level the arm must have |q' - q_g| < 0.5 rad as well
    euclidean       -|(s' - g) / sigma| / sqrt(n), over all n dimensions (high level: over the n that the goal names)
    elements        the share of elements with |s'_e - g_e| < their tolerance, in the kitchen the environment's own 0.3
                    (high level: of the named elements)
    completion      named elements of the compound goal done after the step, minus those done before it; both levels

The paper's ablation has a sparse, a Euclidean and an element-wise reward, without formulas. Its goals are states of
objects, so `sparse-objects` corresponds to its sparse reward. The arm term of `sparse` and `completion` are ours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rpl_runtime.errors import InvalidInput
from rpl_runtime.policy.spec import ElementSpec, PolicySpec
from rpl_train.rl.rollout import Episode

RewardName = Literal["sparse-objects", "sparse", "euclidean", "elements", "completion"]
_NEAR = 1 / 3  # largest distance of an element that has reached its subgoal, as a share of its tolerance
_ARM_NEAR = 0.5  # [rad] over all joints of the arm


@dataclass(frozen=True, eq=False, kw_only=True)
class Outcome:
    """The inputs of a reward: an episode of T steps."""

    reached: np.ndarray  # (T, n) the state after each step
    subgoals: np.ndarray  # (T, n) the subgoal followed in it
    goal: np.ndarray  # (n,) the compound goal
    mask: np.ndarray  # (n,) 1 where it counts
    named: int  # the number of elements that the goal names
    elements: tuple[ElementSpec, ...]  # all of them
    scale: np.ndarray  # (n,) sigma
    arm: tuple[int, ...]  # the arm's joints in the state
    done: np.ndarray  # (T,) number of named elements that are done after each step


@dataclass(frozen=True)
class Reward:
    """One reward at both levels."""

    low: Callable[[Outcome], np.ndarray]  # (T,) for each step
    high: Callable[[Outcome, np.ndarray], np.ndarray]  # (W,) for each subgoal, by the steps (W,) that end them
    until_subgoal: bool  # the low level's return ends with its subgoal
    by_element: bool = False  # it looks at the elements of a spec


def outcome(episode: Episode, spec: PolicySpec, scale: np.ndarray) -> Outcome:
    """The inputs of a reward from an episode; scale (n,) is sigma."""
    named, state = episode.start.elements, spec.state
    joints = [name for name, unit in zip(spec.action.names, spec.action.units, strict=True) if unit == "rad"]
    return Outcome(
        reached=np.vstack([episode.states[1:], episode.final_state[None]]),
        subgoals=episode.subgoals,
        goal=episode.goal.state,
        mask=episode.goal.mask,
        named=len(named),
        elements=tuple(spec.elements.values()),
        scale=scale,
        arm=tuple(state.names.index(name) for name in joints if name in state.names),
        done=np.array([len(done.intersection(named)) for done in episode.done]),
    )


def _distances(elements: tuple[ElementSpec, ...], states: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """Distances (T, elements) of each element between states (T, n) and goals (T, n) or (n,)."""
    away = states - goals
    return np.stack([np.linalg.norm(away[:, list(element.dims)], axis=1) for element in elements], axis=1)


def _sparse_objects(seen: Outcome) -> np.ndarray:
    near = [_NEAR * element.tolerance for element in seen.elements]
    return np.all(_distances(seen.elements, seen.reached, seen.subgoals) < near, axis=1).astype(np.float32)


def _sparse(seen: Outcome) -> np.ndarray:
    arm = np.linalg.norm((seen.reached - seen.subgoals)[:, list(seen.arm)], axis=1) < _ARM_NEAR
    return _sparse_objects(seen) * arm


def _sparse_to_goal(seen: Outcome, ends: np.ndarray) -> np.ndarray:
    return (seen.done[ends] == seen.named).astype(np.float32)


def _euclidean(seen: Outcome) -> np.ndarray:
    return -np.sqrt((((seen.reached - seen.subgoals) / seen.scale) ** 2).mean(1))


def _euclidean_to_goal(seen: Outcome, ends: np.ndarray) -> np.ndarray:
    away = (seen.reached[ends] - seen.goal) / seen.scale * seen.mask
    return -np.sqrt((away**2).sum(1) / seen.mask.sum())


def _elements(seen: Outcome) -> np.ndarray:
    tolerances = [element.tolerance for element in seen.elements]
    return (_distances(seen.elements, seen.reached, seen.subgoals) < tolerances).mean(1)


def reward_for(name: RewardName, spec: PolicySpec) -> Reward:
    """The reward with a name, for a policy.

    Raises:
        InvalidInput: it looks at elements, and the policy has none.
    """
    reward = REWARDS[name]
    if reward.by_element and not spec.elements:
        raise InvalidInput(
            f"the reward {name} needs a policy with elements; {spec.name} must take completion or euclidean"
        )
    return reward


REWARDS: dict[RewardName, Reward] = {
    "sparse-objects": Reward(_sparse_objects, _sparse_to_goal, until_subgoal=True, by_element=True),
    "sparse": Reward(_sparse, _sparse_to_goal, until_subgoal=True, by_element=True),
    "euclidean": Reward(_euclidean, _euclidean_to_goal, until_subgoal=True),
    "elements": Reward(_elements, lambda seen, ends: seen.done[ends] / seen.named, until_subgoal=True, by_element=True),
    "completion": Reward(
        lambda seen: np.diff(seen.done, prepend=0).astype(np.float32),
        lambda seen, ends: np.diff(seen.done[ends], prepend=0).astype(np.float32),
        until_subgoal=False,
    ),
}
