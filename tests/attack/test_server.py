"""A server under attack: it answers, starves nobody, and stops when it is told to."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import policies
from attack.floods import FLOODS, flood
from attack.hostile import Attacker, Tally
from attack.http2 import Http2
from attack.served import DRAIN_S, Served, latencies, serve_bundle, served, targets
from rpl_runtime.client.admin import Admin
from rpl_runtime.client.client import Client
from rpl_runtime.errors import LimitReached, ServerUnavailable
from rpl_runtime.policy.bundle import Bundle, load_bundle

pytestmark = pytest.mark.usefixtures("transport")  # each test with each way that the bytes can take

KEPT_MB = 200.0  # [MB] that a server may keep of an attack
STOP_S = 5.0  # [s] after the drain
HURRY_S = 2.5  # [s] after the first of many signals: 2 s after the second
PACE_S = 0.02  # [s] between the steps of the robot beside an attack
SHORT = (
    "240 streams of 4 rows",
    "8 streams of 256 rows",
    "empty rows",
    "endless names",
    "large batches",
    "watchers without a window",
)
EACH_FLOOD = [pytest.param(name, marks=() if name in SHORT else pytest.mark.long) for name in FLOODS]


@pytest.fixture(scope="module")
def kitchen() -> Bundle:
    """The shipped policy, whose steps cost what steps cost."""
    return load_bundle(Path(__file__).parents[2] / "models" / "kitchen")


@pytest.mark.parametrize(("messages", "seed"), [(2000, 0), pytest.param(100_000, 2, marks=pytest.mark.long)])
def test_hostile_messages_get_the_right_status_and_change_no_bit_of_a_run_beside_them(
    messages: int, seed: int, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """The limits are such that the attack reaches them."""
    tally, different = Tally(messages), 0
    with served(tiny_bundle, tmp_path, streams=8, calls_per_s=100, rows_per_s=3000) as server:
        alone, idle_mb = targets(server), server.memory_mb()
        attackers = [Attacker(server.address, server.spec, server.tokens, 4 * seed + number) for number in range(4)]
        threads = [threading.Thread(target=attacker.run, args=(tally,)) for attacker in attackers]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            different += not np.array_equal(targets(server), alone)
        np.testing.assert_array_equal(targets(server), alone)
        kept_mb = server.memory_mb() - idle_mb
    assert tally.sent >= messages
    assert tally.wrong == []
    assert different == 0
    assert kept_mb < KEPT_MB


def test_garbage_in_the_calls_that_anybody_may_make_gets_a_status_and_no_traceback(
    tiny_bundle: Bundle, capfd: pytest.CaptureFixture[str]
) -> None:
    calls = (
        "health.v1.Health/Check",
        "health.v1.Health/Watch",
        "reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    )
    with served(tiny_bundle) as server:
        for call in calls:
            with Http2(server.address) as caller:
                assert ends(caller, f"/grpc.{call}"), call
    assert capfd.readouterr().err == ""


def test_a_path_that_is_no_text_gets_a_status_and_no_traceback(
    transport: str, tiny_bundle: Bundle, capfd: pytest.CaptureFixture[str]
) -> None:
    if transport == "public":
        pytest.skip("grpc.aio ends its server")
    with served(tiny_bundle) as server, Http2(server.address) as caller:
        assert ends(caller, "/\udcff")
        targets(server)
    assert capfd.readouterr().err == ""


def ends(caller: Http2, path: str) -> bool:
    """Whether a call of garbage ends."""
    caller.hear(5.0)
    stream = caller.call(path)
    assert stream is not None
    caller.send(stream, b"\xff" * 9, last=True)
    return not wait_for(lambda: (caller.hear(0.1), stream in caller)[1], lambda still_open: not still_open, 10.0)


@pytest.mark.parametrize("name", EACH_FLOOD)
def test_no_caller_holds_up_another_or_the_end(name: str, kitchen: Bundle, tmp_path: Path) -> None:
    """And SIGTERM ends the server during the flood.

    The bound is for two cores that another test keeps busy; without turns it is 50 times.
    """
    with served(kitchen, tmp_path) as server:
        alone = np.median(latencies(server, 25, PACE_S))
        with flood(name, server):
            assert np.median(latencies(server, 25, PACE_S)) < 25 * alone
            assert server.stop() < DRAIN_S + STOP_S
            assert server.process.exitcode == 0


def test_a_robot_that_is_seldom_heard_is_heard_beside_a_caller_that_believes_itself_alone(
    kitchen: Bundle, tmp_path: Path
) -> None:
    """Until its message is read, the other may take all the time: 3 s, until the robot's connection counts as lost."""
    with served(kitchen, tmp_path) as server, flood("refused rows", server):
        assert latencies(server, 8, 0.7).max() < 1.5


@pytest.mark.parametrize("name", ["endless names", "garbage", "large batches"])
def test_a_flood_of_large_messages_is_not_kept(name: str, kitchen: Bundle) -> None:
    with served(kitchen) as server:
        idle_mb = server.memory_mb()
        with flood(name, server):
            latencies(server, 50, PACE_S)
        assert wait_for(lambda: server.memory_mb() - idle_mb, lambda kept: kept < KEPT_MB) < KEPT_MB


def test_little_is_read_ahead_of_what_is_answered(kitchen: Bundle, tmp_path: Path) -> None:
    with served(kitchen, tmp_path) as server:
        idle_mb = server.memory_mb()
        with flood("rows of all sizes", server):
            latencies(server, 100, PACE_S)
            assert server.memory_mb() - idle_mb < KEPT_MB


@pytest.mark.long
@pytest.mark.parametrize("tokens", [True, False])
@pytest.mark.parametrize("name", FLOODS)
def test_another_robots_step_takes_less_than_twice_its_time(
    name: str, tokens: bool, kitchen: Bundle, tmp_path: Path
) -> None:
    """Without tokens a caller is a connection. The bounds are for two idle cores."""
    with served(kitchen, tmp_path if tokens else None) as server:
        latencies(server, 50, PACE_S)
        idle, idle_mb = latencies(server, 250, PACE_S), server.memory_mb()
        with flood(name, server):
            beside = latencies(server, 1000, PACE_S)
        kept_mb = wait_for(lambda: server.memory_mb() - idle_mb, lambda kept: kept < KEPT_MB)
    p50, p50_beside, p999 = np.percentile(idle, 50), np.percentile(beside, 50), np.percentile(beside, 99.9)
    print(f"{name}: p50 {p50_beside / p50:.2f} of the idle one, p99.9 {1e3 * p999:.0f} ms, {kept_mb:.0f} MB kept")
    assert p50_beside < 2 * p50
    assert p999 < server.spec.period_s
    assert kept_mb < KEPT_MB


def wait_for(look: Callable[[], float], enough: Callable[[float], bool], patience_s: float = 60.0) -> float:
    """What is seen as soon as it is enough, or at last."""
    until = time.monotonic() + patience_s
    while not enough(seen := look()) and time.monotonic() < until:
        time.sleep(0.1)
    return seen


def test_a_thousand_health_watchers_that_take_nothing_hold_nobody(kitchen: Bundle, tmp_path: Path) -> None:
    other = policies.tiny_bundle(tmp_path / "other")
    with served(kitchen) as server, flood("watchers without a window", server), Admin(server.address) as admin:
        admin.load(str(other.path))
        assert healthy(server, "tiny") == "SERVING"
        admin.unload("tiny")
        assert healthy(server, "tiny") == "NOT_SERVING"
        assert server.stop() < DRAIN_S + STOP_S


def healthy(server: Served, service: str) -> str:
    with grpc.insecure_channel(server.address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        status = health_pb2_grpc.HealthStub(channel).Check(request, timeout=5).status
        return health_pb2.HealthCheckResponse.ServingStatus.Name(status)


def test_a_caller_has_no_more_watchers_than_calls(tiny_bundle: Bundle) -> None:
    with served(tiny_bundle) as server, Http2(server.address) as caller:
        caller.hear(5.0)
        watchers = [caller.call("/grpc.health.v1.Health/Watch") for _ in range(100)]
        for watcher in watchers:
            assert watcher is not None
            caller.send(watcher, b"")
        count = wait_for(lambda: (caller.hear(), sum(watcher in caller for watcher in watchers))[1], lambda n: n <= 64)
    assert count == 64


def test_a_caller_takes_no_more_leases_than_its_own(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with (
        served(tiny_bundle, tmp_path) as server,
        flood("240 streams of 4 rows", server),
        Client(server.address, access=server.access()) as client,
        client.control() as control,
    ):
        goal, state = [next(iter(server.spec.elements))], np.zeros(server.spec.state.dim)
        for number in range(256):
            control.start(f"robot {number}", goal, state)
        with pytest.raises(LimitReached, match=r"robot runs as many robots as one caller may \(256\)"):
            control.start("one more", goal, state)


@pytest.mark.parametrize("hurry", [False, True])
def test_a_load_that_hangs_does_not_make_the_server_deaf(hurry: bool, tiny_bundle: Bundle) -> None:
    with served(tiny_bundle, serve=serve_with_loads_that_hang) as server, Admin(server.address, 60.0) as admin:
        loading = threading.Thread(target=try_to_load, args=(admin, tiny_bundle))
        loading.start()
        loading.join(0.5)
        assert loading.is_alive()
        targets(server)
        assert server.stop(hurry) < (HURRY_S if hurry else DRAIN_S + STOP_S)
        assert server.process.exitcode == 1
        loading.join()


def try_to_load(admin: Admin, bundle: Bundle) -> None:
    with pytest.raises(ServerUnavailable):
        admin.load(str(bundle.path))


def serve_with_loads_that_hang(on_ready: Callable[[str], None], *arguments: str) -> None:
    import rpl_runtime.server.admin_service as admin_service

    admin_service.prepare = lambda *_: threading.Event().wait()
    serve_bundle(on_ready, *arguments)


def serve_deaf(on_ready: Callable[[str], None], *arguments: str) -> None:
    """A server whose event loop hangs for ever as soon as it serves."""
    serve_bundle(lambda address: (on_ready(address), threading.Event().wait()), *arguments)


@pytest.mark.parametrize("hurry", [False, True])
def test_a_loop_that_hangs_is_ended_in_time(hurry: bool, tiny_bundle: Bundle) -> None:
    with served(tiny_bundle, serve=serve_deaf) as server:
        assert server.stop(hurry) < (HURRY_S if hurry else DRAIN_S + STOP_S)
        assert server.process.exitcode == 1
