"""What `rpl serve` and `rpl run` say to a person.

In: a bundle and its address, or a finished run. Out: text, or plain dictionaries for --json. It runs nothing.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from rpl_runtime.loop.realtime import DriveResult
from rpl_runtime.loop.watchdog import Stop
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.recording.mcap import LogHeader, LogWriter
from rpl_runtime.recording.recorder import RunRecorder
from rpl_runtime.relay.messages import ModelInfo
from rpl_runtime.relay.run import RunConfig, RunResult, Step


@contextlib.contextmanager
def run_progress(steps: int, elements: tuple[str, ...]) -> Iterator[Callable[[Step], None]]:
    """A live bar on stderr; the value takes each step as it is over."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    ever: set[str] = set()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("running", total=steps)

        def on_step(step: Step) -> None:
            ever.update(step.done.intersection(elements))
            progress.update(task, advance=1, description=f"{len(ever)} of {len(elements)} done")

        yield on_step


@contextlib.contextmanager
def run_recorder(path: Path, config: RunConfig, model: ModelInfo) -> Iterator[RunRecorder]:
    """A log of a run; says at the end, on stderr, what it holds.

    Raises:
        InvalidInput: something stands at the path.
        RecordingError: the log cannot be begun.
        MissingExtra: the `record` extra is not installed.
    """
    header = LogHeader(
        robot=config.robot_id, seed=config.seed, plan_lead=config.plan_lead, digest=model.digest, spec=model.spec
    )
    log = RunRecorder(LogWriter(path, header))
    try:
        with log:
            yield log
    finally:
        steps, dropped, fault = log.summary
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print(f"log: {steps} steps in {escape(str(path))}, {dropped} dropped")
        if fault:
            console.print("[bold yellow]log broken off:[/]", escape(fault))


def run_facts(result: RunResult, elements: tuple[str, ...], spec: PolicySpec) -> dict[str, Any]:
    """What a run came to, for each element of its goal."""
    return {
        "policy": spec.name,
        "bundle_digest": result.digest,
        "steps": len(result.states),
        "elements": {
            name: {
                "ever_done": name in result.ever_done,
                "done_at_end": name in result.done_at_end,
                "first_done": result.first_done(name),
                "distance_at_end": spec.elements[name].distance(result.final_state),
            }
            for name in elements
        },
        "done": len(result.ever_done.intersection(elements)),
        "success": result.ever_done.issuperset(elements),
    }


def print_run(facts: dict[str, Any], period_s: float) -> None:
    """The same as a table."""
    table = Table(title=f"{facts['policy']}, {facts['steps']} steps: {facts['done']} of {len(facts['elements'])} done")
    for heading in ("element", "first done", "at the end", "distance at the end"):
        table.add_column(heading)
    for name, element in facts["elements"].items():
        first = element["first_done"]
        table.add_row(
            name,
            "[red]never[/]" if first is None else f"[green]step {first}[/] ({first * period_s:.1f} s)",
            "[green]done[/]" if element["done_at_end"] else "[red]not done[/]",
            f"{element['distance_at_end']:.3f}",
        )
    Console().print(table)


_PERCENTILES = (50, 90, 99, 99.9, 100)


def drive_facts(result: DriveResult, dry_run: bool) -> dict[str, Any]:
    """What a run in a world that does not wait came to besides: what stopped it, and how punctual it was."""
    began_ns = result.events[0].at_ns
    unix_ns = time.time_ns() - time.monotonic_ns()

    def moment(at_ns: int) -> dict[str, Any]:
        at = datetime.fromtimestamp((unix_ns + at_ns) / 1e9, UTC)
        return {"after_s": (at_ns - began_ns) / 1e9, "time": at.isoformat(timespec="milliseconds")}

    stop = result.stop
    return {
        "dry_run": dry_run,
        "stop": None if stop is None else {"cause": stop.cause} | moment(stop.at_ns) | _rest(stop),
        "events": [{"kind": event.kind, "text": event.text} | moment(event.at_ns) for event in result.events],
        "periods": len(result.late_ns),
        "held": result.held,
        "missed": result.missed,
        "limit_violations": result.limit_violations,
        "late_us": percentiles_us(result.late_ns),
        "observe_to_command_us": percentiles_us(result.answer_ns),
    }


def percentiles_us(durations_ns: np.ndarray) -> dict[str, float]:
    """Percentiles [us] of durations (N,) [ns] with their n; only that where there are none."""
    if not len(durations_ns):
        return {"n": 0}
    values = np.percentile(durations_ns / 1000, _PERCENTILES)
    found = {f"p{q:g}": round(float(value), 1) for q, value in zip(_PERCENTILES, values, strict=True)}
    return {"n": len(durations_ns)} | found


def print_drive(facts: dict[str, Any]) -> None:
    """The same as a few lines."""
    console = Console(soft_wrap=True, highlight=False)
    stop, limit_violations = facts["stop"], facts["limit_violations"]
    if stop is not None:
        console.print(f"[bold red]stopped[/] after {stop['after_s']:.2f} s, {stop['time']}: {escape(stop['cause'])}")
        console.print("It stays stopped until another `rpl run`; see first where the robot stands.")
    if facts["dry_run"]:
        console.print("A dry run: nothing was commanded.")
    kept = ", ".join(f"{kind} {count}" for kind, count in limit_violations.items()) or "none"
    console.print(f"{facts['periods']} periods, {facts['held']} without an action, {facts['missed']} missed")
    console.print(f"targets that would have left a limit: {kept}")
    table = Table(header_style="bold")
    for heading in ("[us]", "n", "p50", "p90", "p99", "p99.9", "max"):
        table.add_column(escape(heading), justify="left" if heading == "[us]" else "right")
    for name, key in (("a period began late by", "late_us"), ("observation to command", "observe_to_command_us")):
        found = facts[key]
        figures = [f"{found[f'p{q:g}']:.0f}" for q in _PERCENTILES if f"p{q:g}" in found]
        table.add_row(name, str(found["n"]), *figures)
    console.print(table)


def _rest(stop: Stop) -> dict[str, float | None]:
    return {"rest_after_s": None if stop.rest_ns is None else (stop.rest_ns - stop.at_ns) / 1e9}
