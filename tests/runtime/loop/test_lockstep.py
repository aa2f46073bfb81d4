"""A run of any robot, and the command that makes one in the kitchen."""

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap_protobuf.decoder import DecoderFactory
from typer.testing import CliRunner

import policies
from rpl_runtime.cli.app import app
from rpl_runtime.cli.report import run_facts
from rpl_runtime.client.client import Client
from rpl_runtime.errors import InvalidGoal, InvalidInput, ServerUnavailable, StepOutOfOrder
from rpl_runtime.loop.lockstep import run
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.policy.spec import parse_goal
from rpl_runtime.recording.mcap import read_log
from rpl_runtime.relay.run import RunConfig, Step
from rpl_runtime.server.server import ServerConfig, serve_in_thread


class Cart:
    """A robot that drives where it is told and opens its door at step 2."""

    def __init__(self) -> None:
        self.position = np.zeros(5)
        self.applied: list[np.ndarray] = []
        self.stopped = 0
        self.broken = False

    def reset(self, seed: int) -> None:
        self.position = np.full(5, seed / 100)
        self.applied = []

    def observe(self) -> np.ndarray:
        return self.position * (np.nan if self.broken else 1)

    def apply(self, target: np.ndarray) -> None:
        self.applied.append(target)
        self.position = self.position + 0.01 * np.pad(target, (0, 3))

    def done(self) -> frozenset[str]:
        return frozenset({"door"} if len(self.applied) == 2 else {"lamp"} if len(self.applied) > 5 else ())

    def stop(self) -> None:
        self.stopped += 1


def test_a_result_holds_everything_that_happened(tiny_client: Client, tiny_bundle: Bundle) -> None:
    robot, heard = Cart(), list[Step]()
    with tiny_client.control() as control:
        result = run(robot, control, RunConfig(("door", "lamp"), steps=7, start_seed=3), heard.append)
        # The robot is free again.
        control.start("robot", ["door"], np.zeros(5))
    assert result.digest == tiny_bundle.digest
    assert [result.states.shape, result.targets.shape, result.subgoals.shape] == [(7, 5), (7, 2), (7, 5)]
    np.testing.assert_array_equal(result.states[0], np.full(5, 0.03))
    np.testing.assert_array_equal(result.targets, robot.applied)
    np.testing.assert_array_equal(result.final_state, robot.position)
    assert result.replanned.tolist() == [True, False, False, False, True, False, False]
    assert [step.step for step in heard] == list(range(7))
    assert result.ever_done == {"door", "lamp"}
    assert result.done_at_end == {"lamp"}
    assert [result.first_done(name) for name in ("door", "lamp", "dock")] == [2, 6, None]
    assert robot.stopped == 1


def test_a_run_can_end_when_everything_was_done(tiny_client: Client) -> None:
    robot = Cart()
    with tiny_client.control() as control:
        result = run(robot, control, RunConfig(("door", "lamp"), steps=9, until=frozenset({"door", "lamp"})))
        assert len(result.states) == len(robot.applied) == 6  # the lamp came last; the door was done before
        assert run(Cart(), control, RunConfig(("dock",), steps=9, until=frozenset({"dock"}))).states.shape == (9, 5)
    assert robot.stopped == 1


def test_what_a_run_did_unasked_is_told(tiny_client: Client) -> None:
    with tiny_client.control() as control:
        result = run(Cart(), control, RunConfig(("door",), steps=7))
    facts = run_facts(result, ("door",), policies.tiny_spec())
    assert (facts["success"], facts["unasked"]) == (True, ["lamp"])
    lit = replace(result, states=np.add(result.states, [0, 0, 0, 0, 1]))  # the lamp was lit from the start
    assert run_facts(lit, ("door",), policies.tiny_spec())["unasked"] == []


def test_the_same_seeds_give_the_same_run(tiny_client: Client) -> None:
    with tiny_client.control() as control:
        one, same, other = (
            run(Cart(), control, RunConfig(("door",), steps=5, seed=seed, start_seed=1)) for seed in (4, 4, 5)
        )
    np.testing.assert_array_equal(one.targets, same.targets)
    assert not np.array_equal(one.targets, other.targets)


def test_a_run_that_breaks_off_stops_the_robot(tiny_client: Client) -> None:
    robot = Cart()

    def break_it(step: Step) -> None:
        robot.broken = step.step == 2

    with tiny_client.control() as control, pytest.raises(InvalidInput, match="nan"):
        run(robot, control, RunConfig(("door",), steps=5), break_it)
    assert robot.stopped == 1
    assert len(robot.applied) == 3


def test_a_refused_start_moves_nothing(tiny_client: Client) -> None:
    robot = Cart()
    with tiny_client.control() as control:
        with pytest.raises(InvalidGoal):
            run(robot, control, RunConfig(("window",), steps=5))
        with pytest.raises(InvalidInput, match="must be 1 or more"):
            run(robot, control, RunConfig(("door",), steps=0))
    assert not robot.applied


@pytest.mark.parametrize(
    ("text", "elements"),
    [("door", ("door",)), ("lamp, door", ("lamp", "door")), ("home", ("door", "lamp"))],
)
def test_a_goal_is_read_from_text(text: str, elements: tuple[str, ...]) -> None:
    assert parse_goal(text, policies.tiny_spec()) == elements


@pytest.mark.parametrize("text", ["", ",", "window", "door,window", "homes"])
def test_a_text_that_is_no_goal_says_what_is_allowed(text: str) -> None:
    with pytest.raises(InvalidGoal, match=r"must be .*door, lamp, dock.*home"):
        parse_goal(text, policies.tiny_spec())


@pytest.fixture(scope="module")
def kitchen_address(kitchen_bundle: Bundle):
    with serve_in_thread(kitchen_bundle) as address:
        yield address


def messages(log: Path, topic: str) -> list[Any]:
    with log.open("rb") as file:
        return list(make_reader(file, decoder_factories=[DecoderFactory()]).iter_decoded_messages([topic]))


def rpl_run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["run", "--robot", "kitchen", "--steps", "3", *arguments])


def test_the_command_tells_what_was_done_and_fails_where_it_was_not(kitchen_address: str, kitchen_bundle) -> None:
    finished = rpl_run("--address", kitchen_address, "--goal", "mkbs", "--json")
    assert finished.exit_code == 1
    facts = json.loads(finished.stdout)
    assert list(facts["elements"]) == ["microwave", "kettle", "bottom burner", "slide cabinet"]
    assert facts["elements"]["microwave"]["first_done"] is None
    assert facts["elements"]["microwave"]["distance_at_end"] == pytest.approx(0.75, abs=0.01)
    assert (facts["done"], facts["steps"], facts["bundle_digest"]) == (0, 3, kitchen_bundle.digest)


def test_a_calibration_is_measured_by_the_command_and_used_by_the_next(kitchen_address: str, tmp_path: Path) -> None:
    """The kitchen's senses are perfect, so the run is the same as without."""
    path = tmp_path / "senses.json"
    measured = CliRunner().invoke(app, ["run", "--calibrate", str(path), "--json"])
    assert measured.exit_code == 0, measured.output
    assert json.loads(path.read_text()) == json.loads(measured.stdout)
    options = ["--address", kitchen_address, "--goal", "mkbs", "--json"]
    with_it = rpl_run(*options, "--calibration", str(path))
    assert with_it.exit_code == 1, with_it.output
    assert json.loads(with_it.stdout) == json.loads(rpl_run(*options).stdout)


@pytest.fixture
def pilot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of one that holds the robot still."""
    (tmp_path / "my_lockstep_pilots.py").write_text(
        "class Still:\n    name = 'still'\n    def takes_over(self, seen): return None\n"
        "    def target(self, seen): return seen.target\n"
    )
    monkeypatch.chdir(tmp_path)
    return "my_lockstep_pilots:Still"


def test_a_run_with_a_pilot_is_logged_with_its_authors_and_replayed_to_the_bit(
    kitchen_address: str, tmp_path: Path, pilot: str
) -> None:
    log, at = tmp_path / "run.mcap", ("--address", kitchen_address)
    options = (*at, "--goal", "mkbs", "--seed", "3", "--steps", "40", "--log", str(log), "--json")
    finished = rpl_run(*options, "--pilot", pilot, "--take-over-at", "5", "--hand-back-at", "12")
    assert json.loads(finished.stdout)["by_hand"] == {"still": 7}
    steps = read_log(log).steps
    assert [step.step for step in steps if step.author == "still"] == list(range(5, 12))
    assert (steps[12].age, steps[12].author) == (0, "policy")
    assert {step.target for step in steps[5:12]} == {steps[4].target}
    events = [message.text for *_, message in messages(log, "/events")]
    assert events == ["still at step 5: it was told to at step 5", "still at step 12"]
    replayed = CliRunner().invoke(app, ["replay", str(log), *at])
    assert replayed.exit_code == 0, replayed.output
    assert "control steps by hand, not compared: 7" in replayed.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--take-over-at", "5"), "a takeover needs a --pilot"),
        (("--on-help", "takeover"), "a takeover needs a --pilot"),
        (("--pilot", "a:b", "--hand-back-at", "5"), "--hand-back-at needs --take-over-at"),
        (("--pilot", "a:b", "--on-help", "hold"), "give --on-help hold or a --pilot, not both"),
    ],
)
def test_options_of_a_pilot_that_do_not_go_together_are_refused(arguments: tuple[str, ...], sentence: str) -> None:
    refused = rpl_run("--goal", "mkbs", *arguments)
    assert refused.exit_code == 2
    assert sentence in " ".join(refused.output.replace("│", " ").split())


@pytest.mark.parametrize("content", [None, "nothing", "{}", '{"names": ["a"], "rest": [0.0], "sigma": [-1.0]}'])
def test_a_file_that_is_no_calibration_is_refused(kitchen_address: str, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "senses.json"
    if content is not None:
        path.write_text(content)
    refused = rpl_run("--address", kitchen_address, "--goal", "mkbs", "--calibration", str(path))
    assert isinstance(refused.exception, InvalidInput)
    assert "must be a file of `rpl run --calibrate`" in str(refused.exception)


def test_noise_without_a_calibration_is_reported(kitchen_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from rpl_runtime.robots.simulated import SimulatedRobot

    rng, observe = np.random.default_rng(0), SimulatedRobot.observe
    options = ["--address", kitchen_address, "--goal", "mkbs", "--steps", "30"]
    assert "noise without a calibration" not in rpl_run(*options).stderr
    noisy = np.append(np.zeros(9), np.full(21, 0.01))
    monkeypatch.setattr(SimulatedRobot, "observe", lambda robot: observe(robot) + rng.normal(size=30) * noisy)
    assert rpl_run(*options).stderr.count("noise without a calibration") == 1


def test_the_command_succeeds_where_every_element_was_done(
    kitchen_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rpl_runtime.robots.simulated import SimulatedRobot

    monkeypatch.setattr(SimulatedRobot, "done", lambda self: frozenset({"microwave", "kettle"}))
    finished = rpl_run("--address", kitchen_address, "--goal", "microwave,kettle", "--start", "perturbed")
    assert finished.exit_code == 0
    assert "success: 2 of 2 elements done" in finished.stdout
    assert "step 1" in finished.stdout


def test_the_command_serves_a_bundle_itself(kitchen_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RPL_TLS": "1", "RPL_TOKEN_FILE": "/nowhere"}.items():  # how other servers are reached
        monkeypatch.setenv(name, value)
    finished = rpl_run("--bundle", str(kitchen_bundle.path), "--goal", "kettle", "--seed", "3", "--json")
    assert finished.exit_code == 1
    assert json.loads(finished.stdout)["bundle_digest"] == kitchen_bundle.digest


def test_the_command_does_the_same_with_the_low_level_beside_the_robot(
    kitchen_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    arguments = ("--address", kitchen_address, "--goal", "mkbs", "--seed", "3", "--plan-lead", "2", "--steps", "33")
    remote, local = (rpl_run(*arguments, "--low-level", where, "--json") for where in ("remote", "local"))
    assert json.loads(local.stdout) == json.loads(remote.stdout)
    assert list(tmp_path.rglob("low.onnx"))


@pytest.mark.parametrize("low_level", ["remote", "local"])
def test_the_command_gives_up_on_a_server_that_stays_away(
    low_level: str, kitchen_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rpl_runtime.robots.simulated import SimulatedRobot

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with ExitStack() as server:
        address = server.enter_context(serve_in_thread(kitchen_bundle, ServerConfig("127.0.0.1:0", drain_s=0)))
        monkeypatch.setattr(SimulatedRobot, "done", lambda self: server.close() or frozenset())
        options = ("--low-level", low_level, "--steps", "40", "--patience", "0.1")
        finished = rpl_run("--address", address, "--goal", "mkbs", *options)
    assert isinstance(finished.exception, ServerUnavailable)
    assert f"no server answers at {address}" in str(finished.exception)
    assert finished.exception.exit_code == 4


def test_the_command_refuses_a_lead_as_long_as_the_horizon(kitchen_address: str) -> None:
    finished = rpl_run("--address", kitchen_address, "--goal", "mkbs", "--plan-lead", "30")
    assert isinstance(finished.exception, InvalidInput)
    assert "must be 0 to 29" in str(finished.exception)


def test_the_command_refuses_two_sources_and_unknown_goals(kitchen_address: str, kitchen_bundle: Bundle) -> None:
    both = rpl_run("--address", kitchen_address, "--bundle", str(kitchen_bundle.path), "--goal", "mkbs")
    assert both.exit_code == 2
    unknown = rpl_run("--address", kitchen_address, "--goal", "toaster")
    assert isinstance(unknown.exception, InvalidGoal)


def test_steps_out_of_order_end_a_run(tiny_client: Client) -> None:
    """Another hand on the same stream is found out, and the robot is stopped."""
    robot = Cart()
    with tiny_client.control() as control, pytest.raises(StepOutOfOrder):
        run(
            robot,
            control,
            RunConfig(("door",), steps=5),
            lambda step: control.step("robot", step.step + 1, np.zeros(5)) and None,
        )
    assert robot.stopped == 1
