"""The client: plain values in and out, and one clear error for everything that can go wrong."""

import contextlib
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest

from rpl_runtime._pb.rpl.v1 import relay_pb2 as pb
from rpl_runtime.client import Action, Client, Resume
from rpl_runtime.client.admin import Admin
from rpl_runtime.errors import (
    BundleCorrupt,
    BundleError,
    InvalidGoal,
    InvalidInput,
    ProtocolViolation,
    RelayError,
    ServerUnavailable,
)
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.relay.loop import RelayLoop
from rpl_runtime.relay.messages import ActionBatch, ModelInfo, Observation
from rpl_runtime.server import server
from rpl_runtime.server.server import serve_in_thread
from rpl_runtime.wire import bundles as describe

pytestmark = pytest.mark.usefixtures("transport")  # each test with each way that the bytes can take

STATE = np.zeros(5, dtype=np.float32)
RNG = np.random.default_rng(0)
STATES = RNG.uniform(-0.4, 0.4, (12, 5)).astype(np.float32)


def act_alone(bundle: Bundle, **options: Any) -> list[np.ndarray]:
    """The targets of a run in process."""
    loop = RelayLoop(OnnxPolicy(bundle), bundle.spec)
    loop.start("a", bundle.spec.resolve(["door"], STATES[0]), **options)
    return [loop.step(["a"], [step], state[None]).action[0] for step, state in enumerate(STATES)]


@pytest.mark.parametrize("options", [{}, {"seed": 5}, {"seed": 2**64 - 1, "plan_lead": 2}])
def test_a_served_run_is_the_run_in_process(tiny_client: Client, tiny_bundle: Bundle, options: dict) -> None:
    with tiny_client.control() as control:
        started = control.start("a", ["door"], STATES[0], **options)
        assert (started.horizon, started.period_s, started.digest) == (4, 0.05, tiny_bundle.digest)
        targets = [control.step("a", step, state).target for step, state in enumerate(STATES)]
    np.testing.assert_array_equal(targets, act_alone(tiny_bundle, **options))


def test_a_robot_that_acts_beside_itself_and_asks_only_for_plans_does_the_same(
    tiny_client: Client, tiny_bundle: Bundle
) -> None:
    levels = SimpleNamespace(plan=tiny_client.plan, act=OnnxPolicy(tiny_bundle).act)
    loop = RelayLoop(levels, tiny_bundle.spec)
    loop.start("a", tiny_bundle.spec.resolve(["door"], STATES[0]), seed=5)
    targets = [loop.step(["a"], [step], state[None]).action[0] for step, state in enumerate(STATES)]
    np.testing.assert_array_equal(targets, act_alone(tiny_bundle, seed=5))


@pytest.mark.parametrize("lead", [0, 2])
@pytest.mark.parametrize("cut", [1, 3, 4, 7])
def test_another_server_goes_on_with_a_broken_run(tiny_client: Client, own_bundle: Bundle, cut: int, lead: int) -> None:
    upcoming = None
    with tiny_client.control() as control:
        started = control.start("a", ["door"], STATES[0], seed=5, plan_lead=lead)
        for step in range(cut):
            action = control.step("a", step, STATES[step])
            planned = None if action.replanned else upcoming
            upcoming = planned if action.upcoming is None else action.upcoming
    resume = Resume(cut, action.subgoal, action.age + 1, upcoming)
    with serve_in_thread(own_bundle) as address, Client(address) as client, client.control() as control:
        control.start("a", started.goal, seed=5, plan_lead=lead, resume=resume)
        targets = [control.step("a", step, STATES[step]).target for step in range(cut, len(STATES))]
    np.testing.assert_array_equal(targets, act_alone(own_bundle, seed=5, plan_lead=lead)[cut:])


def test_every_action_names_the_subgoal_it_follows(tiny_client: Client) -> None:
    with tiny_client.control() as control:
        control.start("a", ["door"], STATE)
        actions = [control.step("a", step, state) for step, state in enumerate(STATES)]
        assert [action.replanned for action in actions] == [step % 4 == 0 for step in range(12)]
        for step, action in enumerate(actions):
            np.testing.assert_array_equal(action.subgoal, actions[step - step % 4].subgoal)
        assert actions[0].times is not None
        assert actions[0].times.plan_us > 0
        assert actions[1].times is not None
        assert actions[1].times.plan_us == 0


def test_a_changed_goal_replans_at_once(tiny_client: Client, tiny_bundle: Bundle) -> None:
    with tiny_client.control() as control:
        control.start("a", ["door"], STATE)
        before = control.step("a", 0, STATE)
        goal = control.set_goal("a", ["dock"], STATE)
        np.testing.assert_array_equal(goal.state, tiny_bundle.spec.resolve(["dock"], STATE).state)
        after = control.step("a", 1, STATE)
        assert (after.age, after.replanned) == (0, True)
        assert not np.array_equal(after.subgoal, before.subgoal)


def test_a_goal_may_be_a_whole_state(tiny_client: Client) -> None:
    with tiny_client.control() as control:
        started = control.start("a", STATES[3])
        np.testing.assert_array_equal(started.goal.state, STATES[3])
        np.testing.assert_array_equal(started.goal.mask, [1, 1, 0, 1, 1])


@pytest.mark.parametrize(
    ("goal", "error", "sentence"),
    [
        ("door", InvalidGoal, "must be a list of element names"),
        ([], InvalidGoal, "must be one or more of door, lamp, dock"),
        (["window"], InvalidGoal, "'window'; must be one of door, lamp, dock"),
        (np.zeros((2, 5)), InvalidInput, "one dimension"),
        ([object()], InvalidInput, "cannot be sent"),
    ],
)
def test_a_goal_that_is_none_says_what_is_allowed(
    tiny_client: Client, goal: Any, error: type[RelayError], sentence: str
) -> None:
    with tiny_client.control() as control:
        with pytest.raises(error, match=sentence):
            control.start("a", goal, STATE)
        control.start("a", ["door"], STATE)


def test_what_cannot_be_sent_is_not_sent(tiny_client: Client) -> None:
    with tiny_client.control() as control:
        control.start("a", ["door"], STATE)
        for step, state in ((-1, STATE), (2**32, STATE), (0, [["x"]]), (0, np.zeros((1, 5)))):
            with pytest.raises(InvalidInput):
                control.step("a", step, state)  # type: ignore[arg-type]
        assert control.step("a", 0, STATE).replanned


def test_a_closed_stream_says_so(tiny_client: Client) -> None:
    with tiny_client.control() as control:
        control.start("a", ["door"], STATE)
    with pytest.raises(ProtocolViolation, match="open another"):
        control.step("a", 0, STATE)


def test_nobody_at_the_address_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    with Client(address) as client:
        for call in (client.describe, client.control, lambda: client.fetch(Path("nowhere"))):
            with pytest.raises(ServerUnavailable, match=f"no server answers at {address}"):
                call()


def test_a_server_that_is_gone_is_one_sentence(own_bundle: Bundle) -> None:
    with contextlib.ExitStack() as stack:
        server = contextlib.ExitStack()
        address = server.enter_context(serve_in_thread(own_bundle))
        control = stack.enter_context(stack.enter_context(Client(address)).control())
        control.start("a", ["door"], STATE)
        control.finish("a")
        control.close()
        server.close()
        with pytest.raises(ServerUnavailable, match=address), Client(address).control():
            pass


Handler = Callable[[Iterator[bytes]], Iterator[bytes]]


@contextlib.contextmanager
def impostor(
    bundle: Bundle,
    control: Handler | None = None,
    files: dict[str, bytes] | None = None,
    stalled: threading.Event | None = None,
) -> Iterator[str]:
    """A server that describes a policy and then does as it likes; after its files it may wait until an event."""

    def fetch(request: bytes, context: object) -> Iterator[bytes]:
        for name, content in (files or {}).items():
            yield from describe.pack_chunks(name, content)
        if stalled is not None:
            stalled.wait()

    model = describe.pack_model(ModelInfo(bundle.spec, bundle.digest, 1, {}))
    handlers: dict[str, grpc.RpcMethodHandler] = {
        "Describe": grpc.unary_unary_rpc_method_handler(lambda request, context: model),
        "Fetch": grpc.unary_stream_rpc_method_handler(fetch),
    }
    if control is not None:
        handlers["Control"] = grpc.stream_stream_rpc_method_handler(lambda requests, context: control(requests))
    with futures.ThreadPoolExecutor(4) as workers:
        server = grpc.server(workers)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("rpl.v1.RelayPolicy", handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


def test_a_server_that_never_answers_is_gone_after_the_timeout(tiny_bundle: Bundle) -> None:
    over = threading.Event()

    def silent(requests: Iterator[bytes]) -> Iterator[bytes]:
        over.wait()
        yield from ()

    with impostor(tiny_bundle, silent) as address, Client(address, timeout_s=0.2) as client:
        with client.control() as control, pytest.raises(ServerUnavailable, match=r"no answer came within 0.2 s"):
            control.start("a", ["door"], STATE)
        over.set()


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (b"\xff\xff", "not a rpl.v1.ControlReply"),
        (b"", "1 rows with 0"),
        (pb.ControlReply(rows=[pb.ReplyRow(robot="a")]).SerializeToString(), "no kind"),
        (
            pb.ControlReply(rows=[pb.ReplyRow(robot="a", finished=pb.Finished())]).SerializeToString(),
            "must be Started",
        ),
        (pb.ControlReply(rows=[pb.ReplyRow(robot="b", finished=pb.Finished())]).SerializeToString(), "do not match"),
    ],
)
def test_a_server_that_answers_something_else_is_found_out(tiny_bundle: Bundle, reply: bytes, sentence: str) -> None:
    def confused(requests: Iterator[bytes]) -> Iterator[bytes]:
        for _ in requests:
            yield reply

    with contextlib.ExitStack() as stack:
        address = stack.enter_context(impostor(tiny_bundle, confused))
        control = stack.enter_context(stack.enter_context(Client(address)).control())
        with pytest.raises(ProtocolViolation, match=sentence):
            control.start("a", ["door"], STATE)


def test_the_action_of_another_step_is_found_out(tiny_bundle: Bundle) -> None:
    def repetitive(requests: Iterator[bytes]) -> Iterator[bytes]:
        action = pb.Action(target=[0.0] * 2, subgoal=[0.0] * 5, replanned=True, valid_until_ns=1)
        yield from (pb.ControlReply(rows=[pb.ReplyRow(robot="a", action=action)]).SerializeToString() for _ in requests)

    with contextlib.ExitStack() as stack:
        address = stack.enter_context(impostor(tiny_bundle, repetitive))
        control = stack.enter_context(stack.enter_context(Client(address)).control())
        with pytest.raises(ProtocolViolation, match="answered step 3 with the action of another step"):
            control.step("a", 3, STATE)


@pytest.mark.parametrize("call", ["describe", "fetch", "plan", "act", "control"])
def test_a_client_that_wants_one_bundle_is_refused_by_another(
    call: str, tiny_address: str, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    one, high, low = np.ones((1, 5)), np.zeros((1, 3)), np.zeros((1, 2))
    arguments = {"fetch": (tmp_path / "copy",), "plan": (one, one, one, high), "act": (one, one, low)}.get(call, ())
    with Client(tiny_address, digest="abc") as client, pytest.raises(BundleError, match="for bundle abc alone"):
        getattr(client, call)(*arguments)
    with Client(tiny_address, digest=tiny_bundle.digest) as client:
        getattr(client, call)(*arguments)


def test_a_server_of_something_else_is_named(tiny_bundle: Bundle) -> None:
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(impostor(tiny_bundle))
        control = stack.enter_context(stack.enter_context(Client(address)).control())
        with pytest.raises(ProtocolViolation, match=r"does not speak rpl.v1"):
            control.start("a", ["door"], STATE)


def test_an_interrupted_step_closes_the_stream(tiny_bundle: Bundle) -> None:
    """Otherwise the late answer would be taken for the next step's."""
    answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def slow(requests: Iterator[bytes]) -> Iterator[bytes]:
        for _ in requests:
            signal.raise_signal(signal.SIGINT)
            yield answers.get()

    with impostor(tiny_bundle, slow) as address, Client(address) as client, client.control() as control:
        with pytest.raises(KeyboardInterrupt):
            control.step("a", 0, STATE)
        answers.put(pb.ControlReply().SerializeToString())
        with pytest.raises(ServerUnavailable):
            control.step("a", 1, STATE)


def test_a_message_over_the_limit_says_so(tiny_client: Client) -> None:
    with tiny_client.control() as control, pytest.raises(InvalidInput, match="too large"):
        control.step_batch(["a"] * 30_000, [0] * 30_000, np.zeros((30_000, 5)))


def test_rows_of_a_batch_stand_for_themselves(tiny_client: Client) -> None:
    with tiny_client.control() as control:
        for robot in "ab":
            control.start(robot, ["door"], STATE)
        first, second, third = control.step_batch(["a", "nobody", "b"], [0, 0, 0], np.zeros((3, 5)))
        assert isinstance(first, Action)
        assert isinstance(second, ProtocolViolation)
        assert isinstance(third, Action)


MISFITS: dict[str, tuple[str, Any, int, type[Exception]]] = {
    "a step too few": ("abc", [0, 0], 3, ValueError),
    "a state too few": ("abc", [0, 0, 0], 2, ValueError),
    "a robot too few": ("ab", [0, 0, 0], 3, ValueError),
    "half a step": ("abc", [0.5, 0, 0], 3, InvalidInput),
    "a step before the first": ("abc", np.array([-1, 0, 0]), 3, InvalidInput),
    "a step that wraps to the first": ("abc", np.array([2**32, 0, 0]), 3, InvalidInput),
    "steps of one each": ("abc", [[0], [0], [0]], 3, InvalidInput),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_batch_that_does_not_fit_is_not_sent(case: str, tiny_client: Client) -> None:
    robots, steps, states, error = MISFITS[case]
    with tiny_client.control() as control:
        for robot in "abc":
            control.start(robot, ["door"], STATE)
        with pytest.raises(error):
            control.step_batch(list(robots), steps, np.zeros((states, 5)))
        assert all(isinstance(reply, Action) for reply in control.step_batch("abc", [0, 0, 0], np.zeros((3, 5))))


@pytest.mark.parametrize("steps", [[], np.zeros(0, int)], ids=["list", "array"])
def test_a_batch_of_no_robots_is_no_message(steps: Any, tiny_client: Client) -> None:
    with tiny_client.control() as control:
        control.start("a", ["door"], STATE)
        assert len(control.step_batch([], steps, np.zeros((0, 5)))) == 0
        assert isinstance(control.step("a", 0, STATE), Action)


def test_a_batch_is_the_same_as_columns_and_as_rows(tiny_bundle: Bundle, tiny_client: Client) -> None:
    """With a state that is refused, a robot that a row asked for in between, and a plan ahead."""
    with tiny_client.control() as columns, tiny_client.control() as rows:
        robots = ["a", "b", "c"]
        for control, suffix in ((columns, ""), (rows, "-again")):
            for lead, robot in enumerate(robots):
                control.start(robot + suffix, ["door"], STATE, plan_lead=lead // 2)
        told: list[Action] = []
        steps = [0, 0, 0]
        for turn, state in enumerate(STATES):
            states = np.tile(state, (3, 1))
            if turn == 5:
                states[1] = np.nan
            if turn == 7:
                columns.step("a", steps[0], state)
                rows.step("a-again", steps[0], state)
                steps[0] += 1
            batch = columns.step_batch(robots, steps, states)
            singly = [
                rows.line.exchange([(f"{r}-again", Observation(s, v, 0))])[0]
                for r, s, v in zip(robots, steps, states, strict=True)
            ]
            assert isinstance(batch, ActionBatch)
            assert len(batch) == 3
            for at, (ours, theirs) in enumerate(zip(batch, singly, strict=True)):
                if isinstance(ours, Action) and isinstance(theirs, Action):
                    np.testing.assert_array_equal(ours.target, theirs.target)
                    np.testing.assert_array_equal(ours.subgoal, theirs.subgoal)
                    assert (ours.age, ours.replanned, ours.override) == (theirs.age, theirs.replanned, theirs.override)
                    assert (ours.upcoming is None) == (theirs.upcoming is None)
                    steps[at] += 1
                    told.append(ours)
                else:
                    assert (type(ours), str(ours)) == (type(theirs), str(theirs).replace("-again", ""))
        assert steps == [13, 11, 12]
        first = told[0].subgoal
        assert not any(
            np.array_equal(first, action.subgoal) for action in told[-3:]
        )  # a later plan changed no earlier action


COLUMNS = {
    "too few ages": pb.ActionColumns(targets=[0.0] * 4, ages=[0], subgoals=[0.0] * 5, valid_until_ns=1),
    "too few subgoals": pb.ActionColumns(targets=[0.0] * 4, ages=[0, 0], subgoals=[0.0] * 5),
    "a robot apart without a row": pb.ActionColumns(targets=[0.0] * 2, ages=[1], apart=[1]),
    "a robot apart that is not there": pb.ActionColumns(targets=[0.0] * 4, ages=[1, 1], apart=[9]),
    "the wrong time": pb.ActionColumns(targets=[0.0] * 4, ages=[1, 1], valid_until_ns=1),
    "rows": None,
}


@pytest.mark.parametrize("case", COLUMNS)
def test_columns_that_do_not_match_are_found_out(tiny_bundle: Bundle, case: str) -> None:
    goal = pb.ResolvedGoal(state=[0.0] * 5, mask=[1.0] * 5)

    def confused(requests: Iterator[bytes]) -> Iterator[bytes]:
        for handle, request in enumerate(requests, start=1):
            rows = [
                pb.ReplyRow(robot=row.robot, started=pb.Started(goal=goal, handle=handle))
                for row in pb.ControlRequest.FromString(request).rows
            ]
            yield pb.ControlReply(rows=rows, columns=None if rows else COLUMNS[case]).SerializeToString()

    with contextlib.ExitStack() as stack:
        address = stack.enter_context(impostor(tiny_bundle, confused))
        control = stack.enter_context(stack.enter_context(Client(address)).control())
        for robot in "ab":
            control.start(robot, ["door"], STATE)
        with pytest.raises(ProtocolViolation, match="answered"):
            control.step_batch(["a", "b"], [0, 0], np.zeros((2, 5)))


def test_fetch_takes_the_place_of_a_bundle_and_of_nothing_else(tiny_client: Client, tmp_path: Path) -> None:
    tiny_client.fetch(tmp_path / "bundle")
    tiny_client.fetch(tmp_path / "bundle")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(BundleError, match="is not a bundle"):
        tiny_client.fetch(tmp_path / "photos")
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"cat"


def test_a_fetch_that_stalls_is_one_sentence_after_the_timeout(tiny_bundle: Bundle, tmp_path: Path) -> None:
    over = threading.Event()
    with impostor(tiny_bundle, files={"high.onnx": bytes(1 << 20)}, stalled=over) as address:
        with (
            Client(address, timeout_s=0.5) as client,
            pytest.raises(ServerUnavailable, match=r"no answer came within 0\.5 s"),
        ):
            client.fetch(tmp_path / "copy")
        over.set()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"low.onnx": b"other"}, BundleCorrupt),
        ({"manifest.json": b"{}"}, BundleError),
        ({"../escaped": b"x"}, BundleError),
    ],
)
def test_fetch_leaves_nothing_behind_of_files_that_are_no_bundle(
    tiny_bundle: Bundle, tmp_path: Path, change: dict[str, bytes], error: type[RelayError]
) -> None:
    files = {path.name: path.read_bytes() for path in tiny_bundle.path.iterdir()}
    with impostor(tiny_bundle, files=files | change) as address, Client(address) as client, pytest.raises(error):
        client.fetch(tmp_path / "folder" / "copy")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_robots_are_spread_over_the_replicas_of_one_name(tiny_bundle: Bundle) -> None:
    with serve_in_thread(tiny_bundle) as first, serve_in_thread(tiny_bundle) as second, ExitStack() as stack:
        for number in range(16):
            client = stack.enter_context(Client(f"ipv4:{first},{second}", timeout_s=30.0))
            stack.enter_context(client.control()).start(f"robot-{number}", ["door"], STATE)
        running = []
        for address in (first, second):
            with Admin(address) as admin:
                running.append(len(admin.robots()))
    assert sum(running) == 16
    assert all(running)


SILENT = """
import sys, threading
from contextlib import ExitStack
from rpl_runtime.client import Client

address, state = sys.argv[1], [0.0] * 5
with ExitStack() as stack:
    controls = [stack.enter_context(stack.enter_context(Client(address)).control()) for _ in range(64)]
    for number, control in enumerate(controls):
        control.start(f"robot-{number}", ["door"], state)
        control.step(f"robot-{number}", 0, state)
    threading.Event().wait(3.5)  # [s] a ping after 1.5 s, and 1.5 s for its answer
    print(sum(control.step(f"robot-{number}", 1, state).age for number, control in enumerate(controls)))
"""


def test_robots_that_are_silent_for_longer_than_a_server_waits_for_its_pings_keep_their_streams(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many, each with a connection of its own, in a process in which nothing else reads them."""
    monkeypatch.setattr(server, "_SILENCE_S", 1.5)
    with serve_in_thread(tiny_bundle) as address:
        ran = subprocess.run([sys.executable, "-c", SILENT, address], capture_output=True, text=True, check=False)
    assert ran.stdout == "64\n", ran.stderr
