"""The metrics of a server, as a page for Prometheus.

No label names a robot or a caller, because their number is not limited.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, start_http_server
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from rpl_runtime.errors import AddressInUse, InvalidInput, RelayError
from rpl_runtime.relay.messages import Action, ModelInfo, StageTimes
from rpl_runtime.relay.run_state import SubgoalOverride
from rpl_runtime.relay.session import Answer, PlainSteps, Rows
from rpl_runtime.telemetry.observer import CallObserver

_SECONDS = (25e-6, 50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 50e-3)  # upper ends of the buckets
_PLANNER_SECONDS = (5e-3, 10e-3, 50e-3, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_NOT_BY_OPERATOR = (SubgoalOverride.NONE, SubgoalOverride.CLAIMED)


class Metrics(CallObserver):
    """The metrics of one server.

    Args:
        robots: the number of robots that run now.
        streams: the number of open Control streams.
        transport: the name of the way that bytes take (server/transport.py).
    """

    def __init__(self, robots: Callable[[], int], streams: Callable[[], int], transport: str) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        stages = Histogram(
            "rpl_message_seconds",
            "Time for a message of Control, without encoding the reply; stage plan only if something was planned.",
            ("stage",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._decode, self._plan, self._act, self._all = map(stages.labels, ("decode", "plan", "act", "all"))
        self._steps = Counter("rpl_steps", "Actions sent on Control streams.", registry=registry)
        self._plans = Counter("rpl_replans", "Actions that follow a new subgoal.", registry=registry)
        self._overrides = Counter(
            "rpl_subgoal_overrides", "Actions whose subgoal an operator changed.", registry=registry
        )
        self._novel = Counter("rpl_novel_states", "States far from the training data.", registry=registry)
        self._late = Counter(
            "rpl_late_answers", "Messages that took longer than a control period to answer.", registry=registry
        )
        self._questions = Counter(
            "rpl_planner_questions", "What became of the questions to a planner.", ("outcome",), registry=registry
        )
        self._planner = Histogram(
            "rpl_planner_seconds", "Time for an answer of a planner.", buckets=_PLANNER_SECONDS, registry=registry
        )
        self._errors = Counter("rpl_errors", "Refused rows and failed calls.", ("reason",), registry=registry)
        Info("rpl_transport", "How messages reach the server.", registry=registry).info({"way": transport})
        Gauge("rpl_robots", "Robots that run.", registry=registry).set_function(robots)
        Gauge("rpl_streams", "Control streams that are open.", registry=registry).set_function(streams)

    def answered(self, rows: Rows, answer: Answer, model: ModelInfo) -> None:
        actions = [reply for _, reply in answer.rows if isinstance(reply, Action)]
        self._count(
            answer.times,
            model,
            steps=len(actions),
            replans=sum(action.replanned for action in actions),
            novel=sum(action.flagged for action in actions),
        )
        if changed := sum(action.override not in _NOT_BY_OPERATOR for action in actions):
            self._overrides.inc(changed)
        for _, reply in answer.rows:
            if isinstance(reply, RelayError):
                self.failed(reply)

    def stepped(self, steps: PlainSteps, model: ModelInfo) -> None:
        self._count(steps.times, model, steps.steps, len(steps.new), steps.novel)

    def _count(self, times: StageTimes, model: ModelInfo, steps: int, replans: int, novel: int) -> None:
        self._decode.observe(times.decode_us / 1e6)
        if times.plan_us:
            self._plan.observe(times.plan_us / 1e6)
        self._act.observe(times.act_us / 1e6)
        self._all.observe(times.total_us / 1e6)
        if times.total_us > model.spec.period_s * 1e6:
            self._late.inc()
        for counter, count in ((self._steps, steps), (self._plans, replans), (self._novel, novel)):
            if count:
                counter.inc(count)

    def planned(self, outcome: str, seconds: float) -> None:
        """A question to a planner has ended; from any thread."""
        self._questions.labels(outcome).inc()
        if outcome == "answered":
            self._planner.observe(seconds)

    def failed(self, error: Exception) -> None:
        self._errors.labels(type(error).__name__ if isinstance(error, RelayError) else "internal").inc()


@contextmanager
def exposing(metrics: Metrics, address: str) -> Iterator[str]:
    """Serve the page at HOST:PORT/metrics for the length of a block; its value is the address, port 0 resolved.

    Raises:
        InvalidInput: the address is malformed or not of this machine.
        AddressInUse: another program listens there.
    """
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal() and int(port) < 2**16):
        raise InvalidInput(f"metrics at {address!r}; must be HOST:PORT with a port from 0 to 65535")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), metrics.registry)
    except OSError as error:
        failed = f"metrics cannot be served at {address}: {error.strerror or error}"
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise AddressInUse(failed) from error
        raise InvalidInput(f"{failed}; must be HOST:PORT with an address of this machine") from error
    try:
        yield f"{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
