"""What `rpl improve` is worth: a policy trained on by its episodes from a wide start, in which a pilot corrected it.

The policy plays with the scripted demonstrator as pilot, who takes over when the policy is stuck; every run is a log.
Then it is improved with several training seeds, and beside that imitates its demonstrations for as long again, which
shows what longer training does without the logs. Each new policy plays alone, on seeds that no log has, from the wide
start and by the paper's protocol. For a policy that a wide start does not trouble, --arm and --kettle widen it until
the policy alone does 40 to 75 %.

    python -m benchmarks.policy.improve models/relay --demos A.hdf5 --demos B.hdf5 --work runs/improve
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from benchmarks.common import Given, Json, Output, Saved, circumstances, obtained, show, table, tracked
from rpl_runtime.client import Access, Client
from rpl_runtime.console import say
from rpl_runtime.errors import DemonstrationError
from rpl_runtime.evaluation.evaluate import EvaluateConfig, evaluate
from rpl_runtime.evaluation.paired import compare
from rpl_runtime.evaluation.results import Episode
from rpl_runtime.files import JsonDict
from rpl_runtime.loop.lockstep import run
from rpl_runtime.loop.pilot import load_pilot
from rpl_runtime.policy.bundle import Bundle, load_bundle
from rpl_runtime.recording.mcap import LogHeader, LogWriter
from rpl_runtime.relay.run import RunConfig
from rpl_runtime.relay.run_state import POLICY
from rpl_runtime.robots.simulated import SimulatedRobot
from rpl_runtime.server.subprocess import serve_in_process
from rpl_runtime.tasks.kitchen.elements import PAPER_GOALS, compound_goal
from rpl_runtime.tasks.kitchen.simulator import StartNoise
from rpl_runtime.tasks.task import Task
from rpl_train.data.recordings import load_demonstrations
from rpl_train.data.sources import Demonstrations
from rpl_train.export.export import export
from rpl_train.export.novelty import check_sources
from rpl_train.export.restore import restore
from rpl_train.imitate import ImitateConfig, imitate
from rpl_train.improve import ImproveConfig, improve
from rpl_train.runs import LEVELS, TrainedRun, open_run, save_weights
from rpl_train.tasks.kitchen.task import KITCHEN

WIDE = StartNoise(arm=0.15, kettle=0.06)
PILOT = "rpl_train.tasks.kitchen.pilot:attentive"
PACKAGES = ("torch", "numpy", "mujoco", "gymnasium-robotics")


def main(
    bundle: Given = None,
    saved: Saved = None,
    demos: Annotated[list[Path] | None, typer.Option(help="What the bundle learned from. Repeatable.")] = None,
    work: Annotated[Path, typer.Option(help="Folder of logs, runs and bundles; continues there.")] = Path(
        "runs/improve"
    ),
    pilot: Annotated[str, typer.Option(help="Who corrects it, module:factory.")] = PILOT,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes with the pilot.")] = 200,
    episode_steps: Annotated[int, typer.Option(min=1, help="Control steps of each of them.")] = 400,
    arm: Annotated[float, typer.Option(min=0, help="How far each joint may start from nominal [rad].")] = WIDE.arm,
    kettle: Annotated[float, typer.Option(min=0, help="How far the kettle may, along each axis [m].")] = WIDE.kettle,
    seeds: Annotated[int, typer.Option(min=1, help="Training seeds.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of each level.")] = ImproveConfig().steps,
    pairs: Annotated[int, typer.Option(min=1, help="Episodes of each goal from each start, by each policy.")] = 6,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Improve a policy with several seeds, and compare each result with it."""

    def measured(path: Path) -> JsonDict:
        old, task = load_bundle(path), starting_at(StartNoise(arm, kettle))
        record(old, task, work / "logs", episodes, episode_steps, pilot)
        return {"episodes": episodes} | measure(old, task, demos or [], work, seeds, steps, pairs)

    content = obtained(bundle, saved, measured, output)
    show(content, as_json, shown(content))


def record(bundle: Bundle, task: Task, folder: Path, episodes: int, steps: int, reference: str = PILOT) -> None:
    """Write the logs that are missing."""
    pilot = load_pilot(reference)
    with (
        serve_in_process(bundle.path) as address,
        Client(address, access=Access()) as client,
        closing(SimulatedRobot(task)) as robot,
    ):
        for number in tracked(range(episodes), "episodes with the pilot"):
            path, name = folder / f"{number:04d}.mcap", f"improve/{number}"
            if path.exists():
                continue
            header = LogHeader(robot=name, seed=None, plan_lead=0, digest=bundle.digest, spec=bundle.spec)
            unfinished = path.with_suffix(".part")
            unfinished.unlink(missing_ok=True)
            writer = LogWriter(unfinished, header)
            goal = compound_goal(PAPER_GOALS[number % len(PAPER_GOALS)])
            config = RunConfig(goal, steps, name, start_seed=number)
            with client.control() as control:
                run(
                    *(robot, control, config),
                    lambda step, writer=writer: writer.write_step(step, step.action.valid_until_ns),
                    pilot=pilot,
                )
            writer.close(dropped=0)
            unfinished.rename(path)


def measure(
    bundle: Bundle, wide: Task, demos: Sequence[Path], work: Path, seeds: int, steps: int, pairs: int
) -> JsonDict:
    """Improve the policy with each seed, and compare."""
    logs = load_demonstrations([work / "logs"], KITCHEN, bundle.digest)
    authors = [author for trajectory in logs.trajectories for author in trajectory.authors]
    by_hand = sum(author != POLICY for author in authors) / len(authors)
    taught = load_demonstrations(demos, KITCHEN)
    try:
        check_sources(bundle.path, bundle.manifest.provenance, taught)
    except DemonstrationError as error:  # played again on another processor, they have other last digits
        say(f"note: {error}", err=True)
    before, rows = evaluated(bundle.path, wide, work / "old", pairs), []
    trained = restore(bundle, KITCHEN.reference or "kitchen")
    for seed in range(seeds):
        folder, tuning = work / f"improved-{seed}", ImproveConfig(seed=seed, steps=steps)
        policy = improve(KITCHEN, trained, bundle.digest, taught, logs, folder, tuning, unheard)
        better = evaluated(exported(policy, folder), wide, folder, pairs)
        folder = work / f"imitated-{seed}"
        longer = evaluated(exported(imitated(trained, taught, folder, seed, steps), folder), wide, folder, pairs)
        starts = {"starts": compare(before, better), "imitated": compare(before, longer)}
        rows.append({"seed": seed, **starts, "beside": compare(longer, better)})
    content = {"bundle_digest": bundle.digest, "demonstrations": [source["digest"] for source in taught.sources]}
    return content | {"by_hand": by_hand, "steps": steps, "rows": rows, **circumstances(PACKAGES)}


def imitated(trained: TrainedRun, taught: Demonstrations, folder: Path, seed: int, steps: int) -> TrainedRun:
    """The policy after so many steps more of imitating its demonstrations."""
    first = folder / "first"
    open_run(first, trained.record)
    for level, module in zip(LEVELS, (trained.policy.high, trained.policy.low), strict=True):
        save_weights(first / f"{level}.safetensors", module)
    config = ImitateConfig(steps=steps, seed=seed, networks=trained.record.networks)
    return imitate(taught, KITCHEN, folder, config, unheard, initial=first)


def exported(run: TrainedRun, folder: Path) -> Path:
    """The bundle of a run in its folder."""
    path = folder / "bundle"
    if not path.exists():
        record = run.record
        spec = record.spec.model_copy(update={"name": folder.name})
        export(run.policy, spec, record.provenance, path, record.statistics, task=KITCHEN)
    return path


def unheard(level: str, step: int, loss: float | None) -> None:
    """Progress that nobody follows."""


def evaluated(bundle: Path, wide: Task, folder: Path, episodes: int) -> list[Episode]:
    """Episodes from the wide start and by the paper's protocol, kept in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with serve_in_process(bundle) as address:
        found = [
            evaluate(address, task, EvaluateConfig(episodes=episodes), folder / f"{name}.jsonl", access=Access())
            for name, task in (("wide", wide), ("paper", KITCHEN))
        ]
    return [episode for each in found for episode in each.episodes]


def starting_at(start: StartNoise) -> Task:
    """The kitchen with one start alone."""
    return replace(KITCHEN, starts={f"arm ±{start.arm:g} rad, kettle ±{start.kettle:g} m": start})


def shown(content: JsonDict) -> Table:
    rows = [
        (row["seed"], name, *(f"{share:.1%}" for share in shares), points(start), points(row["beside"][name]))
        for row in content["rows"]
        for name, start in row["starts"].items()
        for shares in [(start["old"], row["imitated"][name]["new"], start["new"])]
    ]
    pairs = next(iter(content["rows"][0]["starts"].values()))["pairs"]
    hands = f"{content['episodes']} episodes with a pilot, {content['by_hand']:.0%} of the steps by hand"
    title = f"{hands}; {pairs} pairs from each start, 95 % intervals [points]"
    return table(title, ("seed", "start", "old", "imitated on", "improved", "beside old", "beside imitated on"), rows)


def points(compared: JsonDict) -> str:
    """A difference of success and its interval [percentage points]."""
    difference, low, high = (100 * value for value in (compared["difference"], *compared["interval"]))
    return f"{difference:+.1f} ({low:+.1f} to {high:+.1f})"


if __name__ == "__main__":
    typer.run(main)
