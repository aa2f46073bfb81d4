"""What the page says: the state of the chosen robot in words and figures, and what happened last."""

import html
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from rpl_runtime.policy.novelty import FLAGGED
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.wire.admin import RobotStatus

if TYPE_CHECKING:
    import viser

_SILENT_S = 1.0  # [s] without a message after which a robot is marked
_TOLD = 6  # sentences that are kept in view
_NOBODY: tuple[str, ...] = ("",)  # to choose from
_CSS = """<style>
.rpl {font-size: 13px; line-height: 1.6; padding: 0.2em 0.9em}
.rpl table {width: 100%; border-spacing: 0}
.rpl td:first-child {opacity: 0.6; width: 5.5em; vertical-align: top}
.rpl .chip {display: inline-block; border: 1px solid #8888; border-radius: 9px; padding: 0 0.6em; margin: 1px 3px 1px 0}
.rpl .done {background: #2f9e5b; border-color: #2f9e5b; color: white}
.rpl .policy {background: #0091ff; border-color: #0091ff; color: white}
.rpl .operator {background: #ff8c00; border-color: #ff8c00; color: black}
.rpl .bad {color: #ff6b6b}
.rpl .bar {display: inline-block; width: 5em; height: 0.6em; background: #8884; margin-right: 0.6em}
.rpl .bar i {display: block; height: 100%; background: #0091ff}
</style>"""


class Panel:
    """The panel of one page.

    Args:
        server: of the page.
        choose: called with the name of a robot that somebody chooses.
    """

    def __init__(self, server: "viser.ViserServer", choose: Callable[[str], None]) -> None:
        gui = server.gui
        gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False, control_width="large")
        gui.main_panel.dock_right()
        self._told: deque[str] = deque(maxlen=_TOLD)
        self._robots = gui.add_dropdown("robot", _NOBODY, visible=False, order=1)
        self._robots.on_update(lambda event: None if event.client_id is None else choose(event.target.value))
        self._status = gui.add_html("", order=2)
        gui.add_html(_CSS, order=3)
        self._news = gui.add_html("", order=1e9)

    def show(self, names: tuple[str, ...], chosen: RobotStatus, spec: PolicySpec) -> None:
        """Show the state of the chosen robot of several."""
        if names != self._robots.options:
            self._robots.options = names
        self._robots.value = chosen.robot
        self._robots.visible = len(names) > 1
        self._status.content = _status(chosen, spec)

    def show_nothing(self, why: str) -> None:
        """Say why no robot is to be seen."""
        self._robots.visible = False
        self._status.content = f'<div class="rpl">{html.escape(why)}</div>'

    def tell(self, sentence: str, bad: bool = False) -> None:
        """Add a sentence to those at the foot of the panel, the newest first."""
        style = ' class="bad"' if bad else ""
        self._told.appendleft(f"<div{style}>{time.strftime('%H:%M:%S')} {html.escape(sentence)}</div>")
        self._news.content = f'<div class="rpl">{"".join(self._told)}</div>'


def _status(robot: RobotStatus, spec: PolicySpec) -> str:
    state = np.array(robot.state, dtype=np.float32)
    done = spec.done(state) if len(state) else frozenset()
    chips = "".join(
        f'<span class="chip{" done" if name in done else ""}">{html.escape(name)}{" ✓" if name in done else ""}</span>'
        for name in spec.asked(robot.mask)
    )
    novelty = "–" if robot.novelty is None else f"{robot.novelty:.2f}"
    if robot.novelty is not None and robot.novelty > FLAGGED:
        novelty = f'<span class="bad">{novelty}, far from the training data</span>'
    author, text = _author(robot)
    age = f"{min(1.0, (robot.age + 1) / spec.horizon):.0%}"
    followed = f'<span class="bar"><i style="width:{age}"></i></span>age {robot.age} of {spec.horizon}'
    silent = f' <span class="bad">silent for {robot.idle_s:.0f} s</span>' if robot.idle_s > _SILENT_S else ""
    asks = ' <span class="bad">the policy asks for help</span>' if robot.help else ""
    rows = {
        "robot": f"<b>{html.escape(robot.robot)}</b>, {html.escape(robot.model)} {robot.digest[:8]}{silent}",
        "goal": chips or "a whole state",
        "time": f"{robot.step * spec.period_s:.1f} s, control step {robot.step}",
        "author": f'<span class="chip {author}">{text}</span>{asks}',
        "subgoal": f"{'not followed' if robot.hand else followed}, vetoed {robot.vetoes}",
        "novelty": novelty,
    }
    if robot.times.total_us:
        times = robot.times
        rows["latency"] = f"{times.total_us:.0f} us (plan {times.plan_us:.0f}, act {times.act_us:.0f})"
    cells = "".join(f"<tr><td>{name}</td><td>{text}</td></tr>" for name, text in rows.items())
    return f'<div class="rpl"><table>{cells}</table></div>'


def _author(robot: RobotStatus) -> tuple[str, str]:
    """Who leads the robot, as a class of the style sheet and in words."""
    if robot.hand:
        return "operator", f"in the hand of {html.escape(robot.hand)}"
    if robot.claimed:
        return "operator", "operator: subgoal pinned, says its client"
    return ("operator", "operator: subgoal pinned") if robot.pinned else ("policy", "policy")
