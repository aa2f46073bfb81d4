"""The page of a logged run, in a real browser: it is played, scrubbed, and says where it is cut off."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from browser import TEXT, Browser, open_browser, policy_ghost
from extras import needs
from rpl_runtime.client.admin import Admin
from rpl_runtime.client.client import Client
from rpl_runtime.loop.lockstep import run
from rpl_runtime.policy.bundle import Bundle, load_bundle
from rpl_runtime.process import own_process
from rpl_runtime.recording.mcap import LogHeader, LogWriter
from rpl_runtime.recording.recorder import RunRecorder
from rpl_runtime.relay.run import RunConfig, Step
from rpl_runtime.relay.run_state import POLICY
from rpl_runtime.robots.simulated import SimulatedRobot
from rpl_runtime.server.server import serve_in_thread
from rpl_runtime.tasks.load import load_task
from rpl_runtime.view.log import _apart, view_log

pytestmark = needs("view and record extras", "viser", "mcap")

STEPS = 30
END_KEY, RIGHT_KEY = "\ue010", "\ue014"  # of the keyboard, as WebDriver writes them: last value, next value
KITCHEN = Path(__file__).parents[3] / "models" / "kitchen"


@pytest.fixture(scope="module")
def log(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 30 steps, at first in hand for a while, vetoed once and pinned later."""
    path = tmp_path_factory.mktemp("log") / "run.mcap"
    state = np.zeros(5, dtype=np.float32)
    with serve_in_thread(tiny_bundle) as address, Client(address) as client, Admin(address) as admin:
        header = LogHeader(robot="cart", seed=None, plan_lead=0, digest=tiny_bundle.digest, spec=tiny_bundle.spec)
        with client.control() as control, RunRecorder(LogWriter(path, header)) as recorder:
            goal = control.start("cart", ["door"], state).goal
            for step in range(STEPS):
                if step == 10:
                    admin.veto("cart")
                if step == 20:
                    admin.pin("cart", state.tolist())
                author = "gamepad" if 3 <= step < 6 else POLICY
                action = control.step("cart", step, state)
                recorder.step(Step(step, state, action, frozenset(), goal, author=author))
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser(800, 560, TEXT) as browser:
        yield browser


def test_a_log_is_scrubbed_and_played(browser: Browser, log: Path) -> None:
    with own_process(view_log, log, 0) as page:
        browser.driver.get(page)
        browser.until_text("control step 0")
        for text in ("cart", "door", "policy", "vetoed 0", "control step 10: vetoed", "control step 20: pinned"):
            assert text in browser.text
        browser.slide("timeline", 3 * RIGHT_KEY)
        browser.until_text("in the hand of gamepad")
        browser.slide("timeline", END_KEY)
        browser.until_text(f"control step {STEPS - 1}")
        assert "operator: subgoal pinned" in browser.text
        assert "vetoed 1" in browser.text
        browser.press("Play")  # from the beginning
        browser.until_text("Pause")
        browser.until_text("Play")
        browser.until_text(f"control step {STEPS - 1}")


def test_labels_of_the_timeline_leave_room_for_each_other() -> None:
    marks = ((3, "taken over"), (6, "handed back"), (10, "vetoed"), (13, "pinned"), (20, "goal"))
    assert _apart(marks, 29) == ((3, "taken over"), 6, (10, "vetoed"), 13, (20, "goal"))


def test_a_log_that_is_cut_off_says_so_and_shows_the_rest(browser: Browser, log: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mcap"
    content = log.read_bytes()
    cut.write_bytes(content[: len(content) * 2 // 3])
    with own_process(view_log, cut, 0) as page:
        browser.driver.get(page)
        browser.until_text("cut.mcap is cut off after control step")
        browser.until_text("control step 0")


@needs("view and sim extras", "mjviser", "gymnasium_robotics")
def test_a_log_of_a_kitchen_is_drawn_with_its_subgoal_and_what_was_done_to_it(tmp_path: Path) -> None:
    path, bundle = tmp_path / "run.mcap", load_bundle(KITCHEN)
    with (
        serve_in_thread(bundle) as address,
        Client(address) as client,
        Admin(address) as admin,
        client.control() as control,
        closing(SimulatedRobot(load_task("kitchen"))) as robot,
    ):
        header = LogHeader(robot="kitchen", seed=0, plan_lead=0, digest=bundle.digest, spec=bundle.spec)
        deeds: dict[int, Callable[[np.ndarray], object]] = {
            39: lambda _: admin.veto("kitchen"),
            64: lambda state: admin.pin("kitchen", state.tolist()),
            79: lambda _: admin.release("kitchen"),
            99: lambda state: control.set_goal("kitchen", ["microwave", "kettle"], state),
        }
        with RunRecorder(LogWriter(path, header)) as recorder:

            def keep(step: Step) -> None:
                recorder.step(step)
                deeds.get(step.step, lambda _: None)(step.state)

            run(robot, control, RunConfig(("microwave",), 120, "kitchen", seed=0), keep)
    with own_process(view_log, path, 0) as page, open_browser(800, 560) as browser:
        browser.driver.get(page)
        browser.until_text("control step 0")
        for mark in ("step 40: vetoed", "step 65: pinned", "step 100: goal"):
            assert mark in browser.text
        browser.slide("timeline", 30 * RIGHT_KEY)
        browser.until_text("control step 30")
        browser.until(lambda: policy_ghost(browser) > 0.003, "the ghost")
        browser.keep("log")
