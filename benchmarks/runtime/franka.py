"""Punctuality and stopping time of a Franka's control loop: a simulated FR3 behind the vendor's own client.

    python -m benchmarks.runtime.franka models/kitchen --minutes 10 --kills 20

First, episodes of one compound goal after the other, as in `rpl run --robot franka --host sim --objects mirror --speed
1`, until the time is up: how late the periods of 0.08 s begin, the time from an observation to its command, missed
periods, and elements done. Then runs whose server is killed at a random moment: the time to the first period that
holds, and to standstill, from the commands of each millisecond. The simulated robot needs a core of its own. Exits
with 1 if a period was missed or a hold took longer than two periods.
"""

import random
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import RenderableType
from rich.markup import escape

from benchmarks.common import PROGRESS, Bundle, Json, circumstances, show, table
from rpl_runtime.cli.report import percentiles_us
from rpl_runtime.client import Access, ReconnectConfig, TimeBudget, lasting_control
from rpl_runtime.files import JsonDict
from rpl_runtime.loop.realtime import DriveResult, drive
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.relay.run import RunConfig
from rpl_runtime.robots.franka.franka import FrankaConfig, FrankaRobot
from rpl_runtime.robots.franka.sim import simulated_robot
from rpl_runtime.robots.mirror import KitchenMirror
from rpl_runtime.robots.profiles import PROFILES
from rpl_runtime.safety.limits import Profile
from rpl_runtime.server.subprocess import mortal_server, serve_in_process
from rpl_runtime.tasks.kitchen.elements import EPISODE_STEPS, PERIOD

PACKAGES = ("numpy", "onnxruntime", "grpcio", "mujoco", "franky-control", "franky-sim")
STILL = 1e-3  # [rad/s]
BUDGET = TimeBudget()
FR3 = PROFILES["fr3"]


class Watched(FrankaRobot):
    """A Franka that records its commands and their times."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.sent: list[tuple[int, int, np.ndarray]] = []  # [ns] here, [ms] on the robot's clock, (7,) [rad]

        self._lines.on_motion = self._watch

    def _watch(self, motion: Any) -> None:
        motion.register_callback(
            lambda state, step, since, at, sent: self.sent.append((time.monotonic_ns(), at.to_msec(), np.array(sent.q)))
        )


def main(
    bundle: Bundle,
    minutes: Annotated[float, typer.Option(min=0, help="Duration of the episodes together.")] = 10.0,
    kills: Annotated[int, typer.Option(min=0, help="Number of servers to kill.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the moments at which they are killed.")] = 0,
    as_json: Json = False,
) -> None:
    """Measure the control loop of a simulated Franka."""
    with simulated_robot() as host:
        content: JsonDict = {
            "loop": episodes(host, bundle, minutes),
            "kills": stops(host, bundle, kills, random.Random(seed)),
            **circumstances(PACKAGES),
        }
    show(content, as_json, *shown(content))
    slow = any(each["to_hold_ms"] > 1000 * BUDGET.hold_periods * PERIOD for each in content["kills"])
    raise typer.Exit(1 if content["loop"]["missed"] or slow else 0)


def robot_at(host: str, kind: type[FrankaRobot] = FrankaRobot) -> Any:
    return closing(kind(host, KitchenMirror(), FrankaConfig(realtime=False)))


def driven(robot: FrankaRobot, address: str, goal: tuple[str, ...], steps: int, **more: Any) -> DriveResult:
    control = lasting_control(
        address, ReconnectConfig(timeout_s=BUDGET.timeout_s(PERIOD), waits=False, access=Access())
    )
    return drive(robot, control, RunConfig(goal, steps), budget=BUDGET, **more)


def episodes(host: str, bundle: Path, minutes: float) -> JsonDict:
    """Run compound goals one after the other."""
    goals, results = load_bundle(bundle).spec.library, list[tuple[str, DriveResult]]()
    with serve_in_process(bundle) as address, robot_at(host) as robot, PROGRESS.status("running"):
        over = time.monotonic() + 60 * minutes
        while time.monotonic() < over:
            name = list(goals)[len(results) % len(goals)]
            results.append((name, driven(robot, address, goals[name], EPISODE_STEPS)))
    runs = [result for _, result in results]
    return {
        "periods": sum(len(run.late_ns) for run in runs),
        "missed": sum(run.missed for run in runs),
        "held": sum(run.held for run in runs),
        "late_us": percentiles_us(np.concatenate([run.late_ns for run in runs] or [np.array([])])),
        "observe_to_command_us": percentiles_us(np.concatenate([run.answer_ns for run in runs] or [np.array([])])),
        "episodes": [
            {
                "goal": name,
                "done": sorted(run.run.ever_done.intersection(goals[name])),
                "of": len(goals[name]),
                "stop": None if run.stop is None else run.stop.cause,
            }
            for name, run in results
        ],
    }


def stops(host: str, bundle: Path, kills: int, rng: random.Random) -> list[JsonDict]:
    """Kill servers while the arm moves."""
    goal = next(iter(load_bundle(bundle).spec.library.values()))
    return [killed(host, bundle, goal, rng.uniform(0.5, 3.0)) for _ in range(kills)]


def killed(host: str, bundle: Path, goal: tuple[str, ...], after_s: float) -> JsonDict:
    killed_ns: list[int] = []
    with ExitStack() as stack:
        robot = stack.enter_context(robot_at(host, Watched))
        address, kill_server = stack.enter_context(mortal_server(bundle))

        def kill() -> None:
            killed_ns.append(time.monotonic_ns())
            kill_server()

        timer = threading.Timer(after_s, kill)
        result = driven(
            robot, address, goal, EPISODE_STEPS, on_event=lambda event: event.kind != "armed" or timer.start()
        )
        timer.cancel()
    held_ns = next((event.at_ns for event in result.events if event.kind == "late" and event.at_ns > killed_ns[0]), 0)
    made_ns, made_ms = (np.array([sent[part] for sent in robot.sent]) for part in (0, 1))
    alive = max(0, int(np.searchsorted(made_ns, killed_ns[0])) - 1)
    speed = speeds(robot.sent)
    last = int(np.flatnonzero(speed > STILL).max(initial=alive))
    return {
        "to_hold_ms": (held_ns - killed_ns[0]) / 1e6,
        "to_standstill_ms": float(made_ms[last] - made_ms[alive]),  # on the robot's own clock
        "speed_rad_s": float(speed[alive]),
        "excess": excess(robot.sent, FR3),
        "cause": None if result.stop is None else result.stop.cause,
    }


def speeds(sent: list[tuple[int, int, np.ndarray]]) -> np.ndarray:
    """(N,) [rad/s] of the fastest joint; 0 at the first command."""
    joints, times = np.array([each[2] for each in sent]), np.array([each[1] for each in sent])
    steps = np.maximum(1, np.diff(times))[:, None] * 1e-3
    return np.append(0.0, abs(np.diff(joints, axis=0) / steps).max(axis=1))


def excess(sent: list[tuple[int, int, np.ndarray]], profile: Profile) -> dict[str, float]:
    """Fraction of the samples beyond a limit, from differences between consecutive milliseconds."""
    assert profile.arm is not None
    joints, times = np.array([each[2] for each in sent]), np.array([each[1] for each in sent])
    whole = np.flatnonzero(times[3:] - times[:-3] == 3)
    limits = profile.arm.velocity, profile.arm.acceleration + 1e-3, profile.arm.jerk
    return {
        name: float(np.mean((abs(np.diff(joints, n=order, axis=0)[whole]) / 1e-3**order > limit).any(axis=1)))
        for order, (name, limit) in enumerate(zip(("velocity", "acceleration", "jerk"), limits, strict=True), start=1)
    }


def shown(content: JsonDict) -> list[RenderableType]:
    loop, machine = content["loop"], content["machine"]
    names = {"late_us": "period late by", "observe_to_command_us": "observation to command"}
    parts: list[RenderableType] = [
        table(
            f"{loop['periods']} periods of {1000 * PERIOD:g} ms, missed: {loop['missed']}, held: {loop['held']}",
            ("[us]", "n", "p50", "p90", "p99", "p99.9", "max"),
            [[what, *(f"{value:.0f}" for value in loop[name].values())] for name, what in names.items()],
            f"load {machine['load']:.1f} on {machine['cpus']} CPUs",
        )
    ]
    if done := [len(episode["done"]) for episode in loop["episodes"]]:
        whole = sum(len(episode["done"]) == episode["of"] for episode in loop["episodes"])
        parts.append(f"compound goals done: {whole} of {len(done)}; elements of each on average: {np.mean(done):.2f}")
    for episode in loop["episodes"]:
        parts.append(escape(f"  {episode['goal']}: {', '.join(episode['done']) or 'nothing'} {episode['stop'] or ''}"))
    for name in ("to_hold_ms", "to_standstill_ms") if content["kills"] else ():
        values = [each[name] for each in content["kills"]]
        what = name.removesuffix("_ms").replace("_", " ")
        figures = f"p50 {np.median(values):.0f}, max {max(values):.0f}, n {len(values)}"
        parts.append(escape(f"killed server {what} [ms]: {figures}"))
    return parts


if __name__ == "__main__":
    typer.run(main)
