"""What the safety filter does to a policy's targets: how many it changes, how far behind it stays, what it costs.

    python benchmarks/runtime/safety.py models/kitchen

The first table plays a policy in the simulated kitchen, unfiltered, and gives the targets of its episodes to a filter
of each robot: how many joint targets pass unchanged, how far the command is from the target when a period ends, and
the time of a step. The second gives it a target that sets off from rest at one speed: after how many periods the
command is with it, and how far behind it was at most. An arm cannot set off at once, so some of it is the limits' own:
"least" is how far behind the fastest of all motions within the acceleration stays.
"""

import json
import os
from collections import Counter
from contextlib import closing
from pathlib import Path
from time import perf_counter_ns
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.provenance import command, commit, versions
from rpl_runtime.relay.loop import RelayLoop
from rpl_runtime.robots.franka.frames import JOINT_ZERO
from rpl_runtime.robots.profiles import PROFILES
from rpl_runtime.safety.filter import SafetyFilter
from rpl_runtime.safety.limits import Profile
from rpl_runtime.tasks.kitchen.elements import PERIOD, ROBOT_DIM
from rpl_runtime.tasks.kitchen.simulator import PERTURBED, Kitchen

ARMS = ("panda", "fr3")
SPEEDS = (0.25, 0.5, 1.0, 1.5, 2.0)  # [rad/s]
HOME = np.array([0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785, 0.04, 0.04])  # [rad, m] the vendor's ready pose
PACKAGES = ("relay-policy", "numpy", "onnxruntime", "mujoco", "gymnasium-robotics")


def main(
    bundle: Annotated[Path, typer.Argument(help="The bundle whose policy plays.")],
    episodes: Annotated[int, typer.Option(min=1, help="Episodes, each of the next compound goal.")] = 8,
    steps: Annotated[int, typer.Option(min=2, help="Steps of each.")] = 280,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure the safety filter on a policy's targets."""
    played = play(OnnxPolicy(load_bundle(bundle)), episodes, steps)
    content = {
        "policy": [followed(PROFILES[name].rezeroed(JOINT_ZERO), played) for name in ARMS],
        "ramps": [ramp(PROFILES[name], speed) for name in ARMS for speed in SPEEDS],
        "command": command(),
        "commit": commit(),
        "versions": versions(PACKAGES),
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0]},
    }
    if as_json:
        typer.echo(json.dumps(content, indent=1))
    else:
        for made in tables(content):
            Console().print(made)


def play(policy: OnnxPolicy, episodes: int, steps: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The first reading (9,) and the targets (T, 9) of each episode."""
    goals, played = list(policy.spec.library.values()), []
    with closing(Kitchen()) as kitchen:
        for seed in track(range(episodes), "playing", console=Console(stderr=True), transient=True):
            loop, targets = RelayLoop(policy, policy.spec), []
            state = start = kitchen.reset(seed, PERTURBED)
            loop.start("arm", policy.spec.resolve(goals[seed % len(goals)], state))
            for step in range(steps):
                targets.append(loop.step(["arm"], [step], state[None]).action[0])
                state = kitchen.step(targets[-1])
            played.append((start[:ROBOT_DIM], np.array(targets)))
    return played


def followed(limits: Profile, played: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """What a filter makes of the targets."""
    behind, spent, counts = [], [], Counter[str]()
    for start, targets in played:
        safety = SafetyFilter(limits, PERIOD)
        safety.start(start)
        for target in targets:
            begun = perf_counter_ns()
            filtered = safety.step(target)
            spent.append(perf_counter_ns() - begun)
            behind.append(abs(filtered.target - target)[: limits.joints])
        counts += safety.counts
    return {
        "profile": limits.name,
        "n": len(spent) * limits.joints,
        "unchanged": float(np.mean(np.array(behind) == 0)),
        "behind_p99_rad": float(np.percentile(behind, 99)),
        "behind_max_rad": float(np.max(behind)),
        "limit_violations": dict(counts),
        "step_p50_us": float(np.percentile(spent, 50) / 1000),
        "step_p99_us": float(np.percentile(spent, 99) / 1000),
    }


def ramp(limits: Profile, speed: float) -> dict[str, Any]:
    """What a filter makes of a target of the first joint that sets off at a speed [rad/s]."""
    safety, target, behind = SafetyFilter(limits, PERIOD), HOME.copy(), []
    safety.start(HOME)
    while target[0] + speed * PERIOD < 1.5:
        target[0] += speed * PERIOD
        behind.append(abs(safety.step(target).target[0] - target[0]))
    met = next((number for number, distance in enumerate(behind) if distance == 0), None)
    assert limits.arm is not None
    return {
        "profile": limits.name,
        "speed_rad_s": speed,
        "met_after": None if met is None else met + 1,
        "behind_max_rad": max(behind),
        "least_rad": float(speed**2 / (2 * limits.arm.acceleration[0])),
        "behind_end_rad": behind[-1],
    }


def tables(content: dict[str, Any]) -> list[Table]:
    targets = Table(title="the policy's targets", header_style="bold")
    for heading in ("", "joint targets", "unchanged", "behind p99 [rad]", "max", "step p50 [us]", "p99"):
        targets.add_column(escape(heading), justify="right" if heading else "left")
    for row in content["policy"]:
        figures = f"{row['behind_p99_rad']:.3f}", f"{row['behind_max_rad']:.3f}"
        spent = f"{row['step_p50_us']:.0f}", f"{row['step_p99_us']:.0f}"
        targets.add_row(row["profile"], str(row["n"]), f"{row['unchanged']:.1%}", *figures, *spent)
    ramps = Table(title="a target that sets off", header_style="bold")
    for heading in ("", "speed [rad/s]", "with it after", "behind at most [rad]", "least", "behind at the end"):
        ramps.add_column(escape(heading), justify="right" if heading else "left")
    for row in content["ramps"]:
        met = "never" if row["met_after"] is None else f"{row['met_after']} period{'s' * (row['met_after'] > 1)}"
        figures = (f"{row[name]:.3f}" for name in ("behind_max_rad", "least_rad", "behind_end_rad"))
        ramps.add_row(row["profile"], f"{row['speed_rad_s']:g}", met, *figures)
    return [targets, ramps]


if __name__ == "__main__":
    typer.run(main)
