"""The log of a server: runs that began, ended or were refused, and calls that failed.

Each record names the robot, caller and model. A refusal is logged as information, because the client caused it; a fault
of the server is logged as an error.
"""

import logging

from rpl_runtime.errors import RelayError
from rpl_runtime.relay.messages import Action, Finished, HandedBack, ModelInfo, Start, Started, TakenOver
from rpl_runtime.relay.run_state import TakeOver
from rpl_runtime.relay.session import Answer, Rows
from rpl_runtime.telemetry.observer import CallObserver, Metadata

_LOG = logging.getLogger(__name__)


class CallLog(CallObserver):
    """Logs one call."""

    def __init__(self, method: str, metadata: Metadata, peer: str) -> None:
        self._about = {"call": method, "peer": peer}
        self._running: set[str] = set()

    def admitted(self, caller: str, model: ModelInfo | None) -> None:
        self._about["caller"] = caller
        if model is not None:
            self._about |= {"model": model.spec.name, "bundle": model.digest}

    def answered(self, rows: Rows, answer: Answer, model: ModelInfo) -> None:
        for (_, request), (robot, reply) in zip(rows, answer.rows, strict=True):
            if isinstance(reply, Action):
                continue
            extra = {**self._about, "robot": robot}
            if isinstance(reply, Started):
                self._running.add(robot)
                resumed = isinstance(request, Start) and request.resume is not None
                _LOG.info("robot %r %s", robot, "resumes" if resumed else "begins", extra=extra)
            elif isinstance(reply, TakenOver) and isinstance(request, TakeOver):
                about = {**extra, "step": reply.step, "by": request.by, "why": request.why}
                _LOG.info("robot %r is in the hand of %s from step %d on", robot, request.by, reply.step, extra=about)
            elif isinstance(reply, HandedBack):
                about = {**extra, "step": reply.step}
                _LOG.info("robot %r is handed back to the policy at step %d", robot, reply.step, extra=about)
            elif isinstance(reply, Finished):
                self._running.discard(robot)
                _LOG.info(
                    "robot %r finished after %d control steps",
                    robot,
                    reply.steps,
                    extra={**extra, "steps": reply.steps},
                )
            elif isinstance(reply, RelayError):
                _LOG.info("robot %r is refused: %s", robot, reply, extra=extra | {"reason": type(reply).__name__})

    def failed(self, error: Exception) -> None:
        if isinstance(error, RelayError):
            extra = self._about | {"reason": type(error).__name__}
            _LOG.info("%s ends with %s: %s", self._about["call"], type(error).__name__, error, extra=extra)
        else:
            _LOG.error("%s failed", self._about["call"], exc_info=error, extra=self._about)

    def ended(self) -> None:
        for robot in sorted(self._running):
            _LOG.info("the stream of robot %r is over, and so is its run", robot, extra=self._about | {"robot": robot})
