"""Observability: the one observer interface that metrics, traces and the call log implement."""

from collections.abc import Callable, Iterable

from rpl_runtime.relay.messages import ModelInfo
from rpl_runtime.relay.session import Answer, Rows

Metadata = Iterable[tuple[str, str | bytes]]


class CallObserver:
    """Of one call; what it does not care for it need not define."""

    def admitted(self, caller: str, model: ModelInfo | None) -> None:
        """The call is this caller's, on this model; an operator's is on none."""

    def answered(self, rows: Rows, answer: Answer, model: ModelInfo) -> None:
        """A message of Control was answered."""

    def failed(self, error: Exception) -> None:
        """The call ends in an error."""

    def ended(self) -> None:
        """The call is over, however it ended."""


Observer = Callable[[str, Metadata, str], CallObserver]  # of a call's name, its metadata and its peer
