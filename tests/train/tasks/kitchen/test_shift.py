"""Shifts of the kitchen: what is recorded of them, what is cut out, who drives, and what is said of what fails."""

from dataclasses import replace

import numpy as np
import pytest

from rpl_runtime.errors import InvalidInput
from rpl_runtime.policy.spec import ResolvedGoal
from rpl_runtime.tasks import Task
from rpl_runtime.tasks.kitchen.disturbances import with_elements
from rpl_runtime.tasks.kitchen.elements import ELEMENTS
from rpl_runtime.tasks.task import Shift
from rpl_train.data.trajectory import digest, load_folder
from rpl_train.play import PlayConfig
from rpl_train.shifts.work import work_shifts
from rpl_train.tasks.kitchen.demonstrator import Demonstrator, Style
from rpl_train.tasks.kitchen.play import KitchenPlay
from rpl_train.tasks.kitchen.shift import ShiftSettings, Worker
from rpl_train.tasks.kitchen.skills import Work
from rpl_train.tasks.kitchen.task import KITCHEN

CALM = ShiftSettings(goals=3, largest=1, back=1.0, far=0.0, begun=0.0, disturbed=0.0, slow_hand=0.0)
CONFIG = PlayConfig(shifts=1, seed=3)


def kitchen(shift: ShiftSettings) -> Task:
    return replace(KITCHEN, demonstrator=KitchenPlay(shift=shift))


@pytest.fixture(scope="module")
def world():
    world = KITCHEN.open(fast=True)
    yield world
    world.close()


def work(world, settings: ShiftSettings, index: int = 0, driver=None) -> Shift:
    return KitchenPlay(shift=settings).work_shift(KITCHEN, world, 3, index, driver)


@pytest.fixture(scope="module")
def calm(world) -> Shift:
    """A shift without disturbances: an element forward, back, and forward again."""
    return work(world, CALM, index=2)


def test_goals_follow_each_other_without_a_reset_forward_and_back(calm):
    assert [goal.back for goal in calm.goals] == [False, True, False]
    assert calm.goals[0].elements == calm.goals[1].elements
    for before, after in zip(calm.pieces, calm.pieces[1:], strict=False):
        assert abs(after.states[0] - before.states[-1]).max() < 0.1  # one control step apart


def test_a_piece_ends_where_its_goal_is_reached(calm):
    for piece, goal in zip(calm.pieces, calm.goals, strict=True):
        assert not piece.cut
        assert piece.goal is not None
        for name in goal.elements:
            dims = list(ELEMENTS[name].dims)
            assert ELEMENTS[name].is_done(piece.goal) == (not goal.back)
            assert np.linalg.norm((piece.states[-1] - piece.goal)[dims]) < ELEMENTS[name].tolerance


def test_nothing_is_cut_where_nothing_happens(calm):
    assert [len(piece.states) for piece in calm.pieces] == [goal.steps for goal in calm.goals]


def test_what_a_jolt_does_is_cut_out(world):
    shift = work(world, replace(CALM, goals=2, disturbed=1.0, jolt=1.0, push=0.0), index=1)
    recorded = np.concatenate([abs(np.diff(piece.states[:, :7], axis=0)).max(1) for piece in shift.pieces])
    assert any(piece.cut for piece in shift.pieces)
    assert sum(len(piece.states) for piece in shift.pieces) < sum(goal.steps for goal in shift.goals)
    assert recorded.max() < 0.12  # [rad] a step; the demonstrator's own largest is 0.075 and its wrist's 0.1


def test_a_demonstrator_that_gives_up_is_said(tmp_path):
    result = work_shifts(kitchen(replace(CALM, goals=2, limit=2)), CONFIG, tmp_path)
    assert [gave["shift"] for gave in result.facts()["given_up"]] == [0, 0]
    assert result.facts()["finished"] == 0
    assert not list(tmp_path.glob("*.npz"))  # nothing of it is learned from


def test_a_shift_that_was_interrupted_is_worked_again(tmp_path):
    task, config = kitchen(replace(CALM, goals=1)), replace(CONFIG, shifts=2)
    whole = work_shifts(task, config, tmp_path)
    before = digest(load_folder(tmp_path))
    (tmp_path / "shift-000001.json").unlink()
    (tmp_path / "shift-000001-000.npz").unlink()
    again = work_shifts(task, config, tmp_path)
    assert (whole.worked, again.worked) == (2, 1)
    assert again.shifts == whole.shifts
    assert digest(load_folder(tmp_path)) == before


def test_a_folder_of_other_shifts_is_refused(tmp_path):
    work_shifts(kitchen(replace(CALM, goals=1, limit=2)), CONFIG, tmp_path)
    with pytest.raises(InvalidInput, match="another shift"):
        work_shifts(kitchen(replace(CALM, goals=2, limit=2)), CONFIG, tmp_path)


class Scripted:
    """A driver that knows its way, as the demonstrator itself does, or one that stands still."""

    def __init__(self, world, able: bool, moves: str | None = None) -> None:
        self._demonstrator, self._able, self._moves = Demonstrator(world.model), able, moves
        self.driven = 0
        self.subgoal = np.zeros(30, np.float32)

    def begin(self, goal: ResolvedGoal) -> None:
        self._goal = goal

    def act(self, state: np.ndarray) -> np.ndarray:
        self.driven += 1
        self.subgoal = state if self._moves is None else with_elements(state, [self._moves]).astype(np.float32)
        if not self._able:
            return state[:9]
        away = self._goal.mask * (self._goal.state - state)
        open_ = [name for name, each in ELEMENTS.items() if np.linalg.norm(away[list(each.dims)]) > 0.15]
        if not open_:
            return state[:9]
        return self._demonstrator.act(state, Work(open_[0], not ELEMENTS[open_[0]].is_done(self._goal.state)))


def test_an_able_driver_reaches_its_goals_alone_and_an_idle_one_does_not(world):
    able, idle = Scripted(world, True), Scripted(world, False)
    reached = [goal.alone for goal in work(world, replace(CALM, goals=3), 3, able).goals]
    missed = work(world, replace(CALM, goals=2), 3, idle)
    assert True in reached
    assert False not in reached
    assert False in [goal.alone for goal in missed.goals]
    assert not any(goal.left for goal in missed.goals)  # the demonstrator takes over and finishes
    recorded = sum(len(piece.states) for piece in missed.pieces if piece.subgoals is None)
    assert sum(goal.steps for goal in missed.goals) == idle.driven + recorded


class Fickle(Scripted):
    """One that reaches its goal, rests there for a while, and then undoes it."""

    def __init__(self, world) -> None:
        super().__init__(world, True)
        self._rested = 0

    def begin(self, goal: ResolvedGoal) -> None:
        super().begin(goal)
        self._rested = 0

    def act(self, state: np.ndarray) -> np.ndarray:
        goal = self._goal
        [name] = [n for n, each in ELEMENTS.items() if goal.mask[each.dims[0]] and each.is_done(goal.state)]
        target = super().act(state)
        self._rested += ELEMENTS[name].is_done(state)
        return self._demonstrator.act(state, Work(name, back=True)) if self._rested > 30 else target


def test_a_driver_that_leaves_what_it_has_done_is_shown_the_way_again(world):
    settings = replace(CALM, goals=1, back=0.0)
    goals = [work(world, settings, index, Fickle(world)).goals[0] for index in range(12)]
    left = [goal for goal in goals if goal.alone is False]
    assert left
    assert not any(goal.left for goal in left)
    assert True in [goal.alone for goal in goals]  # of how many steps it must rest differs


def test_the_demonstrator_advises_a_driver_whose_subgoal_is_on_its_way(world):
    settings = replace(CALM, goals=1)
    [element] = work(world, settings, 4).goals[0].elements
    other = next(name for name in ELEMENTS if name != element)
    for moves, advises in ((element, True), (other, False), (None, False)):  # none: it is to stay where it is
        driver = Scripted(world, False, moves)
        advice = [piece for piece in work(world, settings, 4, driver).pieces if piece.subgoals is not None]
        assert sum(len(piece.states) for piece in advice) == (driver.driven if advises else 0)
    demonstrator = Demonstrator(world.model, Style())
    driver = Scripted(world, False, element)
    [piece] = [piece for piece in work(world, settings, 4, driver).pieces if piece.subgoals is not None]
    own = np.array([demonstrator.act(state, Work(element)) for state in piece.states[:5]])
    assert abs(piece.actions[:5] - own).max() < 0.02  # [rad] it has a style of its own
    asked = [with_elements(state, [element]) for state in piece.states]
    np.testing.assert_array_equal(piece.subgoals, np.array(asked, np.float32))


class Pointing(Scripted):
    """One that stands still and points, with the arm of its subgoal, at where an element is held."""

    def __init__(self, world, arm: np.ndarray) -> None:
        super().__init__(world, False)
        self._arm = arm

    def act(self, state: np.ndarray) -> np.ndarray:
        target = super().act(state)
        self.subgoal = np.concatenate([self._arm, state[9:]]).astype(np.float32)
        return target


def test_advice_is_for_the_work_that_the_subgoal_serves(world):
    settings = replace(CALM, goals=1, largest=2, back=0.0)
    index = next(n for n in range(20) if len(work(world, settings, n).goals[0].elements) == 2)
    elements = work(world, settings, index).goals[0].elements
    demonstrator = Demonstrator(world.model, Style())

    def held(element: str) -> np.ndarray:
        """(9,) the arm where the demonstrator has taken an element in its hand, and has not yet moved it."""
        states = [state for piece in work(world, settings, index).pieces for state in piece.states]
        rest = [
            state
            for state in states
            if ELEMENTS[element].distance(state) > ELEMENTS[element].distance(states[0]) - 0.02
        ]
        return min(rest, key=lambda state: demonstrator.away(state, Work(element)))[:9]

    def advised(driver: Scripted) -> str:
        """The element that the first advice to a driver is for: the one to which it is nearest."""
        [piece] = [each for each in work(world, settings, index, driver).pieces if each.subgoals is not None]
        state, action = piece.states[0], piece.actions[0]
        return min(elements, key=lambda name: float(abs(action - demonstrator.act(state, Work(name))).max()))

    for element in elements:
        assert advised(Scripted(world, False, element)) == element  # moved by the subgoal
        assert advised(Pointing(world, held(element))) == element


@pytest.mark.parametrize(("x", "y", "asked"), [(-0.23, 0.75, True), (-0.17, 0.72, True), (-0.23, 0.85, False)])
def test_a_kettle_is_asked_back_wherever_the_arm_gets_hold_of_it(world, x: float, y: float, asked: bool):
    """At y 0.85 m it counts as done, and is out of reach."""
    settings = replace(CALM, goals=1, largest=4, limit=2)
    elements = set()
    for seed in range(8):
        drawn = (np.random.default_rng(seed), Demonstrator(world.model), lambda target: target)
        worker = Worker(settings, KITCHEN, world, *drawn, settle=0, random_order=True)
        qpos = with_elements(world.qpos, ["kettle", "microwave"])
        qpos[23:25] = x, y
        world.restore(qpos, seed=0)
        [goal] = worker.work().goals
        assert goal.back
        elements.update(goal.elements)
    assert elements == ({"kettle", "microwave"} if asked else {"microwave"})


@pytest.mark.parametrize("settings", [{"goals": 0}, {"back": 1.5}, {"push": float("nan")}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(InvalidInput, match=next(iter(settings))):
        ShiftSettings(**settings)
