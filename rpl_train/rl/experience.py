"""A level's experience of episodes: its inputs, its samples and its rewards."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from rpl_runtime.policy.manifest import Statistics
from rpl_runtime.policy.spec import PolicySpec
from rpl_train.networks import LowLevel, RelayPolicy, tensors
from rpl_train.rl.rewards import Reward, outcome
from rpl_train.rl.rollout import Episode
from rpl_train.runs import LevelName
from rpl_train.statistics import STD_FLOOR


class Explorer:
    """A policy for the relay loop that samples the levels that learn and takes the modes of the other.

    It keeps the low level's samples as drawn. The commanded targets are clipped, and the likelihood of a clipped target
    differs from that of its sample.
    """

    def __init__(self, policy: RelayPolicy, levels: Sequence[LevelName]) -> None:
        self._policy = policy
        self._levels = levels
        self._drawn: list[np.ndarray] = []  # (B, m) for each call

    def plan(self, state: np.ndarray, goal: np.ndarray, mask: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """As `RelayPolicy` does."""
        return self._policy.plan(state, goal, mask, noise if "high" in self._levels else np.zeros_like(noise))

    @torch.inference_mode()
    def act(self, state: np.ndarray, subgoal: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """As `RelayPolicy` does."""
        low = self._policy.low
        assert isinstance(low, LowLevel)
        scale = float("low" in self._levels)
        drawn = low.draw(*tensors(low, state, subgoal, np.float32(scale) * noise))
        self._drawn.append(drawn.cpu().numpy())
        return low.clip(drawn).cpu().numpy()

    def targets(self, episodes: Sequence[Episode]) -> np.ndarray:
        """The low level's samples (E, T, m) in `episodes`, all that this explorer has played, in order."""
        steps = len(episodes[0].states)
        waves = [np.stack(self._drawn[at : at + steps], axis=1) for at in range(0, len(self._drawn), steps)]
        return np.concatenate(waves)


class Experience(NamedTuple):
    """E episodes of T decisions of one level; N = E * T, in that order."""

    inputs: tuple[np.ndarray, ...]  # (N, .) each
    outputs: np.ndarray  # (N, .) samples
    rewards: np.ndarray  # (E, T)
    last: np.ndarray  # (T,) bool, whether a return ends with the decision
    features: np.ndarray  # (N, f) for the baseline


def feature_count(level: LevelName, state_dim: int) -> int:
    """The number of features of a level's baseline."""
    return (3 if level == "low" else 2) * state_dim + 4


def experience(
    level: LevelName,
    episodes: Sequence[Episode],
    drawn: np.ndarray,
    reward: Reward,
    spec: PolicySpec,
    statistics: Statistics,
) -> Experience:
    """One level's experience of episodes of equal length; `drawn` (E, T, m) are the low level's samples."""
    mean = np.array(statistics.mean, dtype=np.float32)
    scale = np.maximum(np.array(statistics.std, dtype=np.float32), STD_FLOOR)
    outcomes = [outcome(episode, spec, scale) for episode in episodes]
    steps = np.arange(len(episodes[0].states))
    ends = np.append(steps[spec.horizon - 1 : -1 : spec.horizon], steps[-1])  # the last step of each subgoal
    decisions = steps if level == "low" else np.append(0, ends[:-1] + 1)

    states = np.stack([episode.states[decisions] for episode in episodes])  # (E, T, n)
    subgoals = np.stack([episode.subgoals[decisions] for episode in episodes])
    goals = np.stack([np.broadcast_to(episode.goal.state, states.shape[1:]) for episode in episodes])
    masks = np.stack([np.broadcast_to(episode.goal.mask, states.shape[1:]) for episode in episodes])
    time = np.broadcast_to(decisions[:, None] / len(steps), (*states.shape[:2], 1))
    age = np.broadcast_to(decisions[:, None] % spec.horizon / spec.horizon, time.shape)
    features = [(states - mean) / scale, masks * (goals - states) / scale, time, time**2, time**3, age]
    if level == "low":
        inputs, outputs = (states, subgoals), drawn
        rewards = np.stack([reward.low(seen) for seen in outcomes])
        last = np.isin(steps, ends) if reward.until_subgoal else steps == steps[-1]
        features.append((subgoals - states) / scale)
    else:
        inputs, outputs = (states, goals, masks), subgoals
        rewards = np.stack([reward.high(seen, ends) for seen in outcomes])
        last = decisions == decisions[-1]
    return Experience(
        inputs=tuple(map(_flat, inputs)),
        outputs=_flat(outputs),
        rewards=rewards,
        last=last,
        features=_flat(np.concatenate(features, axis=2)),
    )


def _flat(values: np.ndarray) -> np.ndarray:
    """(E, T, d) -> (E * T, d) float32."""
    return np.ascontiguousarray(values.reshape(-1, values.shape[-1]), dtype=np.float32)
