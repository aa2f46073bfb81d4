"""What an evaluation's episodes come to: means, rates and their intervals, and a table of them.

In: `Episode` records. Out: plain dictionaries that go into evaluation.json, and a table drawn from those alone.
It does not know how an episode was run.

Means are taken over the episodes of a goal first and over goals second, so every goal weighs the same. The 95 %
intervals are over goals: what another draw of compound goals would have given.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict
from rich.columns import Columns
from rich.console import Console
from rich.table import Table

from rpl_runtime.errors import InvalidInput
from rpl_runtime.tasks.kitchen.elements import ELEMENTS, OTHER_HUMAN_GOALS, PAPER_GOALS, UNSEEN_GOALS, compound_goal

MEASURES = {
    "mean_steps_ever": "elements ever done",
    "mean_steps_end": "elements done at the end",
    "success_ever": "episodes with all ever done",
    "success_end": "episodes with all done at the end",
}
GROUPS = {"paper": PAPER_GOALS, "human": OTHER_HUMAN_GOALS, "unseen": UNSEEN_GOALS}
_GROUP_OF = {frozenset(compound_goal(goal)): name for name, goals in GROUPS.items() for goal in goals}
_RESAMPLES = 10_000


class Episode(BaseModel):
    """What one episode did."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: str  # "nominal" or "perturbed"
    goal: str  # its name in the tables
    elements: tuple[str, ...]  # what the goal asks for
    seed: int
    steps: int  # made
    refused: str | None  # why the policy accepted no more, where the episode ended early
    first_done: dict[str, int]  # element of the goal -> the number of steps after which it was first done
    done_at_end: tuple[str, ...]  # elements of the goal
    final_distance: dict[str, float]  # element of the goal -> distance from its goal at the end [its own units]
    limit_violations: dict[str, int] = {}  # limit of the robot -> how often it changed a motion


def summarize(episodes: Sequence[Episode]) -> dict[str, Any]:
    """The results of the episodes of one start: means with intervals, by goal, group and element."""
    by_goal: dict[str, list[Episode]] = defaultdict(list)
    for episode in episodes:
        by_goal[episode.goal].append(episode)
    goals = {name: _goal_results(group) for name, group in by_goal.items()}
    groups = {goal["group"] for goal in goals.values()}
    return {
        **_mean_over(goals.values()),
        "groups": {
            group: _mean_over([goal for goal in goals.values() if goal["group"] == group])
            for group in (*GROUPS, "other")
            if group in groups
        },
        "goals": goals,
        "elements": _element_results(episodes),
        "episodes": len(episodes),
        "refused": sum(episode.refused is not None for episode in episodes),
        "limit_violations": _limit_violations(episodes),
    }


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % percentile-bootstrap interval of the mean of `values`; the same values give the same interval."""
    sample = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(0).integers(len(sample), size=(_RESAMPLES, len(sample)))
    low, high = np.quantile(sample[draws].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def print_results(evaluation: dict[str, Any]) -> None:
    """Print the tables of an evaluation: for each start one of goals, ending in the mean, and one of elements.

    Raises:
        InvalidInput: it is not an evaluation that `rpl evaluate` wrote.
    """
    check_evaluation(evaluation)
    console, protocol = Console(), evaluation["protocol"]
    for start, results in evaluation["starts"].items():
        console.print(Columns([_goals_table(start, results), _elements_table(start, results)]))
    if robot := described(protocol.get("robot", {})):
        console.print(f"The robot: {robot}.", highlight=False)
    if lead := protocol.get("plan_lead"):
        console.print(f"Plans are asked for {lead} steps before they take effect.", highlight=False)
    console.print(
        f"{protocol['environment']}, {protocol['episodes']} episodes of {protocol['steps']} steps for each goal. "
        "steps: elements done of those named; success: all of them; ever: at any step; end: at the last one; "
        "95 %: bootstrap interval over goals; distance: from the goal at the end, in the element's own unit.",
        style="dim",
        highlight=False,
    )


def described(robot: dict[str, Any]) -> str:
    """The conditions of a protocol's robot that are not those of the kitchen itself; empty where there are none."""
    units = {"position_noise": " m", "angle_noise": " rad", "object_latency": " periods", "latency": " periods"}
    units |= {"hand_time": " s"}
    nothing = {"profile": "kitchen", "hand_time": None}  # a hand that takes no time is one all the same
    changed = {name: value for name, value in robot.items() if value != nothing.get(name, 0)}
    return ", ".join(
        name.replace("_", " ") + ("" if value is True else f" {value}{units.get(name, '')}")
        for name, value in changed.items()
    )


def check_evaluation(evaluation: dict[str, Any]) -> None:
    """
    Raises:
        InvalidInput: it is not an evaluation that `rpl evaluate` wrote.
    """
    if not isinstance(evaluation, dict) or not evaluation.get("starts") or "protocol" not in evaluation:
        raise InvalidInput("this is no evaluation that `rpl evaluate` wrote: it lacks a protocol or its starts")


def _goal_results(episodes: list[Episode]) -> dict[str, Any]:
    elements = episodes[0].elements
    ever = np.array([len(episode.first_done) for episode in episodes])
    end = np.array([len(episode.done_at_end) for episode in episodes])
    return {
        "elements": list(elements),
        "group": _GROUP_OF.get(frozenset(elements), "other"),
        "episodes": len(episodes),
        "mean_steps_ever": float(ever.mean()),
        "mean_steps_end": float(end.mean()),
        "success_ever": float((ever == len(elements)).mean()),
        "success_end": float((end == len(elements)).mean()),
    }


def _mean_over(goals: Iterable[dict[str, Any]]) -> dict[str, Any]:
    goals = list(goals)
    values = {measure: [goal[measure] for goal in goals] for measure in MEASURES}
    return {measure: float(np.mean(values[measure])) for measure in MEASURES} | {
        "intervals": {measure: list(bootstrap_interval(values[measure])) for measure in MEASURES}
    }


def _element_results(episodes: Sequence[Episode]) -> dict[str, Any]:
    named: dict[str, list[Episode]] = defaultdict(list)
    for episode in episodes:
        for element in episode.elements:
            named[element].append(episode)
    return {
        name: {
            "episodes": len(asked),
            "ever": float(np.mean([name in episode.first_done for episode in asked])),
            "end": float(np.mean([name in episode.done_at_end for episode in asked])),
            "final_distance": float(np.mean([episode.final_distance[name] for episode in asked])),
        }
        for name, asked in sorted(named.items(), key=lambda item: list(ELEMENTS).index(item[0]))
    }


def _limit_violations(episodes: Sequence[Episode]) -> dict[str, float]:
    """How often in a step each limit of the robot changed a motion, each joint counted for itself."""
    steps, total = sum(episode.steps for episode in episodes), Counter[str]()
    for episode in episodes:
        total.update(episode.limit_violations)
    return {limit: count / steps for limit, count in sorted(total.items())}


def _goals_table(start: str, results: dict[str, Any]) -> Table:
    table = Table(title=f"{start} start", header_style="bold")
    table.add_column("goal")
    for heading in ("steps\never", "steps\nend", "success\never", "success\nend"):
        table.add_column(heading, justify="right", no_wrap=True)
    for goal, found in results["goals"].items():
        table.add_row(goal, *(_format(measure, found[measure]) for measure in MEASURES))
    for group, found in results["groups"].items() if len(results["groups"]) > 1 else ():
        _add_mean(table, f"mean of {group}", found)
    _add_mean(table, "mean", results)
    if results["refused"]:
        table.caption = f"{results['refused']} of {results['episodes']} episodes ended early, in a state refused"
    return table


def _elements_table(start: str, results: dict[str, Any]) -> Table:
    table = Table(title=f"{start} start, by element", header_style="bold")
    table.add_column("element", no_wrap=True)
    for heading in ("done\never", "done\nend", "distance\nend"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, found in results["elements"].items():
        table.add_row(name, f"{found['ever']:.0%}", f"{found['end']:.0%}", f"{found['final_distance']:.3f}")
    return table


def _add_mean(table: Table, label: str, results: dict[str, Any]) -> None:
    table.add_section()
    table.add_row(label, *(_format(measure, results[measure], 1) for measure in MEASURES), style="bold")
    if len(results.get("goals", ())) == 1:
        return  # an interval over goals needs some
    bounds = [(measure, *results["intervals"][measure]) for measure in MEASURES]
    table.add_row("95 %", *(f"{_format(m, low)}–{_format(m, high)}" for m, low, high in bounds), style="dim")


def _format(measure: str, value: float, decimals: int = 0) -> str:
    return f"{value:.{decimals}%}" if measure.startswith("success") else f"{value:.2f}"
