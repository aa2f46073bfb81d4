"""What a step costs with the low level beside the robot, plans over gRPC included.

    python benchmarks/runtime/local.py models/kitchen

The server runs in a process of its own. ONNX Runtime's bare `session.run` of low.onnx, the low level as it is called
here, the relay loop with both levels in process, the low level here with plans from the server, and both levels at the
server are measured in turns, a horizon of steps of each after the other, so that all see the same machine. A figure is
the time of a horizon over its steps: amortised, since the first step of a horizon plans; "others" are the steps that
do not. Exits with 1 where the low level beside the robot costs more than the limit.
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

from rpl_runtime.client.on_robot import on_robot_control
from rpl_runtime.client.reconnect import lasting_control
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.policy.spec import ResolvedGoal
from rpl_runtime.provenance import command, commit
from rpl_runtime.relay.loop import RelayLoop
from rpl_runtime.server.subprocess import serve_in_process

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
    bare, feeds = bare_session(bundle.low), {"state": state[None], "subgoal": state[None], "noise": noise}
    loop = RelayLoop(policy, spec)
    loop.start(ROBOT, goal)
    with ExitStack() as stack:
        address = stack.enter_context(serve_in_process(path))
        local = stack.enter_context(on_robot_control(address))
        remote = stack.enter_context(lasting_control(address))
        for control in (local, remote):
            control.start(ROBOT, goal)
        spent = in_turns(
            {
                "bare session.run": lambda step: bare.run(["action"], feeds),
                "low level alone": lambda step: policy.act(state[None], state[None], noise),
                "both levels in process": lambda step: loop.step([ROBOT], [step], state[None]),
                "low level local": lambda step: local.step(ROBOT, step, state),
                "both levels remote": lambda step: remote.step(ROBOT, step, state),
            },
            spec.horizon,
            horizons,
        )
    floor = np.median(spent["bare session.run"].mean(axis=1))
    rows = [
        {
            "what": what,
            "steps": horizons * spec.horizon,
            "over_bare": float(np.median(figures.mean(axis=1)) / floor),
            "others_p50_us": float(np.median(figures[:, 1:])),
        }
        | {f"p{p}_us": float(np.percentile(figures.mean(axis=1), p)) for p in (10, 50, 90, 99)}
        for what, figures in spent.items()
    ]
    value = float(np.median(spent["low level local"].mean(axis=1)))
    return {
        "amortised over": f"{spec.horizon} steps",
        "rows": rows,
        "limit_us": LIMIT_US,
        "met": value <= LIMIT_US,
        "bundle_digest": bundle.digest,
        "command": command(),
        "commit": commit(),
    }


def bare_session(path: Path) -> Any:
    """The graph in ONNX Runtime with the threads that the runtime gives it, and nothing else of ours."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def in_turns(calls: dict[str, Callable[[int], Any]], horizon: int, horizons: int) -> dict[str, np.ndarray]:
    """Microseconds (horizons, horizon) of each step of each call."""
    spent = {what: np.empty((WARM_UP + horizons, horizon)) for what in calls}
    for number in range(WARM_UP + horizons):
        for what, call in calls.items():
            for age in range(horizon):
                begun = perf_counter_ns()
                call(number * horizon + age)
                spent[what][number, age] = (perf_counter_ns() - begun) / 1e3
    return {what: figures[WARM_UP:] for what, figures in spent.items()}


def table(content: dict[str, Any]) -> Table:
    """The rows, then the requirement."""
    found = Table(title=f"a step, amortised over {content['amortised over']} [us]", header_style="bold")
    for heading in ("", "steps", "p10", "p50", "p90", "p99", "others p50", "ratio"):
        found.add_column(heading, justify="right" if heading else "left")
    for row in content["rows"]:
        figures = (f"{row[name]:.1f}" for name in ("p10_us", "p50_us", "p90_us", "p99_us", "others_p50_us"))
        found.add_row(row["what"], str(row["steps"]), *figures, f"{row['over_bare']:.2f}")
    verdict = "[green]met[/]" if content["met"] else "[red]missed[/]"
    found.caption = f"low level local, p50: at most {content['limit_us']:g} us, {verdict}"
    return found


if __name__ == "__main__":
    typer.run(main)
