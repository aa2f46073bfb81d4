"""Effect of a robot on a policy: success under the limits of real arms, and with noisy, late or missing observations.

    python -m benchmarks.policy.robot_effects models/relay --episodes 5 --output docs/data/robot
    python -m benchmarks.policy.robot_effects --from docs/data/robot/effects.json --output docs/data/robot
    python -m benchmarks.policy.robot_effects models/play --rows estimated --name play --output docs/data/robot

Each row of the table is `rpl evaluate` under other conditions (robots/degraded.py), on the same episodes. "lost" is in
percentage points of success against the kitchen's own robot, goal by goal; intervals are 95 % bootstrap over goals.
Finished episodes are kept in the folder --journals: an interrupted run continues there, and a run with more episodes
adds to them. The second command runs nothing: it prints and draws the results of the first.
"""

import hashlib
import os
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import typer
from rich.progress import Progress

from benchmarks.common import PROGRESS, Given, Saved, circumstances, markdown, obtained
from rpl_runtime.client import Access, Client
from rpl_runtime.errors import InvalidInput
from rpl_runtime.evaluation.evaluate import EvaluateConfig, calibration_of, evaluate, plan_trials
from rpl_runtime.evaluation.figures import COLOURS, INK, STYLE
from rpl_runtime.evaluation.results import bootstrap_interval
from rpl_runtime.files import JsonDict, staged, write_json
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.robots.degraded import Conditions
from rpl_runtime.robots.kitchen.task import KITCHEN
from rpl_runtime.server.subprocess import serve_in_process
from rpl_runtime.tasks.kitchen.elements import EPISODE_STEPS


class Row(NamedTuple):
    """A condition under which states are estimated, and how the calibration misjudges it."""

    robot: Conditions
    steps: int = EPISODE_STEPS
    sigma: float = 1.0  # of the calibration, as a multiple of the measured one
    age: float = 1.0  # of the arm, likewise


READINGS = {
    "the kitchen's own": Conditions(),
    "Panda": Conditions("panda"),
    "FR3": Conditions("fr3"),
    "FR3, its hand at once": Conditions("fr3", hand_time=0.0),
    "FR3, its hand 0.3 s a command": Conditions("fr3", hand_time=0.3),
    "FR3, its hand 1 s a command": Conditions("fr3", hand_time=1.0),
    "FR3, objects ± 5 mm, 0.01 rad": Conditions("fr3", 0.005, 0.01),
    "FR3, likewise, the still known": Conditions("fr3", 0.005, 0.01, still_known=True),
    "FR3, ± 20 mm, 0.05 rad, the still known": Conditions("fr3", 0.02, 0.05, still_known=True),
    "FR3, objects 80 ms late": Conditions("fr3", object_latency=1),
    "FR3, objects 240 ms late": Conditions("fr3", object_latency=3),
    "FR3, objects missed in 30 %": Conditions("fr3", object_dropout=0.3),
    "FR3, everything 80 ms late": Conditions("fr3", latency=1),
    "FR3, everything 160 ms late": Conditions("fr3", latency=2),
    "FR3, hand 0.3 s, ± 5 mm, the still known, 80 ms late, missed in 10 %": Conditions(
        "fr3", 0.005, 0.01, object_latency=1, object_dropout=0.1, still_known=True, hand_time=0.3
    ),
}
_NOISE = Conditions("fr3", 0.005, 0.01)
_LATE = Conditions("fr3", latency=1)
_ALL = Conditions("fr3", 0.005, 0.01, latency=1, hand_time=1.0)
ESTIMATED = {
    "the kitchen's own": Row(Conditions()),
    "FR3, objects ± 5 mm, 0.01 rad": Row(_NOISE),
    "FR3, everything 80 ms late": Row(_LATE),
    "FR3, its hand 0.3 s a command, 400 steps": Row(Conditions("fr3", hand_time=0.3), 400),
    "FR3, its hand 1 s a command, 400 steps": Row(Conditions("fr3", hand_time=1.0), 400),
    "these together: noise, 80 ms late, a hand of 1 s": Row(_ALL, 400),
    "likewise, missed in 10 %, a bias of 5 mm, 0.01 rad": Row(
        replace(_ALL, object_dropout=0.1, position_bias=0.005, angle_bias=0.01), 400
    ),
    "FR3, a bias of 5 mm, 0.01 rad alone": Row(Conditions("fr3", position_bias=0.005, angle_bias=0.01)),
    "FR3, noise, judged half as large": Row(_NOISE, sigma=0.5),
    "FR3, noise, judged twice as large": Row(_NOISE, sigma=2.0),
    "FR3, 80 ms late, judged 40 ms": Row(replace(_LATE, stamped=False), age=0.5),
    "FR3, 80 ms late, judged 160 ms": Row(replace(_LATE, stamped=False), age=2.0),
    "FR3, 0 to 160 ms late, by timestamps": Row(replace(_LATE, latency_jitter=1)),
    "FR3, 0 to 160 ms late, judged 80 ms": Row(replace(_LATE, latency_jitter=1, stamped=False)),
    "FR3, everything 160 ms late": Row(Conditions("fr3", latency=2)),
}
START = "perturbed"


def main(
    bundle: Given = None,
    saved: Saved = None,
    goals: Annotated[str, typer.Option(help="Goals as in `rpl evaluate`.")] = "paper",
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each goal under each condition.")] = 5,
    jobs: Annotated[int | None, typer.Option(help="Simulators in parallel; default: one per core.")] = None,
    journals: Annotated[Path, typer.Option(help="Folder for finished episodes.")] = Path("runs/robot"),
    output: Annotated[Path | None, typer.Option(help="Folder for NAME.json and NAME.png.")] = None,
    rows: Annotated[
        Literal["readings", "estimated"],
        typer.Option(help="Whether the policy decides in the robot's readings or in states estimated from them."),
    ] = "readings",
    name: Annotated[str, typer.Option(help="Of the files.")] = "effects",
) -> None:
    """Print success under each condition as a table in Markdown."""
    settings = goals, episodes, jobs or os.cpu_count() or 1, journals, rows
    content = obtained(bundle, saved, lambda path: measure(path, *settings))
    if output is not None:
        write_json(output / f"{name}.json", content)
        draw(content, output / f"{name}.png")
    typer.echo(table(content))


def measure(bundle: Path, goals: str, episodes: int, jobs: int, journals: Path, which: str) -> JsonDict:
    rows: list[JsonDict] = []
    found: JsonDict = {}
    with serve_in_process(bundle) as address, Progress(console=PROGRESS, transient=True) as progress:
        with Client(address, access=Access()) as client:
            spec = client.describe().spec
        for name, config in configs(which, (goals,), episodes, jobs, spec):
            bar = progress.add_task(name, total=len(plan_trials(KITCHEN, config)))
            # A name for each condition, so that a row that is added or renamed costs no other its episodes.
            kept = hashlib.sha256(repr((config.robot, config.steps, config.estimate, config.calibration)).encode())
            journal = journals / bundle.name / f"{kept.hexdigest()[:16]}.jsonl"
            found = evaluate(
                address, KITCHEN, config, journal, lambda _, bar=bar: progress.advance(bar), Access()
            ).content
            rows.append(row(name, found))
            progress.remove_task(bar)
    own = rows[0]["goals"]
    for each in rows:
        lost = [own[goal] - success for goal, success in each["goals"].items()]
        each["lost"], each["lost_interval"] = float(np.mean(lost)), list(bootstrap_interval(lost))
    protocol = found["protocol"] | {"start": START}
    del protocol["robot"]
    return {
        "rows": rows,
        "protocol": protocol,
        "bundle_digest": found["bundle_digest"],
        "seeds": found["seeds"],
        **circumstances(()),
        "versions": found["versions"],
    }


def configs(
    which: str, goals: tuple[str, ...], episodes: int, jobs: int, spec: PolicySpec
) -> Iterator[tuple[str, EvaluateConfig]]:
    """The name and the evaluation of each row."""
    config = EvaluateConfig(goals, episodes, (START,), jobs=jobs)
    if which == "readings":
        yield from ((name, replace(config, robot=robot, estimate=False)) for name, robot in READINGS.items())
        return
    for name, row in ESTIMATED.items():
        asked = replace(config, robot=row.robot, steps=row.steps)
        calibration = calibration_of(KITCHEN, asked, spec) if (row.sigma, row.age) != (1.0, 1.0) else None
        if calibration is not None:
            misjudged = {
                "sigma": tuple(row.sigma * sigma for sigma in calibration.sigma),
                "arm_age_s": row.age * (calibration.arm_age_s or 0.0),
            }
            calibration = calibration.model_copy(update=misjudged)
        yield name, replace(asked, calibration=calibration)


def row(name: str, evaluation: JsonDict) -> JsonDict:
    results = evaluation["starts"][START]
    return {
        "robot": name,
        "conditions": evaluation["protocol"]["robot"],
        "steps": evaluation["protocol"]["steps"],
        "episodes": results["episodes"],
        "refused": results["refused"],
        "success": results["success_ever"],
        "interval": results["intervals"]["success_ever"],
        "success_end": results["success_end"],
        "elements_done": results["mean_steps_ever"],
        "limit_violations": results["limit_violations"],
        "goals": {goal: each["success_ever"] for goal, each in results["goals"].items()},
        "elements": {element: each["ever"] for element, each in results["elements"].items()},
    }


def table(content: JsonDict) -> str:
    """The rows in Markdown."""
    rows = []
    for each in content["rows"]:
        (low, high), (least, most) = each["interval"], each["lost_interval"]
        rows.append(
            (
                each["robot"],
                each["episodes"],
                f"{each['success']:.1%} ({low:.0%}–{high:.0%})",
                "" if not rows else f"{100 * each['lost']:.1f} ({100 * least:.0f} to {100 * most:.0f})",
                f"{each['elements_done']:.2f}",
                f"{each['success_end']:.1%}",
                f"{sum(each['limit_violations'].values()):.2f}" if each["limit_violations"] else "",
            )
        )
    headings = ("episodes", "success", "points lost", "elements of 4", "success at the end", "changed by limits")
    return markdown(("robot", *headings), rows)


def draw(content: JsonDict, path: Path) -> None:
    """Draw success under each condition, and how often each element was done when in the goal."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = content["rows"]
    if not rows:
        raise InvalidInput("there are no rows to draw; must be a file that this command wrote")
    elements = list(rows[0]["elements"])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 1.7 + 0.32 * len(rows)), layout="constrained", dpi=150)
        FigureCanvasAgg(figure)
        success, done = figure.subplots(1, 2, width_ratios=(1.0, 1.0), sharey=True)
        places = np.arange(len(rows))
        success.barh(places, [100 * each["success"] for each in rows], 0.62, color=COLOURS[0])
        success.hlines(places, *np.transpose([np.multiply(100, each["interval"]) for each in rows]), color=INK)
        success.vlines([100 * each["success_end"] for each in rows], places - 0.31, places + 0.31, color=COLOURS[1])
        success.set(title="All four ever done [%]; | at the end", xlim=(0, 104))
        success.set_yticks(places, ["\n".join(textwrap.wrap(each["robot"], 40)) for each in rows])
        success.invert_yaxis()
        success.grid(axis="x", color="#e5e5e5", linewidth=0.8)
        success.set_axisbelow(True)
        shares = np.array([[100 * each["elements"][name] for name in elements] for each in rows])
        done.imshow(shares, cmap="Blues", vmin=0, vmax=140, aspect="auto")
        for (y, x), share in np.ndenumerate(shares):
            done.text(x, y, f"{share:.0f}", ha="center", va="center", fontsize=8, color="white" if share > 90 else INK)
        done.set(title="Element done [%]")
        done.set_xticks(range(len(elements)), elements, rotation=30, ha="right", rotation_mode="anchor")
        done.tick_params(length=0)
        done.spines[:].set_visible(False)
        protocol = content["protocol"]
        figure.suptitle(
            f"{protocol['policy']}, {protocol['start']} start, {protocol['episodes']} episodes of each of "
            f"{len(protocol['goals'])} goals; bars with 95 % interval over goals",
            x=0.008,
            ha="left",
            fontsize=10,
        )
        with staged(path) as staging:
            figure.savefig(staging)


if __name__ == "__main__":
    typer.run(main)
