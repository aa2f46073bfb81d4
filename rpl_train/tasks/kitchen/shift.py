"""Shifts of the kitchen: goal after goal without a reset, forward and back, from the arm wherever it is.

On the way the arm is jolted, the kettle is pushed, what is done is put back, and a policy may drive for a while. What
happens then is caused by no target of the demonstrator, so it is cut out: a shift is recorded in pieces. While a policy
drives, the demonstrator advises: what it would do there is recorded beside the policy's subgoal, if that subgoal moves
nothing but elements that are left to do. Where the policy gets nowhere, the demonstrator finishes an element and hands
the robot back.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rpl_runtime.errors import InvalidInput
from rpl_runtime.policy.spec import ResolvedGoal
from rpl_runtime.robots.kitchen.limits import LimitedKitchen
from rpl_runtime.tasks.hazards import Disturbance
from rpl_runtime.tasks.kitchen.disturbances import Jolt, Push, PutBack, fallen, upright, with_elements
from rpl_runtime.tasks.kitchen.elements import ELEMENTS, NEVER_MOVED
from rpl_runtime.tasks.kitchen.simulator import PERTURBED, Kitchen, StartNoise
from rpl_runtime.tasks.task import Driver, Performance, Shift, ShiftGoal, Task
from rpl_train.tasks.kitchen.demonstrator import Demonstrator
from rpl_train.tasks.kitchen.skills import Nearest, Work

REOPENED = 0.3  # [rad, m] a finished element farther from its goal than this is done again
_FAR = StartNoise(arm=0.2, kettle=0.08)
_HANDS = (0.3, 1.0)  # [s] a command of a slow hand
_ELEMENT = 50  # [steps] that the demonstrator needs for an element, about
_AFTER = 2  # [steps] after a disturbance in which what it moved comes to rest
_SHORTEST = 5  # [steps] of a piece
_TURN = 140  # [steps] for each element that a policy has to itself
_GLIMPSE = 80  # [steps] for which it drives at most, where it is not to reach the goal
_REACHED = 10  # [steps] for which a goal that it reached must last
_STALL = 50  # [steps] without progress after which a policy is stuck
_UPRIGHT = 0.9  # cosine of the largest tilt of a kettle that is worked with
_UNMOVED = 0.1  # [rad, m] by which what no element moves may move
# The arm gets hold of a kettle at the back of the stove only this near to its goal, x and y [m].
_KETTLE_XY, _HOLDABLE = slice(23, 25), 0.025


@dataclass(frozen=True, kw_only=True)
class ShiftSettings:
    """What happens in a shift.

    Raises:
        InvalidInput: a setting is out of its range.
    """

    goals: int = 10  # one after another
    largest: int = 4  # elements of a goal at most
    back: float = 0.4  # share of the goals that lead elements back, where some are done
    far: float = 0.3  # share of the shifts that start far from the nominal start
    begun: float = 0.4  # share of the shifts that start with some elements done
    disturbed: float = 0.7  # share of the goals with a jolt, a push or a put-back
    jolt: float = 0.25  # [rad] largest displacement of each joint
    push: float = 0.08  # [m] largest distance by which the kettle slides
    slow_hand: float = 0.2  # share of the shifts with a hand that takes 0.3 or 1 s a command
    limit: int = 240  # [steps] for each element, after which the demonstrator gives up

    def __post_init__(self) -> None:
        shares = dict.fromkeys(("back", "far", "begun", "disturbed", "slow_hand"), (0, 1))
        ranges = {"goals": (1, 1000), "largest": (1, len(ELEMENTS)), "limit": (2, 10_000)}
        for name, (low, high) in {**shares, **ranges, "jolt": (0, 1), "push": (0, 1)}.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise InvalidInput(f"{name} of a shift is {value}; must be {low} to {high}")


@dataclass(frozen=True)
class _Goal:
    works: tuple[Work, ...]  # in their order
    state: np.ndarray  # (30,) that is asked for

    @property
    def elements(self) -> tuple[str, ...]:
        return tuple(work.element for work in self.works)

    @property
    def back(self) -> bool:
        return self.works[0].back

    def reached(self, qpos: np.ndarray) -> bool:
        """Whether every element is where the goal asks for it, within what counts as done."""
        return all(self.distance(qpos, name) < ELEMENTS[name].tolerance for name in self.elements)

    def distance(self, qpos: np.ndarray, name: str) -> float:
        """How far [rad, m] an element is from where the goal asks for it."""
        return float(np.linalg.norm((qpos - self.state)[list(ELEMENTS[name].dims)]))


class _Turn:
    """A policy's turn at a goal: whether it drives, or is stuck and the demonstrator has the robot for a while.

    Args:
        driver: the policy.
        goal: what it drives to.
        resolved: the same, as it is told to the policy.
        steps: [steps] until the demonstrator works by itself.
        to_the_end: whether the policy is to reach the goal by itself.
    """

    def __init__(self, driver: Driver, goal: _Goal, resolved: ResolvedGoal, steps: int, to_the_end: bool) -> None:
        self.steps = steps
        self._driver, self._goal, self._resolved, self._to_the_end = driver, goal, resolved, to_the_end
        self._reached, self._helped = 0, False
        self._help: Work | None = None  # what the demonstrator finishes before it hands the robot back
        self._begin()

    def _begin(self) -> None:
        self._driver.begin(self._resolved)
        self._nearest = Nearest()
        self._stalled = 0  # [steps] in which no element came nearer

    @property
    def alone(self) -> bool | None:
        """Whether the policy has reached the goal by itself; None: it was not to."""
        return self._reached >= _REACHED and not self._helped if self._to_the_end else None

    @property
    def subgoal(self) -> np.ndarray:
        """The policy's last subgoal (30,)."""
        return self._driver.subgoal

    def drives(self, step: int, state: np.ndarray, left: Sequence[Work]) -> bool:
        """Whether the policy has the robot at a step, in a state (30,), with works left to do."""
        if step >= self.steps or self._reached >= _REACHED:
            return False
        if self._help is not None:
            if self._help in left:
                return False
            self._help = None
            self._begin()
        self._stalled += 1
        for work in left:
            if self._nearest.progress(work.element, self._goal.distance(state, work.element)):
                self._stalled = 0
        if left and self._stalled >= _STALL:
            self._help, self._helped = left[0], True
        return self._help is None

    def drive(self, state: np.ndarray, qpos: np.ndarray) -> np.ndarray:
        """The policy's target (9,) in a state (30,) that is a configuration (30,) seen with noise."""
        self._reached = self._reached + 1 if self._goal.reached(qpos) else 0
        return self._driver.act(state)

    def served(self, state: np.ndarray, left: Sequence[Work]) -> Work | None:
        """The work that the policy's last subgoal is on the way to; None: it moves something else."""
        change = self.subgoal - state
        elements = ELEMENTS.items()
        moved = {name for name, each in elements if np.linalg.norm(change[list(each.dims)]) >= each.tolerance / 2}
        if not moved.issubset(work.element for work in left):
            return None
        return next((work for work in left if not moved or work.element in moved), None)


class Worker:
    """Works one shift in a kitchen.

    Args:
        execute: turns the demonstrator's target (9,) [rad, m] into the one that is carried out.
        settle: [steps] after the last element of a goal.
        random_order: of a goal's elements; otherwise the human order, and its reverse on the way back.
        driver: a policy that drives at the beginning of each goal, until the demonstrator takes over.
    """

    def __init__(
        self,
        settings: ShiftSettings,
        task: Task,
        kitchen: Kitchen,
        rng: np.random.Generator,
        demonstrator: Demonstrator,
        execute: Callable[[np.ndarray], np.ndarray],
        *,
        settle: int,
        random_order: bool,
        driver: Driver | None = None,
    ) -> None:
        self._settings, self._task, self._kitchen, self._rng = settings, task, kitchen, rng
        self._demonstrator, self._execute, self._driver = demonstrator, execute, driver
        self._settle, self._random_order = settle, random_order
        self._pieces: list[Performance] = []
        kitchen.reset(int(rng.integers(2**31)), _FAR if rng.random() < settings.far else PERTURBED)
        self._home = kitchen.qpos  # (30,) where the way back leads
        if rng.random() < settings.begun:
            done = [name for name in ELEMENTS if rng.random() < 0.5]
            kitchen.restore(with_elements(self._home, done), int(rng.integers(2**31)))
        self._step: Callable[[np.ndarray], object] = kitchen.step
        if rng.random() < settings.slow_hand:
            self._step = LimitedKitchen(kitchen, "own", float(rng.choice(_HANDS))).follow

    def work(self) -> Shift:
        """The whole shift; it ends early if the kettle falls or tips over, or something else is broken."""
        goals: list[ShiftGoal] = []
        while len(goals) < self._settings.goals and not self._broken():
            goals.append(self._reach(self._next_goal()))
        return Shift(tuple(self._pieces), tuple(goals))

    def _broken(self) -> bool:
        """Whether the kettle has fallen or tipped over, or something has moved that no element moves."""
        qpos = self._kitchen.qpos
        moved = abs(qpos - self._home)[list(NEVER_MOVED)].max() > _UNMOVED
        return fallen(qpos, self._home) or upright(qpos) < _UPRIGHT or bool(moved)

    def _next_goal(self) -> _Goal:
        rng, done = self._rng, self._kitchen.done()
        place = self._kitchen.qpos[_KETTLE_XY]
        returns = done
        if np.linalg.norm(place - ELEMENTS["kettle"].goal[:2]) > _HOLDABLE:
            returns = done - {"kettle"}
        back = bool(returns) and (len(done) == len(ELEMENTS) or rng.random() < self._settings.back)
        pool = [name for name in ELEMENTS if (name in returns if back else name not in done)]
        size = int(rng.integers(1, min(self._settings.largest, len(pool)) + 1))
        chosen = rng.choice(pool, size=size, replace=False).tolist()
        if not self._random_order:
            chosen = sorted(chosen, key=list(ELEMENTS).index, reverse=back)
        state = with_elements(self._kitchen.qpos, chosen, self._home if back else None)
        return _Goal(tuple(Work(name, back) for name in chosen), state.astype(np.float32))

    def _disturbances(self, goal: _Goal) -> list[Disturbance]:
        settings, rng, kitchen = self._settings, self._rng, self._kitchen
        if rng.random() >= settings.disturbed:
            return []
        at = (int(rng.integers(_ELEMENT * len(goal.works))),)
        # What was put back is the hardest to do again, so it is every second disturbance on the way forward.
        kinds = ("jolt",) if "kettle" in goal.elements else ("jolt", "push")
        match rng.choice(kinds if goal.back else ("jolt", "push", "put-back", "put-back")):
            case "jolt":
                return [Jolt(kitchen, settings.jolt * rng.uniform(0.3, 1), at, rng)]
            case "push":
                return [Push(kitchen, settings.push * rng.uniform(0.3, 1), at, rng)]
            case _:
                return [PutBack(kitchen, int(rng.integers(5, 50)), goal.elements)]

    def _turn(self, goal: _Goal) -> _Turn | None:
        if self._driver is None:
            return None
        alone = self._rng.random() < 0.5
        by_name = not goal.back and self._rng.random() < 0.7
        spec, state = self._task.spec, self._kitchen.state
        resolved = spec.resolve(goal.elements, state) if by_name else spec.resolve_state(goal.state)
        steps = _TURN * len(goal.works) if alone else int(self._rng.integers(5, _GLIMPSE))
        return _Turn(self._driver, goal, resolved, steps, alone)

    def _reach(self, goal: _Goal) -> ShiftGoal:
        """Work toward one goal, and keep the pieces of it."""
        kitchen, demonstrator = self._kitchen, self._demonstrator
        turn = self._turn(goal)
        limit = (turn.steps if turn else 0) + self._settings.limit * len(goal.works)
        disturbances, quiet = self._disturbances(goal), _AFTER + 1
        finished: set[Work] = set()
        states: list[np.ndarray] = []
        targets: list[np.ndarray] = []
        advised: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        settled = step = 0

        def keep(cut: bool) -> None:
            if len(states) >= _SHORTEST:
                performed = np.array(states, dtype=np.float32), np.array(targets, dtype=np.float32)
                self._pieces.append(Performance(*performed, goal.elements, goal.state, cut))
            states.clear()
            targets.clear()

        def end(left: Sequence[Work]) -> ShiftGoal:
            if len(advised) >= _SHORTEST:
                seen, given, subgoals = (np.array(each, dtype=np.float32) for each in zip(*advised, strict=True))
                self._pieces.append(Performance(seen, given, goal.elements, goal.state, True, subgoals))
            names = tuple(work.element for work in left)
            return ShiftGoal(goal.elements, goal.back, step, names, turn.alone if turn else None)

        target = kitchen.state[: len(self._task.spec.action.names)]
        while settled <= self._settle:
            state = kitchen.state
            finished = {each for each in goal.works if self._finished(each, state, each in finished, goal)}
            left = [each for each in goal.works if each not in finished]
            if step >= limit or self._broken():
                return end(left)  # what did not lead there teaches nothing
            driven = turn is not None and turn.drives(step, state, left)
            if turn is not None and driven:
                target = turn.drive(state, kitchen.qpos)
                work = turn.served(state, left)
                if work is not None:
                    advised.append((state, demonstrator.act(state, work), turn.subgoal))
            else:
                settled = 0 if left else settled + 1
                if left:  # otherwise hold on: a hand that backs out drags a door with it
                    target = demonstrator.act(state, left[0])
            quiet = 0 if self._disturb(disturbances, step) else quiet + 1
            if driven or quiet <= _AFTER:
                keep(cut=True)
            else:
                states.append(state)
                targets.append(target)
            self._step(target if driven else self._execute(target))
            step += 1
        keep(cut=False)
        return end(left=())

    def _finished(self, each: Work, state: np.ndarray, before: bool, goal: _Goal) -> bool:
        if self._demonstrator.finished(state, each):
            return True
        return before and goal.distance(state, each.element) < REOPENED

    def _disturb(self, disturbances: list[Disturbance], step: int) -> bool:
        """Add the forces of a step's disturbances. Returns whether there are any."""
        self._kitchen.data.qfrc_applied[:] = 0.0
        done = self._kitchen.done()
        acted = [disturbance.act(step, done) for disturbance in disturbances]
        return any(acted)
