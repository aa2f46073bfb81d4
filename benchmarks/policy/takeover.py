"""What a hand is worth: episodes from wide starts with a pilot who takes over when the policy is stuck, and without.

    python -m benchmarks.policy.takeover models/relay --output docs/data/takeover.json
    python -m benchmarks.policy.takeover --from docs/data/takeover.json

Each of the paper's 17 goals gets the same starts alone and with the scripted demonstrator as pilot: the arm up to 0.15
rad and the kettle up to 0.06 m from the nominal start. The pilot takes over when the policy asks for help (--when
help; a bundle that never asks is calibrated in a copy), or by itself where no element of the goal has come nearer for
4 s or the states are far from the training data (--when stall). It finishes one element of the goal and hands back.
Success means that all elements of the goal were done at any control step, which ends the episode.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import typer
from rich.console import RenderableType
from rich.progress import track

from benchmarks.common import PROGRESS, Given, Json, Output, Saved, circumstances, obtained, show, table, verdict
from rpl_runtime.client.client import Client
from rpl_runtime.files import JsonDict
from rpl_runtime.loop.lockstep import run
from rpl_runtime.loop.pilot import OnHelp, Pilot
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.relay.run import RunConfig
from rpl_runtime.relay.run_state import POLICY
from rpl_runtime.robots.kitchen.task import KITCHEN
from rpl_runtime.robots.simulated import SimulatedRobot
from rpl_runtime.server.subprocess import serve_in_process
from rpl_runtime.tasks.kitchen.elements import PAPER_GOALS, compound_goal
from rpl_runtime.tasks.kitchen.simulator import StartNoise
from rpl_train.export.stall import StallConfig, add_stall
from rpl_train.tasks.kitchen.pilot import attentive, demonstrator
from rpl_train.tasks.kitchen.task import KITCHEN as CALIBRATED

When = Literal["help", "stall"]
WIDE = StartNoise(arm=0.15, kettle=0.06)
LEAST_SUCCESS, MOST_BY_HAND = 0.95, 0.40


class Episode(NamedTuple):
    goal: str
    seed: int
    success: bool
    done: int  # elements of the goal
    by_hand: int  # [control steps]
    takeovers: int


def main(
    bundle: Given = None,
    saved: Saved = None,
    when: Annotated[When, typer.Option(help="When the pilot takes over.")] = "stall",
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each goal.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Control steps of an episode.")] = 400,
    goals: Annotated[str, typer.Option(help="Goals of the paper, separated by commas.")] = ",".join(PAPER_GOALS),
    jobs: Annotated[int | None, typer.Option(min=1, help="Simulators in parallel; default: one per core.")] = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Print success alone and with a pilot, and the share of the steps by hand."""
    settings = when, episodes, steps, goals.split(","), jobs or os.cpu_count() or 1
    content = obtained(bundle, saved, lambda path: measure(path, *settings), output)
    show(content, as_json, *report(content))


def measure(bundle: Path, when: When, episodes: int, steps: int, goals: Sequence[str], jobs: int) -> JsonDict:
    with (
        asking(bundle) if when == "help" else nullcontext(bundle) as served,
        serve_in_process(served) as address,
        Client(address) as client,
        ThreadPoolExecutor(jobs) as threads,
    ):
        found = threads.map(partial(of_goal, address, when, episodes, steps), goals)
        pairs = [
            pair for each in track(found, "episodes", len(goals), console=PROGRESS, transient=True) for pair in each
        ]
        digest = client.describe().digest
    alone, taught = ([pair[at]._asdict() for pair in pairs] for at in (0, 1))
    return {"bundle_digest": digest, "when": when, "steps": steps, "alone": alone, "pilot": taught} | circumstances(
        ("mujoco", "numpy", "onnxruntime")
    )


@contextmanager
def asking(bundle: Path) -> Iterator[Path]:
    """The bundle if its policy asks for help, else a calibrated copy."""
    if load_bundle(bundle).manifest.stall is not None:
        yield bundle
        return
    with tempfile.TemporaryDirectory() as folder, PROGRESS.status("calibrating when the policy asks for help"):
        copy = shutil.copytree(bundle, Path(folder) / "bundle")
        yield add_stall(load_bundle(copy), CALIBRATED, StallConfig()).path


def of_goal(address: str, when: When, episodes: int, steps: int, goal: str) -> list[tuple[Episode, Episode]]:
    """Each episode of a goal, alone and with the pilot."""
    pilot = OnHelp(demonstrator()) if when == "help" else attentive()
    task = replace(KITCHEN, starts={"wide": WIDE})
    with Client(address) as client, closing(SimulatedRobot(task)) as robot:
        return [
            (
                episode(client, robot, None, goal, seed, steps),
                episode(client, robot, pilot, goal, seed, steps),
            )
            for seed in range(episodes)
        ]


def episode(client: Client, robot: SimulatedRobot, pilot: Pilot | None, goal: str, seed: int, steps: int) -> Episode:
    elements = compound_goal(goal)
    with client.control() as control:
        name, until = f"{goal}/{seed}/{pilot is not None}", frozenset(elements)
        config = RunConfig(elements, steps, name, start_seed=seed, until=until)
        result = run(robot, control, config, pilot=pilot)
    hands = [author != POLICY for author in result.authors]
    began = sum(hand and not before for before, hand in zip([False, *hands], hands, strict=False))
    done = len(result.ever_done.intersection(elements))
    return Episode(goal, seed, done == len(elements), done, sum(hands), began)


def report(content: JsonDict) -> list[RenderableType]:
    rows, steps = [], content["steps"]
    for who in ("alone", "pilot"):
        found = content[who]
        rows.append(
            (
                {"alone": "the policy alone", "pilot": f"with the demonstrator, on {content['when']}"}[who],
                f"{sum(each['success'] for each in found)} of {len(found)}",
                f"{sum(each['done'] for each in found) / len(found):.2f}",
                f"{sum(each['by_hand'] for each in found) / (steps * len(found)):.1%}",
                f"{sum(each['takeovers'] for each in found) / len(found):.2f}",
            )
        )
    found = content["pilot"]
    success = sum(each["success"] for each in found) / len(found)
    by_hand = sum(each["by_hand"] for each in found) / (steps * len(found))
    headings = ("control steps by", "episodes", "elements done", "by hand", "takeovers")
    met = (
        f"at least {LEAST_SUCCESS:.0%} with the demonstrator: {verdict(success >= LEAST_SUCCESS)}; "
        f"at most {MOST_BY_HAND:.0%} by hand: {verdict(by_hand <= MOST_BY_HAND)}"
    )
    return [table(f"{steps} control steps from wide starts", headings, rows), met]


if __name__ == "__main__":
    typer.run(main)
