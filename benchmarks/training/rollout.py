"""How many steps of the kitchen a core makes in a second, and what the kitchen for training and a second core add.

    python benchmarks/training/rollout.py models/kitchen

The first three rows play the same targets, those of the policy's own episodes, and take turns episode by episode. Their
time is that of the calling thread alone, so what else runs on the machine hardly counts. The last two rows are whole
rollouts, policy included, in turns as well, by the clock: they need a machine that does nothing else. A ratio is that
of two rows of the same repeat; shown are the median and, in brackets, the least and the greatest of the repeats.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from rpl_runtime.errors import require
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.provenance import command, commit, versions
from rpl_runtime.tasks.kitchen.elements import MAX_TARGET_STEP, ROBOT_DIM
from rpl_runtime.tasks.kitchen.simulator import Kitchen
from rpl_train.rl.rollout import Episode, Start, open_kitchens, rollout
from rpl_train.tasks.kitchen.fast import FastKitchen

PACKAGES = ("relay-policy", "mujoco", "gymnasium-robotics", "numpy", "onnxruntime")
ALONE = ("FrankaKitchen-v1 of gymnasium", "Kitchen, for evaluation", "FastKitchen, for training")

Player = Callable[[Episode], object]


def main(
    bundle: Annotated[Path, typer.Argument(help="The bundle whose policy plays.")],
    repeats: Annotated[int, typer.Option(min=1, help="Each is one more value of every row.")] = 5,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes that each of the first three rows plays.")] = 3,
    kitchens: Annotated[int, typer.Option(min=1, help="Kitchens side by side in the last two rows.")] = 12,
    threads: Annotated[int, typer.Option(min=2, help="Threads of the last row.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Steps a second of each way to play the kitchen."""
    policy = OnnxPolicy(load_bundle(bundle))
    goals = list(policy.spec.library.values())
    starts = [Start(goals[seed % len(goals)], seed, sampling=seed) for seed in range(max(episodes, kitchens))]
    alone: list[list[float]] = []  # steps/s, a list for each repeat
    together: list[list[float]] = []
    with open_kitchens(kitchens, FastKitchen) as fast, closing(Kitchen()) as kitchen, closing(environment()) as env:
        played = rollout(policy, policy.spec, starts[:episodes], fast)
        players = [environment_player(env), kitchen_player(kitchen), kitchen_player(fast[0])]
        for _ in track(range(repeats), "measuring", console=Console(stderr=True), transient=True):
            alone.append(speeds(players, played))
            together.append([rollout_speed(policy, starts[:kitchens], fast, count) for count in (1, threads)])
    content = {
        "alone": rows(ALONE, alone),
        "rollouts": rows(("1 thread", f"{threads} threads"), together),
        "settings": {"repeats": repeats, "episodes": episodes, "kitchens": kitchens},
        "load": os.getloadavg()[0],
        "cores": len(os.sched_getaffinity(0)),
        "packages": versions(PACKAGES),
        "command": command(),
        "commit": commit(),
    }
    if as_json:
        typer.echo(json.dumps(content, indent=1))
    else:
        Console().print(table("one kitchen, by a thread's own time", content["alone"]))
        Console().print(table(f"{kitchens} fast kitchens and the policy, by the clock", content["rollouts"]))
        Console().print(f"load of the machine {content['load']:.1f}, cores {content['cores']}")


def environment() -> Any:
    """FrankaKitchen-v1 as gymnasium makes it."""
    gymnasium = require("gymnasium", "sim")
    gymnasium.logger.min_level = gymnasium.logger.ERROR  # its checker finds fault with the environment
    gymnasium.register_envs(require("gymnasium_robotics", "sim"))
    return gymnasium.make("FrankaKitchen-v1", terminate_on_tasks_completed=False, remove_task_when_completed=False)


def environment_player(env: Any) -> Player:
    def play(episode: Episode) -> None:
        observation, _ = env.reset(seed=episode.start.seed)
        for target in episode.targets:
            reading = observation["observation"][:ROBOT_DIM]
            observation, *_ = env.step((target - reading) / MAX_TARGET_STEP)

    return play


def kitchen_player(kitchen: Kitchen) -> Player:
    def play(episode: Episode) -> None:
        kitchen.reset(episode.start.seed)
        for target in episode.targets:
            kitchen.step(target)

    return play


def speeds(players: Sequence[Player], episodes: Sequence[Episode]) -> list[float]:
    """Steps a second of the calling thread's time, for each player."""
    spent = np.zeros(len(players))
    for episode in episodes:
        for at, play in enumerate(players):
            begin = time.thread_time()
            play(episode)
            spent[at] += time.thread_time() - begin
    return list(sum(len(episode.targets) for episode in episodes) / spent)


def rollout_speed(policy: OnnxPolicy, starts: Sequence[Start], kitchens: Sequence[Kitchen], threads: int) -> float:
    """Steps a second by the clock."""
    begin = time.perf_counter()
    episodes = rollout(policy, policy.spec, starts, kitchens, threads=threads)
    return sum(len(episode.targets) for episode in episodes) / (time.perf_counter() - begin)


def rows(names: Sequence[str], measured: list[list[float]]) -> list[dict[str, Any]]:
    """Steps a second, and as a ratio of the first row's."""
    values = np.array(measured)  # (repeats, rows)
    ratios = values / values[:, :1]
    return [
        {"name": name, "steps_per_s": spread(values[:, at]), "ratio": spread(ratios[:, at])}
        for at, name in enumerate(names)
    ]


def spread(values: np.ndarray) -> dict[str, float]:
    return {"median": float(np.median(values)), "least": float(values.min()), "greatest": float(values.max())}


def table(title: str, found: list[dict[str, Any]]) -> Table:
    made = Table("", title=title, title_justify="left")
    for heading in ("steps/s", "ratio"):
        made.add_column(heading, justify="right")
    for row in found:
        speed, ratio = row["steps_per_s"], row["ratio"]
        made.add_row(
            row["name"],
            f"{speed['median']:.0f} ({speed['least']:.0f}-{speed['greatest']:.0f})",
            f"{ratio['median']:.2f} ({ratio['least']:.2f}-{ratio['greatest']:.2f})",
        )
    return made


if __name__ == "__main__":
    typer.run(main)
