"""The relabelled tuples of a set of demonstrations, as indices into their steps, and when each element moves.

Recordings stop at the instant when their last element counts as done, often in mid-motion, so a decay and a hold are
appended to each. Then the demonstrations are laid end to end, and every tuple is two or three indices of steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from rpl_runtime.errors import DemonstrationError, InvalidInput
from rpl_runtime.policy.spec import ElementSpec, PolicySpec
from rpl_train.data.trajectory import Trajectory, check_sizes
from rpl_train.relabel import Ends, HighTuples, LowTuples, Window

# Which later states the low level is given as goals, and which state the high level sets as the subgoal:
#   relay     any within the window; the state a window ahead (Algorithms 2 and 3)
#   segments  at both levels the end of the segment, where the next element to be done comes to rest
#   goal      any to the end of the high window: goal-conditioned cloning, for a flat policy (Lynch et al., CoRL 2019)
#   end       the demonstration's last: cloning without relabelling, for a flat policy
Relabelling = Literal["relay", "segments", "goal", "end"]

NEVER = np.iinfo(np.int64).max
_MOVED = 0.1  # share of the way from an element's start to its goal; larger than any sensor noise
_DECAY = 2 / 3  # factor of the velocity from one appended step to the next; the motion covers two more steps in all


class Tuples(NamedTuple):
    """Every tuple of both levels, and for each step its default subgoal."""

    low: LowTuples
    high: HighTuples
    ahead: np.ndarray  # (N,) int64, the step whose state the high level sets on the way to a far goal


@dataclass(frozen=True, eq=False, kw_only=True)
class Timeline:
    """E demonstrations laid end to end: N steps of n state dimensions, in which K elements move."""

    states: np.ndarray  # (N, n)
    targets: np.ndarray  # (N, m)
    episode: np.ndarray  # (N,) which demonstration each step belongs to
    first: np.ndarray  # (E,) the first step of each demonstration
    last: np.ndarray  # (E,)
    moves: np.ndarray  # (E, K) the first step at which an element has left its start; NEVER if it stays
    settles: np.ndarray  # (E, K) the first step from which an element stays where it ends
    done: np.ndarray  # (E, K) bool, at its goal in the last step
    begun: np.ndarray  # (E, K) bool, at its goal in the first step
    led: np.ndarray  # (E, K) bool, the demonstration leads it to another place, and does not only touch it on the way
    goals: np.ndarray  # (E, n) the state that each demonstration goes to; what it does not lead is where it ends
    asked: np.ndarray  # (E, K) bool, at its goal in that state
    cut: np.ndarray  # (E,) bool, it ends before that state
    precedes: np.ndarray  # (K, K) bool, [a, b]: some demonstration moves a before b

    def resting(self, episode: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """(B, K) whether each element stays where it is from step `start` (B,) to step `end` (B,)."""
        return (end[:, None] < self.moves[episode]) | (start[:, None] >= self.settles[episode])

    def served(self, episode: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """(B, K) the elements that the behaviour serves: those moving in [start, end], plus the next that is led."""
        moves = self.moves[episode]
        served = (moves <= end[:, None]) & (self.settles[episode] > start[:, None])
        later = np.where((moves > end[:, None]) & self.led[episode], moves, NEVER)
        rows = np.flatnonzero(later.min(1, initial=NEVER) < NEVER)
        if len(rows) == 0:  # also where there are no elements
            return served
        served[rows, later.argmin(1)[rows]] = True
        return served

    def tuples(self, relabelling: Relabelling, low_window: int, high_window: int) -> Tuples:
        """Build the tuple indices, and each step's default subgoal; windows [steps] are W_l and W_h."""
        steps, last = np.arange(len(self.states)), self.last[self.episode]
        lengths = (self.last - self.first + 1).tolist()
        ahead = np.minimum(steps + low_window, last)
        # A demonstration that was cut ends before its goal: near its end, the state a window ahead is not known.
        far = Window(lengths, high_window, np.where(self.cut, low_window, 0))
        match relabelling:
            case "goal":
                low = Window(lengths, high_window)
            case "end":
                low = Ends(last)
            case "segments":
                ahead = self._segment_ends()
                low = Ends(ahead)
            case _:
                low = Window(lengths, low_window)
        return Tuples(low, HighTuples(far, ahead), ahead)

    def _segment_ends(self) -> np.ndarray:
        """(N,) where the next element that is done comes to rest; after the last of them, the demonstration's end."""
        ends = self.last[self.episode]
        for first, settles, done in zip(self.first, self.settles, self.done, strict=True):
            for end in np.sort(settles[done])[::-1]:
                ends[first:end] = end
        return ends


def lay_out(demonstrations: Sequence[Trajectory], spec: PolicySpec, hold: int) -> Timeline:
    """Append a decay and a hold of `hold` steps in all to each demonstration that is not cut, and lay them end to end.

    Raises:
        DemonstrationError: there are no demonstrations, or their sizes are not the spec's.
        InvalidInput: something is to be appended to actions that are not position targets, so none is known to hold.
    """
    if not demonstrations:
        raise DemonstrationError("there are no demonstrations to learn from")
    for demonstration in demonstrations:
        check_sizes(demonstration, spec)
    if hold and not spec.commanded:
        raise InvalidInput(f"hold is {hold}, but the actions of {spec.name} are not position targets; must be 0")
    if hold:
        demonstrations = [each if each.cut else _held(each, spec.commanded, hold) for each in demonstrations]
    lengths = np.array([len(demonstration) for demonstration in demonstrations])
    last = np.cumsum(lengths) - 1
    first = last - lengths + 1
    elements = list(spec.elements.values())
    motions = [_motions(demonstration, spec) for demonstration in demonstrations]
    goals = np.array([d.states[-1] if d.goal is None else d.goal for d in demonstrations])
    begun, asked, done = (
        np.array([[e.is_done(state) for e in elements] for state in states], dtype=np.bool_)
        for states in ([d.states[0] for d in demonstrations], goals, [d.states[-1] for d in demonstrations])
    )
    led = ~(begun & asked)
    for d, demonstration in enumerate(demonstrations):
        for e, element in enumerate(elements):
            dims = list(element.dims)
            led[d, e] &= _apart(demonstration.states[0], goals[d], element)
            if not led[d, e]:
                goals[d, dims] = demonstration.states[-1][dims]
    times = np.array(motions, dtype=np.int64).reshape(len(lengths), len(elements), 2)  # from each one's first step
    moved = times[:, :, 0] < NEVER
    moves = np.where(moved, first[:, None] + times[:, :, 0], NEVER)
    before = moves[:, :, None] < moves[:, None, :]  # [E, a, b]
    return Timeline(
        states=np.concatenate([demonstration.states for demonstration in demonstrations]),
        targets=np.concatenate([demonstration.targets for demonstration in demonstrations]),
        episode=np.repeat(np.arange(len(lengths)), lengths),
        first=first,
        last=last,
        moves=moves,
        settles=np.where(moved, first[:, None] + times[:, :, 1], 0),
        done=done,
        begun=begun,
        led=led,
        goals=goals,
        asked=asked,
        cut=np.array([d.cut for d in demonstrations]),
        precedes=np.asarray((moved[:, :, None] & moved[:, None, :] & before).any(axis=0)),
    )


def _motions(demonstration: Trajectory, spec: PolicySpec) -> list[tuple[int, int]]:
    """When each element moves. Those that a cut demonstration left undone count as moving after its end, in order."""
    found = {name: _motion(demonstration.states, element) for name, element in spec.elements.items()}
    if demonstration.cut and demonstration.goal is not None:
        end = len(demonstration)
        for place, name in enumerate(demonstration.elements):
            if _apart(demonstration.states[-1], demonstration.goal, spec.elements[name]):
                found[name] = min(found[name][0], end + place), end + place + 1
    return list(found.values())


def _apart(state: np.ndarray, goal: np.ndarray, element: ElementSpec) -> bool:
    """Whether an element stands at different places in two states (n,)."""
    dims = list(element.dims)
    return float(np.linalg.norm(state[dims] - goal[dims])) >= element.tolerance / 2


def _motion(states: np.ndarray, element: ElementSpec) -> tuple[int, int]:
    """The steps at which an element leaves its start and comes to rest in states (T, n); NEVER and 0 if it stays."""
    values = states[:, list(element.dims)]
    goal = np.array(element.goal, dtype=np.float32)
    # With the distance alone, an element that is done at the start would seem to move by noise.
    threshold = max(_MOVED * max(float(np.linalg.norm(goal - values[0])), element.tolerance), 1e-3)
    away = np.flatnonzero(np.linalg.norm(values - values[0], axis=1) > threshold)
    if len(away) == 0:
        return NEVER, 0
    unsettled = np.flatnonzero(np.linalg.norm(values - values[-1], axis=1) > threshold)
    return int(away[0]), int(unsettled[-1]) + 1 if len(unsettled) else 0


def _held(demonstration: Trajectory, commanded: tuple[int, ...], steps: int) -> Trajectory:
    """The demonstration, followed by steps in which its motion decays and the robot stays where that ends."""
    states = demonstration.states
    velocity = (states[-1] - states[max(-5, -len(states))]) / min(4, len(states) - 1)  # (n,) a step
    travelled = 1 - _DECAY ** np.arange(1, steps + 1)
    after = states[-1] + velocity * (_DECAY / (1 - _DECAY)) * travelled[:, None]
    targets = np.tile(after[-1, list(commanded)], (steps + 1, 1))
    return replace(
        demonstration,
        states=np.vstack([states, after]).astype(np.float32),
        # The last recorded target was never carried out: as a label it would stop the arm in mid-motion.
        targets=np.vstack([demonstration.targets[:-1], targets]).astype(np.float32),
        authors=(),  # nobody decided the steps that are appended
    )
