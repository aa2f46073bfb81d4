"""The live table of `rpl top`: a row for each robot of a server."""

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from rich import box
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from rpl_runtime.client.admin import Admin, Specs
from rpl_runtime.console import Console, count
from rpl_runtime.errors import printable
from rpl_runtime.policy.novelty import FLAGGED
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.wire.admin import RobotStatus

_SILENT_S = 1.0  # [s] of silence after which a robot is highlighted


def watch(admin: Admin, specs: Specs, every_s: float) -> None:
    """Show the robots of a server and update them every so many seconds, until Ctrl-C or q.

    Raises:
        RelayError: the server stopped answering, or refuses.
    """
    robots, seen_s = admin.robots(), time.monotonic()
    first = robots_table(robots, specs.of(robots), admin.address)
    with _typed() as typed, Live(first, console=Console(), auto_refresh=False) as live:
        while "q" not in typed(every_s):
            before, before_s = robots, seen_s
            robots, seen_s = admin.robots(), time.monotonic()
            rates = step_rates(before, robots, seen_s - before_s)
            live.update(robots_table(robots, specs.of(robots), admin.address, rates), refresh=True)


def _followed(robot: RobotStatus) -> str:
    """The age of the subgoal, or what counts instead."""
    if robot.hand:
        return f"[bold]by {escape(printable(robot.hand))}[/]"
    if robot.help:
        return f"{robot.age}, [red]asks\nfor help[/]"
    return "claimed" if robot.claimed else "[bold]pinned[/]" if robot.pinned else str(robot.age)


def step_rates(before: Sequence[RobotStatus], now: Sequence[RobotStatus], seconds: float) -> dict[str, float]:
    """The control steps per second of each robot between two looks."""
    steps = {robot.robot: robot.step for robot in before}
    return {robot.robot: (robot.step - steps[robot.robot]) / seconds for robot in now if robot.robot in steps}


@contextmanager
def _typed() -> Iterator[Callable[[float], str]]:
    """Waits for so many seconds, or for keys, which it returns; a terminal that is gone counts as q."""
    if not sys.stdin.isatty():
        yield lambda within_s: time.sleep(within_s) or ""
        return
    terminal = sys.stdin.fileno()
    settings = termios.tcgetattr(terminal)

    def typed(within_s: float) -> str:
        if not select.select([terminal], [], [], within_s)[0]:
            return ""
        return os.read(terminal, 64).decode(errors="replace") or "q"

    tty.setcbreak(terminal, termios.TCSANOW)
    try:
        yield typed
    finally:
        termios.tcsetattr(terminal, termios.TCSANOW, settings)


def robots_table(
    robots: Sequence[RobotStatus],
    specs: Mapping[str, PolicySpec],
    address: str,
    rates: Mapping[str, float] | None = None,
) -> Table:
    """A row for each robot of a server. Headings carry units; names are shown as they are, not as markup.

    Args:
        specs: of the robots' policies, by digest.
        rates: [1/s] control steps of each robot.
    """
    table = Table(
        title=f"{count(len(robots), 'robot')} at {escape(printable(address))}; q or Ctrl-C ends",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        header_style="bold",
    )
    table.add_column("robot, model,\nclient", overflow="fold")
    table.add_column("goal", overflow="fold")
    for heading in ("control\nstep", "steps\n[1/s]", "subgoal\nage", "vetoes", "novelty", "total\n[us]", "silent\n[s]"):
        table.add_column(escape(heading), justify="right")
    for robot in robots:
        novelty = "–" if robot.novelty is None else f"{robot.novelty:.2f}"
        silent, rate = f"{robot.idle_s:.1f}", (rates or {}).get(robot.robot)
        who = (robot.robot, f"{robot.model} {robot.digest[:8]}", robot.peer)
        table.add_row(
            "\n".join(escape(printable(text)) for text in who),
            _goal(robot, specs.get(robot.digest)),
            str(robot.step),
            "–" if rate is None else f"{rate:.1f}",
            _followed(robot),
            str(robot.vetoes),
            f"[red]{novelty}[/]" if robot.novelty is not None and robot.novelty > FLAGGED else novelty,
            f"{robot.times.total_us:.0f}",
            f"[yellow]{silent}[/]" if robot.idle_s > _SILENT_S else silent,
        )
    return table


def _goal(robot: RobotStatus, spec: PolicySpec | None) -> str:
    """The elements of a robot's goal, a line each, with those that are done marked."""
    asked = () if spec is None else spec.asked(robot.mask)
    if spec is None or not asked:
        return "a state" if robot.mask else "–"
    done = spec.done(np.array(robot.state, dtype=np.float32)) if robot.state else frozenset()
    return "\n".join(f"[green]✓ {escape(name)}[/]" if name in done else f"  {escape(name)}" for name in asked)
