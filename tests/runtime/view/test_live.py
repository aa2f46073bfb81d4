"""The page of a server, in a real browser, where something is amiss. The policy is for a task that cannot be drawn."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from browser import Browser, open_browser
from faults import free_port
from processes import rpl
from rpl_runtime.auth.client import Access
from rpl_runtime.auth.server import SecurityConfig
from rpl_runtime.auth.tokens import Right, add_grant, grant
from rpl_runtime.client.client import Client
from rpl_runtime.errors import PermissionDenied, ServerUnavailable
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.process import own_process
from rpl_runtime.server.server import ServerConfig, serve_in_thread
from rpl_runtime.view.live import view_server

pytest.importorskip("viser", reason="needs the view extra")

STATE = np.zeros(5, dtype=np.float32)


@pytest.fixture
def browser() -> Iterator[Browser]:
    with open_browser(800, 600) as browser:
        yield browser


def test_a_task_without_a_model_is_told_of(browser: Browser, tiny_bundle: Bundle) -> None:
    with (
        serve_in_thread(tiny_bundle) as address,
        Client(address) as client,
        client.control() as control,
        own_process(view_server, address, Access(), 0) as page,
    ):
        browser.driver.get(page)
        browser.until_text("No robot runs on this server. `rpl run` starts one.")
        browser.until_text("policy tiny is for a task without a model")
        hostile = "<img src=x onerror=document.title='taken'>"
        control.start(hostile, ["door"], STATE)
        control.step(hostile, 0, STATE)
        browser.until_text(hostile)
        browser.press("lamp")
        browser.press("Send goal")
        browser.until_text("viewer 1 changed the goal of <img")
        assert browser.driver.title != "taken"
        control.finish(hostile)
        browser.until_text("has ended its run")


def test_a_token_that_may_only_watch_finds_no_controls(browser: Browser, tiny_bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    add_grant(file, grant("watching", "viewer", [Right.WATCH]))
    config = ServerConfig(address="127.0.0.1:0", security=SecurityConfig(tokens=file))
    with (
        serve_in_thread(tiny_bundle, config) as address,
        own_process(view_server, address, Access(token="watching"), 0) as page,
    ):
        browser.driver.get(page)
        browser.until_text("this page can only watch: token viewer has no right to administer; it may watch")
        assert "Send goal" not in browser.text


def test_a_server_that_goes_away_is_waited_for(browser: Browser, tiny_bundle: Bundle) -> None:
    config = ServerConfig(address=f"127.0.0.1:{free_port()}")
    with ExitStack() as stack:
        with serve_in_thread(tiny_bundle, config) as address:
            page = stack.enter_context(own_process(view_server, address, Access(), 0))
            browser.driver.get(page)
            browser.until_text("No robot runs")
        browser.until_text("trying again")
        stack.enter_context(serve_in_thread(tiny_bundle, config))
        browser.until_text("No robot runs")


def test_a_browser_that_draws_nothing_says_so(tiny_bundle: Bundle) -> None:
    with (
        serve_in_thread(tiny_bundle) as address,
        own_process(view_server, address, Access(), 0) as page,
        open_browser(800, 600, ("--disable-3d-apis",)) as browser,
    ):
        browser.driver.get(page)
        browser.until_text("This browser cannot draw the robots: it has no WebGL 2, or it is switched off.")


def test_a_page_without_a_server_or_a_right_does_not_begin(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ServerUnavailable, match="no server answers"):
        view_server(pytest.fail, "127.0.0.1:1", Access(), 0)
    file = tmp_path / "tokens"
    add_grant(file, grant("acting", "arm", [Right.ACT]))
    config = ServerConfig(address="127.0.0.1:0", security=SecurityConfig(tokens=file))
    with (
        serve_in_thread(tiny_bundle, config) as address,
        pytest.raises(PermissionDenied, match="token arm has no right to watch; it may act"),
    ):
        view_server(pytest.fail, address, Access(token="acting"), 0)


def test_a_page_that_cannot_begin_is_one_sentence(tmp_path: Path) -> None:
    gone = rpl("view", "--address", "127.0.0.1:1")
    assert (gone.returncode, gone.stdout, gone.stderr.count("\n")) == (4, "", 1)
    both = rpl("view", __file__, "--address", "127.0.0.1:1")
    assert both.returncode == 2
    assert "give a log or --address, not both" in both.stderr
    other = rpl("view", __file__)
    assert (other.returncode, "is not an MCAP file" in other.stderr) == (2, True)
    local = rpl("run", "--goal", "kettle", "--view", "--low-level", "local")
    assert (local.returncode, "--view shows a robot that a server runs" in local.stderr) == (2, True)
