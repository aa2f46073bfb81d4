"""How well a policy asks for help: in vain where it reaches its goal, and in time where it fails.

The policy is calibrated in a copy of its bundle (`rpl stall`), and then plays other episodes of the kitchen: from the
nominal start, where a request is a false alarm if the goal is reached, and from a wide one.

    python -m benchmarks.policy.help models/relay
"""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from benchmarks.common import Given, Json, Output, Saved, circumstances, obtained, show, table, tracked, verdict
from rpl_runtime.evaluation.evaluate import FIRST_SEED
from rpl_runtime.files import JsonDict
from rpl_runtime.policy.bundle import Bundle, load_bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.policy.novelty import Novelty
from rpl_runtime.policy.stall import StallDetector
from rpl_runtime.tasks.kitchen.elements import PAPER_GOALS, compound_goal
from rpl_runtime.tasks.kitchen.simulator import NOMINAL, StartNoise
from rpl_train.export.stall import StallConfig, add_stall, counted
from rpl_train.rl.rollout import Episode, Start, open_worlds, rollout
from rpl_train.tasks.kitchen.task import KITCHEN

WIDE = StartNoise(0.15, 0.06)
STARTS = {"nominal": NOMINAL, "arm ±0.15 rad, kettle ±0.06 m": WIDE}
IN_TIME = 60  # [control steps] before the end of an episode
MOST_FALSE, LEAST_ASKED = 0.05, 0.9  # required of the nominal start, and of failing episodes of the wide one
PACKAGES = ("numpy", "onnxruntime", "mujoco", "gymnasium-robotics")


def main(
    bundle: Given = None,
    saved: Saved = None,
    rate: Annotated[float, typer.Option(help="Stated rate of false alarms.")] = 0.02,
    calibration: Annotated[int, typer.Option(min=1, help="Episodes of the calibration.")] = 136,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each of 17 goals from each start.")] = 6,
    seed: Annotated[int, typer.Option(help="First seed of the episodes.")] = FIRST_SEED,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Measure how often a policy asks for help in vain, and how often in time."""
    config = StallConfig(rate=rate, episodes=calibration)
    content = obtained(bundle, saved, lambda path: measure(path, config, episodes, seed), output)
    show(content, as_json, shown(content))


def measure(path: Path, config: StallConfig, episodes: int, seed: int) -> JsonDict:
    """Calibrate a copy of a bundle, play both starts, and count who asked when."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = add_stall(load_bundle(shutil.copytree(path, Path(folder) / "bundle")), KITCHEN, config)
        return requests(bundle, episodes, seed)


def requests(bundle: Bundle, episodes: int, seed: int) -> JsonDict:
    """Play both starts, and count who asked when."""
    stall = bundle.manifest.stall
    assert stall is not None
    detector = StallDetector(bundle.spec, bundle.manifest.statistics, stall)
    novelty = Novelty.of(bundle.manifest.statistics)
    rows = []
    for name in tracked(STARTS, "playing"):
        played = play(bundle, name, episodes, seed)
        counts = [np.array(counted(each, detector, novelty)) > stall.limit for each in played]
        asked = np.array([each.argmax() if each.any() else KITCHEN.episode_steps for each in counts])
        failed = np.array([not frozenset().union(*each.done).issuperset(each.start.elements) for each in played])
        in_time = asked <= KITCHEN.episode_steps - IN_TIME
        rows.append(
            {
                "start": name,
                "episodes": len(played),
                "failed": int(failed.sum()),
                "asked_in_vain": int((asked < KITCHEN.episode_steps)[~failed].sum()),
                "asked_in_time": int(in_time[failed].sum()),
                "median_step": float(np.median(asked[failed])) if failed.any() else None,
            }
        )
    return {
        "bundle": {"name": bundle.spec.name, "stall": stall.model_dump()},
        "in_time": IN_TIME,
        "starts": rows,
        "seeds": f"{seed} + 1000 x the goal's elements as bits + the episode's number",
        **circumstances(PACKAGES),
    }


def play(bundle: Bundle, start: str, episodes: int, seed: int) -> list[Episode]:
    """The episodes of a start."""
    task = replace(KITCHEN, starts=STARTS)
    goals = [compound_goal(goal) for goal in PAPER_GOALS]
    starts = [Start(goal, KITCHEN.episode_seed(seed, goal, number)) for number in range(episodes) for goal in goals]
    with open_worlds(task, len(goals)) as worlds:
        return rollout(OnnxPolicy(bundle), bundle.spec, task, starts, worlds, start=start)


def shown(content: JsonDict) -> Table:
    """The figures as a table, with what is required."""
    nominal, wide = content["starts"]
    false = nominal["asked_in_vain"] / max(1, nominal["episodes"] - nominal["failed"])
    asked = wide["asked_in_time"] / max(1, wide["failed"])
    rows = [
        (row["start"], row["episodes"], row["failed"], row["asked_in_vain"], row["asked_in_time"], row["median_step"])
        for row in content["starts"]
    ]
    return table(
        f"help, calibrated at {content['bundle']['stall']['rate']:.0%}",
        ("start", "episodes", "failed", "asked in vain", f"failed and asked {IN_TIME} steps before", "median step"),
        rows,
        f"nominal: {false:.1%} in vain, must be {MOST_FALSE:.0%} or less: {verdict(false <= MOST_FALSE)}; wide: "
        f"{asked:.1%} of the failing ones in time, must be {LEAST_ASKED:.0%} or more: {verdict(asked >= LEAST_ASKED)}",
    )


if __name__ == "__main__":
    typer.run(main)
