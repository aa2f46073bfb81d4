"""What a step costs with the low level beside the robot, plans over gRPC included.

    python benchmarks/local.py models/kitchen

The server runs in a process of its own. The low level alone, the relay loop with both levels in process, the low
level here with plans from the server, and both levels at the server are measured in turns, a horizon of steps of each
after the other, so that all see the same machine. A figure is the time of a horizon over its steps: amortised, since
the first step of a horizon plans. Exits with 1 where the low level beside the robot costs more than the limit.
"""

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter_ns
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from rpl_runtime.bundle import load_bundle
from rpl_runtime.hosting import hosting
from rpl_runtime.local import local_control
from rpl_runtime.policy import OnnxPolicy
from rpl_runtime.provenance import command, commit
from rpl_runtime.reconnect import lasting_control
from rpl_runtime.relay import RelayLoop
from rpl_runtime.spec import ResolvedGoal

LIMIT_US = 60.0  # [us] a step, amortised, p50
WARM_UP = 5  # horizons before anything is measured
ROBOT = "bench"


def main(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    horizons: Annotated[int, typer.Option(min=1, help="Horizons of each kind of step.")] = 300,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure a step with the low level beside the robot."""
    with Console(stderr=True).status("measuring"):
        content = measure(bundle, horizons)
    if as_json:
        typer.echo(json.dumps(content, indent=1))
    else:
        Console().print(table(content))
    raise typer.Exit(0 if content["met"] else 1)


def measure(path: Path, horizons: int) -> dict[str, Any]:
    bundle = load_bundle(path)
    policy, spec = OnnxPolicy(bundle), bundle.spec
    low, high = spec.state.bounds
    state = (low + high) / 2
    goal = ResolvedGoal(state, np.ones_like(state))
    noise = np.zeros((1, spec.low_noise), np.float32)
    loop = RelayLoop(policy, spec)
    loop.start(ROBOT, goal)
    with ExitStack() as stack:
        address = stack.enter_context(hosting(path))
        local = stack.enter_context(local_control(address))
        remote = stack.enter_context(lasting_control(address))
        for control in (local, remote):
            control.start(ROBOT, goal)
        spent = in_turns(
            {
                "low level alone": lambda step: policy.act(state[None], state[None], noise),
                "both levels in process": lambda step: loop.step([ROBOT], [step], state[None]),
                "low level local": lambda step: local.step(ROBOT, step, state),
                "both levels remote": lambda step: remote.step(ROBOT, step, state),
            },
            spec.horizon,
            horizons,
        )
    alone = np.median(spent["low level alone"])
    rows = [
        {
            "what": what,
            "steps": horizons * spec.horizon,
            "over_low_level_alone": float(np.median(figures) / alone),
        }
        | {f"p{p}_us": float(np.percentile(figures, p)) for p in (50, 90, 99)}
        for what, figures in spent.items()
    ]
    value = float(np.median(spent["low level local"]))
    return {
        "amortised over": f"{spec.horizon} steps",
        "rows": rows,
        "limit_us": LIMIT_US,
        "met": value <= LIMIT_US,
        "bundle_digest": bundle.digest,
        "command": command(),
        "commit": commit(),
    }


def in_turns(calls: dict[str, Callable[[int], Any]], horizon: int, horizons: int) -> dict[str, np.ndarray]:
    """Microseconds a step of each call, one figure for each horizon."""
    spent = {what: np.empty(WARM_UP + horizons) for what in calls}
    for number in range(WARM_UP + horizons):
        for what, call in calls.items():
            begun = perf_counter_ns()
            for step in range(number * horizon, (number + 1) * horizon):
                call(step)
            spent[what][number] = (perf_counter_ns() - begun) / horizon / 1e3
    return {what: figures[WARM_UP:] for what, figures in spent.items()}


def table(content: dict[str, Any]) -> Table:
    """The rows, then the requirement."""
    found = Table(title=f"a step, amortised over {content['amortised over']} [us]", header_style="bold")
    for heading in ("", "steps", "p50", "p90", "p99", "ratio"):
        found.add_column(heading, justify="right" if heading else "left")
    for row in content["rows"]:
        figures = (f"{row[name]:.1f}" for name in ("p50_us", "p90_us", "p99_us"))
        found.add_row(row["what"], str(row["steps"]), *figures, f"{row['over_low_level_alone']:.2f}")
    verdict = "[green]met[/]" if content["met"] else "[red]missed[/]"
    found.caption = f"low level local, p50: at most {content['limit_us']:g} us, {verdict}"
    return found


if __name__ == "__main__":
    typer.run(main)
