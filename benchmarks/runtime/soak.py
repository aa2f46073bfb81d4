"""Many short runs against one server: no leaks after they end.

    python -m benchmarks.runtime.soak models/relay --steps 2000000

Every visit opens a connection and a stream, starts robots with new names, goals and options of every kind, makes
control steps, of which some are refused, changes a goal, plans and acts without a run, finishes every other robot, and
leaves the others to the end of the stream or of the connection. Afterwards no robot may be leased, and the server's
resident memory must have grown by less than the limit since the warm-up. Exits with 1 if one of these fails.
"""

import multiprocessing
import time
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from rich.table import Table

from benchmarks.common import Bundle, Json, circumstances, show, table, tracked, verdict
from rpl_runtime.client import Access, Action, Admin, Client, Control
from rpl_runtime.errors import StepOutOfOrder
from rpl_runtime.files import JsonDict
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.policy.spec import PolicySpec, ResolvedGoal
from rpl_runtime.server.subprocess import serve_in_process

LIMIT_MB = 5.0  # [MB] growth after the warm-up
ROBOTS = 32  # of a visit
STEPS = 25  # [control steps] of each robot of a visit
WARM_UP = 0.2  # fraction of the visits
FREE_S = 10.0  # [s] for the server to notice that the last connection is gone


class Sample(NamedTuple):
    steps: int  # [control steps] made until then
    memory_mb: float  # [MB] resident of the server


def main(
    bundle: Bundle,
    steps: Annotated[int, typer.Option(min=1, help="Control steps in all.")] = 2_000_000,
    as_json: Json = False,
) -> None:
    """Check that a server keeps nothing of runs that ended."""
    content = soak(bundle, max(10, steps // (ROBOTS * STEPS)))
    show(content, as_json, shown(content))
    raise typer.Exit(0 if content["met"] else 1)


def soak(path: Path, visits: int) -> JsonDict:
    bundle = load_bundle(path)
    rng, samples, taken = np.random.default_rng(0), [], 0
    with serve_in_process(path) as address:
        [server] = multiprocessing.active_children()
        began = time.monotonic()
        for number in tracked(range(visits), "visits"):
            taken += visit(address, bundle.spec, number, rng)
            samples.append(Sample(taken, memory_mb(server.pid)))
        seconds = time.monotonic() - began
        leased = still_leased(address)
    settled = samples[round(WARM_UP * visits) :]
    growth = settled[-1].memory_mb - settled[0].memory_mb
    return {
        "visits": visits,
        "runs": visits * ROBOTS,
        "steps": taken,
        "seconds": seconds,
        "leased": leased,
        "growth_mb": growth,
        "limit_mb": LIMIT_MB,
        "met": growth < LIMIT_MB and not leased,
        "samples": [sample._asdict() for sample in samples[:: max(1, visits // 50)]],
        "bundle_digest": bundle.digest,
        **circumstances(("numpy", "onnxruntime", "grpcio")),
    }


def visit(address: str, spec: PolicySpec, number: int, rng: np.random.Generator) -> int:
    """Returns the number of control steps made."""
    low, high = spec.state.bounds
    states = rng.uniform(low, high, (ROBOTS, spec.state.dim)).astype(np.float32)
    robots = [f"visit-{number}-robot-{at}" for at in range(ROBOTS)]
    client = Client(address, timeout_s=30.0, access=Access())
    control = client.control()
    start_all(control, spec, robots, states)
    taken = 0
    for step in range(STEPS):
        asked = [step + (at == step) for at in range(ROBOTS)] if step else [0] * ROBOTS
        answers = list(control.step_batch(robots, asked, states))
        for at, answer in enumerate(answers):
            if isinstance(answer, StepOutOfOrder) and asked[at] != step:
                answers[at] = control.step(robots[at], step, states[at])
        assert all(isinstance(answer, Action) for answer in answers), answers
        taken += len(answers)
    control.set_goal(robots[0], ResolvedGoal(states[1], np.ones_like(states[1])))
    call_without_a_run(client, spec, states)
    for robot in robots[::2]:
        assert control.finish(robot) == STEPS
    if number % 2:
        control.close()
    client.close()
    return taken


def start_all(control: Control, spec: PolicySpec, robots: list[str], states: np.ndarray) -> None:
    """Start robots with goals by name, as a state and resolved; with modes and samples; with and without a lead."""
    names = list(spec.elements)
    for at, (robot, state) in enumerate(zip(robots, states, strict=True)):
        goals = [names[at % len(names)]], states[0], ResolvedGoal(states[0], np.ones_like(state))
        lead = at % min(4, spec.horizon)
        control.start(robot, goals[at % 3], state, seed=at if at % 5 else None, plan_lead=lead)


def call_without_a_run(client: Client, spec: PolicySpec, states: np.ndarray) -> None:
    mask, rows = np.ones_like(states), len(states)
    subgoals = client.plan(states, states, mask, np.zeros((rows, spec.high_noise), np.float32))
    client.act(states, subgoals, np.zeros((rows, spec.low_noise), np.float32))


def memory_mb(pid: int | None) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) / 1e3 for line in status.splitlines() if line.startswith("VmRSS"))


def still_leased(address: str) -> list[str]:
    """The robots that are leased although no client runs them."""
    until = time.monotonic() + FREE_S
    with Admin(address, access=Access()) as admin:
        while (robots := admin.robots()) and time.monotonic() < until:
            time.sleep(0.1)
    return [status.robot for status in robots]


def shown(content: JsonDict) -> Table:
    samples = content["samples"][:: max(1, len(content["samples"]) // 10)]
    return table(
        f"{content['runs']:,} runs, {content['steps']:,} control steps",
        ("control steps", "resident MB"),
        [[f"{sample['steps']:,}", f"{sample['memory_mb']:.1f}"] for sample in samples],
        f"grown by {content['growth_mb']:.1f} MB after the warm-up, at most {content['limit_mb']:g}; "
        f"robots leased: {len(content['leased'])}; {verdict(content['met'])}",
    )


if __name__ == "__main__":
    typer.run(main)
