"""The page of a server, in a real browser, where something is amiss. The policy is for a task that cannot be drawn."""

import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from typer.testing import CliRunner

from browser import TEXT, Browser, open_browser
from extras import needs
from faults import free_port
from processes import rpl
from rpl_runtime.auth.client import Access
from rpl_runtime.auth.server import SecurityConfig
from rpl_runtime.auth.tokens import Right, add_grant, grant
from rpl_runtime.cli.app import app
from rpl_runtime.client.admin import Admin
from rpl_runtime.client.client import Client
from rpl_runtime.errors import PermissionDenied, ProtocolViolation, ServerUnavailable
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.process import own_process
from rpl_runtime.server.server import ServerConfig, serve_in_thread
from rpl_runtime.view import live
from rpl_runtime.view.live import view_server
from rpl_runtime.view.page import Page
from rpl_runtime.wire.admin import RobotStatus

pytestmark = needs("view extra", "viser")
STATE = np.zeros(5, dtype=np.float32)
HOME_KEY = "\ue011"  # of the keyboard, as WebDriver writes it: the lowest value


def eager_page(on_ready: Callable[[str], None], *arguments: Any) -> None:
    """A page that does not give way to all other processes, such as another test's."""
    live.give_way = lambda: None
    view_server(on_ready, *arguments)


class Running:
    """A robot that makes a step every few milliseconds, for the length of a block."""

    def __init__(self, address: str) -> None:
        self.author, self.target, self.fastest = "", (0.0, 0.0), 0.0
        self._address, self._over = address, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        with Client(self._address) as client, client.control() as control:
            control.start("cart", ["door"], STATE)
            for step in itertools.count():
                action = control.step("cart", step, STATE)
                target = tuple(action.target.tolist())
                if self.author and action.author:
                    self.fastest = max(self.fastest, abs(target[0] - self.target[0]))
                self.author, self.target = action.author, target
                if self._over.wait(0.01):
                    return


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser(800, 600, TEXT) as browser:
        yield browser


def test_a_task_without_a_model_is_told_of(browser: Browser, tiny_bundle: Bundle) -> None:
    with (
        serve_in_thread(tiny_bundle) as address,
        Client(address) as client,
        client.control() as control,
        own_process(eager_page, address, Access(), 0) as page,
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


def test_a_robot_is_led_by_one_hand_at_a_time_and_handed_back(browser: Browser, tiny_bundle: Bundle) -> None:
    """By one viewer; by another, who is refused; and by nobody any more after a viewer has gone."""
    with (
        serve_in_thread(tiny_bundle) as address,
        Running(address) as robot,
        Admin(address) as admin,
        own_process(eager_page, address, Access(), 0) as page,
    ):
        browser.driver.get(page)
        browser.until_text("control step")
        browser.press("Hand")
        browser.driver.set_window_size(800, 440)
        assert browser.in_view("robot")  # the status, which no control pushes out of a small window
        assert browser.in_view("latency")
        browser.press("Hand back")
        browser.until_text("Hand back refused: cart is not in your hand; take it over first")
        browser.press("Take over")
        browser.until_text("in the hand of viewer 1")
        browser.until_text("viewer 1 took over cart")
        browser.until(lambda: robot.author == "viewer 1", "an action of the viewer")
        held = robot.target
        browser.slide("speed [m/s]", HOME_KEY)
        lowest = tiny_bundle.spec.action.low[0]
        browser.until(lambda: robot.target[0] == pytest.approx(lowest), "the slider's target")
        assert robot.target[1] == held[1]
        assert robot.fastest < 0.2 * (tiny_bundle.spec.action.high[0] - lowest)  # in steps, and not in a jump
        with pytest.raises(ProtocolViolation, match="robot 'cart' is in the hand of viewer 1 already"):
            admin.take_over("cart", "somebody else")
        browser.press("Hand back")
        browser.until_text("cart is the policy's again")
        browser.until(lambda: robot.author == "", "an action of the policy")

        browser.press("Take over")
        browser.until_text("in the hand of viewer 1")
        with open_browser(800, 600, TEXT) as other:
            other.driver.get(page)
            other.until_text("in the hand of viewer 1")
            other.press("Hand")
            other.press("Take over")
            other.until_text("viewer 2: Take over refused: robot 'cart' is in the hand of viewer 1 already")
            other.press("Hand back")
            other.until_text("viewer 2: Hand back refused: cart is in the hand of viewer 1; must be handed back first")
            led = robot.target
            browser.driver.get("about:blank")
            other.until_text("viewer 1 has gone with cart in hand: it holds its last target, and is handed")
            assert (robot.author, robot.target) == ("viewer 1", led)
            other.until(lambda: robot.author == "", "an action of the policy")
            assert admin.robot("cart").hand == ""


def test_a_token_that_may_only_watch_finds_no_controls(browser: Browser, tiny_bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    add_grant(file, grant("watching", "viewer", [Right.WATCH]))
    config = ServerConfig(address="127.0.0.1:0", security=SecurityConfig(tokens=file))
    with (
        serve_in_thread(tiny_bundle, config) as address,
        own_process(eager_page, address, Access(token="watching"), 0) as page,
    ):
        browser.driver.get(page)
        browser.until_text("this page can only watch: token viewer has no right to administer; it may watch")
        assert "Send goal" not in browser.text
        assert "Take over" not in browser.text


def test_a_server_that_goes_away_is_waited_for(browser: Browser, tiny_bundle: Bundle) -> None:
    config = ServerConfig(address=f"127.0.0.1:{free_port()}")
    with ExitStack() as stack:
        with serve_in_thread(tiny_bundle, config) as address:
            page = stack.enter_context(own_process(eager_page, address, Access(), 0))
            browser.driver.get(page)
            browser.until_text("No robot runs")
        browser.until_text("trying again")
        stack.enter_context(serve_in_thread(tiny_bundle, config))
        browser.until_text("No robot runs")


def test_a_browser_that_draws_nothing_says_so(tiny_bundle: Bundle) -> None:
    with (
        serve_in_thread(tiny_bundle) as address,
        own_process(eager_page, address, Access(), 0) as page,
        open_browser(800, 600, ("--disable-3d-apis",)) as browser,
    ):
        browser.driver.get(page)
        browser.until_text("This browser cannot draw the robots: it has no WebGL 2, or it is switched off.")


def test_a_page_gives_way_to_the_server_and_the_robots_of_its_machine(tiny_bundle: Bundle) -> None:
    with serve_in_thread(tiny_bundle) as address, own_process(view_server, address, Access(), 0):
        (page,) = multiprocessing.active_children()
        threads = [int(thread) for thread in os.listdir(f"/proc/{page.pid}/task")]
        assert len(threads) > 1
        assert {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_IDLE}


def test_of_many_robots_every_second_picture_is_left_out(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []
    with serve_in_thread(tiny_bundle) as address, Client(address) as client, client.control() as control:
        for number in range(5):
            control.start(f"cart-{number}", ["door"], STATE)
        with Admin(address) as admin:
            robots = admin.robots()

        def watched(*_: object) -> Iterator[list[RobotStatus]]:
            yield from [robots] * 10 + [robots[:4]] * 10
            raise KeyboardInterrupt

        monkeypatch.setattr(live, "give_way", lambda: None)  # this process goes on
        monkeypatch.setattr(Admin, "watch", watched)
        monkeypatch.setattr(Page, "show", lambda _, robots, *__, **___: shown.append(len(robots)))
        with pytest.raises(KeyboardInterrupt):
            view_server(lambda _: None, address, Access(), 0)
    assert shown == [5] * 5 + [4] * 10


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


@pytest.mark.parametrize(("shown", "code"), [(True, 0), (False, 130)])
def test_ctrl_c_ends_a_page_and_interrupts_one_that_is_not_there_yet(
    shown: bool, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(on_ready: Callable[[str], None], *_: object) -> None:
        if shown:
            on_ready("http://127.0.0.1:8080/secret")
        raise KeyboardInterrupt

    monkeypatch.setattr(live, "view_server", interrupted)
    assert CliRunner().invoke(app, ["view"]).exit_code == code
