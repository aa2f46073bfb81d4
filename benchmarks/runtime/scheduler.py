"""Punctuality of the scheduler: a control loop with a fake robot.

    python -m benchmarks.runtime.scheduler --rate 100 --seconds 60

"late" is the delay from a period's deadline to its begin. "work" is the time of the loop's own work: the observation
of the fake robot, a target through the safety filter with the FR3's limits, and its application. A period without a
tick is missed. Exits with 1 if a period was missed; on an idle machine none is.
"""

from time import perf_counter_ns
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from benchmarks.common import Json, circumstances, show, table, tracked
from rpl_runtime.files import JsonDict
from rpl_runtime.loop.clock import MonotonicClock, Schedule
from rpl_runtime.robots.profiles import profile
from rpl_runtime.safety.filter import SafetyFilter

HOME = np.array([0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785, 0.04, 0.04])  # [rad, m] the vendor's ready pose
PERCENTILES = (50, 90, 99, 99.9, 100)


class FakeRobot:
    """A robot that is always at its last target."""

    def __init__(self) -> None:
        self._position = HOME

    def observe(self) -> np.ndarray:
        return self._position

    def apply(self, target: np.ndarray) -> None:
        self._position = target


def main(
    rate: Annotated[float, typer.Option(min=1, max=500, help="Control periods per second.")] = 100.0,
    seconds: Annotated[float, typer.Option(min=1, help="Duration in seconds.")] = 60.0,
    as_json: Json = False,
) -> None:
    """Measure how late the periods of a control loop begin."""
    content = measure(rate, round(rate * seconds))
    show(content, as_json, shown(content))
    raise typer.Exit(1 if content["missed"] else 0)


def measure(rate: float, periods: int) -> JsonDict:
    period_s = round(1000 / rate) / 1000
    robot, safety = FakeRobot(), SafetyFilter(profile("fr3"), period_s)
    safety.start(HOME)
    late, work, missed = [], [], 0
    targets = HOME + 0.1 * np.sin(np.arange(periods)[:, None] * period_s) * (np.arange(9) < 7)
    schedule = Schedule(MonotonicClock(), period_s)
    for target in tracked(targets, "running"):
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
        **circumstances(("numpy",)),
    }


def percentiles(nanoseconds: list[int]) -> JsonDict:
    figures = np.percentile(np.array(nanoseconds) / 1000, PERCENTILES)
    return {"n": len(nanoseconds)} | {
        f"p{q:g}_us": float(figure) for q, figure in zip(PERCENTILES, figures, strict=True)
    }


def shown(content: JsonDict) -> Table:
    rows = [
        [name, content[name]["n"], *(f"{content[name][f'p{q:g}_us']:.0f}" for q in PERCENTILES)]
        for name in ("late", "work")
    ]
    headings = ("[us]", "n", *(f"p{q:g}" if q < 100 else "max" for q in PERCENTILES))
    title = f"a period every {content['period_s'] * 1000:g} ms, missed: {content['missed']}"
    machine = content["machine"]
    return table(title, headings, rows, f"load {machine['load']:.1f} on {machine['cpus']} CPUs")


if __name__ == "__main__":
    typer.run(main)
