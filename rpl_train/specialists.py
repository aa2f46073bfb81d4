"""Specialists kept: an imitated policy and all that was fine-tuned from it, as one file.

In: the base and its specialists, by the letters of their goals. Out: a safetensors file, and from it the same runs,
equal to the bit. It does not know how they were trained, nor what is made of them.

A tensor in which a specialist does not differ from its base is kept once; one that float16 holds exactly, as it does
what fine-tuning learns (finetune.py), in half the space.

    base/LEVEL/NAME    the base's tensors
    GOAL/LEVEL/NAME    a specialist's, where they differ
    metadata           `base`: its run.json; `specialists`: the provenance of each, by goal
"""

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from rpl_runtime.errors import InvalidGoal, InvalidInput, TrainingError
from rpl_runtime.policy.manifest import Provenance
from rpl_runtime.tasks.kitchen.elements import compound_goal
from rpl_train.networks import RelayPolicy
from rpl_train.runs import (
    LEVELS,
    RunRecord,
    TrainedRun,
    build_policy,
    load_metadata,
    load_tensors,
    open_run,
    save_tensors,
    save_weights,
)

_BASE = "base"
_PROVENANCES = TypeAdapter(dict[str, Provenance])


class Family(NamedTuple):
    """An imitated policy, and what was fine-tuned from it."""

    base: TrainedRun
    specialists: dict[str, TrainedRun]  # by the letters of the goal


def save_specialists(base: TrainedRun, specialists: Mapping[str, TrainedRun], path: Path) -> None:
    """Write one file, whole or not at all.

    Raises:
        InvalidGoal: a specialist is not called by the letters of its goal.
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
        raise InvalidInput(f"{path} is no file; `rpl pack` writes one of specialists")
    tensors, metadata = load_tensors(path), load_metadata(path)
    try:
        record = RunRecord.model_validate_json(metadata.get(_BASE, ""))
        provenances = _PROVENANCES.validate_json(metadata.get("specialists", ""))
        _check_goals(provenances)
    except ValidationError as error:
        raise TrainingError(f"{path} holds no specialists: {error.errors()[0]['msg']}") from error
    except InvalidGoal as error:
        raise TrainingError(f"{path} holds a specialist of no goal: {error}") from error
    base = build_policy(record)
    if missing := [name for name in _tensors(base) if f"{_BASE}/{name}" not in tensors]:
        raise TrainingError(f"{path} lacks {', '.join(missing)} of its base; a base is kept whole")
    _fill(path, base, tensors, _BASE)
    specialists = {}
    for goal, provenance in provenances.items():
        policy = copy.deepcopy(base)
        _fill(path, policy, tensors, goal)
        specialists[goal] = TrainedRun(policy, record.model_copy(update={"provenance": provenance}))
    return Family(TrainedRun(base, record), specialists)


def unpack(path: Path, folder: Path) -> list[Path]:
    """Make a run of each that a file keeps: FOLDER/base, and FOLDER/GOAL for every specialist.

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
    """Letters alone: a name goes into those of tensors and folders, where `base` is another's."""
    for goal in goals:
        if not compound_goal(goal):
            raise InvalidGoal("a specialist has an empty goal; must be the letters of elements, such as mkbs")


def _tensors(policy: RelayPolicy) -> dict[str, Tensor]:
    levels = {"high": policy.high, "low": policy.low}
    return {f"{level}/{name}": values for level in LEVELS for name, values in levels[level].state_dict().items()}


def _halved(values: Tensor) -> Tensor:
    half = values.half()
    return half if values.dtype == torch.float32 and half.float().equal(values) else values


@torch.no_grad()
def _fill(path: Path, policy: RelayPolicy, tensors: Mapping[str, Tensor], owner: str) -> None:
    """Put an owner's tensors into a policy; `copy_` widens what was halved."""
    places = _tensors(policy)
    for key, values in tensors.items():
        holder, _, name = key.partition("/")
        if holder == owner:
            if name not in places or places[name].shape != values.shape:
                raise TrainingError(f"{path} holds the weights of another architecture: {key}")
            places[name].copy_(values)
