"""A real server on loopback: its answers, its refusals, its start and stop."""

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import policies
from processes import started
from rpl_runtime._pb.rpl.v1 import relay_pb2 as pb
from rpl_runtime.client.client import Client, Control
from rpl_runtime.errors import (
    BundleCorrupt,
    InvalidInput,
    ProtocolViolation,
    RelayError,
    RobotLeased,
    ServerStopping,
    ServerUnavailable,
    StepOutOfOrder,
)
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.policy.graphs import Graph, OnnxPolicy
from rpl_runtime.relay.messages import Action, Finish
from rpl_runtime.server.server import ServerConfig, serve_in_thread
from rpl_runtime.wire import control as codec

pytestmark = pytest.mark.usefixtures("transport")  # each test with each way that the bytes can take

STATE = np.zeros(5, dtype=np.float32)


@pytest.fixture
def control(tiny_client: Client) -> Iterator[Control]:
    with tiny_client.control() as control:
        yield control


@pytest.fixture
def channel(tiny_address: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(tiny_address) as channel:
        yield channel


def call(channel: grpc.Channel, method: str, request: bytes) -> bytes:
    return channel.unary_unary(f"/rpl.v1.RelayPolicy/{method}")(request, timeout=5)


def control_call(channel: grpc.Channel, *requests: bytes) -> list[pb.ControlReply]:
    replies = channel.stream_stream("/rpl.v1.RelayPolicy/Control")(iter(requests), timeout=5)
    return [pb.ControlReply.FromString(raw) for raw in replies]


def test_describe_tells_the_whole_spec(tiny_client: Client, tiny_bundle: Bundle) -> None:
    model = tiny_client.describe()
    assert model.spec == tiny_bundle.spec
    assert model.digest == tiny_bundle.digest
    assert {name: file.size for name, file in model.files.items()} == {
        name: len(content) for name, content in tiny_bundle.files.items()
    }


def test_fetch_brings_the_same_bundle(tiny_client: Client, tiny_bundle: Bundle, tmp_path: Path) -> None:
    fetched = tiny_client.fetch(tmp_path / "copy")
    assert fetched.digest == tiny_bundle.digest
    assert fetched.files == tiny_bundle.files


def test_plan_and_act_are_the_policys_own(tiny_client: Client, tiny_bundle: Bundle) -> None:
    policy, rng = OnnxPolicy(tiny_bundle), np.random.default_rng(0)
    for batch in (1, 3, 100):
        state, goal = rng.uniform(-0.4, 0.4, (2, batch, 5)).astype(np.float32)
        mask = np.ones((batch, 5), dtype=np.float32)
        high, low = rng.normal(size=(batch, 3)).astype(np.float32), rng.normal(size=(batch, 2)).astype(np.float32)
        subgoal = tiny_client.plan(state, goal, mask, high)
        np.testing.assert_array_equal(subgoal, policy.plan(state, goal, mask, high))
        np.testing.assert_array_equal(tiny_client.act(state, subgoal, low), policy.act(state, subgoal, low))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"state": np.full((1, 5), np.nan)}, "finite number"),
        ({"state": np.full((1, 5), 99.0)}, "must be"),
        ({"state": np.zeros((1, 4))}, "for each row"),
        ({"goal": np.full((1, 5), np.inf)}, "finite"),
        ({"mask": np.full((1, 5), 0.5)}, "0 and 1"),
        ({"mask": np.zeros((1, 5))}, "at least one"),
        ({"noise": np.full((1, 3), np.nan)}, "noise"),
        ({"noise": np.zeros((1, 2))}, "for each row"),
        ({"state": np.zeros((0, 5)), "goal": np.zeros((0, 5))}, "at least one row"),
    ],
)
def test_plan_refuses_what_is_not_acceptable(tiny_client: Client, change: dict[str, Any], sentence: str) -> None:
    one = np.ones((1, 5))
    with pytest.raises(InvalidInput, match=sentence):
        tiny_client.plan(**({"state": one, "goal": one, "mask": one, "noise": np.zeros((1, 3))} | change))


def test_act_refuses_what_is_not_acceptable(tiny_client: Client) -> None:
    with pytest.raises(InvalidInput, match="subgoal"):
        tiny_client.act(np.zeros((1, 5)), np.full((1, 5), np.nan), np.zeros((1, 2)))


def test_act_answers_no_action_outside_its_range(own_bundle: Bundle) -> None:
    def reach_too_far(graph: onnx.ModelProto) -> None:
        [reach] = [constant for constant in graph.graph.initializer if constant.name == "reach"]
        reach.CopyFrom(onnx.numpy_helper.from_array(10 * onnx.numpy_helper.to_array(reach), "reach"))

    wild = policies.rewritten(own_bundle, "low", reach_too_far)
    with (
        serve_in_thread(wild) as address,
        Client(address) as client,
        pytest.raises(RelayError, match="the policy's answer cannot be used: the action has"),
    ):
        client.act(np.ones((1, 5)), np.ones((1, 5)), np.zeros((1, 2)))


@pytest.mark.parametrize("method", ["Plan", "Act"])
def test_bytes_that_are_no_message_are_an_invalid_argument(channel: grpc.Channel, method: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, method, b"\xff\xff")
    status: Any = caught.value
    assert status.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert dict(status.trailing_metadata())["rpl-reason"] == "InvalidInput"


STREAM_ENDS = {
    "bytes": (b"\xff\xff", grpc.StatusCode.INVALID_ARGUMENT, "not a rpl.v1.ControlRequest"),
    "rows": (codec.pack_request([("a", Finish())] * 257), grpc.StatusCode.INVALID_ARGUMENT, "must be 1 to 256"),
    "empty": (b"", grpc.StatusCode.FAILED_PRECONDITION, "no rows"),
    "no robot": (codec.pack_request([("", Finish())]), grpc.StatusCode.FAILED_PRECONDITION, "no robot id"),
    "no kind": (
        pb.ControlRequest(rows=[pb.RequestRow(robot="a")]).SerializeToString(),
        grpc.StatusCode.FAILED_PRECONDITION,
        "no kind",
    ),
    "oversized": (bytes(codec.MAX_MESSAGE_BYTES + 1), grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max"),
}


@pytest.mark.parametrize("case", STREAM_ENDS)
def test_a_message_without_meaning_ends_its_stream_and_no_other(
    case: str, channel: grpc.Channel, control: Control
) -> None:
    request, code, sentence = STREAM_ENDS[case]
    control.start("bystander", ["door"], STATE)
    with pytest.raises(grpc.RpcError) as caught:
        control_call(channel, request)
    status: Any = caught.value
    assert status.code() is code
    assert sentence in status.details()
    assert control.step("bystander", 0, STATE).replanned


SICK_STEPS = {
    "nan": (1, np.full(5, np.nan), InvalidInput),
    "infinity": (1, np.full(5, np.inf), InvalidInput),
    "range": (1, np.full(5, 11.0), InvalidInput),
    "size": (1, np.zeros(6), InvalidInput),
    "gap": (2, STATE, StepOutOfOrder),
    "repeat": (0, STATE, StepOutOfOrder),
}


@pytest.mark.parametrize("case", SICK_STEPS)
def test_a_refused_step_costs_only_itself(case: str, tiny_client: Client, control: Control) -> None:
    step, state, error = SICK_STEPS[case]
    with tiny_client.control() as other:
        other.start("elsewhere", ["door"], STATE)
        for robot in "ab":
            control.start(robot, ["door"], STATE)
            control.step(robot, 0, STATE)
        first, second = control.step_batch(["a", "b"], [1, step], [STATE, state])
        assert isinstance(first, Action)
        assert type(second) is error
        assert control.step("b", 1, STATE).age == 1
        assert other.step("elsewhere", 0, STATE).replanned


def test_the_rows_of_a_takeover_are_answered_as_the_proto_says(channel: grpc.Channel, control: Control) -> None:
    """In messages that are written from the proto, while another robot runs."""
    control.start("bystander", ["door"], STATE)
    control.step("bystander", 0, STATE)
    zeros, door = [0.0] * 5, pb.Goal(elements=pb.ElementSet(names=["door"]))
    kinds = [
        {"start": pb.Start(goal=door, state=zeros)},
        {"observation": pb.Observation(step=0, state=zeros)},
        {"take_over": pb.TakeOver(by="gamepad", why="it hangs")},
        {"observation": pb.Observation(step=1, state=zeros)},
        {"applied": pb.Applied(step=1, state=zeros, target=[0.5, -0.5])},
        {"applied": pb.Applied(step=3, state=zeros, target=[0.5, -0.5])},
        {"applied": pb.Applied(step=2, state=zeros, target=[0.5])},
        {"applied": pb.Applied(step=2, state=zeros, target=[float("nan"), 0.0])},
        {"applied": pb.Applied(step=2, state=zeros, target=[0.5, -0.5])},
        {"hand_back": pb.HandBack()},
        {"hand_back": pb.HandBack()},
        {"observation": pb.Observation(step=3, state=zeros)},
        {"finish": pb.Finish()},
    ]
    messages = [pb.ControlRequest(rows=[pb.RequestRow(robot="a", **kind)]).SerializeToString() for kind in kinds]
    rows = [reply.rows[0] for reply in control_call(channel, *messages)]
    assert [row.refusal.reason or row.WhichOneof("kind") for row in rows] == [
        *("started", "action", "taken_over", "ProtocolViolation", "noted"),
        *("StepOutOfOrder", "InvalidInput", "InvalidInput", "noted"),
        *("handed_back", "ProtocolViolation", "action", "finished"),
    ]
    assert (rows[2].taken_over.step, rows[4].noted.step, rows[9].handed_back.step) == (1, 1, 3)
    assert (rows[11].action.replanned, rows[11].action.age) == (True, 0)
    assert rows[12].finished.steps == 4
    row = pb.RequestRow(robot="bystander", take_over=pb.TakeOver(by="gamepad"))
    [foreign] = control_call(channel, pb.ControlRequest(rows=[row]).SerializeToString())
    assert foreign.rows[0].refusal.reason == "RobotLeased"
    assert control.step("bystander", 1, STATE).age == 1


def test_an_observation_before_start_is_refused(control: Control) -> None:
    with pytest.raises(ProtocolViolation, match="send a Start first"):
        control.step("a", 0, STATE)
    control.start("a", ["door"], STATE)


def test_a_robot_is_leased_to_one_stream_at_a_time(tiny_client: Client) -> None:
    with tiny_client.control() as first, tiny_client.control() as second:
        first.start("a", ["door"], STATE)
        with pytest.raises(RobotLeased, match="another stream"):
            second.start("a", ["door"], STATE)
        with pytest.raises(RobotLeased, match="this stream"):
            first.start("a", ["door"], STATE)
        assert first.step("a", 0, STATE).replanned
        assert first.finish("a") == 1
        second.start("a", ["door"], STATE)
        second.finish("a")
        first.start("a", ["door"], STATE)
    with tiny_client.control() as third:
        third.start("a", ["door"], STATE)


def test_a_stream_that_ends_badly_frees_its_robots(channel: grpc.Channel, control: Control) -> None:
    start = pb.Start(goal=pb.Goal(elements=pb.ElementSet(names=["door"])), state=[0.0] * 5)
    request = pb.ControlRequest(rows=[pb.RequestRow(robot="a", start=start)]).SerializeToString()
    with pytest.raises(grpc.RpcError):
        control_call(channel, request, b"")
    control.start("a", ["door"], STATE)


def test_a_client_that_dies_frees_its_robots(tiny_address: str, caplog: pytest.LogCaptureFixture) -> None:
    """The server notices by itself; until then the robot stays leased."""
    program = (
        "import sys, numpy as np\nfrom rpl_runtime.client.client import Client\n"
        "control = Client(sys.argv[1]).control()\n"
        "control.start('doomed', ['door'], np.zeros(5))\nprint('started', flush=True)\nsys.stdin.read()"
    )
    command = [sys.executable, "-c", program, tiny_address]
    with (
        started(command, stdin=subprocess.PIPE) as process,
        Client(tiny_address) as client,
        client.control() as control,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        with pytest.raises(RobotLeased):
            control.start("doomed", ["door"], STATE)
        process.kill()
        process.wait()
        for _ in range(10_000):
            with contextlib.suppress(RobotLeased):
                control.start("doomed", ["door"], STATE)
                break
        assert control.step("doomed", 0, STATE).replanned
    assert not caplog.records


def test_many_streams_run_side_by_side(tiny_address: str, tiny_bundle: Bundle) -> None:
    """Each robot's run equals its run on a loop of its own."""
    from rpl_runtime.relay.loop import RelayLoop

    rng = np.random.default_rng(0)
    states = rng.uniform(-0.4, 0.4, (20, 5)).astype(np.float32)
    targets: dict[str, list[np.ndarray]] = {}

    def drive(robot: str) -> None:
        with Client(tiny_address) as client, client.control() as control:
            control.start(robot, ["door", "lamp"], STATE, seed=3)
            targets[robot] = [control.step(robot, step, state).target for step, state in enumerate(states)]

    threads = [threading.Thread(target=drive, args=(f"robot {number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loop = RelayLoop(OnnxPolicy(tiny_bundle), tiny_bundle.spec)
    assert len(targets) == 6
    for robot, found in targets.items():
        loop.start(robot, tiny_bundle.spec.resolve(["door", "lamp"], STATE), seed=3)
        alone = [loop.step([robot], [step], state[None]).action[0] for step, state in enumerate(states)]
        np.testing.assert_array_equal(found, alone)


def test_a_fault_of_the_server_says_nothing_of_its_inside(
    own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(*_: object) -> None:
        raise ValueError("the inside")

    with serve_in_thread(own_bundle) as address, Client(address) as client, client.control() as control:
        control.start("a", ["door"], STATE)
        with monkeypatch.context() as patch:
            patch.setattr(Graph, "run_one", explode)
            for failing in (
                lambda: control.step("a", 0, STATE),
                lambda: client.act(np.zeros((1, 5)), np.zeros((1, 5)), np.zeros((1, 2))),
            ):
                with pytest.raises(RelayError) as caught:
                    failing()
                assert type(caught.value) is RelayError
                assert str(caught.value) == "the server failed to answer; its own log says why"
        with client.control() as another:
            another.start("a", ["door"], STATE)
            assert another.step("a", 0, STATE).replanned
    assert [record.exc_info[1].args for record in caplog.records if record.exc_info] == [("the inside",)] * 2


def test_health_and_reflection_are_standard(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "rpl.v1.RelayPolicy", "tiny"):
        reply = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as unknown:
        health.Check(health_pb2.HealthCheckRequest(service="other"), timeout=5)
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
    watch = health.Watch(health_pb2.HealthCheckRequest(service="other"), timeout=5)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()
    with pytest.raises(grpc.RpcError) as unknown:
        call(channel, "Other", b"")
    assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    [reply] = reflection.ServerReflectionInfo(iter([request]), timeout=5)
    assert "rpl.v1.RelayPolicy" in {service.name for service in reply.list_services_response.service}
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol="rpl.v1.RelayPolicy")
    [reply] = reflection.ServerReflectionInfo(iter([request]), timeout=5)
    assert reply.file_descriptor_response.file_descriptor_proto


def test_a_large_batch_keeps_no_one_waiting(own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a level runs, health checks are answered and robots take steps."""
    busy, done, act = threading.Event(), threading.Event(), OnnxPolicy.act

    def slow(policy: OnnxPolicy, state: np.ndarray, *others: np.ndarray) -> np.ndarray:
        if len(state) == 65:
            busy.set()
            done.wait()
        return act(policy, state, *others)

    monkeypatch.setattr(OnnxPolicy, "act", slow)
    with serve_in_thread(own_bundle) as address, Client(address) as client, client.control() as control:
        batch = np.zeros((65, 5)), np.zeros((65, 5)), np.zeros((65, 2))
        asking = threading.Thread(target=client.act, args=batch)
        asking.start()
        busy.wait()
        with grpc.insecure_channel(address) as channel:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        control.start("a", ["door"], STATE)
        assert control.step("a", 0, STATE).replanned
        assert asking.is_alive()
        done.set()
        asking.join()


def test_it_is_live_at_once_and_ready_after_warm_up(own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    warming, warm = threading.Event(), threading.Event()

    def warm_up(policy: OnnxPolicy) -> None:
        warming.set()
        warm.wait()

    monkeypatch.setattr(OnnxPolicy, "warm_up", warm_up)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    found = {}

    def look() -> None:
        warming.wait()
        try:
            with grpc.insecure_channel(address) as channel:
                for service in ("", "rpl.v1.RelayPolicy", "tiny"):
                    reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
                    found[service] = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
        finally:  # a server that is not live yet makes the test fail, not wait
            warm.set()

    looking = threading.Thread(target=look)
    looking.start()
    with serve_in_thread(own_bundle, ServerConfig(address)):
        looking.join()
    assert found == {"": "SERVING", "rpl.v1.RelayPolicy": "NOT_SERVING", "tiny": "NOT_SERVING"}


def test_a_damaged_bundle_is_not_served(own_bundle: Bundle) -> None:
    """Also if the damage happened after the bundle was loaded once."""
    from rpl_runtime.policy.bundle import load_bundle

    (own_bundle.path / "low.onnx").write_bytes(b"other")
    with pytest.raises(BundleCorrupt):
        load_bundle(own_bundle.path)


def test_two_policies_of_one_name_are_not_served(own_bundle: Bundle, tmp_path: Path) -> None:
    for other in (policies.tiny_bundle(tmp_path / "other", seed=1), own_bundle):
        with (
            pytest.raises(InvalidInput, match="two of the bundles to be served are named 'tiny'"),
            serve_in_thread([own_bundle, other]),
        ):
            pass


def test_stopping_lets_runs_end_within_its_bound(own_bundle: Bundle) -> None:
    """While it drains, the server decides steps of running robots; then it is gone, with a clear error."""
    with contextlib.ExitStack() as stack:
        server = contextlib.ExitStack()
        address = server.enter_context(serve_in_thread(own_bundle, ServerConfig("127.0.0.1:0", drain_s=0.5)))
        client = stack.enter_context(Client(address))
        control = stack.enter_context(client.control())
        control.start("a", ["door"], STATE)
        stopping = threading.Thread(target=server.close)
        stopping.start()
        with pytest.raises(ServerStopping, match="about to stop; its runs go on"):  # noqa: PT012
            for step in range(10_000_000):
                control.step("a", step, STATE)
        stopping.join()
        assert step > 0
        with pytest.raises(ServerUnavailable, match=f"no server answers at {address}"):
            client.describe()
