"""OpenTelemetry spans of a server's calls, sent to a collector by OTLP over gRPC.

    rpl.v1.RelayPolicy/Control      a call, in the trace named by the client's `traceparent`
      run                           from a robot's start to its finish, with refusals as events
        plan                        each new subgoal, with the time of the high level

A step has no span: at 12.5 a second for each robot, spans would add little to the histograms of metrics.py.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import time_ns
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rpl_runtime.errors import InvalidInput, RelayError, require
from rpl_runtime.relay.messages import Action, Finished, ModelInfo, Started
from rpl_runtime.relay.run_state import SubgoalOverride
from rpl_runtime.relay.session import Answer, PlainSteps, Rows
from rpl_runtime.telemetry.observer import CallObserver, Metadata, Observer
from rpl_runtime.wire import admin, control

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

_EXTRA = "otel"
_LAST_SPANS_S = 1.0  # [s] to send the remaining spans


def _names_collector(url: str) -> bool:
    with suppress(ValueError):  # of a port that is not one
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname and parts.port)
    return False


@contextmanager
def tracing(exporter: "str | SpanExporter") -> Iterator[Observer]:
    """Trace calls for the length of a block; at its end the remaining spans are sent, if the collector takes them soon.

    The standard OTEL_ environment variables set the rest: names, headers, certificates, sampling.

    Args:
        exporter: URL of a collector, http://HOST:PORT in plain text or https://HOST:PORT; or an exporter of the SDK.

    Raises:
        MissingExtra: the SDK is not installed.
        InvalidInput: the URL is malformed.
    """
    resources, trace = require("opentelemetry.sdk.resources", _EXTRA), require("opentelemetry.sdk.trace", _EXTRA)
    export = require("opentelemetry.sdk.trace.export", _EXTRA)
    sender = exporter
    if isinstance(sender, str):
        if not _names_collector(sender):
            raise InvalidInput(f"traces to {sender!r}; must be http://HOST:PORT or https://HOST:PORT")
        otlp = require("opentelemetry.exporter.otlp.proto.grpc.trace_exporter", _EXTRA)
        sender = otlp.OTLPSpanExporter(endpoint=sender)
    # The environment's service name has priority over the one given here.
    resource = resources.Resource({"service.name": "rpl-serve"}).merge(resources.OTELResourceDetector().detect())
    provider = trace.TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(export.BatchSpanProcessor(sender))
    tracer = provider.get_tracer("rpl_runtime")
    try:
        yield lambda method, metadata, peer: _TracedCall(tracer, method, metadata, peer)
    finally:
        ending = threading.Thread(target=provider.shutdown, name="rpl-traces", daemon=True)
        ending.start()
        ending.join(_LAST_SPANS_S)
        if ending.is_alive():
            sender.shutdown()  # ends its tries to send


class _TracedCall(CallObserver):
    """The spans of one call."""

    def __init__(self, tracer: "Tracer", method: str, metadata: Metadata, peer: str) -> None:
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind

        service = admin.SERVICE if method in admin.REQUESTS else control.SERVICE
        texts = {name: value for name, value in metadata if isinstance(value, str)}
        about = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method, "network.peer.address": peer}
        self._tracer = tracer
        self._span = tracer.start_span(f"{service}/{method}", extract(texts), SpanKind.SERVER, about)
        self._runs: dict[str, Span] = {}  # by robot

    def admitted(self, caller: str, model: ModelInfo | None) -> None:
        self._span.set_attribute("rpl.caller", caller)
        if model is not None:
            self._span.set_attributes({"rpl.model": model.spec.name, "rpl.bundle": model.digest})

    def answered(self, rows: Rows, answer: Answer, model: ModelInfo) -> None:
        for (_, request), (robot, reply) in zip(rows, answer.rows, strict=True):
            if isinstance(reply, Started):
                self._end_run(robot)
                self._runs[robot] = self._child("run", self._span, {"rpl.robot": robot})
            elif (run := self._runs.get(robot)) is None:
                continue
            elif isinstance(reply, Action):
                if reply.replanned:
                    step = getattr(request, "step", 0)
                    self._planned(run, step, reply.override, reply.novelty, answer.times.plan_us)
            elif isinstance(reply, Finished):
                run.set_attribute("rpl.steps", reply.steps)
                self._end_run(robot)
            elif isinstance(reply, RelayError):
                run.add_event("refused", {"reason": type(reply).__name__, "message": str(reply)})

    def stepped(self, steps: PlainSteps, model: ModelInfo) -> None:
        for robot, step, novelty in steps.new:
            if (run := self._runs.get(robot)) is not None:
                self._planned(run, step, SubgoalOverride.NONE, novelty, steps.times.plan_us)

    def failed(self, error: Exception) -> None:
        from opentelemetry.trace import Status, StatusCode

        reason = type(error).__name__ if isinstance(error, RelayError) else "internal"
        self._span.set_attribute("error.type", reason)
        self._span.set_status(Status(StatusCode.ERROR, str(error) if isinstance(error, RelayError) else None))

    def ended(self) -> None:
        for robot in list(self._runs):
            self._end_run(robot)
        self._span.end()

    def _planned(
        self, run: "Span", step: int, override: SubgoalOverride, novelty: float | None, plan_us: float
    ) -> None:
        about: dict[str, int | str | float] = {"rpl.step": step, "rpl.subgoal_override": override.name.lower()}
        if novelty is not None:
            about["rpl.novelty"] = novelty
        now_ns = time_ns()
        self._child("plan", run, about, now_ns - round(plan_us * 1e3)).end(now_ns)

    def _child(self, name: str, parent: "Span", about: dict, start_ns: int | None = None) -> "Span":
        from opentelemetry.trace import set_span_in_context

        return self._tracer.start_span(name, set_span_in_context(parent), attributes=about, start_time=start_ns)

    def _end_run(self, robot: str) -> None:
        if run := self._runs.pop(robot, None):
            run.end()
