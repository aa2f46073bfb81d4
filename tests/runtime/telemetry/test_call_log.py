"""The log of a real server: one line for each event of a run, as text and as JSON."""

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import grpc
import numpy as np
import pytest

from rpl_runtime.client.admin import Admin
from rpl_runtime.client.client import Client
from rpl_runtime.errors import BundleCorrupt, InvalidInput, ProtocolViolation, StepOutOfOrder
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.server.server import ServerConfig, serve_in_thread
from rpl_runtime.telemetry.log_format import LogFormat, write_log

pytestmark = pytest.mark.usefixtures("transport")  # each test with each way that the bytes can take

STATE = np.zeros(5, dtype=np.float32)


@contextmanager
def written(format: LogFormat = LogFormat.JSON) -> Iterator[io.StringIO]:
    """The log of the block."""
    lines = io.StringIO()
    handler = write_log(format, lines)
    try:
        yield lines
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger("rpl_runtime").setLevel(logging.NOTSET)


def records(lines: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in lines.getvalue().splitlines()]


def test_a_run_is_logged_from_its_beginning_to_its_end_with_whose_it_is(tiny_bundle: Bundle) -> None:
    with written() as lines, serve_in_thread(tiny_bundle) as at, Client(at) as client, client.control() as control:
        control.start("a", ["door"], STATE)
        control.step("a", 0, STATE)
        with pytest.raises(StepOutOfOrder):
            control.step("a", 7, STATE)
        control.finish("a")
        control.start("b", ["door"], STATE)
    begins, refused, done, again, over = records(lines)
    assert [record["robot"] for record in (begins, refused, done, again, over)] == ["a", "a", "a", "b", "b"]
    assert begins["message"] == "robot 'a' begins"
    assert refused["reason"] == "StepOutOfOrder"
    assert (done["message"], done["steps"]) == ("robot 'a' finished after 1 control steps", 1)
    assert "is over" in over["message"]
    for record in (begins, done, over):
        assert record["level"] == "INFO"
        assert (record["model"], record["bundle"]) == (tiny_bundle.spec.name, tiny_bundle.digest)
        assert record["caller"]
        assert datetime.fromisoformat(record["time"]).tzinfo is not None


def test_a_call_that_is_refused_says_why_and_of_whom(tiny_bundle: Bundle) -> None:
    with written() as lines, serve_in_thread(tiny_bundle) as address, grpc.insecure_channel(address) as channel:
        plan = channel.unary_unary("/rpl.v1.RelayPolicy/Plan")
        with pytest.raises(grpc.RpcError):
            plan(b"\xff\xff")
    [record] = records(lines)
    assert (record["call"], record["reason"]) == ("Plan", InvalidInput.__name__)
    assert record["peer"].startswith("ipv4:127.0.0.1")


def test_an_operators_acts_on_models_are_logged_with_the_bundle_and_failures_with_their_reason(
    tiny_bundle: Bundle, own_bundle: Bundle
) -> None:
    (own_bundle.path / "low.onnx").write_bytes(b"other")
    with written() as lines, serve_in_thread(tiny_bundle) as at, Admin(at) as admin:
        with pytest.raises(BundleCorrupt) as refused:
            admin.load(str(own_bundle.path))
        admin.load(str(tiny_bundle.path))
        with pytest.raises(ProtocolViolation):
            admin.unload("tiny")
    failed, loaded, kept = records(lines)
    assert failed["message"] == f"LoadModel ends with BundleCorrupt: {refused.value}"
    assert (failed["call"], failed["reason"]) == ("LoadModel", "BundleCorrupt")
    assert "low.onnx" in failed["message"]
    assert loaded["message"] == (
        f"an operator loaded model 'tiny', bundle {tiny_bundle.digest[:12]}, from {str(tiny_bundle.path)!r}"
    )
    assert kept["message"].startswith("UnloadModel ends with ProtocolViolation: tiny is the last model")


def test_other_packages_write_lines_of_the_same_form() -> None:
    with written() as lines:
        logging.getLogger("another.package").error("it failed with %s", "this")
        logging.getLogger("another.package").info("not worth a line")
        logging.getLogger("another.package").error({"a": "mapping"})
    assert [record["level"] for record in records(lines)] == ["ERROR", "ERROR"]
    assert records(lines)[0]["message"] == "it failed with this"


@pytest.mark.parametrize("format", LogFormat)
def test_a_name_with_a_line_break_is_refused_on_one_line(format: LogFormat, tiny_bundle: Bundle) -> None:
    with written(format) as lines, serve_in_thread(tiny_bundle) as at, Client(at) as client:
        for name in ("a\nERROR b", "\x1b[2J", "a" * 1_000_000):
            with client.control() as control, pytest.raises(InvalidInput, match="printable characters"):
                control.start(name, ["door"], STATE)
    said = lines.getvalue().splitlines()
    assert len(said) == 3
    assert not any("\x1b" in line or len(line) > 1000 for line in said)


def test_no_line_is_endless(tiny_bundle: Bundle) -> None:
    with written(LogFormat.TEXT) as lines:
        logging.getLogger("rpl_runtime.test").info("%s %s", "100%", "x" * 1_000_000)
    [line] = lines.getvalue().splitlines()
    assert len(line) < 1100
    assert line.endswith("xxx (and so on)")


def test_a_flood_of_lines_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("rpl_runtime.telemetry.log_format.time.monotonic", lambda: now)
    log = logging.getLogger("rpl_runtime.test")
    with written(LogFormat.TEXT) as lines:
        for number in range(1000):
            log.info("robot %d is refused", number)
        log.info("something else")
        now = 1.0
        log.info("robot %d is refused", 1000)
    said = lines.getvalue().splitlines()
    assert len(said) == 22
    assert said[19].endswith("robot 19 is refused (more such lines are left out for a second)")
    assert said[20].endswith("something else")
    assert said[21].endswith("robot 1000 is refused")


def test_the_configuration_of_a_server_in_process_is_left_to_its_program(tiny_bundle: Bundle) -> None:
    loggers = logging.getLogger("rpl_runtime"), logging.getLogger()
    handlers = [logger.handlers[:] for logger in loggers]
    with serve_in_thread(tiny_bundle, ServerConfig(address="127.0.0.1:0")):
        assert [logger.handlers for logger in loggers] == handlers
