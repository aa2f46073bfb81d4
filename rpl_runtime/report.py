"""What `rpl serve` and `rpl run` say to a person.

In: a bundle and its address, or a finished run. Out: text, or plain dictionaries for --json. It runs nothing.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from rpl_runtime.bundle import Bundle
from rpl_runtime.log import RunLog
from rpl_runtime.logfile import LogHeader, LogWriter
from rpl_runtime.messages import ModelInfo
from rpl_runtime.run import RunConfig, RunResult, Step
from rpl_runtime.spec import PolicySpec


def print_serving(bundle: Bundle, address: str) -> None:
    """One block that says what is served, where, and how to reach it."""
    spec = bundle.spec
    goal = ",".join(list(spec.elements)[:2])
    rows = {
        "policy": f"{spec.name}  {spec.description}",
        "bundle": f"{bundle.digest[:12]}  {bundle.path}",
        "sizes": f"state {spec.state.dim}, action {spec.action.dim}, "
        f"a subgoal every {spec.horizon} steps of {spec.period_s:g} s",
        "goals": ", ".join(spec.elements) or "whole states",
        "address": f"{address}  rpl.v1.RelayPolicy, plain text",
        "kitchen": f'rpl run --robot kitchen --address {address} --goal "{goal}"',
        "python": f'rpl_runtime.client.Client("{address}")',
        "look": f"grpcurl -plaintext {address} describe rpl.v1.RelayPolicy",
        "stop": "Ctrl-C, or SIGTERM",
    }
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(f"[bold]{name}[/]", escape(value))
    Console(soft_wrap=True).print(table)


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
def run_log(path: Path, config: RunConfig, model: ModelInfo) -> Iterator[RunLog]:
    """A log of a run; says at the end, on stderr, what it holds.

    Raises:
        InvalidInput: something stands at the path.
        RecordingError: the log cannot be begun.
        MissingExtra: the `record` extra is not installed.
    """
    header = LogHeader(
        robot=config.robot_id, seed=config.seed, plan_lead=config.plan_lead, digest=model.digest, spec=model.spec
    )
    log = RunLog(LogWriter(path, header))
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
