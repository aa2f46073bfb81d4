"""The log of a server: which run began, ended or was refused, and which call.

In: calls as they are answered. Out: records of Python's logging, each with the robot, caller and model it is about. It
does not know metrics or traces, nor how records are written. A refusal is the caller's business and is logged as
information; what failed here is an error.
"""

import logging

from rpl_runtime.errors import RelayError
from rpl_runtime.relay.messages import Action, Finished, ModelInfo, Reply, Start, Started
from rpl_runtime.relay.session import Answer, Rows
from rpl_runtime.telemetry.observer import CallObserver, Metadata

_LOG = logging.getLogger(__name__)


class CallLog(CallObserver):
    """What is logged of one call."""

    def __init__(self, method: str, metadata: Metadata, peer: str) -> None:
        self._about = {"call": method, "peer": peer}
        self._running: set[str] = set()

    def admitted(self, caller: str, model: ModelInfo | None) -> None:
        self._about["caller"] = caller
        if model is not None:
            self._about |= {"model": model.spec.name, "bundle": model.digest}

    def answered(self, rows: Rows, answer: Answer, model: ModelInfo) -> None:
        for (_, request), (robot, reply) in zip(rows, answer.rows, strict=True):
            if not isinstance(reply, Action):
                self._said(robot, request, reply)

    def failed(self, error: Exception) -> None:
        if isinstance(error, RelayError):
            extra = self._about | {"reason": type(error).__name__}
            _LOG.info("%s ends in an error: %s", self._about["call"], error, extra=extra)
        else:
            _LOG.error("%s failed", self._about["call"], exc_info=error, extra=self._about)

    def ended(self) -> None:
        for robot in sorted(self._running):
            _LOG.info("the stream of robot %r is over, and so is its run", robot, extra=self._about | {"robot": robot})

    def _said(self, robot: str, request: object, reply: Reply) -> None:
        extra = {**self._about, "robot": robot}
        if isinstance(reply, Started):
            self._running.add(robot)
            resumed = isinstance(request, Start) and request.resume is not None
            _LOG.info("robot %r %s", robot, "goes on" if resumed else "begins", extra=extra)
        elif isinstance(reply, Finished):
            self._running.discard(robot)
            _LOG.info("robot %r is done after %d steps", robot, reply.steps, extra={**extra, "steps": reply.steps})
        elif isinstance(reply, RelayError):
            _LOG.info("robot %r is refused: %s", robot, reply, extra=extra | {"reason": type(reply).__name__})
