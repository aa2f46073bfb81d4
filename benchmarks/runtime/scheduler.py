"""How punctual the scheduler is: a control loop with nothing in it but a fake robot.

    python benchmarks/runtime/scheduler.py --rate 100 --seconds 60

Late is how long after its deadline a period began, work what the loop did in it: the fake robot's observation, a
target through the safety filter with the FR3's limits, and the fake robot taking it. A period is missed where it went
by without a tick. Exits with 1 where one was: on a machine with nothing else to do, none is.
"""

import json
import os
from time import perf_counter_ns
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from rpl_runtime.loop.clock import MonotonicClock, Schedule
from rpl_runtime.provenance import command, commit
from rpl_runtime.robots.profiles import profile
from rpl_runtime.safety.filter import SafetyFilter

HOME = np.array([0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785, 0.04, 0.04])  # [rad, m] the vendor's ready pose
PERCENTILES = (50, 90, 99, 99.9, 100)


class FakeRobot:
    """It is wherever it was told to be."""

    def __init__(self) -> None:
        self._position = HOME

    def observe(self) -> np.ndarray:
        return self._position

    def apply(self, target: np.ndarray) -> None:
        self._position = target


def main(
    rate: Annotated[float, typer.Option(min=1, max=500, help="Control periods a second [Hz].")] = 100.0,
    seconds: Annotated[float, typer.Option(min=1, help="How long [s].")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure the lateness of a control loop's periods."""
    content = measure(rate, round(rate * seconds))
    if as_json:
        typer.echo(json.dumps(content, indent=1))
    else:
        Console().print(table(content))
    raise typer.Exit(1 if content["missed"] else 0)


def measure(rate: float, periods: int) -> dict[str, Any]:
    period_s = round(1000 / rate) / 1000
    robot, safety = FakeRobot(), SafetyFilter(profile("fr3"), period_s)
    safety.start(HOME)
    late, work, missed = [], [], 0
    targets = HOME + 0.1 * np.sin(np.arange(periods)[:, None] * period_s) * (np.arange(9) < 7)
    schedule = Schedule(MonotonicClock(), period_s)
    for target in track(targets, "running", console=Console(stderr=True), transient=True, refresh_per_second=1):
        tick = schedule.wait()
        start = perf_counter_ns()
        robot.observe()
        robot.apply(safety.step(target).target)
        work.append(perf_counter_ns() - start)
        late.append(tick.late_ns)
        missed += tick.missed
    return {
        "period_s": period_s,
        "missed": missed,
        "late": percentiles(late),
        "work": percentiles(work),
        "command": command(),
        "commit": commit(),
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0]},
    }


def percentiles(nanoseconds: list[int]) -> dict[str, Any]:
    figures = np.percentile(np.array(nanoseconds) / 1000, PERCENTILES)
    return {"n": len(nanoseconds)} | {
        f"p{q:g}_us": float(figure) for q, figure in zip(PERCENTILES, figures, strict=True)
    }


def table(content: dict[str, Any]) -> Table:
    load, cpus = content["machine"]["load"], content["machine"]["cpus"]
    made = Table(
        title=f"a period every {content['period_s'] * 1000:g} ms: {content['missed']} missed",
        caption=f"load {load:.1f} on {cpus} CPUs",
        header_style="bold",
    )
    for heading in ("[us]", "n", *(f"p{q:g}" if q < 100 else "max" for q in PERCENTILES)):
        made.add_column(escape(heading), justify="left" if heading == "[us]" else "right")
    for name in ("late", "work"):
        found = content[name]
        made.add_row(name, str(found["n"]), *(f"{found[f'p{q:g}_us']:.0f}" for q in PERCENTILES))
    return made


if __name__ == "__main__":
    typer.run(main)
