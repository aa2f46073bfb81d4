"""Effect of the safety filter on a policy's targets: how many it changes, how far it lags behind, how long it takes.

    python -m benchmarks.runtime.safety models/relay

For the first table, a policy plays in the simulated kitchen without a filter, and a filter of each robot gets the
targets of its episodes: how many joint targets pass unchanged, the distance from command to target at the end of a
period, and the time of a step. For the second, a target starts from rest at a constant speed: the periods until the
command reaches it, and the largest distance behind it. The limits cause part of that distance, since an arm cannot
start at once: "least" is the distance of the fastest motion within the acceleration limit.
"""

from collections import Counter
from contextlib import closing
from time import perf_counter_ns
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from benchmarks.common import Bundle, Json, circumstances, show, table, tracked
from rpl_runtime.files import JsonDict
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.policy.graphs import OnnxPolicy
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
PACKAGES = ("numpy", "onnxruntime", "mujoco", "gymnasium-robotics")


def main(
    bundle: Bundle,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes, each with the next compound goal.")] = 8,
    steps: Annotated[int, typer.Option(min=2, help="Control steps of each.")] = 280,
    as_json: Json = False,
) -> None:
    """Measure the safety filter on a policy's targets."""
    played = play(OnnxPolicy(load_bundle(bundle)), episodes, steps)
    content = {
        "policy": [filtered(PROFILES[name].rezeroed(JOINT_ZERO), played) for name in ARMS],
        "ramps": [ramp(PROFILES[name], speed) for name in ARMS for speed in SPEEDS],
        **circumstances(PACKAGES),
    }
    show(content, as_json, *shown(content))


def play(policy: OnnxPolicy, episodes: int, steps: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The first reading (9,) and the targets (T, 9) of each episode."""
    goals, played = list(policy.spec.library.values()), []
    with closing(Kitchen()) as kitchen:
        for seed in tracked(range(episodes), "playing"):
            loop, targets = RelayLoop(policy, policy.spec), []
            state = start = kitchen.reset(seed, PERTURBED)
            loop.start("arm", policy.spec.resolve(goals[seed % len(goals)], state))
            for step in range(steps):
                targets.append(loop.step(["arm"], [step], state[None]).action[0])
                state = kitchen.step(targets[-1])
            played.append((start[:ROBOT_DIM], np.array(targets)))
    return played


def filtered(limits: Profile, played: list[tuple[np.ndarray, np.ndarray]]) -> JsonDict:
    """The filter's commands for the targets of episodes."""
    behind, spent, counts = [], [], Counter[str]()
    for start, targets in played:
        safety = SafetyFilter(limits, PERIOD)
        safety.start(start)
        for target in targets:
            begun = perf_counter_ns()
            commanded = safety.step(target)
            spent.append(perf_counter_ns() - begun)
            behind.append(abs(commanded.target - target)[: limits.joints])
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


def ramp(limits: Profile, speed: float) -> JsonDict:
    """The filter's commands for a target of the first joint that moves at a speed [rad/s]."""
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


def shown(content: JsonDict) -> list[Table]:
    targets = [
        (
            row["profile"],
            row["n"],
            f"{row['unchanged']:.1%}",
            f"{row['behind_p99_rad']:.3f}",
            f"{row['behind_max_rad']:.3f}",
            f"{row['step_p50_us']:.0f}",
            f"{row['step_p99_us']:.0f}",
        )
        for row in content["policy"]
    ]
    ramps = [
        (
            row["profile"],
            f"{row['speed_rad_s']:g}",
            "never" if row["met_after"] is None else row["met_after"],
            *(f"{row[name]:.3f}" for name in ("behind_max_rad", "least_rad", "behind_end_rad")),
        )
        for row in content["ramps"]
    ]
    heads = ("", "joint targets", "unchanged", "behind p99 [rad]", "max", "step p50 [us]", "p99")
    ramp_heads = ("", "speed [rad/s]", "periods to reach it", "behind at most [rad]", "least", "behind at the end")
    return [table("the policy's targets", heads, targets), table("a target that starts to move", ramp_heads, ramps)]


if __name__ == "__main__":
    typer.run(main)
