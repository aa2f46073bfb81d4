"""Shifts of the kitchen: goal after goal without a reset, forward and back, from the arm wherever it is.

On the way the arm is jolted, the kettle is pushed, what is done is put back, and a policy may drive for a while. What
happens then is caused by no target of the demonstrator, so it is cut out: a shift is recorded in pieces. While a policy
drives, the demonstrator advises: what it would do there toward the policy's subgoal is recorded beside that subgoal.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rpl_runtime.errors import InvalidInput
from rpl_runtime.robots.kitchen.limits import LimitedKitchen
from rpl_runtime.tasks.hazards import Disturbance
from rpl_runtime.tasks.kitchen.disturbances import Jolt, Push, PutBack, fallen, upright, with_elements
from rpl_runtime.tasks.kitchen.elements import ELEMENTS, NEVER_MOVED
from rpl_runtime.tasks.kitchen.simulator import PERTURBED, Kitchen, StartNoise
from rpl_runtime.tasks.task import Driver, Performance, Shift, ShiftGoal, Task
from rpl_train.tasks.kitchen.demonstrator import Demonstrator
from rpl_train.tasks.kitchen.skills import Work

REOPENED = 0.3  # [rad, m] a finished element farther from its goal than this is done again
_FAR = StartNoise(arm=0.2, kettle=0.08)
_HANDS = (0.3, 1.0)  # [s] a command of a slow hand
_ELEMENT = 50  # [steps] that the demonstrator needs for an element, about
_AFTER = 2  # [steps] after a disturbance in which what it moved comes to rest
_SHORTEST = 5  # [steps] of a piece
_TURN = 140  # [steps] for each element that a policy has to itself
_GLIMPSE = 80  # [steps] for which it drives at most, where it is not to reach the goal
_REACHED = 10  # [steps] for which a goal that it reached must last
_RESTING = 120  # [steps] for which it must stay there at most, or it learns to arrive and not to stay
_NEARER = 0.02  # [m] by which a subgoal must bring the gripper nearer to what it serves
_UPRIGHT = 0.9  # cosine of the largest tilt of a kettle that is worked with
_UNMOVED = 0.1  # [rad, m] by which what no element moves may move
# Lowest and highest x, y [m] of a kettle that the arm gets hold of at the back of the stove, to bring it back.
_KETTLE_XY, _HOLDABLE = slice(23, 25), ((-0.29, 0.0), (0.0, 0.81))


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
    limit: int = 150  # [steps] for each element, after which the demonstrator gives up

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
        away = (np.linalg.norm((qpos - self.state)[list(ELEMENTS[name].dims)]) for name in self.elements)
        return all(far < ELEMENTS[name].tolerance for name, far in zip(self.elements, away, strict=True))


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
        place, (low, high) = self._kitchen.qpos[_KETTLE_XY], _HOLDABLE
        returns = done if np.all((low <= place) & (place <= high)) else done - {"kettle"}
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
        match rng.choice(("jolt", "push") if goal.back else ("jolt", "push", "put-back")):
            case "jolt":
                return [Jolt(kitchen, settings.jolt * rng.uniform(0.3, 1), at, rng)]
            case "push":
                return [Push(kitchen, settings.push * rng.uniform(0.3, 1), at, rng)]
            case _:
                return [PutBack(kitchen, int(rng.integers(5, 50)), goal.elements)]

    def _turn(self, goal: _Goal) -> tuple[int, int, bool]:
        """For how many steps the policy drives, how many of them at its goal, and whether it is to get there alone."""
        if self._driver is None:
            return 0, 0, False
        alone = self._rng.random() < 0.5
        by_name = not goal.back and self._rng.random() < 0.7
        spec, state = self._task.spec, self._kitchen.state
        self._driver.begin(spec.resolve(goal.elements, state) if by_name else spec.resolve_state(goal.state))
        turn = _TURN * len(goal.works) if alone else int(self._rng.integers(5, _GLIMPSE))
        return turn, int(self._rng.integers(_REACHED, _RESTING + 1)), alone

    def _reach(self, goal: _Goal) -> ShiftGoal:
        """Work toward one goal, and keep the pieces of it."""
        kitchen, demonstrator = self._kitchen, self._demonstrator
        turn, rest, alone = self._turn(goal)
        limit = turn + self._settings.limit * len(goal.works)
        disturbances, quiet = self._disturbances(goal), _AFTER + 1
        finished: set[Work] = set()
        states: list[np.ndarray] = []
        targets: list[np.ndarray] = []
        advised: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        reached = settled = step = 0

        def keep(cut: bool) -> None:
            if len(states) >= _SHORTEST:
                performed = np.array(states, dtype=np.float32), np.array(targets, dtype=np.float32)
                self._pieces.append(Performance(*performed, goal.elements, goal.state, cut))
            states.clear()
            targets.clear()

        def keep_advice() -> None:
            if len(advised) >= _SHORTEST:
                seen, given, subgoals = (np.array(each, dtype=np.float32) for each in zip(*advised, strict=True))
                self._pieces.append(Performance(seen, given, goal.elements, goal.state, True, subgoals))

        target = kitchen.state[: len(self._task.spec.action.names)]
        while settled <= self._settle:
            state = kitchen.state
            driven = step < turn and reached < rest
            finished = {each for each in goal.works if self._finished(each, state, each in finished, goal)}
            left = [each for each in goal.works if each not in finished]
            if step >= limit or self._broken():
                keep_advice()
                names = tuple(each.element for each in left)
                return ShiftGoal(goal.elements, goal.back, step, names, reached >= _REACHED if alone else None)
            if driven:
                assert self._driver is not None
                target = self._driver.act(state)
                if served := self._served(left, state, self._driver.subgoal):
                    advised.append((state, demonstrator.act(state, served), self._driver.subgoal))
                reached = reached + 1 if goal.reached(kitchen.qpos) else 0
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
        keep_advice()
        return ShiftGoal(goal.elements, goal.back, step, (), reached >= _REACHED if alone else None)

    def _served(self, left: Sequence[Work], state: np.ndarray, subgoal: np.ndarray) -> Work | None:
        """The work of those left that a subgoal (30,) serves; None if there is none.

        It is the one whose element the subgoal moves or, where that is none, to which the gripper comes nearest in it,
        if it comes nearer than it is: what leads elsewhere would teach the low level not to go where it is told, or not
        to stay where it is told to stay.
        """
        change = subgoal - state
        moved = {n for n, each in ELEMENTS.items() if np.linalg.norm(change[list(each.dims)]) >= each.tolerance / 2}
        away = self._demonstrator.away
        fitting = [each for each in left if moved <= {each.element}]
        nearest = min(fitting, key=lambda each: away(subgoal, each), default=None)
        if nearest is None or moved:
            return nearest
        return nearest if away(subgoal, nearest) < away(state, nearest) - _NEARER else None

    def _finished(self, each: Work, state: np.ndarray, before: bool, goal: _Goal) -> bool:
        if self._demonstrator.finished(state, each):
            return True
        dims = list(ELEMENTS[each.element].dims)
        return before and float(np.linalg.norm((state - goal.state)[dims])) < REOPENED

    def _disturb(self, disturbances: list[Disturbance], step: int) -> bool:
        """Add the forces of a step's disturbances. Returns whether there are any."""
        self._kitchen.data.qfrc_applied[:] = 0.0
        done = self._kitchen.done()
        acted = [disturbance.act(step, done) for disturbance in disturbances]
        return any(acted)
