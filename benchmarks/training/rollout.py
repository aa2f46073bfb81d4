"""Control steps per second of the kitchen on a core, and the gain from the kitchen for training and from a second core.

    python -m benchmarks.training.rollout models/relay

The first three rows play the same targets, those of the policy's own episodes, in turns by episode. Their time is that
of the calling thread, so other work on the machine matters little. The last two rows are whole rollouts with the
policy, also in turns, by the clock: they need an idle machine. A ratio compares two rows of the same repeat; shown are
the median and, in brackets, the least and the greatest of the repeats.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from benchmarks.common import Bundle, Json, circumstances, show, table, tracked
from rpl_runtime.errors import require
from rpl_runtime.files import JsonDict
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.tasks.kitchen.elements import MAX_TARGET_STEP, ROBOT_DIM
from rpl_runtime.tasks.kitchen.simulator import Kitchen
from rpl_runtime.tasks.task import World
from rpl_train.rl.rollout import Episode, Start, open_worlds, rollout
from rpl_train.tasks.kitchen.task import KITCHEN

PACKAGES = ("mujoco", "gymnasium-robotics", "numpy", "onnxruntime")
ALONE = ("FrankaKitchen-v1 of gymnasium", "Kitchen, for evaluation", "FastKitchen, for training")

Player = Callable[[Episode], object]


def main(
    bundle: Bundle,
    repeats: Annotated[int, typer.Option(min=1, help="Values of every row.")] = 5,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each of the first three rows.")] = 3,
    kitchens: Annotated[int, typer.Option(min=1, help="Kitchens in parallel in the last two rows.")] = 12,
    threads: Annotated[int, typer.Option(min=2, help="Threads of the last row.")] = 2,
    as_json: Json = False,
) -> None:
    """Measure the control steps per second of each way to play the kitchen."""
    policy = OnnxPolicy(load_bundle(bundle))
    goals = list(policy.spec.library.values())
    starts = [Start(goals[seed % len(goals)], seed, sampling=seed) for seed in range(max(episodes, kitchens))]
    alone: list[list[float]] = []  # control steps/s, a list for each repeat
    together: list[list[float]] = []
    with open_worlds(KITCHEN, kitchens) as fast, closing(Kitchen()) as kitchen, closing(environment()) as env:
        played = rollout(policy, policy.spec, KITCHEN, starts[:episodes], fast)
        players = [environment_player(env), kitchen_player(kitchen), kitchen_player(fast[0])]
        for _ in tracked(range(repeats), "measuring"):
            alone.append(speeds(players, played))
            together.append([rollout_speed(policy, starts[:kitchens], fast, count) for count in (1, threads)])
    content = {
        "alone": rows(ALONE, alone),
        "rollouts": rows(("1 thread", f"{threads} threads"), together),
        "settings": {"repeats": repeats, "episodes": episodes, "kitchens": kitchens},
        **circumstances(PACKAGES),
    }
    show(
        content,
        as_json,
        shown("one kitchen, by a thread's own time", content["alone"]),
        shown(f"{kitchens} fast kitchens and the policy, by the clock", content["rollouts"]),
        f"load of the machine {content['machine']['load']:.1f}, CPUs {content['machine']['cpus']}",
    )


def environment() -> Any:
    """FrankaKitchen-v1 as gymnasium makes it."""
    gymnasium = require("gymnasium", "sim")
    gymnasium.logger.min_level = gymnasium.logger.ERROR  # its checker complains about the environment
    gymnasium.register_envs(require("gymnasium_robotics", "sim"))
    return gymnasium.make("FrankaKitchen-v1", terminate_on_tasks_completed=False, remove_task_when_completed=False)


def environment_player(env: Any) -> Player:
    def play(episode: Episode) -> None:
        observation, _ = env.reset(seed=episode.start.seed)
        for target in episode.targets:
            reading = observation["observation"][:ROBOT_DIM]
            observation, *_ = env.step((target - reading) / MAX_TARGET_STEP)

    return play


def kitchen_player(kitchen: World) -> Player:
    def play(episode: Episode) -> None:
        KITCHEN.reset(kitchen, episode.start.seed, "nominal")
        for target in episode.targets:
            kitchen.step(target)

    return play


def speeds(players: Sequence[Player], episodes: Sequence[Episode]) -> list[float]:
    """Control steps per second of the calling thread's time, for each player."""
    spent = np.zeros(len(players))
    for episode in episodes:
        for at, play in enumerate(players):
            begin = time.thread_time()
            play(episode)
            spent[at] += time.thread_time() - begin
    return list(sum(len(episode.targets) for episode in episodes) / spent)


def rollout_speed(policy: OnnxPolicy, starts: Sequence[Start], kitchens: Sequence[World], threads: int) -> float:
    """Control steps per second by the clock."""
    begin = time.perf_counter()
    episodes = rollout(policy, policy.spec, KITCHEN, starts, kitchens, threads=threads)
    return sum(len(episode.targets) for episode in episodes) / (time.perf_counter() - begin)


def rows(names: Sequence[str], measured: list[list[float]]) -> list[JsonDict]:
    """Control steps per second, and their ratio to the first row's."""
    values = np.array(measured)  # (repeats, rows)
    ratios = values / values[:, :1]
    return [
        {"name": name, "steps_per_s": spread(values[:, at]), "ratio": spread(ratios[:, at])}
        for at, name in enumerate(names)
    ]


def spread(values: np.ndarray) -> dict[str, float]:
    return {"median": float(np.median(values)), "least": float(values.min()), "greatest": float(values.max())}


def shown(title: str, found: list[JsonDict]) -> Table:
    def spread(values: dict[str, float], form: str) -> str:
        median, least, greatest = (format(values[name], form) for name in ("median", "least", "greatest"))
        return f"{median} ({least}-{greatest})"

    rows = [(row["name"], spread(row["steps_per_s"], ".0f"), spread(row["ratio"], ".2f")) for row in found]
    return table(title, ("", "control steps/s", "ratio"), rows)


if __name__ == "__main__":
    typer.run(main)
