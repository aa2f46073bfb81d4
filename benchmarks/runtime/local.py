"""Time of a control step with the low level beside the robot and plans over gRPC.

    python -m benchmarks.runtime.local models/relay

The server runs in its own process. Five ways to act are measured in turns, a horizon each, so that all see the same
machine: ONNX Runtime's bare `session.run` of low.onnx, the low level in this process, the relay loop with both levels
in this process, the low level here with plans from the server, and both levels at the server. A figure is amortised:
the time of a horizon over its control steps, since the first of them plans. "others" are the steps without a plan.
Exits with 1 if the low level beside the robot takes longer than the limit.
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter_ns
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from benchmarks.common import PROGRESS, Bundle, Json, circumstances, show, table, verdict
from rpl_runtime.bench.peers.control import middle
from rpl_runtime.client import Access, ReconnectConfig, lasting_control, on_robot_control
from rpl_runtime.files import JsonDict
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.policy.spec import ResolvedGoal
from rpl_runtime.relay.loop import RelayLoop
from rpl_runtime.server.subprocess import serve_in_process

LIMIT_US = 60.0  # [us] a control step, amortised, p50
WARM_UP = 5  # horizons before the measured ones
ROBOT = "bench"


def main(
    bundle: Bundle,
    horizons: Annotated[int, typer.Option(min=1, help="Horizons of each way to act.")] = 300,
    as_json: Json = False,
) -> None:
    """Measure a control step with the low level beside the robot."""
    with PROGRESS.status("measuring"):
        content = measure(bundle, horizons)
    show(content, as_json, shown(content))
    raise typer.Exit(0 if content["met"] else 1)


def measure(path: Path, horizons: int) -> JsonDict:
    bundle = load_bundle(path)
    policy, spec = OnnxPolicy(bundle), bundle.spec
    state = middle(spec)
    goal = ResolvedGoal(state, np.ones_like(state))
    noise = np.zeros((1, spec.low_noise), np.float32)
    bare, feeds = bare_session(bundle.low), {"state": state[None], "subgoal": state[None], "noise": noise}
    loop = RelayLoop(policy, spec)
    loop.start(ROBOT, goal)
    with ExitStack() as stack:
        address = stack.enter_context(serve_in_process(path))
        config = ReconnectConfig(access=Access())
        local = stack.enter_context(on_robot_control(address, config))
        remote = stack.enter_context(lasting_control(address, config))
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
        **circumstances(("numpy", "onnxruntime", "grpcio")),
    }


def bare_session(path: Path) -> Any:
    """The graph in ONNX Runtime with as many threads as our runtime uses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def in_turns(calls: dict[str, Callable[[int], Any]], horizon: int, horizons: int) -> dict[str, np.ndarray]:
    """Microseconds (horizons, horizon) of each call, for each control step."""
    spent = {what: np.empty((WARM_UP + horizons, horizon)) for what in calls}
    for number in range(WARM_UP + horizons):
        for what, call in calls.items():
            for age in range(horizon):
                begun = perf_counter_ns()
                call(number * horizon + age)
                spent[what][number, age] = (perf_counter_ns() - begun) / 1e3
    return {what: figures[WARM_UP:] for what, figures in spent.items()}


def shown(content: JsonDict) -> Table:
    names = ("p10_us", "p50_us", "p90_us", "p99_us", "others_p50_us")
    rows = [
        [row["what"], row["steps"], *(f"{row[name]:.1f}" for name in names), f"{row['over_bare']:.2f}"]
        for row in content["rows"]
    ]
    caption = f"low level local, p50: at most {content['limit_us']:g} us, {verdict(content['met'])}"
    headings = ("", "control steps", "p10", "p50", "p90", "p99", "others p50", "ratio")
    return table(f"a control step, amortised over {content['amortised over']} [us]", headings, rows, caption)


if __name__ == "__main__":
    typer.run(main)
