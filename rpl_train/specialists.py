"""Specialists: one imitated policy fine-tuned for each of many goals, side by side, and all of them saved as one file.

The file gives back the same runs, bit for bit. A tensor in which a specialist equals its base is saved once. One that
float16 holds exactly, as it does all that fine-tuning learns (rl/finetune.py), takes half the space.

    base/LEVEL/NAME    the base's tensors
    GOAL/LEVEL/NAME    a specialist's, where they differ
    metadata           `base`: its run.json; `specialists`: the provenance of each, by goal
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from rpl_runtime.errors import InvalidGoal, InvalidInput, TrainingError
from rpl_runtime.jobs import Executor, Job, run_jobs
from rpl_runtime.policy.manifest import Provenance
from rpl_runtime.tasks.task import PLAIN_NAME, Task
from rpl_train.data.recordings import load_demonstrations
from rpl_train.networks import RelayPolicy
from rpl_train.rl.finetune import FinetuneConfig, finetune
from rpl_train.runs import (
    LEVELS,
    RunRecord,
    TrainedRun,
    build_policy,
    load_metadata,
    load_run,
    load_tensors,
    open_run,
    save_tensors,
    save_weights,
)
from rpl_train.tasks import load_task

_BASE = "base"
_PROVENANCES = TypeAdapter(dict[str, Provenance])


class Family(NamedTuple):
    """An imitated policy and its specialists."""

    base: TrainedRun
    specialists: dict[str, TrainedRun]  # by the name of the goal


def specialise(
    task: Task,
    base: Path,
    demonstrations: Sequence[Path],
    folder: Path,
    goals: Mapping[str, FinetuneConfig],
    jobs: int,
    executor: Executor = "local",
    progress: Callable[[int, str], None] = lambda finished, goal: None,
) -> dict[str, TrainedRun]:
    """Fine-tune the run `base` for each goal of a task, by its name, into FOLDER/GOAL; a broken run goes on there.

    Args:
        jobs: processes, each with one goal at a time.
        executor: where they run; each sees the folders.
        progress: called as progress(finished, goal) after each goal.

    Raises:
        JobsFailed: a goal failed; the others were run to their end.
    """
    finished = count(1)
    work = [
        Job(goal, _fine_tune, (task.reference, base, tuple(demonstrations), folder / goal, config))
        for goal, config in goals.items()
    ]
    run_jobs(work, executor, jobs, progress=lambda job, result: progress(next(finished), job.name))
    return {goal: load_run(folder / goal) for goal in goals}


def _fine_tune(task_name: str, base: Path, demonstrations: Sequence[Path], run: Path, config: FinetuneConfig) -> None:
    task = load_task(task_name)
    finetune(task, load_run(base), load_demonstrations(demonstrations, task), run, config)


def save_specialists(base: TrainedRun, specialists: Mapping[str, TrainedRun], path: Path) -> None:
    """Write one file, whole or not at all.

    Raises:
        InvalidGoal: a specialist's name cannot be that of a goal.
        TrainingError: a specialist has another architecture than the base, or the file cannot be written.
    """
    _check_goals(specialists)
    for goal, trained in specialists.items():
        if trained.record.model_copy(update={"provenance": base.record.provenance}) != base.record:
            raise TrainingError(
                f"the specialist of {goal} has another architecture than the policy it should come from"
            )
    kept = _tensors(base.policy)
    tensors = {f"{_BASE}/{name}": values for name, values in kept.items()}
    for goal, trained in specialists.items():
        own = {name: values for name, values in _tensors(trained.policy).items() if not values.equal(kept[name])}
        tensors |= {f"{goal}/{name}": _halved(values) for name, values in own.items()}
    provenances = {goal: trained.record.provenance for goal, trained in specialists.items()}
    metadata = {_BASE: base.record.model_dump_json(), "specialists": _PROVENANCES.dump_json(provenances).decode()}
    save_tensors(path, tensors, metadata)


def load_specialists(path: Path) -> Family:
    """Read what `save_specialists` wrote.

    Raises:
        InvalidInput: there is no such file.
        TrainingError: it is damaged, or holds something else.
    """
    if not path.is_file():
        raise InvalidInput(f"{path} does not exist or is not a file; `rpl pack` writes specialists to one")
    tensors, metadata = load_tensors(path), load_metadata(path)
    try:
        record = RunRecord.model_validate_json(metadata.get(_BASE, ""))
        provenances = _PROVENANCES.validate_json(metadata.get("specialists", ""))
        _check_goals(provenances)
    except ValidationError as error:
        raise TrainingError(f"{path} holds no specialists: {error.errors()[0]['msg']}") from error
    except InvalidGoal as error:
        raise TrainingError(f"{path} holds a specialist whose name is not a goal: {error}") from error
    except InvalidInput as error:
        raise TrainingError(f"{path} holds no specialists: {error}") from error
    base = build_policy(record)
    if missing := [name for name in _tensors(base) if f"{_BASE}/{name}" not in tensors]:
        raise TrainingError(f"{path} lacks {', '.join(missing)} of its base; it must hold the whole base")
    _fill(path, base, tensors, _BASE)
    specialists = {}
    for goal, provenance in provenances.items():
        policy = copy.deepcopy(base)
        _fill(path, policy, tensors, goal)
        specialists[goal] = TrainedRun(policy, record.model_copy(update={"provenance": provenance}))
    return Family(TrainedRun(base, record), specialists)


def unpack(path: Path, folder: Path) -> list[Path]:
    """Write the runs that a file holds: FOLDER/base, and FOLDER/GOAL for every specialist. Returns their folders.

    Raises:
        TrainingError: the file cannot be read, or a folder holds another run.
    """
    family = load_specialists(path)
    runs = {folder / name: trained for name, trained in ((_BASE, family.base), *family.specialists.items())}
    for run, (policy, record) in runs.items():
        open_run(run, record)
        save_weights(run / "high.safetensors", policy.high)
        save_weights(run / "low.safetensors", policy.low)
    return list(runs)


def _check_goals(goals: Iterable[str]) -> None:
    """Names of goals become parts of tensor names and folders, where `base` is taken."""
    for goal in goals:
        if not PLAIN_NAME.fullmatch(goal) or goal == _BASE:
            raise InvalidGoal(f"a specialist has the goal {goal[:60]!r}; must be a goal's name, such as mkbs")


def _tensors(policy: RelayPolicy) -> dict[str, Tensor]:
    levels = {"high": policy.high, "low": policy.low}
    return {f"{level}/{name}": values for level in LEVELS for name, values in levels[level].state_dict().items()}


def _halved(values: Tensor) -> Tensor:
    half = values.half()
    return half if values.dtype == torch.float32 and half.float().equal(values) else values


@torch.no_grad()
def _fill(path: Path, policy: RelayPolicy, tensors: Mapping[str, Tensor], owner: str) -> None:
    """Put an owner's tensors into a policy; `copy_` widens float16."""
    places = _tensors(policy)
    for key, values in tensors.items():
        holder, _, name = key.partition("/")
        if holder == owner:
            if name not in places or places[name].shape != values.shape:
                raise TrainingError(f"{path} holds the weights of another architecture: {key}")
            places[name].copy_(values)
