"""Logged runs replayed: the same policy decides the same, another one does not, and gaps are bridged."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import policies
from rpl_runtime.cli.app import app
from rpl_runtime.client.admin import Admin
from rpl_runtime.client.client import Client
from rpl_runtime.errors import InvalidInput, RobotLeased
from rpl_runtime.policy.bundle import Bundle, load_bundle
from rpl_runtime.recording.mcap import Log, LoggedStep, LogHeader
from rpl_runtime.recording.replay import replay
from rpl_runtime.relay.run_state import POLICY
from rpl_runtime.server.server import serve_in_thread
from rpl_runtime.server.transport import way_to_serve
from rpl_runtime.wire import admin as admin_wire

MODELS = Path(__file__).parents[3] / "models"
SPEC = policies.tiny_spec()


class Case(NamedTuple):
    steps: int
    goals: dict[int, str]  # step before which it is set -> element, or "same" to replan at once; 0 is there
    seed: int | None
    lead: int
    dropped: frozenset[int]
    operator: dict[int, str] = {}  # noqa: RUF012  step before which an operator does something -> what
    by_hand: frozenset[int] = frozenset()
    led: bool = False  # that hand is of an operator of the server, and not of a pilot


@st.composite
def cases(draw: st.DrawFn) -> Case:
    steps = draw(st.integers(1, 20))
    numbers = st.integers(0, steps - 1)
    goals = draw(st.dictionaries(numbers, st.sampled_from(["door", "lamp", "same"]), max_size=3))
    dropped = draw(st.frozensets(numbers, max_size=steps - 1))
    seed, lead = draw(st.none() | st.just(3)), draw(st.integers(0, 3))
    by_hand = draw(st.frozensets(numbers, max_size=steps))
    return Case(steps, goals | {0: "dock"}, seed, lead, dropped, draw(operators(steps)), by_hand, draw(st.booleans()))


@st.composite
def operators(draw: st.DrawFn, steps: int) -> dict[int, str]:
    """Pins and releases in turn, vetoes in between."""
    found, pinned = {}, False
    for step in sorted(draw(st.sets(st.integers(0, steps - 1), max_size=4))):
        found[step] = draw(st.sampled_from(["ReleaseSubgoal"] if pinned else ["PinSubgoal", "VetoSubgoal"]))
        pinned = found[step] == "PinSubgoal"
    return found


def operate(address: str, method: str) -> None:
    pinned = {"subgoal": [0.25] * 5} if method == "PinSubgoal" else {}
    request = admin_wire.pack_request(method, robot="cart", **pinned)
    with grpc.insecure_channel(address) as channel:
        channel.unary_unary(f"/{admin_wire.SERVICE}/{method}")(request, timeout=60)


def logged(case: Case, client: Client) -> Log:
    """The log of a run, as a log writer would have kept it, without the steps that were dropped."""
    rng = np.random.default_rng(case.steps)
    states = rng.uniform(-0.4, 0.4, (case.steps, 5)).astype(np.float32)
    goal = SPEC.resolve([case.goals[0]], states[0])
    steps, age, hand = [], 0, ""
    with client.control() as control, Admin(client.address) as admin:
        control.start("cart", goal, seed=case.seed, plan_lead=case.lead)
        for number, state in enumerate(states):
            name = case.goals.get(number, "")
            # Set to itself just when a plan is due anyway, a goal leaves no trace in a log.
            if number and name and not (name == "same" and age + 1 == SPEC.horizon):
                goal = goal if name == "same" else SPEC.resolve([name], state)
                control.set_goal("cart", goal)
            if number in case.operator:
                operate(client.address, case.operator[number])
            if number - 1 in case.by_hand and number not in case.by_hand and hand:
                admin.hand_back("cart", hand)
                hand = ""
            elif case.led and number in case.by_hand and number and not hand:  # not before the first step
                hand = admin.take_over("cart", "anna")
            if number in case.by_hand and not case.led:
                if number - 1 not in case.by_hand:
                    control.take_over("cart", "gamepad")
                control.applied("cart", number, state, np.zeros(2))
                values = [tuple(vector.tolist()) for vector in (*goal, state, state)]
                steps.append(LoggedStep(number, *values, age, (0.0, 0.0), author="gamepad"))
                continue
            if number - 1 in case.by_hand and not case.led:
                control.hand_back("cart")
            action = control.step("cart", number, state)
            vectors = [tuple(vector.tolist()) for vector in (*goal, state, action.subgoal, action.target)]
            age = action.age
            author = action.author or POLICY
            steps.append(
                LoggedStep(number, *vectors[:4], action.age, vectors[4], override=action.override, author=author)
            )
        digest = control.model.digest
    header = LogHeader(robot="cart", seed=case.seed, plan_lead=case.lead, digest=digest, spec=SPEC)
    return Log(header, [step for step in steps if step.step not in case.dropped], whole=True)


@given(case=cases())
@settings(max_examples=40)
def test_the_policy_that_ran_decides_the_same_whatever_is_missing(tiny_addresses: dict[str, str], case: Case) -> None:
    with Client(tiny_addresses[way_to_serve()]) as client:
        log = logged(case, client)
        with client.control() as control:
            if all(step.author != POLICY for step in log.steps):
                with pytest.raises(InvalidInput, match="every step of the log was decided by hand"):
                    replay(log, control)
                return
            result = replay(log, control)
    numbers = [step.step for step in log.steps]
    assert result.by_hand == sum(step.author != POLICY for step in log.steps)
    assert (result.action.largest, result.subgoal.largest) == (0.0, 0.0)
    assert result.within(0.0)
    assert (result.steps, result.missing) == (len(numbers), numbers[-1] - numbers[0] + 1 - len(numbers))
    assert result.digest == result.logged_digest


CASE = Case(12, {0: "door"}, seed=3, lead=1, dropped=frozenset())


@pytest.mark.parametrize(("field", "name", "at"), [("target", "turn", 1), ("subgoal", "door", 3)])
def test_a_difference_is_found_where_it_is(tiny_client: Client, field: str, name: str, at: int) -> None:
    log = logged(CASE, tiny_client)
    values = list(getattr(log.steps[6], field))
    values[at] += 0.25
    log.steps[6] = log.steps[6]._replace(**{field: tuple(values)})
    with tiny_client.control() as control:
        result = replay(log, control)
    found, other = (result.action, result.subgoal) if field == "target" else (result.subgoal, result.action)
    assert (found.name, found.step, other.largest) == (name, 6, 0.0)
    assert found.largest == pytest.approx(0.25, abs=1e-6)
    assert found.unit == ("rad/s" if field == "target" else "rad")
    assert not result.within(0.2)
    assert result.within(0.3)


@pytest.mark.parametrize("change", [{"seed": 4}, {"robot": "van"}, {"plan_lead": 0}])
def test_seed_robot_and_lead_are_those_of_the_log(tiny_client: Client, change: dict[str, Any]) -> None:
    log = logged(CASE, tiny_client)
    with tiny_client.control() as control:
        assert not replay(log._replace(header=log.header.model_copy(update=change)), control).within(0.0)


def test_a_log_of_another_kind_of_policy_is_one_sentence(tmp_path: Path, tiny_client: Client) -> None:
    log = logged(CASE, tiny_client)
    other = policies.tiny_bundle(tmp_path / "bundle", policies.tiny_spec(horizon=5))
    for bundle, sizes in (
        (other, "state 5, action 2, horizon 5"),
        (load_bundle(MODELS / "kitchen"), "state 30, action 9"),
    ):
        with (
            serve_in_thread(bundle) as address,
            Client(address) as client,
            client.control() as control,
            pytest.raises(InvalidInput, match=f"state 5, action 2, horizon 4.*cannot be replayed by.*{sizes}"),
        ):
            replay(log, control)


def test_a_robot_that_runs_now_is_left_alone(tiny_client: Client) -> None:
    log = logged(CASE, tiny_client)
    with tiny_client.control() as running, tiny_client.control() as control:
        running.start("cart", ["door"], np.zeros(5))
        with pytest.raises(RobotLeased):
            replay(log, control)
        assert running.finish("cart") == 0


def rpl(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_run_of_the_kitchen_is_replayed_to_the_bit_and_told_from_another_policy(tmp_path: Path) -> None:
    log = tmp_path / "run.mcap"
    with serve_in_thread(load_bundle(MODELS / "kitchen")) as address:
        rpl("run", "--address", address, "--goal", "microwave,kettle", "--steps", 70, "--seed", 5, "--log", log)
        same = rpl("replay", log, "--address", address)
        cut = tmp_path / "cut.mcap"
        cut.write_bytes(log.read_bytes()[:-50_000])  # its seconds, but for the last ones
        broken_off = rpl("replay", cut, "--address", address, "--json")
    assert same.exit_code == 0
    assert "replayed by itself, control steps: 70" in same.stdout
    assert broken_off.exit_code == 0
    facts = json.loads(broken_off.stdout)
    assert (facts["whole"], facts["within"]) == (False, True)
    assert 0 < facts["steps"] < 70
    with serve_in_thread(load_bundle(MODELS / "play")) as address:
        other = rpl("replay", log, "--address", address, "--json")
        assert rpl("replay", log, "--address", address).exit_code == 1
        assert rpl("replay", log, "--address", address, "--tolerance", 10).exit_code == 0
    assert other.exit_code == 1
    facts = json.loads(other.stdout)
    assert facts["action"]["largest"] > 0.01
    assert facts["subgoal"]["largest"] > 0.01


def test_the_command_refuses_what_it_cannot_replay(tmp_path: Path, kitchen_bundle: Bundle) -> None:
    assert rpl("replay", tmp_path / "nothing.mcap").exit_code == 2
    (tmp_path / "empty.mcap").touch()
    assert isinstance(rpl("replay", tmp_path / "empty.mcap").exception, InvalidInput)
    both = rpl("replay", tmp_path / "empty.mcap", "--address", "here:1", "--bundle", kitchen_bundle.path)
    assert both.exit_code == 2
