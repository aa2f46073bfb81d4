"""The live table of `rpl top`: a row for each robot of a server."""

import time
from collections.abc import Sequence

from rich import box
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from rpl_runtime.client.admin import Admin
from rpl_runtime.console import Console
from rpl_runtime.errors import printable
from rpl_runtime.policy.novelty import FLAGGED
from rpl_runtime.wire.admin import RobotStatus

_SILENT_S = 1.0  # [s] of silence after which a robot is highlighted


def watch(admin: Admin, every_s: float) -> None:
    """Show the robots of a server and update them every so many seconds, until Ctrl-C.

    Raises:
        RelayError: the server stopped answering, or refuses.
    """
    with Live(robots_table(admin.robots()), console=Console(), auto_refresh=False) as live:
        while True:
            time.sleep(every_s)
            live.update(robots_table(admin.robots()), refresh=True)


def _followed(robot: RobotStatus) -> str:
    """The age of the subgoal, or why another counts."""
    if robot.hand:
        return f"[bold]by {escape(printable(robot.hand))}[/]"
    return "claimed" if robot.claimed else "[bold]pinned[/]" if robot.pinned else str(robot.age)


def robots_table(robots: Sequence[RobotStatus]) -> Table:
    """A row for each robot. Headings carry units; names are shown as they are, not as markup."""
    table = Table(
        title=f"robots: {len(robots)}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
        header_style="bold",
    )
    for heading in ("robot", "model"):
        table.add_column(heading)
    for heading in ("control\nstep", "subgoal\nage", "vetoes", "novelty"):
        table.add_column(heading, justify="right")
    for heading in ("plan\n[us]", "act\n[us]", "total\n[us]", "silent\n[s]"):
        table.add_column(escape(heading), justify="right")
    table.add_column("client", overflow="fold")
    for robot in robots:
        novelty = "–" if robot.novelty is None else f"{robot.novelty:.2f}"
        silent = f"{robot.idle_s:.1f}"
        table.add_row(
            escape(printable(robot.robot)),
            f"{escape(printable(robot.model))} {escape(printable(robot.digest[:8]))}",
            str(robot.step),
            _followed(robot),
            str(robot.vetoes),
            f"[red]{novelty}[/]" if robot.novelty is not None and robot.novelty > FLAGGED else novelty,
            *(f"{spent:.0f}" for spent in (robot.times.plan_us, robot.times.act_us, robot.times.total_us)),
            f"[yellow]{silent}[/]" if robot.idle_s > _SILENT_S else silent,
            escape(printable(robot.peer)),
        )
    return table
