"""The spans that a collector receives from a real server through the real exporter."""

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np
import pytest

from rpl_runtime.client.admin import Admin
from rpl_runtime.client.client import Client
from rpl_runtime.errors import InvalidInput, ModelNotFound, StepOutOfOrder
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.server.server import ServerConfig, serve_in_thread

pytest.importorskip("opentelemetry.sdk")
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

pytestmark = pytest.mark.usefixtures("transport")  # each test with each way that the bytes can take

STATE = np.zeros(5, dtype=np.float32)


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """A minimal OpenTelemetry collector."""

    def __init__(self) -> None:
        self.requests: queue.SimpleQueue = queue.SimpleQueue()

    def Export(self, request, context):
        self.requests.put(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    def spans(self) -> list[Span]:
        """All received spans, in the order of their start."""
        found = []
        while not self.requests.empty():
            for resource in self.requests.get().resource_spans:
                self.resource = attributes(resource.resource)
                found += [span for scope in resource.scope_spans for span in scope.spans]
        return sorted(found, key=lambda span: span.start_time_unix_nano)


def attributes(of) -> dict[str, object]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in of.attributes}


@contextmanager
def traced(bundle: Bundle, url: str) -> Iterator[Client]:
    """A client of a server that sends its spans to a collector; all are sent when the block ends."""
    config = ServerConfig(address="127.0.0.1:0", traces=url)
    with serve_in_thread(bundle, config) as address, Client(address) as client:
        yield client


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    with ThreadPoolExecutor(1) as workers:
        collector, server = Collector(), grpc.server(workers)
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield collector, f"http://127.0.0.1:{port}"
        server.stop(None).wait()


def test_a_run_is_a_span_of_its_call_and_every_plan_one_of_the_run(
    tiny_bundle: Bundle, collector: tuple[Collector, str]
) -> None:
    collected, url = collector
    with traced(tiny_bundle, url) as client, client.control() as control:
        control.start("a", ["door"], STATE)
        for step in range(6):
            control.step("a", step, STATE)
        with pytest.raises(StepOutOfOrder):
            control.step("a", 9, STATE)
        control.finish("a")
    call, run, *plans = [span for span in collected.spans() if not span.name.endswith("Describe")]
    assert collected.resource["service.name"] == "rpl-serve"
    assert call.name == "rpl.v1.RelayPolicy/Control"
    assert call.kind == Span.SPAN_KIND_SERVER
    assert attributes(call)["rpl.bundle"] == tiny_bundle.digest
    assert (run.name, run.parent_span_id) == ("run", call.span_id)
    assert attributes(run) == {"rpl.robot": "a", "rpl.steps": 6}
    assert [(event.name, attributes(event)["reason"]) for event in run.events] == [("refused", "StepOutOfOrder")]
    assert [(plan.name, attributes(plan)["rpl.step"]) for plan in plans] == [("plan", 0), ("plan", 4)]
    for plan in plans:
        assert (plan.trace_id, plan.parent_span_id) == (call.trace_id, run.span_id)
        assert run.start_time_unix_nano <= plan.start_time_unix_nano < plan.end_time_unix_nano
        assert plan.end_time_unix_nano <= run.end_time_unix_nano <= call.end_time_unix_nano


def test_a_call_goes_on_with_the_trace_of_its_client(tiny_bundle: Bundle, collector: tuple[Collector, str]) -> None:
    collected, url = collector
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with traced(tiny_bundle, url) as client, grpc.insecure_channel(client.address) as channel:
        describe = channel.unary_unary("/rpl.v1.RelayPolicy/Describe")
        describe(b"", metadata=[("traceparent", f"00-{trace}-{parent}-01")])
        describe(b"", metadata=[("traceparent", "nonsense")])
    known, unknown = collected.spans()
    assert (known.trace_id.hex(), known.parent_span_id.hex()) == (trace, parent)
    assert not unknown.parent_span_id


def test_a_call_that_fails_says_so(tiny_bundle: Bundle, collector: tuple[Collector, str]) -> None:
    collected, url = collector
    with traced(tiny_bundle, url) as client, Admin(client.address) as admin, pytest.raises(ModelNotFound):
        admin.unload("none")
    [span] = collected.spans()
    assert span.name == "rpl.v1.RelayAdmin/UnloadModel"
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert attributes(span)["error.type"] == "ModelNotFound"


def test_a_stream_that_breaks_off_ends_its_runs(tiny_bundle: Bundle, collector: tuple[Collector, str]) -> None:
    collected, url = collector
    with traced(tiny_bundle, url) as client, client.control() as control:
        control.start("a", ["door"], STATE)
    call, run = [span for span in collected.spans() if not span.name.endswith("Describe")]
    assert run.end_time_unix_nano <= call.end_time_unix_nano


def test_an_address_that_is_none_of_a_collector_is_refused(tiny_bundle: Bundle) -> None:
    for url in ("localhost:4317", "ftp://localhost"):
        with pytest.raises(InvalidInput, match="must be http://HOST:PORT"), traced(tiny_bundle, url):
            pass
