"""Shifts of the kitchen: what is recorded of them, what is cut out, who drives, and what is said of what fails."""

from dataclasses import replace

import numpy as np
import pytest

from rpl_runtime.errors import InvalidInput
from rpl_runtime.policy.spec import ResolvedGoal
from rpl_runtime.tasks import Task
from rpl_runtime.tasks.kitchen.disturbances import Jolt, with_elements
from rpl_runtime.tasks.kitchen.elements import ELEMENTS
from rpl_runtime.tasks.task import Shift, ShiftGoal
from rpl_train.data.trajectory import digest, load_folder
from rpl_train.play import PlayConfig
from rpl_train.shifts.work import work_shifts
from rpl_train.tasks.kitchen import shift as module
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


def test_a_subgoal_serves_no_work_if_it_moves_another_element(world):
    """An element that moves by less than half of its tolerance stays."""
    each, works = worker(world, ONE, 0), {name: Work(name) for name in ("microwave", "light switch")}
    state = world.state
    [door], [switch, _] = ELEMENTS["microwave"].dims, ELEMENTS["light switch"].dims
    arm = [-1.37, -1.57, 1.38, -1.92, 0.1, 1.67, 1.42]  # [rad] that holds the light switch

    def served(change: dict[int, float], *left: str) -> Work | None:
        subgoal = state.copy()
        subgoal[:7] = arm
        subgoal[list(change)] += list(change.values())
        return each._served([works[name] for name in left], state, subgoal)

    assert served({door: -0.4}, *works) == works["microwave"]
    assert served({switch: -0.4}, *works) == works["light switch"]
    assert served({door: -0.4, switch: -0.4}, *works) is None
    assert served({door: -0.16}, "light switch") is None
    assert served({door: -0.14}, "light switch") == works["light switch"]
    arm = state[:7]  # a subgoal to stay brings it nearer to nothing
    assert served({door: -0.14}, "light switch") is None
    assert served({}) is None


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


ONE = replace(CALM, goals=1, back=0.0)  # a goal forward, of one element
SEEDS = {"light switch": 0, "kettle": 2, "slide cabinet": 5}  # whose goal is this element


def worker(
    world, settings: ShiftSettings, seed: int, settle: int = 0, random_order: bool = True, driver=None
) -> Worker:
    """One whose targets are carried out as they are."""
    parts = np.random.default_rng(seed), Demonstrator(world.model), lambda target: target
    return Worker(settings, KITCHEN, world, *parts, settle=settle, random_order=random_order, driver=driver)


def drawn(world, settings: ShiftSettings, done: tuple[str, ...] = (), seeds: int = 30, **others) -> list:
    """The first goals of shifts, each with its worker, which begin with these elements done."""
    made = []
    for seed in range(seeds):
        each = worker(world, settings, seed, **others)
        world.restore(with_elements(world.qpos, done), seed=0)
        made.append((each, each._next_goal()))
    return made


class Meddling:
    """Somebody who changes the configuration (30,) of a kitchen at the end of a control step."""

    def __init__(self, world, monkeypatch, at: int, change: dict[int, float]) -> None:
        self.steps, step = 0, world.step

        def meddle(target: np.ndarray) -> np.ndarray:
            self.steps += 1
            state = step(target)
            if self.steps != at:
                return state
            world.data.qpos[list(change)] = list(change.values())
            return world._observe()

        monkeypatch.setattr(world, "step", meddle)


@pytest.mark.parametrize(("away", "again"), [(0.25, False), (0.36, True)])
def test_an_element_that_comes_undone_is_done_again_if_it_is_far_from_its_goal(world, monkeypatch, away, again):
    """A cabinet slides back while the hand settles; 0.3 m away it counts as not done."""
    [calm] = worker(world, ONE, SEEDS["slide cabinet"], settle=12).work().goals
    [cabinet] = ELEMENTS["slide cabinet"].goal
    with monkeypatch.context() as patch:
        Meddling(world, patch, calm.steps - 8, {ELEMENTS["slide cabinet"].dims[0]: cabinet - away})
        [piece], [goal] = worker(world, ONE, SEEDS["slide cabinet"], settle=12).work()
    assert not goal.left
    assert (goal.steps > calm.steps + 8) == again
    if again:  # and the hand settles anew
        demonstrator = Demonstrator(world.model)
        assert all(demonstrator.finished(state, Work("slide cabinet")) for state in piece.states[-13:])
    else:
        assert goal.steps == calm.steps


def test_a_goal_lasts_until_the_hand_has_settled(world):
    alone, settled = (worker(world, ONE, SEEDS["slide cabinet"], settle=steps).work() for steps in (0, 7))
    assert settled.goals[0].steps == alone.goals[0].steps + 7
    assert [len(piece.states) for piece in settled.pieces] == [settled.goals[0].steps]
    demonstrator, work_ = Demonstrator(world.model), Work("slide cabinet")
    finished = [demonstrator.finished(state, work_) for state in settled.pieces[0].states]
    assert finished == [False] * (len(finished) - 8) + [True] * 8


@pytest.mark.parametrize(("begins", "lengths"), [(5, [5, 9]), (4, [8])])
def test_a_disturbance_and_the_two_steps_after_it_are_cut_out(world, monkeypatch, begins: int, lengths: list[int]):
    """A jolt lasts two steps. Less than five steps before it are no piece."""
    jolts = [Jolt(world, 0.05, (begins,), np.random.default_rng(0))]
    monkeypatch.setattr(Worker, "_disturbances", lambda self, goal: jolts)
    shift = worker(world, ONE, SEEDS["slide cabinet"]).work()
    *whole, total = lengths
    assert [len(piece.states) for piece in shift.pieces] == [*whole, shift.goals[0].steps - total]
    assert [piece.cut for piece in shift.pieces] == [True] * len(whole) + [False]
    assert not world.data.qfrc_applied.any()  # the jolt is over


def leaning(angle: float) -> dict[int, float]:
    """The change that turns the kettle by an angle [rad] about a horizontal axis."""
    return {26: float(np.cos(angle / 2)), 27: float(np.sin(angle / 2)), 28: 0.0, 29: 0.0}


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        pytest.param({25: 1.40}, True, id="the kettle is off the counter"),
        pytest.param({25: 1.59}, False, id="it stands a little lower"),
        pytest.param({25: 1.75}, False, id="it is carried"),
        pytest.param(leaning(0.5), True, id="it leans far"),
        pytest.param(leaning(0.4), False, id="it leans"),
        pytest.param({20: -0.15}, True, id="a door of no goal is open"),
        pytest.param({20: -0.05}, False, id="a door of no goal is ajar"),
        pytest.param({9: -0.15}, True, id="a knob of no goal is turned"),
    ],
)
def test_a_shift_ends_where_the_kettle_falls_or_leans_or_something_else_moves(world, monkeypatch, change, broken):
    """Nothing is asked for after that, and nothing that was under way is learned from."""
    Meddling(world, monkeypatch, 12, change)
    shift = worker(world, replace(ONE, goals=2, limit=13), SEEDS["light switch"]).work()
    assert (shift.goals[0].steps, shift.goals[0].left) == (12 if broken else 13, ("light switch",))
    assert len(shift.goals) == (1 if broken else 2)
    assert not shift.pieces


def test_nothing_is_put_back_that_is_led_back_anyway(world):
    for back, expected in ((0.0, {"jolt", "push", "put-back"}), (1.0, {"jolt", "push"})):
        goals = drawn(world, replace(CALM, back=back, disturbed=1.0), ("microwave",))
        assert {each.name for worker, goal in goals for each in worker._disturbances(goal)} == expected
        assert {goal.back for _, goal in goals} == {bool(back)}


def test_elements_are_asked_for_in_the_human_order_and_led_back_in_the_reverse(world):
    human = list(ELEMENTS)
    done = tuple(human[1:6])
    for back, order in ((0.0, human), (1.0, human[::-1])):
        settings = replace(CALM, back=back, largest=4)
        asked = [goal.elements for _, goal in drawn(world, settings, done if back else (), random_order=False)]
        assert all(list(each) == sorted(each, key=order.index) for each in asked)
        assert {len(each) for each in asked} == {1, 2, 3, 4}
        mixed = [goal.elements for _, goal in drawn(world, settings, done if back else ())]
        assert not all(list(each) == sorted(each, key=order.index) for each in mixed)


def test_where_all_is_done_something_is_led_back_and_where_nothing_is_nothing(world):
    full = drawn(world, replace(CALM, back=0.0, largest=7), tuple(ELEMENTS), 10)
    assert all(goal.back for _, goal in full)
    assert not any(goal.back for _, goal in drawn(world, replace(CALM, back=1.0), (), 10))


@pytest.mark.parametrize("back", [0.0, 1.0])
def test_a_driver_is_told_the_goal_that_is_worked_and_never_by_name_what_leads_back(world, back: float):
    """What is asked for by name is the elements alone; by state it is every object."""
    driver = Scripted(world, False)
    by_name = []
    for each, goal in drawn(world, replace(CALM, back=back), ("microwave", "light switch"), driver=driver):
        each._turn(goal)
        [dims] = [list(ELEMENTS[name].dims) for name in goal.elements]
        assert driver._goal.mask[dims].all()
        np.testing.assert_allclose(driver._goal.state[dims], goal.state[dims], atol=0.01)
        assert ELEMENTS[goal.elements[0]].is_done(goal.state) == (not back)
        by_name.append(driver._goal.mask.sum() == len(dims))
    assert set(by_name) == ({False} if back else {False, True})


def test_a_goal_counts_as_reached_alone_once_the_driver_has_stayed_there(world, monkeypatch):
    """It drives until it has stayed for as long as it must, or until its turn ends; then the demonstrator goes on."""
    monkeypatch.setattr(module, "_RESTING", 10)  # so long must it stay, and no longer

    def drive(turn: int) -> tuple[Scripted, ShiftGoal]:
        monkeypatch.setattr(module, "_TURN", turn)
        driver = Scripted(world, True)
        [goal] = worker(world, ONE, SEEDS["slide cabinet"], driver=driver).work().goals
        return driver, goal

    driver, goal = drive(140)
    assert goal.alone is True
    arrived = driver.driven - 10
    for turn, alone in ((arrived + 9, False), (arrived + 10, True)):
        driver, goal = drive(turn)
        assert (driver.driven, goal.alone, goal.left) == (turn, alone, ())


def test_a_driver_has_a_turn_for_each_element_to_get_there_alone_and_otherwise_a_glimpse(world):
    settings, alone = replace(CALM, back=0.0, largest=4), []
    for each, goal in drawn(world, settings, driver=Scripted(world, False)):
        turn, rest, gets_there = each._turn(goal)
        assert turn == 140 * len(goal.works) if gets_there else 5 <= turn < 80
        assert 10 <= rest <= 120
        alone.append(gets_there)
    assert 5 < sum(alone) < 25
    assert worker(world, settings, 0)._turn(goal) == (0, 0, False)  # nobody drives


def test_a_goal_is_reached_when_all_of_its_elements_are(world):
    goals = [goal for _, goal in drawn(world, replace(CALM, back=0.0, largest=2)) if len(goal.works) == 2]
    for goal in goals:
        states = [with_elements(world.reset(seed=0), done) for done in ((), *zip(goal.elements), goal.elements)]
        assert [goal.reached(state) for state in states] == [False, False, False, True]


def test_a_jolt_comes_at_any_time_of_a_goal_and_is_as_large_as_is_asked(world):
    begins, sizes = [], {}
    for jolt in (0.0, 0.5):
        settings = replace(CALM, back=0.0, largest=4, disturbed=1.0, jolt=jolt, push=0.2)
        for each, goal in drawn(world, settings, seeds=40):
            for disturbance in each._disturbances(goal):
                if disturbance.name == "jolt":
                    begin = next(step for step in range(200) if disturbance.act(step, frozenset()))
                    begins.append(begin / (50 * len(goal.works)))
                    sizes.setdefault(jolt, []).append(abs(world.data.qfrc_applied).max())
                    world.data.qfrc_applied[:] = 0
    assert max(sizes[0.0]) == 0 < min(sizes[0.5])
    assert min(begins) < 0.2 < 0.8 < max(begins) < 1
    assert len({disturbances(world, share) for share in (0.0, 0.5, 1.0)}) == 3


def disturbances(world, share: float) -> int:
    """How many of 30 goals are disturbed if this share of them is to be."""
    settings = replace(CALM, back=0.0, disturbed=share)
    return sum(len(each._disturbances(goal)) for each, goal in drawn(world, settings))


def test_noise_changes_what_the_demonstrator_does_and_not_what_a_driver_does(world, monkeypatch):
    monkeypatch.setattr(module, "_TURN", 6)
    carried, told, step = [], [], world.step

    def carry(target: np.ndarray) -> np.ndarray:
        carried.append(target)
        return step(target)

    def shake(target: np.ndarray) -> np.ndarray:
        told.append(target)
        return target + 0.03

    monkeypatch.setattr(world, "step", carry)
    driver = Scripted(world, False)
    parts = np.random.default_rng(SEEDS["slide cabinet"]), Demonstrator(world.model), shake
    shift = Worker(replace(ONE, limit=10), KITCHEN, world, *parts, settle=0, random_order=True, driver=driver).work()
    assert [goal.steps for goal in shift.goals] == [16]
    assert (len(carried), driver.driven, len(told)) == (16, 6, 10)
    np.testing.assert_array_equal(carried[6:], np.array(told) + 0.03)


def test_a_shift_starts_as_far_away_and_as_much_done_as_is_asked(world):
    nominal = world.reset(seed=0)[:7]
    for far, most in ((0.0, 0.06), (1.0, 0.21)):
        arms = [abs(worker(world, replace(CALM, far=far), seed)._home[:7] - nominal).max() for seed in range(10)]
        assert most / 2 < max(arms) < most
    for begun in (0.0, 1.0):
        done = []
        for seed in range(10):
            worker(world, replace(CALM, begun=begun), seed)
            done.append(world.done())
        assert (set().union(*done) == set(ELEMENTS)) == bool(begun)
        assert any(not each for each in done) or begun


def test_a_slow_hand_closes_later(world):
    waited = []
    for slow_hand, seed in ((0.0, SEEDS["kettle"]), (1.0, 0)):
        [piece] = worker(world, replace(ONE, slow_hand=slow_hand), seed).work().pieces
        assert piece.elements == ("kettle",)
        waited.append(int(((piece.actions[:, 7] < 0.01) & (piece.states[:, 7] > 0.03)).sum()))
    fast, slow = waited
    assert slow >= 4 > fast + 1  # [steps] 0.3 s and more


@pytest.mark.parametrize("settings", [{"goals": 0}, {"back": 1.5}, {"push": float("nan")}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(InvalidInput, match=next(iter(settings))):
        ShiftSettings(**settings)
