"""How punctual the control loop of a Franka is, and how fast it stops: a simulated FR3 behind the vendor's own client.

    python benchmarks/runtime/franka.py models/kitchen --minutes 10 --kills 20

First episodes of one compound goal after the other, as `rpl run --robot franka --host sim --objects mirror --speed 1`
makes them, until the time is over: how late the periods of 0.08 s began, how long it took from an observation to the
command that answers it, how many periods went by unnoticed, and what was done. Then runs whose server is killed at a
random moment: how long until the first period that holds, and until the arm stands, on what was commanded each
millisecond. The robot is simulated beside the loop and takes a core of its own. Exits with 1 where a period was missed
or a hold took longer than two.
"""

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rpl_runtime.cli.report import percentiles_us
from rpl_runtime.client.reconnect import ReconnectConfig, lasting_control
from rpl_runtime.loop.realtime import DriveConfig, DriveResult, drive
from rpl_runtime.loop.watchdog import HOLD_PERIODS
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.process import own_process
from rpl_runtime.provenance import command, commit, versions
from rpl_runtime.relay.run import RunConfig
from rpl_runtime.robots.franka.franka import FrankaConfig, FrankaRobot
from rpl_runtime.robots.franka.sim import simulated_robot
from rpl_runtime.robots.mirror import KitchenMirror
from rpl_runtime.robots.profiles import PROFILES
from rpl_runtime.safety.limits import Profile
from rpl_runtime.server.server import ServerConfig, serve
from rpl_runtime.server.subprocess import serve_in_process
from rpl_runtime.tasks.kitchen.elements import EPISODE_STEPS, PERIOD

PACKAGES = ("relay-policy", "numpy", "onnxruntime", "grpcio", "mujoco", "franky-control", "franky-sim")
STILL = 1e-3  # [rad/s]
FR3 = PROFILES["fr3"]


class Watched(FrankaRobot):
    """A Franka whose commands are kept, with the time at which each was made."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.sent: list[tuple[int, int, np.ndarray]] = []  # [ns] here, [ms] on the robot's clock, (7,) [rad]

    def _motion(self, *arguments: Any) -> Any:
        return self._watched(super()._motion(*arguments))

    def _braking(self) -> Any:
        return self._watched(super()._braking())

    def _watched(self, motion: Any) -> Any:
        motion.register_callback(
            lambda state, step, since, at, sent: self.sent.append((time.monotonic_ns(), at.to_msec(), np.array(sent.q)))
        )
        return motion


def main(
    bundle: Annotated[Path, typer.Argument(help="The bundle whose policy drives.")],
    minutes: Annotated[float, typer.Option(min=0, help="How long the episodes go on.")] = 10.0,
    kills: Annotated[int, typer.Option(min=0, help="How many servers are killed.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the moments at which they are.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Measure the control loop of a simulated Franka."""
    with simulated_robot() as host:
        content: dict[str, Any] = {
            "loop": episodes(host, bundle, minutes),
            "kills": stops(host, bundle, kills, random.Random(seed)),
            "command": command(),
            "commit": commit(),
            "versions": versions(PACKAGES),
            "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0]},
        }
    if as_json:
        typer.echo(json.dumps(content, indent=1))
    else:
        show(content)
    slow = any(each["to_hold_ms"] > 1000 * HOLD_PERIODS * PERIOD for each in content["kills"])
    raise typer.Exit(1 if content["loop"]["missed"] or slow else 0)


def robot_at(host: str, kind: type[FrankaRobot] = FrankaRobot) -> Any:
    return closing(kind(host, KitchenMirror(), FrankaConfig(realtime=False)))


def driven(robot: FrankaRobot, address: str, goal: tuple[str, ...], steps: int, **more: Any) -> DriveResult:
    control = lasting_control(address, ReconnectConfig(timeout_s=HOLD_PERIODS * PERIOD, waits=False))
    return drive(robot, control, DriveConfig(RunConfig(goal, steps)), **more)


def episodes(host: str, bundle: Path, minutes: float) -> dict[str, Any]:
    """Compound goals one after the other."""
    goals, results = load_bundle(bundle).spec.library, list[tuple[str, DriveResult]]()
    with serve_in_process(bundle) as address, robot_at(host) as robot, Console(stderr=True).status("driving"):
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


def serve_pid(on_ready: Callable[[str], None], bundle: str) -> None:
    serve(load_bundle(Path(bundle)), ServerConfig("127.0.0.1:0"), lambda bound: on_ready(f"{os.getpid()} {bound}"))


def stops(host: str, bundle: Path, kills: int, rng: random.Random) -> list[dict[str, Any]]:
    """Servers that are killed while an arm is on its way."""
    goal = next(iter(load_bundle(bundle).spec.library.values()))
    return [killed(host, bundle, goal, rng.uniform(0.5, 3.0)) for _ in range(kills)]


def killed(host: str, bundle: Path, goal: tuple[str, ...], after_s: float) -> dict[str, Any]:
    killed_ns: list[int] = []
    with ExitStack() as stack:
        robot = stack.enter_context(robot_at(host, Watched))
        process, address = stack.enter_context(own_process(serve_pid, str(bundle))).split()

        def kill() -> None:
            killed_ns.append(time.monotonic_ns())
            os.kill(int(process), signal.SIGKILL)

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
    """Share of the samples, each next to the ones a millisecond before, that leave a limit."""
    assert profile.arm is not None
    joints, times = np.array([each[2] for each in sent]), np.array([each[1] for each in sent])
    whole = np.flatnonzero(times[3:] - times[:-3] == 3)
    limits = profile.arm.velocity, profile.arm.acceleration + 1e-3, profile.arm.jerk
    return {
        name: float(np.mean((abs(np.diff(joints, n=order, axis=0)[whole]) / 1e-3**order > limit).any(axis=1)))
        for order, (name, limit) in enumerate(zip(("velocity", "acceleration", "jerk"), limits, strict=True), start=1)
    }


def show(content: dict[str, Any]) -> None:
    console, loop = Console(), content["loop"]
    load, cpus = content["machine"]["load"], content["machine"]["cpus"]
    table = Table(
        title=f"{loop['periods']} periods of {1000 * PERIOD:g} ms: {loop['missed']} missed, {loop['held']} held",
        caption=f"load {load:.1f} on {cpus} CPUs",
        header_style="bold",
    )
    for heading in ("[us]", "n", "p50", "p90", "p99", "p99.9", "max"):
        table.add_column(escape(heading), justify="left" if heading == "[us]" else "right")
    for name in ("late_us", "observe_to_command_us"):
        table.add_row(name.removesuffix("_us").replace("_", " "), *(f"{value:.0f}" for value in loop[name].values()))
    console.print(table)
    done = [len(episode["done"]) for episode in loop["episodes"]]
    if done:
        whole = sum(len(episode["done"]) == episode["of"] for episode in loop["episodes"])
        console.print(f"{whole} of {len(done)} compound goals done, {np.mean(done):.2f} elements of each on average")
    for episode in loop["episodes"]:
        console.print(f"  {episode['goal']}: {', '.join(episode['done']) or 'nothing'}", episode["stop"] or "")
    if content["kills"]:
        for name in ("to_hold_ms", "to_standstill_ms"):
            values = [each[name] for each in content["kills"]]
            figures = f"p50 {np.median(values):.0f}, max {max(values):.0f}, n {len(values)}"
            console.print(
                f"killed server {name.removesuffix('_ms').replace('_', ' ')} [ms]: {figures}".replace("[", "\\[")
            )


if __name__ == "__main__":
    typer.run(main)
