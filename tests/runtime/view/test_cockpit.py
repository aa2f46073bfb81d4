"""The page in a real browser: a kitchen runs on a real server, and somebody looks at it and steps in.

The tests are one story. At first an operator holds the robot where it starts.
"""

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from browser import Browser, open_browser, operator_ghost, policy_ghost
from extras import needs
from processes import RPL, started
from rpl_runtime.auth.client import Access
from rpl_runtime.client.admin import Admin
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.process import own_process
from rpl_runtime.server.server import serve_in_thread
from rpl_runtime.tasks.kitchen.elements import ELEMENTS
from rpl_runtime.view.live import view_server

pytestmark = [
    pytest.mark.alone,  # GL in software wants the whole machine
    needs("view and sim extras", "viser", "mjviser", "gymnasium_robotics"),
]

KITCHEN = Path(__file__).parents[3] / "models" / "kitchen"
END_KEY, HOME_KEY = "\ue010", "\ue011"  # of the keyboard, as WebDriver writes them: last value, first value
MICROWAVE = ELEMENTS["microwave"].dims[0]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server on which a kitchen runs in real time, held at its first steps."""
    with serve_in_thread(load_bundle(KITCHEN)) as address, ExitStack() as stack:
        command = [*RPL, "run", "--address", address, "--goal", "light switch", "--steps", "100000", "--view"]
        run = stack.enter_context(started(command, stderr=subprocess.PIPE))
        with Admin(address) as admin:
            running = threading.Event()
            while not (admin.robots() and admin.robots()[0].step):
                assert run.poll() is None
                running.wait(0.02)
            admin.pin("kitchen", admin.robots()[0].state)
        yield address
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=30)


@pytest.fixture(scope="module")
def browser(address: str) -> Iterator[Browser]:
    with own_process(view_server, address, Access(), 0) as page, open_browser(800, 560) as browser:
        browser.driver.get(page)
        browser.until_text("control step")
        browser.until(lambda: operator_ghost(browser) > 0, "the ghost")
        yield browser


@pytest.fixture
def admin(address: str) -> Iterator[Admin]:
    """The operator's client."""
    with Admin(address) as admin:
        yield admin


def test_a_robot_that_is_held_is_seen_with_its_figures(browser: Browser) -> None:
    for text in ("kitchen", "operator: subgoal pinned", "novelty", "latency", "plan", "light switch"):
        assert text in browser.text
    assert operator_ghost(browser) > policy_ghost(browser)


def test_a_goal_that_is_clicked_is_done_by_the_arm(browser: Browser, admin: Admin) -> None:
    browser.press("microwave")
    browser.press("Send goal")
    browser.until_text("changed the goal of kitchen")
    mask = np.array(admin.robot("kitchen").mask)
    asked = {name for name, element in ELEMENTS.items() if mask[list(element.dims)].all()}
    assert asked == {"light switch", "microwave"}
    browser.press("Subgoal")
    browser.press("Release")
    browser.until_text("released the subgoal of kitchen")
    browser.until(lambda: policy_ghost(browser) > 0.003, "the policy's ghost")
    browser.until_text("microwave ✓")
    assert ELEMENTS["microwave"].is_done(np.array(admin.robot("kitchen").state))
    browser.keep("goal")


def test_a_veto_makes_the_policy_plan_again(browser: Browser, admin: Admin) -> None:
    vetoes = admin.robot("kitchen").vetoes
    browser.press("Subgoal")
    browser.press("Veto")
    browser.until_text("vetoed the subgoal of kitchen")
    assert admin.robot("kitchen").vetoes == vetoes + 1


def test_a_slider_pins_a_subgoal_until_it_is_released(browser: Browser, admin: Admin) -> None:
    browser.press("Subgoal")
    browser.slide("microwave", HOME_KEY)
    browser.until(lambda: operator_ghost(browser) > 0.003, "the ghost of the changed subgoal")
    assert not admin.robot("kitchen").pinned
    browser.press("Pin")
    browser.until_text("operator: subgoal pinned")
    assert admin.robot("kitchen").subgoal[MICROWAVE] == pytest.approx(0.0, abs=0.05)
    browser.keep("pin")
    browser.press("Release")
    browser.until_text("released the subgoal of kitchen")
    browser.until(lambda: policy_ghost(browser) > operator_ghost(browser), "the policy's ghost")


def test_a_hold_pins_the_state_as_it_is(browser: Browser, admin: Admin) -> None:
    robots = [admin.robot("kitchen")]
    browser.press("Subgoal")
    browser.press("Hold")

    def pinned() -> bool:
        robots.append(admin.robot("kitchen"))
        return robots[-1].pinned

    browser.until(pinned, "the hold")
    browser.until_text("operator: subgoal pinned")
    held = np.array(robots[-1].subgoal)
    within = 0.3  # [rad], further than the arm moves between two looks at it
    assert min(np.abs(held[:7] - robot.state[:7]).max() for robot in robots) < within
    assert held[MICROWAVE] == pytest.approx(robots[0].state[MICROWAVE], abs=0.05)
    admin.release("kitchen")


def test_the_arm_is_led_by_hand_and_handed_back(browser: Browser, admin: Admin) -> None:
    browser.press("Hand")
    browser.press("Take over")
    browser.until_text("in the hand of viewer 1")
    browser.until_text("viewer 1 took over kitchen")
    before = admin.robot("kitchen")
    away = -1 if before.state[0] > 0 else 1  # from what the arm may stand at
    browser.slide("panda_joint1 [rad]", HOME_KEY if away < 0 else END_KEY)
    browser.until(lambda: away * (admin.robot("kitchen").state[0] - before.state[0]) > 0.5, "the arm where it is led")
    assert admin.robot("kitchen").age > 0
    browser.keep("hand")
    browser.press("Hand back")
    browser.until_text("kitchen is the policy's again")
    assert admin.robot("kitchen").hand == ""


def test_two_people_at_one_robot_see_what_the_other_does(browser: Browser, admin: Admin) -> None:
    browser.press("Subgoal")
    admin.pin("kitchen", admin.robot("kitchen").state)
    browser.until_text("an operator elsewhere pinned the subgoal of kitchen")
    browser.press("Veto")
    browser.until_text("Veto refused: the subgoal of robot 'kitchen' is pinned; release it instead")
    browser.driver.refresh()  # one of them goes away and comes back, and the page has stayed
    browser.until_text("Veto refused")
    browser.press("Subgoal")
    browser.press("Release")
    browser.until_text("released the subgoal of kitchen")
    browser.until(lambda: "operator: subgoal pinned" not in browser.text, "the policy as author")
