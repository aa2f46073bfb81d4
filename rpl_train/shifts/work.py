"""Shifts: the demonstrator of a task works goal after goal without a reset, into a folder of trajectories.

A policy may drive at the beginning of each goal; the demonstrator takes over from wherever it got to, so its
demonstrations show the way out of there (as in dataset aggregation, Ross et al., AISTATS 2011).

A shift depends on the seed, its index, the demonstrator's settings and the driver only.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rpl_runtime.console import Console
from rpl_runtime.errors import DemonstrationError, InvalidInput
from rpl_runtime.files import JsonDict, translated
from rpl_runtime.policy.spec import ResolvedGoal
from rpl_runtime.relay.loop import RelayLoop
from rpl_runtime.tasks.task import Driver, Shift, ShiftGoal, ShiftWorker, Task, World
from rpl_train.data.trajectory import Trajectory, save
from rpl_train.play import PlayConfig, claim, perform_all, settings_of, trajectory_of, write, write_json

_ROBOT = "driver"  # its name in the relay loop


class _Worked(NamedTuple):
    pieces: tuple[Trajectory, ...]
    goals: tuple[ShiftGoal, ...]


@dataclass(frozen=True)
class ShiftsResult:
    """A folder of shifts."""

    folder: Path
    shifts: tuple[tuple[ShiftGoal, ...], ...]  # the goals of each
    worked: int  # how many were worked by this call; the others were there before

    @property
    def works(self) -> int:
        """The number of elements that were to be led somewhere."""
        return sum(len(goal.elements) for goals in self.shifts for goal in goals)

    @property
    def given_up(self) -> Counter[str]:
        """What the demonstrator gave up -> how often."""
        goals = [goal for goals in self.shifts for goal in goals]
        return Counter(f"{name}{' back' * goal.back}" for goal in goals for name in goal.left)

    @property
    def alone(self) -> float | None:
        """The share of the goals that a driver reached by itself, of those that were left to it."""
        left = [goal.alone for goals in self.shifts for goal in goals if goal.alone is not None]
        return float(np.mean(left)) if left else None

    def facts(self) -> JsonDict:
        """The result, ready for JSON."""
        return {
            "folder": str(self.folder),
            "shifts": len(self.shifts),
            "goals": sum(map(len, self.shifts)),
            "works": self.works,
            "finished": 1 - self.given_up.total() / self.works,
            "given_up": [
                {"shift": number, "goal": place, "elements": goal.left, "back": goal.back}
                for number, goals in enumerate(self.shifts)
                for place, goal in enumerate(goals)
                if goal.left
            ],
            "alone": self.alone,
        }


def print_shifts(result: ShiftsResult) -> None:
    """Print a result."""
    facts, console = result.facts(), Console()
    console.print(
        f"{facts['shifts']} shifts in {facts['folder']}, {result.worked} of them worked now; {facts['goals']} goals, "
        f"{facts['works']} works, {facts['finished']:.1%} of them finished"
    )
    for what, often in result.given_up.most_common():
        places = [f"shift {gave['shift']}" for gave in facts["given_up"] if what.split(" back")[0] in gave["elements"]]
        console.print(f"given up: {what}, {often} times ({', '.join(places[:5])}{', ...' * (len(places) > 5)})")
    if result.alone is not None:
        console.print(f"the policy reached {result.alone:.1%} of the goals that were left to it")


def work_shifts(
    task: Task,
    config: PlayConfig,
    folder: Path,
    driver: Path | None = None,
    progress: Callable[[int, int], None] = lambda finished, total: None,
) -> ShiftsResult:
    """Let the task's demonstrator work the shifts that the folder lacks; calls progress(finished, total) after each.

    Args:
        driver: the folder of a finished run, whose policy drives at the beginning of each goal.

    Raises:
        InvalidInput: the task's demonstrator works no shifts, or the folder holds play with other settings.
        DemonstrationError: a shift cannot be written; the others are kept.
        JobsFailed: shifts cannot be worked; the others are kept.
        TrainingError: the driver's run is missing, unfinished or damaged.
    """
    if not isinstance(task.demonstrator, ShiftWorker):
        raise InvalidInput(f"{task.name} has no demonstrator that works in shifts; shifts must be 0")
    settings = settings_of(task.demonstrator) | {"seed": config.seed, "shifts": True}
    if driver is not None:
        from rpl_train.runs import load_run, weights_digest

        settings["driver"] = weights_digest(load_run(driver).policy)
    claim(settings, folder)
    records = [folder / f"shift-{index:06d}.json" for index in range(config.shifts)]
    missing = [index for index, path in enumerate(records) if not path.exists()]
    finished = count(len(records) - len(missing))
    progress(next(finished), len(records))

    def keep(index: int, worked: _Worked) -> None:
        write(lambda: _save(worked, records[index]), records[index])
        progress(next(finished), len(records))

    perform_all(task, config, missing, partial(_work, driver), keep)
    return ShiftsResult(folder, tuple(map(_load, records)), len(missing))


class PolicyDriver:
    """A trained policy as a driver: both levels at their modes, in the same relay loop that serves."""

    def __init__(self, run: Path) -> None:
        from rpl_train.runs import load_run  # needs torch

        self._policy, record = load_run(run)
        self._spec, self._step = record.spec, 0

    def begin(self, goal: ResolvedGoal) -> None:
        """Turn to a goal."""
        self._loop = RelayLoop(self._policy, self._spec)
        self._loop.start(_ROBOT, goal, None)
        self._step = 0

    @property
    def subgoal(self) -> np.ndarray:
        """The subgoal (n,) of the last action."""
        return self._subgoal

    def act(self, state: np.ndarray) -> np.ndarray:
        """The action (m,) in a state (n,), which is clipped to the range that the spec accepts."""
        seen = np.clip(state, *self._spec.state.bounds)[None]
        decision = self._loop.step([_ROBOT], [self._step], seen)
        self._subgoal, self._step = decision.subgoal[0], self._step + 1
        return decision.action[0]


_driver = cache(PolicyDriver)  # of this process


def _work(driver: Path | None, task: Task, world: World, config: PlayConfig, index: int) -> _Worked:
    assert isinstance(task.demonstrator, ShiftWorker)
    drives: Driver | None = None if driver is None else _driver(driver)
    shift: Shift = task.demonstrator.work_shift(task, world, config.seed, index, drives)
    source = f"shift of {task.name}, seed {config.seed} #{index}"
    pieces = (trajectory_of(piece, f"{source}.{number}") for number, piece in enumerate(shift.pieces))
    return _Worked(tuple(pieces), shift.goals)


def _save(worked: _Worked, record: Path) -> None:
    """Write the pieces of a shift, and then its record: a shift without a record is worked again."""
    for number, piece in enumerate(worked.pieces):
        save(piece, record.with_name(f"{record.stem}-{number:03d}.npz"))
    write_json(record, [goal._asdict() for goal in worked.goals])


def _load(record: Path) -> tuple[ShiftGoal, ...]:
    with translated(record, DemonstrationError, "the record of a shift"):
        goals = [ShiftGoal(**goal) for goal in json.loads(record.read_text())]
    return tuple(goal._replace(elements=tuple(goal.elements), left=tuple(goal.left)) for goal in goals)
