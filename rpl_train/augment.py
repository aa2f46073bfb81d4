"""Batches of (state, goal, behaviour) for both levels, drawn from relabelled demonstrations and augmented.

A batch depends on nothing but the generator that draws it. Each augmentation is switched off by a 0 in `PoolConfig`:

- Perturb and correct: noise moves the state while the position target stays, so the target leads back. Other actions
  are not corrected.
- Goals by name: half of the high level's goals are the state the episode goes to, with its done elements named and set
  to their goal values, as in a commanded goal. The other half are whole states reached on the way, or that state as a
  whole. So is the goal of an episode that leads elements back, which names cannot say.
- Counterfactual objects (after CoDA, Pitis et al., NeurIPS 2020): an element that rests while the behaviour runs does
  not cause it, so it is set to its resting state in another demonstration. It may also be named as still to do, if no
  demonstration moves it before an element that the behaviour serves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from rpl_runtime.policy.manifest import Statistics
from rpl_runtime.policy.spec import PolicySpec
from rpl_train.data.trajectory import Trajectory
from rpl_train.statistics import STD_FLOOR, state_statistics
from rpl_train.tuples import NEVER, Relabelling, lay_out


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """How tuples are drawn. Noises are in units of each dimension's standard deviation over the data."""

    relabelling: Relabelling = "relay"
    low_window: int | None = None  # [steps] W_l; None: the policy's horizon
    high_window: int = 260  # [steps] W_h
    low_noise: float = 0.08  # on the commanded dimensions of the low level's states
    high_noise: float = 0.2  # the same for the high level, whose plan must not depend on the arm's posture
    object_noise: float = 0.015  # on the other dimensions, at both levels
    subgoal_noise: float = 0.1  # on the low level's subgoals
    named_goals: float = 0.5  # the share of the high level's goals given by element names
    # The share of them that are the state a demonstration goes to, as a whole. If there are any, that state also
    # replaces a goal before which no element moves: it would teach to leave where nothing is to be done.
    end_goals: float = 0.0
    counterfactual: float = 0.5  # the share of resting elements that are swapped
    # [steps] appended to each demonstration, in which its motion decays and the robot stays; None: a horizon, or 0 if
    # actions are not position targets, since no other action is known to hold a robot.
    hold: int | None = None

    def of(self, spec: PolicySpec) -> "PoolConfig":
        """The same with what depends on a policy's spec filled in."""
        window = spec.horizon if self.low_window is None else self.low_window
        hold = (spec.horizon if spec.commanded else 0) if self.hold is None else self.hold
        return replace(self, low_window=window, hold=hold)


class LowBatch(NamedTuple):
    state: np.ndarray  # (B, n)
    subgoal: np.ndarray  # (B, n)
    target: np.ndarray  # (B, m)


class HighBatch(NamedTuple):
    state: np.ndarray  # (B, n)
    goal: np.ndarray  # (B, n)
    mask: np.ndarray  # (B, n)
    subgoal: np.ndarray  # (B, n)


class Pool:
    """The relabelled tuples of demonstrations, to draw batches from.

    Raises:
        DemonstrationError: there are no demonstrations, or their sizes are not the spec's.
    """

    def __init__(self, demonstrations: Sequence[Trajectory], spec: PolicySpec, config: PoolConfig) -> None:
        self.spec, self.config = spec, config.of(spec)
        self._advice = _advice(demonstrations)
        demonstrations = [each for each in demonstrations if each.subgoals is None]
        self.timeline = lay_out(demonstrations, spec, self.config.hold or 0)
        self.tuples = self.timeline.tuples(config.relabelling, self.config.low_window or 0, config.high_window)
        # (E,) something is asked for, and nothing is led back
        self._nameable = self.timeline.asked.any(1) & ~np.any(self.timeline.begun & ~self.timeline.asked, axis=1)
        self._dims = [np.array(element.dims) for element in spec.elements.values()]
        self._goals = [np.array(element.goal, dtype=np.float32) for element in spec.elements.values()]
        scale, commanded = np.maximum(self.timeline.states.std(0), STD_FLOOR), list(spec.commanded)
        self._low_noise, self._high_noise = config.object_noise * scale, config.object_noise * scale
        self._low_noise[commanded] = config.low_noise * scale[commanded]
        self._high_noise[commanded] = config.high_noise * scale[commanded]
        self._subgoal_noise = config.subgoal_noise * scale

    @cached_property
    def statistics(self) -> Statistics:
        """Of the states, for networks and manifest; not computed for every process that draws."""
        return state_statistics(self.timeline.states)

    def count(self, level: Literal["high", "low"], among: slice) -> int:
        """The number of a level's tuples of the demonstrations `among` all; the high level has none of short ones."""
        first, end = (self.tuples.high if level == "high" else self.tuples.low).span(*self._steps(among))
        return end - first

    def low_batch(self, rng: np.random.Generator, size: int, among: slice = slice(None)) -> LowBatch:
        """Draw `size` tuples for the low level, of the demonstrations `among` all."""
        config, timeline = self.config, self.timeline
        step, goal = self.tuples.low[rng.integers(*self.tuples.low.span(*self._steps(among)), size=size)]
        episode = timeline.episode[step]
        if config.relabelling == "goal":  # the share of ends that the high level of a relay sees
            goal = np.where(rng.random(size) < config.named_goals, timeline.last[episode], goal)
        state, subgoal, target = timeline.states[step], timeline.states[goal], timeline.targets[step]
        resting = timeline.resting(episode, step, goal)
        for e, dims in enumerate(self._dims):
            swap = np.flatnonzero(resting[:, e] & (rng.random(size) < config.counterfactual))
            value = self._rest_values(rng, e, rng.random(len(swap)) < 0.5)
            state[swap[:, None], dims] = value
            subgoal[swap[:, None], dims] = value
        subgoal = subgoal + _noise(rng, size, self._subgoal_noise)
        state = state + _noise(rng, size, self._low_noise)
        if self._advice is not None:  # each step of it counts as much as one that was demonstrated
            count = len(self._advice.state)
            rows = np.flatnonzero(rng.random(size) < count / (count + len(timeline.states)))
            given = rng.integers(count, size=len(rows))
            state[rows], subgoal[rows], target[rows] = (values[given] for values in self._advice)
        return LowBatch(state, subgoal, target)

    def high_batch(self, rng: np.random.Generator, size: int, among: slice = slice(None)) -> HighBatch:
        """Draw `size` tuples for the high level, of the demonstrations `among` all."""
        config, timeline = self.config, self.timeline
        numbers = rng.integers(*self.tuples.high.span(*self._steps(among)), size=size)
        step, goal_step, sub_step = self.tuples.high[numbers]
        episode = timeline.episode[step]
        kind = rng.random(size)
        to_end = kind < config.named_goals + config.end_goals
        if config.end_goals:
            to_end |= (timeline.resting(episode, step, goal_step) | ~timeline.led[episode]).all(1)
        named = (kind < config.named_goals) & self._nameable[episode]
        goal_step = np.where(to_end, np.where(timeline.cut[episode], NEVER - 1, timeline.last[episode]), goal_step)
        sub_step = np.where(to_end, self.tuples.ahead[step], sub_step)
        state, subgoal = timeline.states[step], timeline.states[sub_step]
        goal = np.where(to_end[:, None], timeline.goals[episode], timeline.states[np.where(to_end, step, goal_step)])

        served = timeline.served(episode, step, sub_step)
        free = timeline.resting(episode, step, sub_step) & ~served
        # Only behaviour that the goal asks for may leave other elements waiting.
        purposeful = np.any(served & (timeline.moves[episode] < goal_step[:, None]), axis=1)
        mask = np.zeros_like(goal)
        # Without elements to name, the end of an episode is a goal as a whole state too.
        mask[:, list(self.spec.goal_dims)] = ~named[:, None] if self._dims else True
        for e, dims in enumerate(self._dims):
            asked = timeline.asked[episode, e]
            before = np.flatnonzero(asked & timeline.begun[episode, e])  # to name what is done asks for nothing
            # What is dragged along on the way is left there: to name it would teach to stay where it is not done.
            asked[before] = timeline.done[episode[before], e] & (rng.random(len(before)) < 0.5)
            swap = np.flatnonzero(free[:, e] & (rng.random(size) < config.counterfactual))
            too_early = np.any(served[swap] & timeline.precedes[e], axis=1)  # e comes before a served element
            may_wait = purposeful[swap] & ~too_early
            waits = may_wait & (rng.random(len(swap)) < 0.5)
            done = ~waits & (rng.random(len(swap)) < 0.5)
            value = self._rest_values(rng, e, done)
            state[swap[:, None], dims] = value
            subgoal[swap[:, None], dims] = value
            goal[swap[:, None], dims] = np.where(waits[:, None], self._rest_values(rng, e, waits), value)
            asked[swap] = waits | done
            chosen = np.flatnonzero(named & asked)
            mask[chosen[:, None], dims] = 1.0
            goal[chosen[:, None], dims] = self._goals[e]
        return HighBatch(state + _noise(rng, size, self._high_noise), goal, mask, subgoal)

    def _steps(self, among: slice) -> tuple[int, int]:
        """The first step of these demonstrations, and the first one after them."""
        chosen = range(len(self.timeline.first))[among]
        return int(self.timeline.first[chosen[0]]), int(self.timeline.last[chosen[-1]]) + 1

    def _rest_values(self, rng: np.random.Generator, e: int, done: np.ndarray) -> np.ndarray:
        """(len(done), dims): where element e rests, untouched or done, in demonstrations drawn at random."""
        timeline = self.timeline
        finished = np.flatnonzero(timeline.done[:, e])
        if len(finished) == 0:
            finished = np.arange(len(timeline.first))
        untouched = np.flatnonzero(~timeline.begun[:, e])
        if len(untouched) == 0:
            untouched = np.arange(len(timeline.first))
        steps = np.where(
            done,
            timeline.last[finished[rng.integers(len(finished), size=len(done))]],
            timeline.first[untouched[rng.integers(len(untouched), size=len(done))]],
        )
        return timeline.states[steps[:, None], self._dims[e]]


def _advice(demonstrations: Sequence[Trajectory]) -> LowBatch | None:
    """What was advised to a policy that drove, as tuples of its low level."""
    given = [(each.states, each.subgoals, each.targets) for each in demonstrations if each.subgoals is not None]
    return LowBatch(*map(np.concatenate, zip(*given, strict=True))) if given else None


def _noise(rng: np.random.Generator, size: int, scale: np.ndarray) -> np.ndarray:
    """Normal noise (size, n) whose amplitude differs from row to row, from 0 to `scale` (n,)."""
    amplitude = rng.random((size, 1), dtype=np.float32)
    return amplitude * rng.standard_normal((size, len(scale)), dtype=np.float32) * scale.astype(np.float32)
