"""Logs of runs as demonstrations: what was seen and decided, by whom, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

import drawers
import policies
from rpl_runtime.client.client import Client
from rpl_runtime.errors import DemonstrationError
from rpl_runtime.loop.lockstep import run
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.recording.mcap import LogHeader, LogWriter
from rpl_runtime.relay.messages import Action
from rpl_runtime.relay.run import RunConfig, Step
from rpl_runtime.relay.run_state import POLICY
from rpl_runtime.robots.simulated import SimulatedRobot
from rpl_runtime.server.server import serve_in_thread
from rpl_train.data.logs import import_logs
from rpl_train.data.recordings import load_demonstrations
from rpl_train.data.trajectory import digest, load_folder, save_folder

TASK = drawers.TASK


def made(number: int, author: str = POLICY, spec: PolicySpec = TASK.spec) -> Step:
    """A step like none before it, toward both drawers."""
    rng = np.random.default_rng(number)
    state, target = (rng.random(vector.dim).astype(np.float32) for vector in (spec.state, spec.action))
    goal = spec.resolve(list(spec.elements)[:2], np.zeros(spec.state.dim))
    action = Action(target, state, number % 4, number % 4 == 0, (number + 1) * 10**8)
    return Step(number, state, action, frozenset(), goal, None, author)


def write(path: Path, steps: list[Step], cut: int = 0, spec: PolicySpec = TASK.spec, bundle: str = "d") -> Path:
    """Write a log without its last bytes, `cut` of them."""
    writer = LogWriter(path, LogHeader(robot="arm", seed=None, plan_lead=0, digest=bundle * 64, spec=spec))
    for step in steps:
        writer.write_step(step, step.action.valid_until_ns)
    writer.close(dropped=0)
    path.write_bytes(path.read_bytes()[: -cut or None])
    return path


AUTHORS = (POLICY, POLICY, "gamepad", "gamepad", POLICY)


def test_a_log_becomes_a_demonstration_that_keeps_its_authors(tmp_path: Path) -> None:
    steps = [made(number, author) for number, author in enumerate(AUTHORS)]
    [found] = load_demonstrations([write(tmp_path / "run.mcap", steps)], TASK).trajectories
    assert np.array_equal(found.states, [step.state for step in steps])
    assert np.array_equal(found.targets, [step.action.target for step in steps])
    assert (found.authors, found.elements, found.source) == (AUTHORS, drawers.GOAL, "run.mcap#0")
    save_folder([found], tmp_path / "demos")
    [again] = load_folder(tmp_path / "demos")
    assert again.authors == AUTHORS
    assert digest([again]) == digest([found])


def test_a_folder_holds_the_runs_of_all_its_logs_and_a_gap_splits_a_run(tmp_path: Path) -> None:
    (tmp_path / "logs" / "monday").mkdir(parents=True)
    write(tmp_path / "logs" / "b.mcap", [made(number) for number in (0, 1, 2, 5, 8, 9)])
    write(tmp_path / "logs" / "monday" / "a.mcap", [made(number) for number in range(3)])
    found = import_logs(tmp_path / "logs", TASK.spec)
    assert [(each.source, len(each)) for each in found] == [("b.mcap#0", 3), ("b.mcap#1", 2), ("a.mcap#0", 3)]
    assert np.array_equal(found[1].states[0], made(8).state)


def test_a_new_goal_splits_a_run_and_all_but_the_last_piece_go_on(tmp_path: Path) -> None:
    other = TASK.spec.resolve(list(TASK.spec.elements)[1:], np.zeros(TASK.spec.state.dim))
    steps = [made(number) if number < 4 else made(number)._replace(goal=other) for number in (0, 1, 2, 3, 4, 5, 8, 9)]
    found = import_logs(write(tmp_path / "run.mcap", steps), TASK.spec)
    assert [len(each) for each in found] == [4, 2, 2]
    first, second = list(TASK.spec.elements)[:2], list(TASK.spec.elements)[1:]
    assert [list(each.elements) for each in found] == [first, second, second]
    assert [each.cut for each in found] == [True, True, False]


def test_a_goal_that_is_a_state_names_no_element(tmp_path: Path) -> None:
    goal = TASK.spec.resolve_state(np.array([0.5, 0.3, 0.2], np.float32))
    path = write(tmp_path / "run.mcap", [made(number)._replace(goal=goal) for number in range(3)])
    assert import_logs(path, TASK.spec)[0].elements == ()


def test_what_a_robot_did_is_what_is_imported(tmp_path: Path) -> None:
    """The whole way: a policy is served, moves a simulated robot, and its log is read."""
    bundle = policies.tiny_bundle(tmp_path / "bundle", TASK.spec)
    header = LogHeader(robot="robot", seed=None, plan_lead=0, digest=bundle.digest, spec=bundle.spec)
    writer, robot = LogWriter(tmp_path / "run.mcap", header), SimulatedRobot(TASK)
    with serve_in_thread(bundle) as address, Client(address) as client, client.control() as control:
        result = run(
            robot, control, RunConfig(drawers.GOAL, 6), lambda step: writer.write_step(step, step.action.valid_until_ns)
        )
    robot.close()
    writer.close(dropped=0)
    [found] = import_logs(tmp_path / "run.mcap", TASK.spec, bundle.digest)
    assert np.array_equal(found.states, result.states)
    assert np.array_equal(found.targets, result.targets)
    assert set(found.authors) == {POLICY}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"cut": 40}, "was cut off after step 9; must be the log of a run that ended"),
        ({"bundle": "e"}, "is a run of the bundle eeeeeeeeeeee; must be of dddddddddddd"),
        ({"spec": policies.tiny_spec()}, r"is a run of tiny .*; must be of drawers \(state 3, action 1, 0.1 s\)"),
        ({"spec": TASK.spec.model_copy(update={"period_s": 0.2})}, r"0.2 s\); must be of drawers"),
    ],
)
def test_a_log_that_cannot_teach_is_one_sentence(tmp_path: Path, changes: dict, sentence: str) -> None:
    spec = changes.get("spec", TASK.spec)
    write(tmp_path / "good.mcap", [made(0), made(1)])
    write(tmp_path / "run.mcap", [made(number, spec=spec) for number in range(10)], **changes)
    with pytest.raises(DemonstrationError, match=sentence):
        import_logs(tmp_path, TASK.spec, "d" * 64)


def test_a_file_that_is_not_a_log_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "run.mcap").write_text("not a log at all, however long it may be")
    with pytest.raises(DemonstrationError, match="is not an MCAP file"):
        load_demonstrations([tmp_path / "run.mcap"], TASK)
