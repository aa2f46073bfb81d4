"""Scripted play: the demonstrator does sequences of elements, in parallel processes, into a folder of trajectories.

A sequence depends on the seed and its index only, so the folder is the same for any number of processes and after any
interruption. The stored targets are the demonstrator's own. The executed ones have noise, pauses and detours added, so
that the recordings show the way back from a policy's errors.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from rich.table import Table

from rpl_runtime.console import Console
from rpl_runtime.errors import DemonstrationError, InvalidInput
from rpl_runtime.files import staged
from rpl_runtime.process import CONTEXT, end_with_parent, end_workers
from rpl_runtime.tasks.kitchen.elements import ELEMENTS, EPISODE_STEPS, ROBOT_DIM
from rpl_runtime.tasks.kitchen.simulator import PERTURBED, Kitchen, StartNoise, open_kitchen
from rpl_train.data.trajectory import Trajectory, load, save
from rpl_train.tasks.kitchen.demonstrator import Demonstrator, Style
from rpl_train.tasks.kitchen.skills import Work

Order = Literal["human", "random"]
_ARM = slice(0, 7)
_SETTINGS_FILE = "play.json"
_REOPENED = 0.3  # a finished element farther from its goal than this is done again


@dataclass(frozen=True, kw_only=True)
class PlayConfig:
    """Settings of scripted play.

    Raises:
        InvalidInput: a setting is out of its range.
    """

    sequences: int = 400
    length: int = 4  # elements in a sequence
    order: Order = "human"
    seed: int = 0
    jobs: int = 1  # processes
    start: StartNoise = PERTURBED
    noise: float = 0.01  # [rad] standard deviation of the noise on an executed arm target
    noise_steps: float = 4.0  # [steps] correlation time of that noise
    pause: float = 0.01  # probability per step that the arm rests for two to six steps
    detour: float = 0.01  # probability per step of a detour of three to six steps
    detour_size: float = 0.06  # [rad] largest offset of each joint in a detour
    speed: float = 0.068  # [rad] of the fastest joint in a control step
    speed_spread: float = 0.1  # share by which the speed varies between sequences
    offset: float = 0.01  # [m] by which the approach and the hold on a handle vary between sequences
    settle: int = 4  # [steps] after the last element
    limit: int = 360  # [steps] largest length of a sequence

    def __post_init__(self) -> None:
        ranges = {
            "sequences": (1, 1_000_000),
            "length": (1, len(ELEMENTS)),
            "seed": (0, 2**31 - 1),
            "jobs": (1, 1024),
            "noise": (0, 0.1),
            "noise_steps": (0.1, 100),
            "pause": (0, 0.5),
            "detour": (0, 0.5),
            "detour_size": (0, 0.16),
            "speed": (0.01, 0.08),
            "speed_spread": (0, 0.5),
            "offset": (0, 0.03),
            "settle": (0, 100),
            "limit": (2, 10_000),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise InvalidInput(f"{name} of scripted play is {value}; must be {low} to {high}")
        if self.order not in get_args(Order):
            raise InvalidInput(f"order of scripted play is {self.order!r}; must be one of {', '.join(get_args(Order))}")


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

    @property
    def completed(self) -> float:
        """Share of the sequences with every element done in the last state."""
        return float(np.mean([sequence.complete for sequence in self.sequences]))

    def by_element(self) -> tuple[ElementSummary, ...]:
        """One row an element, in the human order."""
        rows = []
        for name in ELEMENTS:
            tried = [sequence for sequence in self.sequences if name in sequence.elements]
            spent = [sequence.spent[name] for sequence in tried if name in sequence.spent]
            done = sum(name in sequence.done for sequence in tried)
            rows.append(ElementSummary(name, len(tried), done, float(np.median(spent)) if spent else None))
        return tuple(rows)

    def facts(self) -> dict[str, Any]:
        """The result, ready for JSON."""
        steps = [sequence.steps for sequence in self.sequences]
        return {
            "folder": str(self.folder),
            "sequences": len(self.sequences),
            "complete": self.completed,
            "steps": {name: float(np.percentile(steps, q)) for name, q in (("p50", 50), ("p90", 90), ("max", 100))},
            "within_an_episode": float(np.mean([count <= EPISODE_STEPS for count in steps])),
            "elements": [asdict(row) for row in self.by_element()],
        }


def print_play(result: PlayResult) -> None:
    """Print a result as a table."""
    facts, console = result.facts(), Console()
    table = Table(
        "element", "tried", "done at the end", "", "median steps", title="Scripted play", title_justify="left"
    )
    for row in result.by_element():
        median = "–" if row.steps is None else f"{row.steps:.0f}"
        table.add_row(row.name, str(row.tried), str(row.done), f"{row.done / max(1, row.tried):.1%}", median)
    console.print(table)
    steps = facts["steps"]
    console.print(
        f"{facts['sequences']} sequences in {facts['folder']}, {result.played} of them played now; "
        f"{facts['complete']:.1%} end with every element done; median {steps['p50']:.0f} steps, "
        f"90 % within {steps['p90']:.0f}, {facts['within_an_episode']:.1%} within {EPISODE_STEPS}"
    )


def play(
    config: PlayConfig, folder: Path, progress: Callable[[int, int], None] = lambda finished, total: None
) -> PlayResult:
    """Play every sequence that the folder lacks; calls progress(finished, total) after each.

    Raises:
        InvalidInput: the folder holds play with other settings.
        DemonstrationError: an episode cannot be written, or a process was killed; the episodes before are kept.
    """
    _claim(config, folder)
    paths = [folder / f"play-{index:06d}.npz" for index in range(config.sequences)]
    missing = [index for index, path in enumerate(paths) if not path.exists()]
    finished = len(paths) - len(missing)
    progress(finished, len(paths))
    for index, trajectory in _perform_all(config, missing):
        _write(lambda index=index, trajectory=trajectory: save(trajectory, paths[index]), paths[index])
        finished += 1
        progress(finished, len(paths))
    return PlayResult(folder, tuple(_describe(path) for path in paths), len(missing))


def sequence_elements(config: PlayConfig, index: int) -> tuple[str, ...]:
    """The elements of the sequence with this index: all sets of the configured length in turn, shuffled each round."""
    sets = tuple(itertools.combinations(ELEMENTS, config.length))  # each in human order
    round_, place = divmod(index, len(sets))
    shuffled = np.random.default_rng([config.seed, 1, round_]).permutation(len(sets))
    elements = sets[shuffled[place]]
    if config.order == "random":
        order = np.random.default_rng([config.seed, 2, index]).permutation(len(elements))
        elements = tuple(elements[i] for i in order)
    return elements


def perform(kitchen: Kitchen, config: PlayConfig, index: int) -> Trajectory:
    """Play one sequence in a kitchen."""
    rng = np.random.default_rng([config.seed, 0, index])
    elements = sequence_elements(config, index)
    demonstrator = Demonstrator(kitchen.model, _style(config, rng))
    disturbance = _Disturbance(config, rng)
    state = kitchen.reset(int(rng.integers(2**31)), config.start)
    states, targets = [], []
    finished: set[str] = set()
    settled, target = 0, state[:ROBOT_DIM]
    while len(states) < config.limit and settled <= config.settle:
        for name in elements:
            if demonstrator.finished(state, Work(name)):
                finished.add(name)
            elif ELEMENTS[name].distance(state) >= _REOPENED:
                finished.discard(name)
        left = [name for name in elements if name not in finished]
        settled = 0 if left else settled + 1
        if left:  # otherwise hold on: a hand that backs out drags a door with it
            target = demonstrator.act(state, Work(left[0]))
        states.append(state)
        targets.append(target)
        state = kitchen.step(disturbance(target))
    return Trajectory(
        states=np.array(states, dtype=np.float32),
        targets=np.array(targets, dtype=np.float32),
        elements=elements,
        source=f"scripted play, {config.order} order, seed {config.seed} #{index}",
    )


class _Disturbance:
    """Turns the demonstrator's target into the executed one: correlated noise, sometimes a pause or a detour."""

    def __init__(self, config: PlayConfig, rng: np.random.Generator) -> None:
        self._config = config
        self._rng = rng
        self._keep = math.exp(-1 / config.noise_steps)
        self._drift = np.zeros(7)  # [rad]
        self._push = np.zeros(7)  # [rad]
        self._pausing = 0  # [steps] left
        self._straying = 0  # [steps] left
        self._executed: np.ndarray | None = None  # (9,) [rad, m]

    def __call__(self, target: np.ndarray) -> np.ndarray:
        config, rng = self._config, self._rng
        spread = config.noise * math.sqrt(1 - self._keep**2)
        self._drift = self._keep * self._drift + spread * rng.standard_normal(7)
        if self._pausing == 0 and rng.random() < config.pause:
            self._pausing = int(rng.integers(2, 7))
        if self._straying == 0 and rng.random() < config.detour:
            self._straying = int(rng.integers(3, 7))
            self._push = rng.uniform(-config.detour_size, config.detour_size, 7)
        if self._pausing > 0 and self._executed is not None:
            self._pausing -= 1
            return self._executed
        executed = np.array(target, dtype=np.float64)  # (9,)
        executed[_ARM] += self._drift
        if self._straying > 0:
            self._straying -= 1
            executed[_ARM] += self._push
        self._executed = executed
        return executed


def _style(config: PlayConfig, rng: np.random.Generator) -> Style:
    return Style(
        speed=config.speed * (1 + config.speed_spread * rng.uniform(-1, 1)),
        standoff=0.10 + config.offset * rng.uniform(-1, 1),
        rise=config.offset * rng.uniform(-1, 1),
    )


def _perform_all(config: PlayConfig, indices: list[int]) -> Iterator[tuple[int, Trajectory]]:
    if not indices:
        return
    if config.jobs == 1:
        with open_kitchen() as kitchen:
            for index in indices:
                yield index, perform(kitchen, config, index)
        return
    # Spawned, because a fork copies the locks of the caller's threads.
    jobs = min(config.jobs, len(indices))
    with ProcessPoolExecutor(jobs, CONTEXT, end_with_parent) as pool:
        futures = {pool.submit(_perform_here, config, index): index for index in indices}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise DemonstrationError("a process that played was killed; run the same command again to go on") from error
        except (KeyboardInterrupt, GeneratorExit):
            end_workers()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_kitchens: list[Kitchen] = []  # at most one, of this worker process


def _perform_here(config: PlayConfig, index: int) -> Trajectory:
    if not _kitchens:
        _kitchens.append(Kitchen())
    return perform(_kitchens[0], config, index)


def _claim(config: PlayConfig, folder: Path) -> None:
    """Write the settings to the folder, or check that they are the same."""
    settings = asdict(config)
    del settings["jobs"], settings["sequences"]
    path = folder / _SETTINGS_FILE
    if path.exists():
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise InvalidInput(f"{path} is damaged; must hold the settings of scripted play: {error}") from error
        differing = sorted(key for key in settings if not isinstance(found, dict) or found.get(key) != settings[key])
        if differing:
            raise InvalidInput(
                f"{folder} holds play with another {', '.join(differing)}; use the same settings or another folder"
            )
        return

    def claim() -> None:
        with staged(path) as staging:
            staging.write_text(json.dumps(settings, indent=2) + "\n")

    _write(claim, path)


def _write(action: Callable[[], object], path: Path) -> None:
    try:
        action()
    except OSError as error:
        raise DemonstrationError(f"{path} cannot be written: {error}; the episodes before it are kept") from error


def _describe(path: Path) -> Sequence:
    trajectory = load(path)
    spent, before = {}, 0
    for name in trajectory.elements:
        first = next((step for step, state in enumerate(trajectory.states) if ELEMENTS[name].is_done(state)), None)
        if first is not None:
            spent[name] = max(first - before, 0)
            before = first
    last = trajectory.states[-1]
    done = frozenset(name for name in trajectory.elements if ELEMENTS[name].is_done(last))
    return Sequence(path, trajectory.elements, len(trajectory), done, spent)
