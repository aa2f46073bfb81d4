"""Play: the demonstrator of a task demonstrates, in parallel processes, into a folder of trajectories.

A sequence depends on the seed, its index and the demonstrator's settings only, so the folder is the same for any number
of processes and after any interruption.
"""

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TypeVar, get_type_hints

import numpy as np
from pydantic import TypeAdapter, ValidationError
from rich.table import Table

from rpl_runtime.console import Console
from rpl_runtime.console import count as counted
from rpl_runtime.errors import DemonstrationError, InvalidInput
from rpl_runtime.files import JsonDict, read_json, staged
from rpl_runtime.jobs import Executor, Job, run_jobs
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.tasks.task import Demonstrator, Performance, Task, World
from rpl_train.data.sources import PLAY_SETTINGS
from rpl_train.data.trajectory import Trajectory, load, save
from rpl_train.tasks import load_task

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class PlayConfig:
    """How much is played; how it is played is up to the task's demonstrator.

    Raises:
        InvalidInput: a setting is out of its range.
    """

    sequences: int = 400
    shifts: int = 0  # work this many shifts instead (shifts.py): goal after goal without a reset
    seed: int = 0
    jobs: int = 1  # processes
    executor: Executor = "local"

    def __post_init__(self) -> None:
        most = 1_000_000
        ranges = {"sequences": (1, most), "shifts": (0, most), "seed": (0, 2**31 - 1), "jobs": (1, 1024)}
        for name, (low, high) in ranges.items():
            if not low <= (value := getattr(self, name)) <= high:
                raise InvalidInput(f"{name} of play is {value}; must be {low} to {high}")


@dataclass(frozen=True)
class Sequence:
    """The result of one sequence."""

    path: Path
    elements: tuple[str, ...]  # in their order
    steps: int
    done: frozenset[str]  # those at their goal in the last state
    spent: dict[str, int]  # [steps] from the previous element until this one is first done

    @property
    def complete(self) -> bool:
        return self.done == set(self.elements)


@dataclass(frozen=True)
class ElementSummary:
    """One element over all sequences; a row of the table."""

    name: str
    tried: int
    done: int  # at the end of the episode
    steps: float | None  # median; None if it was never done


@dataclass(frozen=True)
class PlayResult:
    """A folder of play."""

    folder: Path
    sequences: tuple[Sequence, ...]
    played: int  # how many were played by this call; the others were there before
    spec: PolicySpec
    episode_steps: int  # [control steps] of the task

    @property
    def completed(self) -> float:
        """Share of the sequences with every element done in the last state."""
        return float(np.mean([sequence.complete for sequence in self.sequences]))

    def by_element(self) -> tuple[ElementSummary, ...]:
        """One row an element."""
        rows = []
        for name in self.spec.elements:
            tried = [sequence for sequence in self.sequences if name in sequence.elements]
            spent = [sequence.spent[name] for sequence in tried if name in sequence.spent]
            done = sum(name in sequence.done for sequence in tried)
            rows.append(ElementSummary(name, len(tried), done, float(np.median(spent)) if spent else None))
        return tuple(rows)

    def facts(self) -> JsonDict:
        """The result, ready for JSON."""
        steps = [sequence.steps for sequence in self.sequences]
        return {
            "folder": str(self.folder),
            "sequences": len(self.sequences),
            "complete": self.completed,
            "steps": {name: float(np.percentile(steps, q)) for name, q in (("p50", 50), ("p90", 90), ("max", 100))},
            "within_an_episode": float(np.mean([count <= self.episode_steps for count in steps])),
            "elements": [asdict(row) for row in self.by_element()],
        }


def print_play(result: PlayResult) -> None:
    """Print a result as a table."""
    facts, console = result.facts(), Console()
    table = Table("element", "tried", "done at the end", "", "median steps", title="Play", title_justify="left")
    for row in result.by_element():
        median = "–" if row.steps is None else f"{row.steps:.0f}"
        share = f"{row.done / row.tried:.1%}" if row.tried else "–"
        table.add_row(row.name, str(row.tried), str(row.done), share, median)
    console.print(table)
    steps = facts["steps"]
    console.print(
        f"{counted(len(result.sequences), 'sequence')} in {facts['folder']}, {result.played} of them played now; "
        f"{facts['complete']:.1%} end with every element done; median {steps['p50']:.0f} steps, "
        f"90 % within {steps['p90']:.0f}, {facts['within_an_episode']:.1%} within {result.episode_steps}"
    )


def play(
    task: Task, config: PlayConfig, folder: Path, progress: Callable[[int, int], None] = lambda finished, total: None
) -> PlayResult:
    """Let the task's demonstrator play the sequences that the folder lacks; calls progress(finished, total) after each.

    Raises:
        InvalidInput: the task has no demonstrator, or the folder holds play with other settings.
        DemonstrationError: an episode cannot be written; the others are kept.
        JobsFailed: sequences cannot be played; the others are kept.
    """
    if task.demonstrator is None:
        raise InvalidInput(f"{task.name} has no demonstrator, so it needs --demos; a task's demonstrator makes them")
    claim(settings_of(task.demonstrator) | {"seed": config.seed}, folder)
    paths = [folder / f"play-{index:06d}.npz" for index in range(config.sequences)]
    missing = [index for index, path in enumerate(paths) if not path.exists()]
    finished = count(len(paths) - len(missing))
    progress(next(finished), len(paths))

    def keep(index: int, trajectory: Trajectory) -> None:
        write(lambda: save(trajectory, paths[index]), paths[index])
        progress(next(finished), len(paths))

    perform_all(task, config, missing, perform, keep)
    sequences = tuple(_describe(path, task.spec) for path in paths)
    return PlayResult(folder, sequences, len(missing), task.spec, task.episode_steps)


def perform(task: Task, world: World, config: PlayConfig, index: int) -> Trajectory:
    """Play one sequence in a world of the task.

    Raises:
        DemonstrationError: what the demonstrator did cannot be learned from.
    """
    assert task.demonstrator is not None
    performance = task.demonstrator.perform(task, world, config.seed, index)
    return trajectory_of(performance, f"play of {task.name}, seed {config.seed} #{index}")


def trajectory_of(performance: Performance, source: str) -> Trajectory:
    """
    Raises:
        DemonstrationError: the performance cannot be learned from.
    """
    states, actions, elements, goal, cut, subgoals = performance
    return Trajectory(states, actions, elements, source, goal=goal, cut=cut, subgoals=subgoals)


def settings_of(demonstrator: Demonstrator) -> JsonDict:
    """A demonstrator's settings, ready for JSON; it is a dataclass, and code is no setting."""
    assert is_dataclass(demonstrator)
    values = {field.name: getattr(demonstrator, field.name) for field in fields(demonstrator)}
    plain = {name: asdict(value) if is_dataclass(value) else value for name, value in values.items()}  # type: ignore[arg-type]
    return json.loads(json.dumps({name: value for name, value in plain.items() if not callable(value)}))


def with_settings(demonstrator: Demonstrator, settings: JsonDict) -> Demonstrator:
    """A demonstrator with settings that `settings_of` returned, of which some may be missing.

    Raises:
        InvalidInput: one of them does not fit it.
    """
    kinds = get_type_hints(type(demonstrator))
    try:
        found = {name: TypeAdapter(kinds[name]).validate_python(settings[name]) for name in kinds if name in settings}
    except ValidationError as error:
        raise InvalidInput(f"a setting of {type(demonstrator).__name__} does not fit: {error.errors()[0]}") from error
    return replace(demonstrator, **found)  # type: ignore[type-var]


def perform_all(
    task: Task,
    config: PlayConfig,
    indices: list[int],
    perform: Callable[[Task, World, PlayConfig, int], Result],
    finished: Callable[[int, Result], None],
) -> None:
    """Call perform(task, world, config, index) for each index, and finished(index, result) after each; it is pickled.

    Raises:
        JobsFailed: some of them failed; the others are finished.
    """
    if config.jobs == 1 and config.executor == "local":
        if indices:
            with closing(task.open(fast=True)) as world:
                for index in indices:
                    finished(index, perform(task, world, config, index))
        return
    here = partial(_perform_here, perform, task.reference, _changed(task), config)
    jobs = [Job(f"sequence {index}", here, (index,)) for index in indices]
    run_jobs(jobs, config.executor, config.jobs, lambda job, result: finished(job.arguments[-1], result))


def _changed(task: Task) -> dict[str, object]:
    """The settings of the task's demonstrator that differ from those which another process loads with the task."""
    there = load_task(task.reference).demonstrator
    ours = [field.name for field in fields(task.demonstrator)]  # type: ignore[arg-type]  # it is a dataclass
    return {
        name: getattr(task.demonstrator, name)
        for name in ours
        if getattr(task.demonstrator, name) != getattr(there, name)
    }


_opened: dict[str, tuple[Task, World]] = {}  # at most one, of this worker process, by the arguments that it is for


def _perform_here(
    perform: Callable[[Task, World, PlayConfig, int], Result],
    reference: str,
    changed: dict[str, object],
    config: PlayConfig,
    index: int,
) -> Result:
    wanted = repr((reference, changed))
    if wanted not in _opened:
        for _, world in _opened.values():
            world.close()
        _opened.clear()
        task = load_task(reference)
        task = replace(task, demonstrator=replace(task.demonstrator, **changed))  # type: ignore[type-var]
        _opened[wanted] = task, task.open(fast=True)
    return perform(*_opened[wanted], config, index)


def claim(settings: JsonDict, folder: Path) -> None:
    """Write the settings to the folder, or check that they are the same.

    Raises:
        InvalidInput: the folder holds play with other settings.
        DemonstrationError: they cannot be written.
    """
    path = folder / PLAY_SETTINGS
    if path.exists():
        found = read_json(path, "the settings of play")
        differing = sorted(key for key in settings if not isinstance(found, dict) or found.get(key) != settings[key])
        if differing:
            raise InvalidInput(
                f"{folder} holds play with another {', '.join(differing)}; use the same settings or another folder"
            )
        return

    write(lambda: write_json(path, settings), path)


def write_json(path: Path, content: object) -> None:
    """Write a JSON file, whole or not at all."""
    with staged(path) as staging:
        staging.write_text(json.dumps(content, indent=2) + "\n")


def write(action: Callable[[], object], path: Path) -> None:
    """Call an action that writes a file of play.

    Raises:
        DemonstrationError: it cannot be written.
    """
    try:
        action()
    except OSError as error:
        raise DemonstrationError(
            f"{path} cannot be written: {error.strerror or error}; the episodes before it are kept"
        ) from error


def _describe(path: Path, spec: PolicySpec) -> Sequence:
    trajectory = load(path)
    spent, before = {}, 0
    elements = tuple(name for name in trajectory.elements if name in spec.elements)
    for name in elements:
        first = next((step for step, state in enumerate(trajectory.states) if spec.elements[name].is_done(state)), None)
        if first is not None:
            spent[name] = max(first - before, 0)
            before = first
    last = trajectory.states[-1]
    done = frozenset(name for name in elements if spec.elements[name].is_done(last))
    return Sequence(path, elements, len(trajectory), done, spent)
