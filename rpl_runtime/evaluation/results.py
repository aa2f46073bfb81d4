"""The results of an evaluation's episodes: means, rates and their intervals, for evaluation.json and as tables.

Means are taken over the episodes of a goal first and over goals second, so every goal has the same weight. The 95 %
intervals are over goals: the range to expect from another draw of compound goals.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator
from rich import box
from rich.table import Table

from rpl_runtime.console import Console, count
from rpl_runtime.errors import InvalidInput
from rpl_runtime.files import JsonDict
from rpl_runtime.tasks.task import Task

MEASURES = {
    "mean_steps_ever": "elements ever done",
    "mean_steps_end": "elements done at the end",
    "success_ever": "episodes with all ever done",
    "success_end": "episodes with all done at the end",
}
_RESAMPLES = 10_000


class Episode(BaseModel):
    """The outcome of one episode."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: str  # of the task's
    goal: str  # its name in the tables
    elements: tuple[str, ...]  # of the goal
    seed: int
    steps: int  # [control steps] made
    refused: str | None  # why the policy refused a state, if the episode ended early
    first_done: dict[str, int]  # element of the goal -> [control steps] after which it was first done
    done_at_end: tuple[str, ...]  # elements of the goal
    final_distance: dict[str, float]  # element of the goal -> distance from its goal at the end [its own units]
    limit_violations: dict[str, int] = {}  # limit of the robot -> how often it changed a motion

    @model_validator(mode="after")
    def _check(self) -> Self:
        named = set(self.first_done) | set(self.done_at_end)
        if not named <= set(self.elements) or set(self.final_distance) != set(self.elements):
            raise ValueError(f"an episode of {self.goal} has elements that are not those of its goal")
        return self


def summarize(episodes: Sequence[Episode], task: Task) -> JsonDict:
    """The results of a task's episodes from one start: means with intervals, by goal, group and element."""
    by_goal, by_element = defaultdict[str, list[Episode]](list), defaultdict[str, list[Episode]](list)
    violations = Counter[str]()
    for episode in episodes:
        by_goal[episode.goal].append(episode)
        for element in episode.elements:
            by_element[element].append(episode)
        violations.update(episode.limit_violations)
    goals = {name: _goal_results(group, task) for name, group in by_goal.items()}
    groups = {goal["group"] for goal in goals.values()}
    steps = sum(episode.steps for episode in episodes)
    return {
        **_mean_over(goals.values()),
        "groups": {
            group: _mean_over([goal for goal in goals.values() if goal["group"] == group])
            for group in (*task.groups, "other")
            if group in groups
        },
        "goals": goals,
        "elements": {
            name: {
                "episodes": len(by_element[name]),
                "ever": float(np.mean([name in episode.first_done for episode in by_element[name]])),
                "end": float(np.mean([name in episode.done_at_end for episode in by_element[name]])),
                "final_distance": float(np.mean([episode.final_distance[name] for episode in by_element[name]])),
            }
            for name in task.elements
            if name in by_element
        },
        "episodes": len(episodes),
        "refused": sum(episode.refused is not None for episode in episodes),
        # In a control step, with each joint counted.
        "limit_violations": {limit: count / steps for limit, count in sorted(violations.items())},
    }


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % percentile-bootstrap interval of the mean of `values`; the same values give the same interval."""
    sample = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(0).integers(len(sample), size=(_RESAMPLES, len(sample)))
    low, high = np.quantile(sample[draws].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def print_results(evaluation: JsonDict) -> None:
    """Print the tables of an evaluation: goals, elements, the means and, last, the success. They fit into 80 columns.

    Raises:
        InvalidInput: `rpl evaluate` did not write the evaluation.
    """
    check_evaluation(evaluation)
    console, protocol, starts = Console(highlight=False), evaluation["protocol"], evaluation["starts"]
    measures: dict[str, str] = dict(
        zip(MEASURES, ("elements\never", "elements\nend", "success\never", "success\nend"), strict=True)
    )
    console.print(_by_start("goal", starts, measures), "")
    done = {"ever": "done\never", "end": "done\nend", "final_distance": "distance\nend"}
    console.print(_by_start("element", starts, done), "")
    if robot := described(protocol.get("robot", {})):
        console.print(
            f"The robot: {robot}; its states are {'estimated' if protocol.get('estimator') else 'its readings'}."
        )
    if lead := protocol.get("plan_lead"):
        console.print(f"Plans are requested {lead} control steps before they take effect.")
    console.print(
        f"{protocol['environment']}, {protocol['steps']} control steps; episodes of each goal: {protocol['episodes']}. "
        "elements: done, of those in the goal; success: all of them done; ever: at any control step; end: at the last; "
        "95 %: bootstrap interval over goals; distance: from the goal at the end, in the element's own unit.",
        style="dim",
    )
    means = Table("mean over goals", box=box.SIMPLE_HEAD, show_edge=False, header_style="bold")
    for heading in measures.values():
        means.add_column(heading, justify="right", no_wrap=True)
    for start, results in starts.items():
        for group, found in results["groups"].items() if len(results["groups"]) > 1 else ():
            means.add_row(f"{start} start, {group} goals", *(_format(m, found[m], 1) for m in MEASURES))
        means.add_row(f"{start} start", *(_format(m, results[m], 1) for m in MEASURES), style="bold")
        if len(results["goals"]) > 1:
            bounds = [(measure, *results["intervals"][measure]) for measure in MEASURES]
            means.add_row("95 %", *(f"{_format(m, low)}–{_format(m, high)}" for m, low, high in bounds), style="dim")
    console.print("", means)
    for start, results in starts.items():
        if refused := results["refused"]:
            console.print(f"{start} start: {refused} of {results['episodes']} episodes ended early, in a refused state")
    ever = ", ".join(
        f"{_format('success_ever', found['success_ever'], 1)} ({start})" for start, found in starts.items()
    )
    console.print(f"[bold]success:[/] {ever}; {count(protocol['episodes'], 'episode')} of each goal")


def described(robot: JsonDict) -> str:
    """The conditions of a protocol's robot that differ from the world's own; empty if none does."""
    units = {"position_noise": " m", "angle_noise": " rad", "object_latency": " periods", "latency": " periods"}
    units |= {"hand_time": " s", "latency_jitter": " periods", "position_bias": " m", "angle_bias": " rad"}
    # A hand time of 0 differs from none.
    own = {"profile": ("own", "kitchen"), "hand_time": (None,), "stamped": (True,)}
    changed = {name: value for name, value in robot.items() if value not in own.get(name, (0,))}
    return ", ".join(
        name.replace("_", " ") + ("" if value is True else f" {value}{units.get(name, '')}")
        for name, value in changed.items()
    )


def check_evaluation(evaluation: JsonDict) -> None:
    """
    Raises:
        InvalidInput: `rpl evaluate` did not write the evaluation.
    """
    if not isinstance(evaluation, dict) or not evaluation.get("starts") or "protocol" not in evaluation:
        raise InvalidInput("this is not an evaluation that `rpl evaluate` wrote; it must have a protocol and starts")


def _goal_results(episodes: list[Episode], task: Task) -> JsonDict:
    elements = episodes[0].elements
    ever = np.array([len(episode.first_done) for episode in episodes])
    end = np.array([len(episode.done_at_end) for episode in episodes])
    return {
        "elements": list(elements),
        "group": task.group_of(elements),
        "episodes": len(episodes),
        "mean_steps_ever": float(ever.mean()),
        "mean_steps_end": float(end.mean()),
        "success_ever": float((ever == len(elements)).mean()),
        "success_end": float((end == len(elements)).mean()),
    }


def _mean_over(goals: Iterable[JsonDict]) -> JsonDict:
    goals = list(goals)
    values = {measure: [goal[measure] for goal in goals] for measure in MEASURES}
    return {measure: float(np.mean(values[measure])) for measure in MEASURES} | {
        "intervals": {measure: list(bootstrap_interval(values[measure])) for measure in MEASURES}
    }


def _by_start(kind: str, starts: dict[str, JsonDict], columns: dict[str, str]) -> Table:
    """A row for each goal or element, and its columns for each start."""
    table = Table(kind, box=box.SIMPLE_HEAD, padding=0, show_edge=False, header_style="bold")
    for start in starts:
        for index, heading in enumerate(columns.values()):
            table.add_column(f"{'' if index else start}\n{heading}", justify="right", no_wrap=True)
    rows = [results[f"{kind}s"] for results in starts.values()]
    for name in rows[0]:
        table.add_row(name, *(_format(column, found[name][column]) for found in rows for column in columns))
    return table


def _format(measure: str, value: float, decimals: int = 0) -> str:
    if measure == "final_distance":
        return f"{value:.3f}"
    return f"{value:.2f}" if measure.startswith("mean_steps") else f"{value:.{decimals}%}"
