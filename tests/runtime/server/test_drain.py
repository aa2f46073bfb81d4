"""How a server stops: it reports it, refuses new runs, lets open runs end, and exits within a bounded time."""

import contextlib
import itertools
import threading
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rpl_runtime._pb.rpl.v1 import relay_pb2 as pb
from rpl_runtime.client.client import Client
from rpl_runtime.errors import RobotLeased, ServerStopping, ServerUnavailable
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.server.server import ServerConfig, serve_in_thread

pytestmark = pytest.mark.usefixtures("transport")  # each test with each way that the bytes can take

STATE = np.zeros(5, dtype=np.float32)
LONG_S = 600.0  # longer than any test: none may depend on it


class Server:
    """A server that a test can stop, as SIGTERM does, while the test goes on."""

    def __init__(self, bundle: Bundle, config: ServerConfig) -> None:
        self._life = contextlib.ExitStack()
        self.address = self._life.enter_context(serve_in_thread(bundle, config))
        self._stopping = threading.Thread(target=self._life.close)

    def stop(self) -> None:
        """Begin to stop; returns when it has begun."""
        with grpc.insecure_channel(self.address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="tiny"))
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            self._stopping.start()
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()

    def gone(self) -> None:
        """Wait until it has stopped; stop it if the test has not."""
        if self._stopping.ident is None:
            self._stopping.start()
        self._stopping.join()


@pytest.fixture
def server(own_bundle: Bundle) -> Iterator[Server]:
    server = Server(own_bundle, ServerConfig("127.0.0.1:0", drain_s=LONG_S))
    yield server
    server.gone()


def test_an_idle_stream_does_not_hold_the_server(server: Server) -> None:
    with Client(server.address) as client, client.control() as idle, client.control() as over:
        over.start("a", ["door"], STATE)
        over.finish("a")
        server.stop()
        server.gone()
        for control in (idle, over):
            with pytest.raises(ServerStopping, match="about to stop; its runs go on at another one"):
                control.start("a", ["door"], STATE)


def test_a_run_goes_on_to_its_end_and_the_server_with_it(server: Server) -> None:
    with Client(server.address) as client, client.control() as control:
        control.start("a", ["door"], STATE)
        control.start("b", ["door"], STATE)
        server.stop()
        for step in range(9):
            assert control.step("a", step, STATE).age == step % 4
        assert control.finish("a") == 9
        assert control.finish("b") == 0
        server.gone()
        with pytest.raises(ServerUnavailable, match=f"no server answers at {server.address}"):
            client.describe()


def test_a_stream_that_its_client_closes_holds_nothing(server: Server) -> None:
    with Client(server.address) as client:
        with client.control() as control:
            control.start("a", ["door"], STATE)
            server.stop()
        server.gone()


def test_no_run_begins_any_more(server: Server) -> None:
    with Client(server.address) as client, client.control() as control:
        control.start("a", ["door"], STATE)
        server.stop()
        with pytest.raises(ServerStopping, match="takes no new runs"):
            control.start("b", ["door"], STATE)
        with pytest.raises(RobotLeased):
            control.start("a", ["door"], STATE)
        assert control.step("a", 0, STATE).replanned
        with client.control() as another, pytest.raises(ServerStopping, match="about to stop"):
            another.start("b", ["door"], STATE)
        control.finish("a")


def test_a_run_that_does_not_end_is_ended(own_bundle: Bundle) -> None:
    server = Server(own_bundle, ServerConfig("127.0.0.1:0", drain_s=0.2))
    with Client(server.address) as client, client.control() as control:
        control.start("a", ["door"], STATE)
        server.stop()
        server.gone()
        with pytest.raises(ServerStopping, match="its runs go on at another one"):
            control.step("a", 0, STATE)


def test_a_reader_that_takes_nothing_does_not_hold_it_for_longer(own_bundle: Bundle) -> None:
    """Its unread replies fill the connection, so the server waits for it."""
    server = Server(own_bundle, ServerConfig("127.0.0.1:0", drain_s=0.2))
    message = pb.ControlRequest(rows=[pb.RequestRow(robot="a", observation=pb.Observation())] * 100)
    with grpc.insecure_channel(server.address) as channel:
        flood = itertools.repeat(message.SerializeToString())
        call = channel.stream_stream("/rpl.v1.RelayPolicy/Control")(flood)
        next(call)
        server.stop()
        server.gone()
        call.cancel()


def test_idle_robots_are_reaped_and_busy_ones_are_not(own_bundle: Bundle) -> None:
    with (
        serve_in_thread(own_bundle, ServerConfig("127.0.0.1:0", idle_s=0.2)) as address,
        Client(address) as client,
        client.control() as one,
        client.control() as two,
    ):
        one.start("idle", ["door"], STATE)
        one.start("busy", ["door"], STATE)
        for step in itertools.count():
            assert one.step("busy", step, STATE).age == step % 4
            with contextlib.suppress(RobotLeased):
                two.start("idle", ["door"], STATE)
                break
        assert two.step("idle", 0, STATE).replanned
