"""Messages of errors, wherever they come from."""

from hypothesis import given
from hypothesis import strategies as st

from rpl_runtime.errors import InvalidInput, ProtocolViolation, printable
from rpl_runtime.relay.messages import Finished, StageTimes
from rpl_runtime.wire import control


@given(st.text())
def test_text_from_elsewhere_is_one_line_that_can_be_printed(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(text) == text or not text.isprintable()


def test_what_can_be_printed_is_as_it_was_up_to_a_length() -> None:
    assert printable("a joint's angle [rad] – 3°") == "a joint's angle [rad] – 3°"
    assert printable("\x1b[2J\n\x9b") == "\\x1b[2J\\n\\x9b"
    assert len(printable("a" * 10_000)) < 3000


def test_a_servers_refusal_does_nothing_to_a_terminal() -> None:
    rows = [("a", InvalidInput("no\x1b[2J")), ("b", Finished(1))]
    [(_, refusal), _] = control.unpack_reply(control.pack_reply(rows, StageTimes(0.0, 0.0, 0.0, 0.0)))
    assert isinstance(refusal, InvalidInput)
    assert str(refusal) == "no\\x1b[2J"
    assert not isinstance(refusal, ProtocolViolation)
