"""The robots of a server at a glance, as often as one looks.

In: an operator's client. Out: a table in the terminal, drawn anew until Ctrl-C. It changes nothing.
"""

import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from rpl_runtime.client.admin import Admin
from rpl_runtime.policy.novelty import FLAGGED
from rpl_runtime.wire.admin import RobotStatus

_SILENT_S = 1.0  # [s] of silence after which a robot stands out


def watch(admin: Admin, every_s: float) -> None:
    """Show the robots of a server, every so many seconds, until Ctrl-C.

    Raises:
        RelayError: the server is gone, or refuses.
    """
    with Live(robots_table(admin.robots()), console=Console(), auto_refresh=False) as live:
        while True:
            time.sleep(every_s)
            live.update(robots_table(admin.robots()), refresh=True)


def robots_table(robots: Sequence[RobotStatus]) -> Table:
    """A row for each robot."""
    table = Table(header_style="bold", title=f"{len(robots)} robots", title_justify="left")
    for heading in ("robot", "model"):
        table.add_column(heading)
    for heading in (
        "step",
        "subgoal\nage",
        "vetoes",
        "novelty",
        "plan\n[us]",
        "act\n[us]",
        "in all\n[us]",
        "silent\n[s]",
    ):
        table.add_column(escape(heading), justify="right")
    table.add_column("client")
    for robot in robots:
        times = robot.times
        silent = f"{robot.idle_s:.1f}"
        table.add_row(
            escape(robot.robot),
            f"{escape(robot.model)} {robot.digest[:8]}",
            str(robot.step),
            "[bold]pinned[/]" if robot.pinned else str(robot.age),
            str(robot.vetoes),
            _novelty(robot.novelty),
            *(f"{spent:.0f}" for spent in (times.plan_us, times.act_us, times.total_us)),
            f"[yellow]{silent}[/]" if robot.idle_s > _SILENT_S else silent,
            escape(robot.peer),
        )
    return table


def _novelty(score: float | None) -> str:
    if score is None:
        return "–"
    return f"[red]{score:.2f}[/]" if score > FLAGGED else f"{score:.2f}"
