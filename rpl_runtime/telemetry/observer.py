"""The observer of calls, which metrics, traces and the call log implement."""

from collections.abc import Callable, Iterable

from rpl_runtime.relay.messages import ModelInfo
from rpl_runtime.relay.session import Answer, PlainSteps, Rows

Metadata = Iterable[tuple[str, str | bytes]]


class CallObserver:
    """Observes one call; a subclass overrides the events that it needs."""

    def admitted(self, caller: str, model: ModelInfo | None) -> None:
        """The call was admitted; the model is None for a call of the admin service."""

    def answered(self, rows: Rows, answer: Answer, model: ModelInfo) -> None:
        """The server answered a message of Control."""

    def stepped(self, steps: PlainSteps, model: ModelInfo) -> None:
        """The server answered a message of Control that held plain steps only; `answered` is not called for it."""

    def failed(self, error: Exception) -> None:
        """The call fails."""

    def ended(self) -> None:
        """The call has ended, with or without an error."""


Observer = Callable[[str, Metadata, str], CallObserver]  # call's name, metadata and peer -> its observer
