"""The rows of the paper's table as files, RESULTS/ROW.json, and their means and intervals.

Means are taken over the seeds of a goal first, then over goals. 95 % intervals are over goals, as in every evaluation
of this project.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from rpl_runtime.errors import InvalidInput
from rpl_runtime.evaluation.results import bootstrap_interval, check_evaluation
from rpl_runtime.files import JsonDict, write_json
from rpl_runtime.tasks.kitchen.elements import PAPER_GOALS
from rpl_train.paper.methods import DISTILLED, METHODS, REFERENCE, Method
from rpl_train.paper.reproduce import SHOWN, PaperConfig, RowResult, TrialResult, shown_digest
from rpl_train.rl.finetune import Point

_FIELDS = TrialResult._fields


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Trial(_Frozen):
    """One training and its evaluation."""

    goals: tuple[str, ...]  # letters
    seed: int
    curve: tuple[Point, ...]  # empty without fine-tuning
    evaluation: JsonDict  # as `rpl evaluate` writes it


class Row(_Frozen):
    """The content of a row's file."""

    method: Method
    env_steps: int  # of fine-tuning, for each goal and seed
    trials: tuple[Trial, ...]  # the finished ones

    @property
    def tuned(self) -> bool:
        return any(trial.curve for trial in self.trials)

    @property
    def goals(self) -> tuple[str, ...]:
        """The goals with a trial, in the paper's order."""
        return tuple(goal for goal in PAPER_GOALS if any(goal in trial.goals for trial in self.trials))

    @property
    def seeds(self) -> int:
        return len({trial.seed for trial in self.trials})

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands that measured the trials."""
        return tuple(dict.fromkeys(trial.evaluation["command"] for trial in self.trials))

    @property
    def commits(self) -> tuple[str, ...]:
        """The commits of the code that measured the trials."""
        return tuple(dict.fromkeys(trial.evaluation["commit"] for trial in self.trials))

    @property
    def episodes(self) -> int:
        """The number of episodes of each goal from each start."""
        return self.trials[0].evaluation["protocol"]["episodes"]


class Score(NamedTuple):
    """A mean over goals and its 95 % interval."""

    mean: float
    low: float
    high: float


class Curve(NamedTuple):
    """The mean over goals along a row's fine-tuning, and its 95 % interval; (iterations,) each."""

    env_steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def write_row(row: RowResult, folder: Path) -> None:
    """Write RESULTS/ROW.json."""
    content = {
        "method": method_facts(row.method),
        "env_steps": row.env_steps,
        "trials": [trial._asdict() | {"curve": [point._asdict() for point in trial.curve]} for trial in row.trials],
    }
    write_json(folder / f"{row.method.name}.json", content)


def known_trials(methods: Sequence[Method], config: PaperConfig, folder: Path) -> dict[str, list[TrialResult]]:
    """The finished trials of these rows in a folder, by the row's name.

    Raises:
        InvalidInput: a row is damaged, or was made with other settings or demonstrations.
    """
    known, shown = {}, {}
    for method in methods:
        path = folder / f"{method.name}.json"
        if path.exists():
            row = _read(path)
            theirs, ours = (row.method, row.env_steps, row.episodes), (method, config.steps_of(method), config.episodes)
            if theirs != ours:
                raise InvalidInput(
                    f"{path} holds another row, or was made with {row.env_steps} environment steps and {row.episodes} "
                    f"episodes where {ours[1]} and {ours[2]} are asked for; choose another folder"
                )
            known[method.name] = [TrialResult(*(getattr(trial, name) for name in _FIELDS)) for trial in row.trials]
            evaluations = [trial.evaluation for trial in row.trials]
            shown |= {found[SHOWN]: path for found in evaluations if SHOWN in found}
    if shown and (others := shown.keys() - {shown_digest(config)}):
        raise InvalidInput(
            f"{shown[min(others)]} was made with other demonstrations; pass those or choose another folder"
        )
    return known


def write_distilled(evaluation: JsonDict | None, folder: Path) -> None:
    """Write RESULTS/distilled.json from the evaluation of the distilled bundle.

    Raises:
        InvalidInput: it is None, is not an evaluation, or lacks one of the paper's goals.
    """
    if evaluation is None:
        raise InvalidInput("the distilled bundle was never evaluated; `rpl evaluate BUNDLE --write` does it")
    check_evaluation(evaluation)
    missing = [goal for goal in PAPER_GOALS if any(goal not in s["goals"] for s in evaluation["starts"].values())]
    if missing:
        raise InvalidInput(
            f"the evaluation of the distilled bundle lacks {', '.join(missing)}; all 17 goals are needed"
        )
    content = {
        "method": method_facts(DISTILLED),
        "env_steps": 0,
        "trials": [{"goals": DISTILLED.goals, "seed": 0, "curve": [], "evaluation": evaluation}],
    }
    write_json(folder / f"{DISTILLED.name}.json", content)


def read_rows(folder: Path) -> list[Row]:
    """The rows of a folder, in the order of the table.

    Raises:
        InvalidInput: it holds no row, or a damaged one.
    """
    rows = [_read(path) for name in names() if (path := folder / f"{name}.json").exists()]
    if not rows:
        raise InvalidInput(f"{folder} holds no row of the table; `rpl paper {folder} --demos ...` makes them")
    return rows


def names() -> list[str]:
    """The names of the rows in the order of the table; the distilled policy comes after its possible teachers."""
    ordered = list(METHODS)
    ordered.insert(ordered.index(REFERENCE) + 1, DISTILLED.name)
    return ordered


def _read(path: Path) -> Row:
    try:
        row = Row.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InvalidInput(f"{path} is not a row that `rpl paper` wrote: {error.errors()[0]['msg']}") from error
    if row.method.name != path.stem:
        raise InvalidInput(f"{path} holds the row {row.method.name}; the file must have the row's name")
    for trial in row.trials:
        check_evaluation(trial.evaluation)
    return row


def method_facts(method: Method) -> JsonDict:
    """A row of `METHODS` as plain data."""
    facts = dict(vars(method))
    return facts | {name: facts[name] and facts[name]._asdict() for name in ("imitation", "published")}


def shared_goals(rows: Sequence[Row]) -> tuple[str, ...]:
    """The goals that every row has, in the paper's order."""
    return tuple(goal for goal in PAPER_GOALS if all(goal in row.goals for row in rows))


def score(row: Row, start: str, measure: str, goals: Sequence[str]) -> Score:
    """The score of a row from a start, by one of `evaluation.results.MEASURES`, over these of its goals."""
    by_goal: dict[str, list[float]] = defaultdict(list)
    for trial in row.trials:
        for goal, found in trial.evaluation["starts"][start]["goals"].items():
            by_goal[goal].append(found[measure])
    return _over_goals([float(np.mean(by_goal[goal])) for goal in goals])


def curve(row: Row, measure: str, goals: Sequence[str]) -> Curve:
    """A field of `Point` along a fine-tuned row, over these goals of its own."""
    steps, values = _along(row, measure, goals)
    scores = [_over_goals(column) for column in values.T.tolist()]
    return Curve(steps, *(np.array(column) for column in zip(*scores, strict=True)))


def exploring(row: Row, measure: str, goals: Sequence[str], iterations: slice) -> Score:
    """The score of some iterations of a row's fine-tuning, by a field of `Point`, over these goals of its own."""
    return _over_goals(_along(row, measure, goals)[1][:, iterations].mean(1).tolist())


def _along(row: Row, measure: str, goals: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Environment steps (iterations,) and means over seeds (goals, iterations), cut to the shortest curve."""
    by_goal = [[trial.curve for trial in row.trials if goal in trial.goals] for goal in goals]
    length = min(len(points) for seeds in by_goal for points in seeds)
    values = [
        np.mean([[getattr(point, measure) for point in points[:length]] for points in seeds], 0) for seeds in by_goal
    ]
    return np.array([point.env_steps for point in by_goal[0][0][:length]]), np.array(values)


def _over_goals(values: Sequence[float]) -> Score:
    return Score(float(np.mean(values)), *bootstrap_interval(values))
