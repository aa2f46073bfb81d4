"""The page of a logged run, with a timeline to play and to scrub."""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rpl_runtime.recording.mcap import Log, LoggedStep, read_log
from rpl_runtime.relay.messages import StageTimes
from rpl_runtime.relay.run_state import POLICY, SubgoalOverride
from rpl_runtime.view.gate import page_server
from rpl_runtime.view.page import TRAIL, Page
from rpl_runtime.wire.admin import RobotStatus

if TYPE_CHECKING:
    import viser

_LOOK_S = 0.02  # [s] between two looks at the timeline
_MARKS = 100  # on the timeline and below it, at most
_LABELS = 6  # of marks, for which the timeline has room


def view_log(on_ready: Callable[[str], None], path: Path, port: int) -> None:
    """Show a logged run in a page, until an exception such as KeyboardInterrupt ends it.

    Args:
        on_ready: gets the page's address.
        path: of the log.
        port: of the page; 0 takes a free one.

    Raises:
        InvalidInput: the file is not a log, or holds no control step.
        AddressInUse: the port is taken.
        MissingExtra: an optional dependency is not installed.
    """
    log = read_log(path)
    spec, steps = log.header.spec, log.steps
    with page_server(port, path.name) as (server, where):
        page = Page(server, spec)
        timeline = _Timeline(server.gui, log)
        if not log.whole:
            page.tell(f"{path.name} is cut off after control step {steps[-1].step}: its run may have gone on", bad=True)
        point = functools.cache(lambda at: page.flange(np.array(steps[at].state)))
        on_ready(where)
        shown = None
        while True:
            at = timeline.position()
            if at != shown:
                trail = np.array([point(before) for before in range(max(0, at - TRAIL), at + 1)])
                page.show([_status(log, steps[at])], {log.header.digest: spec}, {log.header.robot: trail})
                shown = at
            time.sleep(_LOOK_S)


class _Timeline:
    """A slider over the steps of a log, and a button that plays them in real time."""

    def __init__(self, gui: "viser.GuiApi", log: Log) -> None:
        self._period_s, self._last = log.header.spec.period_s, len(log.steps) - 1
        self._playing, self._moved_s = False, 0.0
        marks = _marks(log)
        self._slider = gui.add_slider("timeline", 0, max(self._last, 1), 1, 0, marks=_apart(marks, self._last), order=3)
        self._button = gui.add_button("Play", order=4)
        self._button.on_click(lambda _: self._press())
        told = [f"- control step {log.steps[at].step}: {what}" for at, what in marks]
        gui.add_markdown("\n".join(told), order=5, visible=bool(told))

    def position(self) -> int:
        """The index of the step to show now."""
        now = time.monotonic()
        if self._playing and now - self._moved_s >= self._period_s:
            self._slider.value = min(int(self._slider.value) + 1, self._last)
            self._moved_s = now
            if self._slider.value == self._last:
                self._press()
        return min(int(self._slider.value), self._last)

    def _press(self) -> None:
        if not self._playing and self._slider.value >= self._last:
            self._slider.value = 0
        self._playing = not self._playing
        self._button.label = "Pause" if self._playing else "Play"


def _marks(log: Log) -> tuple[tuple[int, str], ...]:
    """Where an operator changed the subgoal or the goal, the robot another author, or the policy asked for help."""
    marks, before = [], log.steps[0]
    for at, step in enumerate(log.steps):
        if step.override is not before.override and step.override is not SubgoalOverride.NONE:
            marks.append((at, step.override.name.lower()))
        elif step.help and not before.help:
            marks.append((at, "asks for help"))
        elif step.author != before.author:
            marks.append((at, "handed back" if step.author == POLICY else "taken over"))
        elif (step.goal, step.mask) != (before.goal, before.mask):
            marks.append((at, "goal"))
        before = step
    return tuple(marks[:_MARKS])


def _apart(marks: tuple[tuple[int, str], ...], last: int) -> tuple[int | tuple[int, str], ...]:
    """The marks, with labels only where the one before is far enough away for both to be read."""
    found: list[int | tuple[int, str]] = []
    free = 0
    for at, what in marks:
        found.append((at, what) if at >= free else at)
        free = at + last // _LABELS if at >= free else free
    return tuple(found)


def _status(log: Log, step: LoggedStep) -> RobotStatus:
    """A step as the server would have told it."""
    vetoes = sum(earlier.override is SubgoalOverride.VETOED for earlier in log.steps if earlier.step <= step.step)
    return RobotStatus(
        robot=log.header.robot,
        model=log.header.spec.name,
        digest=log.header.digest,
        peer="",
        stream=0,
        step=step.step,
        age=step.age,
        subgoal=step.subgoal,
        idle_s=0.0,
        times=StageTimes(0.0, 0.0, 0.0, 0.0),
        pinned=step.override is SubgoalOverride.PINNED,
        vetoes=vetoes,
        novelty=step.novelty,
        state=step.state,
        goal=step.goal,
        mask=step.mask,
        hand="" if step.author == POLICY else step.author,
        help=step.help,
    )
