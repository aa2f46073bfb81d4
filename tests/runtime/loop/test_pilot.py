"""A pilot takes a robot over and hands it back, in both run loops: without a jump, and without a server if need be."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_clock import FakeClock
from limits_kept import assert_inside
from live_robot import START, FakeArm
from rpl_runtime.client.admin import Admin
from rpl_runtime.client.budget import TimeBudget
from rpl_runtime.client.client import Client
from rpl_runtime.client.control import Control
from rpl_runtime.errors import InvalidInput, ServerUnavailable
from rpl_runtime.loop.lockstep import run
from rpl_runtime.loop.pilot import ASKED, Between, Helm, Holding, OnHelp, Pilot, Seen, load_pilot
from rpl_runtime.loop.realtime import DriveResult, drive
from rpl_runtime.loop.watchdog import Event
from rpl_runtime.relay.leases import Leases
from rpl_runtime.relay.messages import Action, Applied, HandBack, ModelInfo, Noted, Reply, valid_until_ns
from rpl_runtime.relay.run import RunConfig, RunResult, Step
from rpl_runtime.relay.run_state import POLICY
from rpl_runtime.relay.session import Session
from rpl_runtime.tasks.kitchen.elements import PERIOD, kitchen_spec

SPEC = kitchen_spec("kitchen")
PATIENT = TimeBudget(answer_due=1e4)  # answers are waited for as long as they take


class Script:
    """A pilot with a script: the steps for which it wants the robot, and its targets."""

    name = "script"

    def __init__(self, steps: range | set[int], target: Callable[[Seen], np.ndarray]) -> None:
        self.seen: list[Seen] = []
        self._steps, self._target = steps, target

    def takes_over(self, seen: Seen) -> str | None:
        return "it is in the script" if seen.step in self._steps else None

    def target(self, seen: Seen) -> np.ndarray | None:
        self.seen.append(seen)
        return self._target(seen) if seen.step in self._steps else None


class Cart:
    """A robot that drives where it is told."""

    waits = True

    def __init__(self) -> None:
        self.applied: list[np.ndarray] = []

    def reset(self, seed: int) -> None:
        self.position = np.zeros(5, np.float32)

    def observe(self) -> np.ndarray:
        return self.position

    def apply(self, target: np.ndarray) -> None:
        self.applied.append(target)
        self.position = self.position + np.float32(0.01) * np.pad(target, (0, 3))

    def done(self) -> frozenset[str]:
        return frozenset()

    def stop(self) -> None:
        pass


def ran(client: Client, pilot: Pilot | None, steps: int = 12) -> tuple[RunResult, list[Step], list[Event], Cart]:
    heard, events, cart = list[Step](), list[Event](), Cart()
    robot: Any = cart
    with client.control() as control:
        config = RunConfig(("door",), steps, seed=4, plan_lead=1)
        result = run(robot, control, config, heard.append, pilot=pilot, on_event=events.append)
    return result, heard, events, cart


# ------------------------------------------------------------------------------------------------ a world that waits


def test_a_pilot_decides_the_steps_for_which_it_has_the_robot(tiny_client: Client) -> None:
    pilot = Script({3, 4, 5, 9}, lambda seen: np.array([0.5, seen.step / 10]))
    result, heard, events, cart = ran(tiny_client, pilot)
    authors = [POLICY] * 3 + ["script"] * 3 + [POLICY] * 3 + ["script"] + [POLICY] * 2
    assert [step.author for step in heard] == list(result.authors) == authors
    for step in (3, 4, 5, 9):
        np.testing.assert_allclose(cart.applied[step], [0.5, step / 10], rtol=1e-6)
    np.testing.assert_array_equal(result.targets, cart.applied)
    # The policy replans as soon as it has the robot again, and then a horizon later.
    assert np.flatnonzero(result.replanned).tolist() == [0, 6, 10]
    assert [(event.kind, event.text) for event in events] == [
        ("taken over", "script at step 3: it is in the script"),
        ("handed back", "script at step 6"),
        ("taken over", "script at step 9: it is in the script"),
        ("handed back", "script at step 10"),
    ]
    assert pilot.seen[1].target is not None
    np.testing.assert_array_equal(pilot.seen[1].target, cart.applied[3])
    np.testing.assert_array_equal(pilot.seen[0].state, heard[3].state)


def test_a_goal_that_the_run_is_given_on_its_way_is_the_pilots_too(tiny_client: Client) -> None:
    pilot, heard, cart = Script({4, 5}, lambda seen: np.zeros(2)), list[Step](), Cart()
    robot: Any = cart
    with tiny_client.control() as control:

        def on_step(step: Step) -> None:
            heard.append(step)
            if step.step == 2:
                control.set_goal("cart", ("lamp",), step.state)

        run(robot, control, RunConfig(("door",), 8, "cart"), on_step, pilot=pilot)
        control.start("cart", ("door",), cart.position)
        control.set_goal("cart", ("lamp",), cart.position)
        control.finish("cart")
        again = list[Step]()
        run(robot, control, RunConfig(("door",), 2, "cart"), again.append)
    door, lamp = (tiny_client.describe().spec.resolve([name], np.zeros(5, np.float32)) for name in ("door", "lamp"))
    expected = [door] * 3 + [lamp] * 5
    assert [step.goal.mask.tolist() for step in heard] == [goal.mask.tolist() for goal in expected]
    assert [(seen.step, seen.goal.mask.tolist()) for seen in pilot.seen] == [(n, lamp.mask.tolist()) for n in (4, 5, 6)]
    assert [step.goal.mask.tolist() for step in again] == [door.mask.tolist()] * 2  # not of the run before


def test_the_steps_of_an_operator_of_the_server_are_told_as_such(tiny_address: str) -> None:
    heard, events, cart = list[Step](), list[Event](), Cart()
    with Client(tiny_address) as client, client.control() as control, Admin(tiny_address) as admin:

        def on_step(step: Step) -> None:
            heard.append(step)
            if step.step == 2:
                hands.append(admin.take_over("cart", "anna"))
                admin.steer("cart", hands[0], (0.25, -0.25))
            elif step.step == 5:
                admin.hand_back("cart", hands[0])

        hands = list[str]()
        robot: Any = cart
        result = run(robot, control, RunConfig(("door",), 8, "cart"), on_step, on_event=events.append)
    assert [step.author for step in heard] == list(result.authors) == [POLICY] * 3 + ["anna"] * 3 + [POLICY] * 2
    np.testing.assert_array_equal(cart.applied[3:6], [[0.25, -0.25]] * 3)
    assert [(event.kind, event.text) for event in events] == [
        ("taken over", "anna at step 3, an operator of the server"),
        ("handed back", "anna at step 6, an operator of the server"),
    ]


def test_a_run_may_begin_and_end_in_hand(tiny_client: Client) -> None:
    result, *_ = ran(tiny_client, Script(range(12), lambda seen: np.zeros(2)))
    assert set(result.authors) == {"script"}
    np.testing.assert_array_equal(result.subgoals, result.states)  # the policy has set none
    assert not result.replanned.any()


@pytest.mark.parametrize("target", [np.zeros(3), np.full(2, np.nan), np.full(2, 99.0)])
def test_a_target_that_is_not_one_reaches_neither_robot_nor_server(tiny_client: Client, target: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match="the target of script has"):
        ran(tiny_client, Script({2}, lambda seen: target))


def test_a_pilot_that_fails_is_named_with_its_step_and_line(tiny_client: Client) -> None:
    with pytest.raises(InvalidInput, match=r"^the pilot script fails at step 3: KeyError: 'jig' \(test_pilot.py, line"):
        ran(tiny_client, Script({2, 3}, lambda seen: {2: np.zeros(2)}[seen.step] if seen.step < 3 else {}["jig"]))


def test_a_pilot_comes_back_at_the_steps_it_is_told_to(tiny_client: Client) -> None:
    always = Script(range(12), lambda seen: np.zeros(2))
    result, *_ = ran(tiny_client, Between(always, 2, 5))
    assert [step for step, author in enumerate(result.authors) if author == "script"] == [2, 3, 4]
    shy = Between(Script(set(), lambda seen: np.zeros(2)), 2, 5)
    for _ in range(2):  # runs
        assert set(ran(tiny_client, shy)[0].authors) == {POLICY}
    again = Between(Script({2, 4}, lambda seen: np.zeros(2)), 2, 5)
    for _ in range(2):
        assert ran(tiny_client, again)[0].authors.count("script") == 1  # handed back, it is over
    for first, last in ((5, 5), (-1, 3)):
        with pytest.raises(InvalidInput, match=f"at step {first} and hands back at {last}; must be a later step"):
            Between(always, first, last)


# -------------------------------------------------------------------------------------------------- asking for help


def asks(*steps: int) -> Callable[[Helm, int], None]:
    """A policy that asks for help at these steps."""
    return lambda helm, step: helm.heard(Noted(step, None, None, step in steps))


def authors(pilot: Pilot, say: Callable[[Helm, int], None], steps: int = 8) -> str:
    """Who decides each step: p the policy, h a hand."""
    helm, state, found = Helm(pilot, SPEC, lambda event: None), np.zeros(30, np.float32), ""
    goal = SPEC.resolve(["microwave"], state)
    for step in range(steps):
        action = helm.take(step, state, goal, 0)
        if action is None:
            action = Action(np.zeros(9, np.float32), state, 0, False, 0)
        helm.applied(step, state, action)
        say(helm, step)
        found += "p" if helm.author == POLICY else "h"
    return found


def test_a_robot_is_held_at_its_last_target_while_the_policy_asks_for_help() -> None:
    assert authors(Holding(), asks(2, 3, 6)) == "ppphhpph"
    helm = Helm(Holding(), SPEC, lambda event: None)
    state = np.zeros(30, np.float32)
    goal, target = SPEC.resolve(["microwave"], state), np.clip(np.full(9, 0.01, np.float32), *SPEC.action.bounds)
    helm.applied(0, state, Action(target, state, 3, False, 0, help=True))
    action = helm.take(1, state, goal, 0)
    assert action is not None
    np.testing.assert_array_equal(action.target, target)
    assert helm.untold[0] == ("hold", ASKED)


def test_a_pilot_takes_over_when_the_policy_asks_for_help_and_decides_when_to_hand_back() -> None:
    class Three:
        """Wants the robot for three steps."""

        name = "three"

        def takes_over(self, seen: Seen) -> str | None:
            self.left = 3
            return None

        def target(self, seen: Seen) -> np.ndarray | None:
            self.left -= 1
            return np.zeros(9) if self.left >= 0 else None

    assert authors(Three(), asks(2, 3)) == "pppppppp"
    assert authors(OnHelp(Three()), asks(2, 3)) == "ppphhhpp"


def test_a_factory_makes_a_pilot_or_says_so(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_pilots.py").write_text(
        "class Still:\n    name = 'still'\n    def takes_over(self, seen): return None\n"
        "    def target(self, seen): return seen.target\ndef number(): return 3\n"
    )
    assert load_pilot("my_pilots:Still").name == "still"
    with pytest.raises(InvalidInput, match="my_pilots:number makes a int; must be a pilot: name, takes_over and"):
        load_pilot("my_pilots:number")


# -------------------------------------------------------------------------------------- a world that does not wait


class Levels:
    """A policy that leads the arm on from where it is."""

    def plan(self, state: np.ndarray, goal: np.ndarray, mask: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return state

    def act(self, state: np.ndarray, subgoal: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return np.clip(state[:, :9] + np.float32(0.05), *SPEC.action.bounds)


class Line:
    """A `Line` to a relay loop in this process, gone in some of its exchanges."""

    def __init__(self, clock: FakeClock, gone: Callable[[], bool] = lambda: False) -> None:
        bundle: Any = SimpleNamespace(spec=SPEC, digest="d" * 64, manifest=SimpleNamespace(statistics=None, stall=None))
        self.session = Session(Levels(), bundle, Leases())
        self.rows: list[Any] = []  # that were accepted
        self._clock, self._gone = clock, gone

    def exchange(self, rows: Any) -> list[Reply]:
        if self._gone():
            raise ServerUnavailable("away")
        self.rows += [request for _, request in rows]
        now_ns = self._clock.now_ns()  # the control measures in another clock
        valid_ns = valid_until_ns(now_ns, round(PERIOD * 1e9))
        replies = [reply for _, reply in self.session.answer(rows, 0).rows]
        return [reply._replace(valid_until_ns=valid_ns) if isinstance(reply, Action) else reply for reply in replies]

    def close(self) -> None:
        pass


def driven(pilot: Pilot, line: Line, robot: FakeArm, clock: FakeClock, steps: int = 20, **more: Any) -> DriveResult:
    control = Control(ModelInfo(SPEC, "d" * 64, 1, {}), line)
    config = RunConfig(("microwave",), steps)
    result = drive(robot, control, config, budget=PATIENT, clock=clock, pilot=pilot, **more)
    assert robot.at_rest
    commanded = np.vstack(robot.commanded)
    assert_inside(robot.profile, START, np.concatenate([commanded, np.repeat(commanded[-1:], 10, axis=0)]))
    return result


@settings(max_examples=15)
@given(
    st.sets(st.integers(0, 11)),
    st.lists(st.lists(st.floats(-1, 1), min_size=9, max_size=9), min_size=12, max_size=12),
)
def test_the_arm_never_jumps_whoever_has_it(steps: set[int], places: list[list[float]]) -> None:
    """From anywhere to anywhere in the range of a target: position, speed, acceleration and jerk keep their limits."""
    low, high = SPEC.action.bounds
    targets = low + (np.array(places, np.float32) + 1) / 2 * (high - low)
    clock = FakeClock()
    line = Line(clock)
    pilot = Script(steps, lambda seen: np.clip(targets[seen.step], low, high))
    result = driven(pilot, line, FakeArm(clock), clock, steps=12)
    assert (result.stop, result.held) == (None, 0)
    assert [author == "script" for author in result.run.authors] == [step in steps for step in range(12)]


@pytest.mark.parametrize("bound", [0, 1])
def test_a_live_arm_never_jumps_when_an_operator_of_the_server_leads_it(bound: int) -> None:
    """To either end of its range, in one step of the operator's."""
    clock = FakeClock()
    line = Line(clock)

    def on_step(step: Step) -> None:
        [robot] = line.session.loop.robots
        if step.step == 2:
            line.session.steer(robot, "anna").target = SPEC.action.bounds[bound]
        elif step.step == 14:
            line.session.loop.let_go(robot)

    nobody = Script(set(), lambda seen: np.zeros(9))
    result = driven(nobody, line, FakeArm(clock), clock, on_step=on_step)
    assert (result.stop, result.held) == (None, 0)
    assert list(result.run.authors) == [POLICY] * 3 + ["anna"] * 12 + [POLICY] * 5
    assert [event.kind for event in result.events] == ["armed", "taken over", "handed back"]


def test_a_pilot_needs_no_server_and_the_server_is_told_afterwards() -> None:
    """It is away while the robot is in hand, and counts every step when it is back."""
    clock = FakeClock()
    pilot = Script(range(2, 14), lambda seen: np.clip(seen.state[:9] - 0.03, *SPEC.action.bounds))
    line = Line(clock, gone=lambda: bool(pilot.seen) and 3 <= pilot.seen[-1].step < 12)
    result = driven(pilot, line, FakeArm(clock), clock)
    assert (result.stop, result.held) == (None, 0)
    assert list(result.run.authors) == [POLICY] * 2 + ["script"] * 12 + [POLICY] * 6
    assert [event.kind for event in result.events] == ["armed", "taken over", "handed back"]
    told = [request for request in line.rows if isinstance(request, Applied)]
    assert [applied.step for applied in told] == list(range(2, 14))
    np.testing.assert_array_equal([applied.target for applied in told], result.run.targets[2:14])
    assert sum(isinstance(request, HandBack) for request in line.rows) == 1
    assert result.run.replanned[14]


def test_a_pilot_that_is_late_is_a_hold_and_soon_a_stop() -> None:
    clock = FakeClock()

    def dawdle(seen: Seen) -> np.ndarray:
        clock.advance(round(0.8 * PERIOD * 1e9) if seen.step >= 6 else 0)
        return np.clip(seen.state[:9] - 0.03, *SPEC.action.bounds)

    pilot, line, robot = Script(range(4, 20), dawdle), Line(clock), FakeArm(clock)
    control = Control(ModelInfo(SPEC, "d" * 64, 1, {}), line)
    result = drive(robot, control, RunConfig(("microwave",), 20), budget=TimeBudget(0.75), clock=clock, pilot=pilot)
    assert result.stop is not None
    assert result.stop.cause == "no action came for 2 control periods"
    assert len(result.run.states) == 6
    assert robot.at_rest


def test_a_pilot_with_an_impossible_target_stops_the_arm_with_one_sentence() -> None:
    clock = FakeClock()
    pilot = Script({5}, lambda seen: np.full(9, np.nan))
    result = driven(pilot, Line(clock), FakeArm(clock), clock)
    assert result.stop is not None
    assert result.stop.cause.startswith("the target of script has panda_joint1 = nan rad; must be a finite number")
    assert len(result.run.states) == 5


def test_a_pilot_that_fails_stops_the_arm_with_one_sentence() -> None:
    clock = FakeClock()
    arm = FakeArm(clock)
    result = driven(Script({5}, lambda seen: seen.goal["kettle"]), Line(clock), arm, clock)  # type: ignore[call-overload]
    assert result.stop is not None
    assert result.stop.cause.startswith("the pilot script fails at step 5: TypeError: ")
    assert (len(result.run.states), arm.at_rest) == (5, True)


def test_what_the_server_refuses_stops_the_arm() -> None:
    """At the latest when the policy shall decide again."""
    clock = FakeClock()
    pilot = Script(range(2, 10), lambda seen: np.clip(seen.state[:9], *SPEC.action.bounds))
    pilot.name = POLICY  # the name of another
    result = driven(pilot, Line(clock), FakeArm(clock), clock)
    assert result.stop is not None
    assert "the pilot's name is 'policy'" in result.stop.cause
