"""The metrics page of a real server, read over HTTP."""

import time
import urllib.request
from collections.abc import Iterator

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from faults import free_port
from rpl_runtime.client.admin import Admin
from rpl_runtime.client.client import Client
from rpl_runtime.errors import AddressInUse, InvalidInput, StepOutOfOrder
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.server.server import ServerConfig, serve_in_thread
from rpl_runtime.server.transport import way_to_serve

pytestmark = pytest.mark.usefixtures("transport")  # each test with each way that the bytes can take

STATE = np.zeros(5, dtype=np.float32)


@pytest.fixture
def page() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def address(tiny_bundle: Bundle, page: str) -> Iterator[str]:
    with serve_in_thread(tiny_bundle, ServerConfig(address="127.0.0.1:0", metrics=page)) as address:
        yield address


def test_it_says_how_messages_reach_the_server(address: str, page: str) -> None:
    with Client(address) as client, client.control():
        assert read(page)[f"rpl_transport_info,{way_to_serve()}"] == 1


def read(page: str) -> dict[str, float]:
    """Every sample of this project, by its name and labels."""
    with urllib.request.urlopen(f"http://{page}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        ",".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("rpl_")
    }


def test_every_step_is_counted_by_stage(address: str, page: str) -> None:
    with Client(address) as client, client.control() as control:
        control.start("a", ["door"], STATE)
        for step in range(6):
            control.step("a", step, STATE)
        with pytest.raises(StepOutOfOrder):
            control.step("a", 9, STATE)
        with Admin(address) as admin:
            admin.pin("a", [0.0] * 5)
        control.step("a", 6, STATE)
        until = time.monotonic() + 30.0
        while (found := read(page))["rpl_steps_total"] < 7 and time.monotonic() < until:
            pass  # a step is counted after its reply
        assert (found["rpl_robots"], found["rpl_streams"]) == (1, 1)
    assert found["rpl_steps_total"] == 7
    assert found["rpl_replans_total"] == 3  # at 0 and 4, a horizon later, and for the pin
    assert found["rpl_subgoal_overrides_total"] == 1
    assert found["rpl_errors_total,StepOutOfOrder"] == 1
    assert found["rpl_message_seconds_count,all"] == 9  # the start and the refused step are messages too
    assert found["rpl_message_seconds_count,plan"] == 2
    assert found["rpl_late_answers_total"] == 0


def test_a_call_that_is_refused_is_counted_by_its_reason(address: str, page: str) -> None:
    with Client(address) as client, pytest.raises(InvalidInput):
        client.act(np.zeros((1, 5)), np.full((1, 5), np.nan), np.zeros((1, 2)))
    assert read(page)["rpl_errors_total,InvalidInput"] == 1


def test_the_page_is_gone_with_its_server(tiny_bundle: Bundle, page: str) -> None:
    for _ in range(2):  # and its port is free again
        with serve_in_thread(tiny_bundle, ServerConfig(address="127.0.0.1:0", metrics=page)):
            assert read(page)["rpl_streams"] == 0
    with pytest.raises(OSError, match="refused"):
        read(page)


def test_a_page_that_cannot_be_served_is_one_sentence(tiny_bundle: Bundle, address: str, page: str) -> None:
    for metrics, error, sentence in (
        ("9464", InvalidInput, "must be HOST:PORT"),
        ("192.0.2.1:0", InvalidInput, "an address of this machine"),
        (page, AddressInUse, "metrics cannot be served at"),
    ):
        with (
            pytest.raises(error, match=sentence),
            serve_in_thread(tiny_bundle, ServerConfig(address="127.0.0.1:0", metrics=metrics)),
        ):
            pass
