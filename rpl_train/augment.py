"""The relabelled pool: batches of (state, goal, behaviour) drawn from demonstrations, for both levels.

In: demonstrations and the spec whose elements goals may name. Out: batches that depend on nothing but the
generator they are drawn with. It does not know networks or losses.

Recordings stop at the instant when their last element counts as done, often in full motion, and what comes after is for
the policy to guess. So the motion dies out and the end is held for a while. Then three things are done to a tuple as
Algorithms 2 and 3 give it, each switched by a number in `PoolConfig`:

- Perturb and correct: the state is moved by noise while the position target stays, so the target leads back.
- Goals by name: half of the high level's goals are the episode's end with its done elements named and set to
  their goal values, as a commanded goal is. The other half are whole states reached on the way.
- Counterfactual objects (after CoDA, Pitis et al., NeurIPS 2020): an element that rests while the behaviour runs
  does not cause it, so it is put into another demonstration's resting state. It may also be put on the list of
  what is left to do, provided no demonstration works on it before the element the behaviour serves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from rpl_runtime.errors import DemonstrationError
from rpl_runtime.policy.spec import PolicySpec
from rpl_train.data.trajectory import Trajectory
from rpl_train.relabel import HighTuples, LowTuples, relabel_high, relabel_low
from rpl_train.statistics import STD_FLOOR, state_statistics

_MOVED = 0.1  # a tenth of the way from an element's start to its goal: beyond any sensor noise
_DYING = 2 / 3  # what is left of a motion from one step to the next after the recording: two more steps of it in all

# Which later states the low level's goals are, and which one the high level sets:
#   relay     any within the window; the state a window ahead (Algorithms 2 and 3)
#   segments  the end of the segment, where the next element to be done comes to rest, at both levels
#   goal      any to the end of the high window: goal-conditioned cloning, for a flat policy (Lynch et al., CoRL 2019)
#   end       the demonstration's last: cloning without relabelling, for a flat policy
Relabelling = Literal["relay", "segments", "goal", "end"]
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class PoolConfig:
    """How tuples are drawn. Noises are in units of each dimension's standard deviation over the data."""

    relabelling: Relabelling = "relay"
    low_window: int = 30  # [steps] W_l
    high_window: int = 260  # [steps] W_h
    low_noise: float = 0.08  # on what the action commands, in the low level's states
    high_noise: float = 0.2  # the same in the high level's, which must not mind how the arm is held
    object_noise: float = 0.015  # on the other dimensions, at both levels
    subgoal_noise: float = 0.1  # on what the low level is asked to reach
    named_goals: float = 0.5  # the share of the high level's goals given by element names
    counterfactual: float = 0.5  # the share of resting elements that are swapped
    hold: int = 30  # [steps] appended to each demonstration in which nothing moves any more


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
    """Demonstrations laid end to end, with every relabelled tuple and the times at which each element rests.

    Raises:
        DemonstrationError: there are none, or their sizes are not the spec's.
    """

    def __init__(self, demonstrations: Sequence[Trajectory], spec: PolicySpec, config: PoolConfig) -> None:
        _check(demonstrations, spec)
        self.spec, self.config = spec, config
        commanded = [spec.state.names.index(name) for name in spec.action.names if name in spec.state.names]
        if config.hold and len(commanded) == spec.action.dim:
            demonstrations = [_held(demonstration, commanded, config.hold) for demonstration in demonstrations]
        lengths = [len(demonstration) for demonstration in demonstrations]
        self.states = np.concatenate([demonstration.states for demonstration in demonstrations])  # (N, n)
        self.targets = np.concatenate([demonstration.targets for demonstration in demonstrations])  # (N, m)
        self.statistics = state_statistics(self.states)
        self._first = np.cumsum([0, *lengths[:-1]])  # (E,)
        self._last = np.cumsum(lengths) - 1  # (E,)
        self._episode = np.repeat(np.arange(len(lengths)), lengths)  # (N,)
        self._dims = [np.array(element.dims) for element in spec.elements.values()]
        self._goals = [np.array(element.goal, dtype=np.float32) for element in spec.elements.values()]
        self._rests()
        self._relabel(lengths)
        scale = np.maximum(self.states.std(0), STD_FLOOR)
        self._low_noise, self._high_noise = config.object_noise * scale, config.object_noise * scale
        self._low_noise[commanded] = config.low_noise * scale[commanded]
        self._high_noise[commanded] = config.high_noise * scale[commanded]
        self._subgoal_noise = config.subgoal_noise * scale

    def _relabel(self, lengths: list[int]) -> None:
        """Every tuple, and for each step the one whose state the high level sets there on the way to a far goal."""
        config, steps = self.config, np.arange(len(self.states))
        last = self._last[self._episode]
        self._ahead = np.minimum(steps + config.low_window, last)  # (N,)
        self.low_tuples = relabel_low(lengths, config.low_window)
        self.high_tuples = relabel_high(lengths, config.low_window, config.high_window)
        match config.relabelling:
            case "goal":
                self.low_tuples = relabel_low(lengths, config.high_window)
            case "end":
                self.low_tuples = LowTuples(steps, last)
            case "segments":
                self._ahead = self._segment_ends(last)
                self.low_tuples = LowTuples(steps, self._ahead)
                step, goal, _ = self.high_tuples
                self.high_tuples = HighTuples(step, goal, np.minimum(goal, self._ahead[step]))

    def _segment_ends(self, last: np.ndarray) -> np.ndarray:
        """(N,) for each step, where the next element that its demonstration does comes to rest; its end after them."""
        ends = last.copy()
        for episode, done in enumerate(self._done):
            first = self._first[episode]
            for end in np.sort(self._settles[episode, done])[::-1]:
                ends[first:end] = end
        return ends

    def _rests(self) -> None:
        """When each element begins to move and comes to rest, in steps end to end; and which precedes which."""
        shape = (len(self._first), len(self._dims))
        self._moves = np.full(shape, _NEVER)  # the first step at which the element has left its start
        self._settles = np.full(shape, 0)  # the first step from which it stays where it ends
        self._done = np.zeros(shape, dtype=np.bool_)  # at its goal at the end
        for episode, (first, last) in enumerate(zip(self._first, self._last, strict=True)):
            states = self.states[first : last + 1]
            for e, (dims, goal, element) in enumerate(
                zip(self._dims, self._goals, self.spec.elements.values(), strict=True)
            ):
                values = states[:, dims]
                threshold = max(_MOVED * float(np.linalg.norm(goal - values[0])), 1e-3)
                away = np.flatnonzero(np.linalg.norm(values - values[0], axis=1) > threshold)
                self._done[episode, e] = element.is_done(states[-1])
                if len(away):
                    unsettled = np.flatnonzero(np.linalg.norm(values - values[-1], axis=1) > threshold)
                    self._moves[episode, e] = first + away[0]
                    self._settles[episode, e] = first + (unsettled[-1] + 1 if len(unsettled) else 0)
        count = len(self._dims)
        moved = self._moves < _NEVER
        self._precedes = np.zeros((count, count), dtype=bool)  # [a, b]: some demonstration moves a before b
        for a in range(count):
            for b in range(count):
                self._precedes[a, b] = (moved[:, a] & moved[:, b] & (self._moves[:, a] < self._moves[:, b])).any()

    def _resting(self, episode: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """(B, elements): whether each element stays where it is from step `start` to step `end`."""
        return (end[:, None] < self._moves[episode]) | (start[:, None] >= self._settles[episode])

    def low_batch(self, rng: np.random.Generator, size: int) -> LowBatch:
        """Draw `size` tuples for the low level."""
        rows = rng.integers(len(self.low_tuples.step), size=size)
        step, goal = self.low_tuples.step[rows], self.low_tuples.goal[rows]
        if self.config.relabelling == "goal":  # as many of a demonstration's end as the high level of a relay sees
            goal = np.where(rng.random(size) < self.config.named_goals, self._last[self._episode[step]], goal)
        state, subgoal = self.states[step], self.states[goal]
        resting = self._resting(self._episode[step], step, goal)
        for e, dims in enumerate(self._dims):
            swap = np.flatnonzero(resting[:, e] & (rng.random(size) < self.config.counterfactual))
            value = self._rest_values(rng, e, rng.random(len(swap)) < 0.5)
            state[swap[:, None], dims] = value
            subgoal[swap[:, None], dims] = value
        subgoal = subgoal + self._draw(rng, size, self._subgoal_noise)
        return LowBatch(state + self._draw(rng, size, self._low_noise), subgoal, self.targets[step])

    def high_batch(self, rng: np.random.Generator, size: int) -> HighBatch:
        """Draw `size` tuples for the high level."""
        rows = rng.integers(len(self.high_tuples.step), size=size)
        step, goal_step, sub_step = (column[rows] for column in self.high_tuples)
        episode = self._episode[step]
        named = rng.random(size) < self.config.named_goals
        goal_step = np.where(named, self._last[episode], goal_step)
        sub_step = np.where(named, self._ahead[step], sub_step)
        state, goal, subgoal = self.states[step], self.states[goal_step], self.states[sub_step]

        served = self._served(episode, step, sub_step)
        free = self._resting(episode, step, sub_step) & ~served
        purposeful = np.any(served & (self._moves[episode] < goal_step[:, None]), axis=1)  # the goal asks for it
        mask = np.zeros_like(goal)
        mask[:, list(self.spec.goal_dims)] = ~named[:, None]
        for e, dims in enumerate(self._dims):
            asked = self._done[episode, e]
            swap = np.flatnonzero(free[:, e] & (rng.random(size) < self.config.counterfactual))
            too_early = np.any(served[swap] & self._precedes[e], axis=1)  # e comes before what is served
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
        return HighBatch(state + self._draw(rng, size, self._high_noise), goal, mask, subgoal)

    def _served(self, episode: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """(B, elements): what the behaviour from `start` to `end` serves: what moves, and what moves next."""
        moves = self._moves[episode]
        served = (moves <= end[:, None]) & (self._settles[episode] > start[:, None])
        later = np.where(moves > end[:, None], moves, _NEVER)
        following = later.argmin(1)
        rows = np.flatnonzero(later.min(1) < _NEVER)
        served[rows, following[rows]] = True
        return served

    def _rest_values(self, rng: np.random.Generator, e: int, done: np.ndarray) -> np.ndarray:
        """(len(done), dims): where element e rests, untouched or done, in demonstrations drawn at random."""
        finished = np.flatnonzero(self._done[:, e])
        if len(finished) == 0:
            finished = np.arange(len(self._first))
        steps = np.where(
            done,
            self._last[finished[rng.integers(len(finished), size=len(done))]],
            self._first[rng.integers(len(self._first), size=len(done))],
        )
        return self.states[steps[:, None], self._dims[e]]

    @staticmethod
    def _draw(rng: np.random.Generator, size: int, scale: np.ndarray) -> np.ndarray:
        """Normal noise (size, n) whose amplitude differs from row to row, from nothing to `scale`."""
        amplitude = rng.random((size, 1), dtype=np.float32)
        return amplitude * rng.standard_normal((size, len(scale)), dtype=np.float32) * scale.astype(np.float32)


def _held(demonstration: Trajectory, commanded: list[int], steps: int) -> Trajectory:
    """The demonstration, followed by steps in which its motion dies out and the robot stays where that ends."""
    states = demonstration.states
    velocity = (states[-1] - states[max(-5, -len(states))]) / min(4, len(states) - 1)  # (n,) a step
    travelled = 1 - _DYING ** np.arange(1, steps + 1)
    after = states[-1] + velocity * (_DYING / (1 - _DYING)) * travelled[:, None]
    targets = np.tile(after[-1, commanded], (steps + 1, 1))
    return replace(
        demonstration,
        states=np.vstack([states, after]).astype(np.float32),
        # The last recorded target belongs to a command that was never carried out: it stops the arm in its motion.
        targets=np.vstack([demonstration.targets[:-1], targets]).astype(np.float32),
    )


def _check(demonstrations: Sequence[Trajectory], spec: PolicySpec) -> None:
    if not demonstrations:
        raise DemonstrationError("there are no demonstrations to learn from")
    for demonstration in demonstrations:
        sizes = demonstration.states.shape[1], demonstration.targets.shape[1]
        if sizes != (spec.state.dim, spec.action.dim):
            raise DemonstrationError(
                f"{demonstration.source} has states of {sizes[0]} and targets of {sizes[1]} numbers; "
                f"{spec.name} has {spec.state.dim} and {spec.action.dim}"
            )
