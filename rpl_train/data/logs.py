"""Logs of runs (`rpl run --log`) as demonstrations: what a robot saw, what it was told to do, and by whom."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np

from rpl_runtime.errors import DemonstrationError, InvalidInput
from rpl_runtime.policy.spec import PolicySpec, ResolvedGoal
from rpl_runtime.recording.mcap import Log, LoggedStep, read_log
from rpl_train.data.trajectory import Trajectory

_SUFFIX = ".mcap"


def is_log(path: Path) -> bool:
    """Whether a path is a log, or a folder with logs in it."""
    return path.suffix == _SUFFIX or (path.is_dir() and any(path.rglob(f"*{_SUFFIX}")))


def import_logs(path: Path, spec: PolicySpec, digest: str | None = None) -> list[Trajectory]:
    """The runs in a log, or in every log of a folder, in the order of their names.

    A run is split where the log lacks steps and where its goal changes; a single step between two is left out.

    Args:
        digest: the bundle that must have run; None: any bundle of the task.

    Raises:
        DemonstrationError: a log is damaged or cut off, or is of another task or bundle.
        MissingExtra: mcap is not installed.
    """
    paths = [path] if path.suffix == _SUFFIX else sorted(path.rglob(f"*{_SUFFIX}"))
    return [piece for each in paths for piece in _pieces(each, _checked(each, spec, digest), spec)]


def _checked(path: Path, spec: PolicySpec, digest: str | None) -> Log:
    try:
        log = read_log(path)
    except InvalidInput as error:
        raise DemonstrationError(str(error)) from error
    if not log.whole:
        raise DemonstrationError(
            f"{path} was cut off after step {log.steps[-1].step}; must be the log of a run that ended"
        )
    theirs, ours = (
        (each.state.names, each.state.units, each.action.names, each.action.units, each.period_s)
        for each in (log.header.spec, spec)
    )
    if theirs != ours:
        raise DemonstrationError(
            f"{path} is a run of {_described(log.header.spec)}; must be of {_described(spec)}, "
            "with the same names and units"
        )
    if digest not in (None, log.header.digest):
        raise DemonstrationError(
            f"{path} is a run of the bundle {log.header.digest[:12]}; must be of {str(digest)[:12]}"
        )
    return log


def _described(spec: PolicySpec) -> str:
    return f"{spec.name} (state {spec.state.dim}, action {spec.action.dim}, {spec.period_s:g} s)"


def _pieces(path: Path, log: Log, spec: PolicySpec) -> list[Trajectory]:
    """The run, split where the log lacks steps and where its goal changes; all but the last piece go on in another."""
    gaps = [
        at
        for at, (one, next_) in enumerate(itertools.pairwise(log.steps), 1)
        if next_.step != one.step + 1 or (next_.goal, next_.mask) != (one.goal, one.mask)
    ]
    bounds = itertools.pairwise([0, *gaps, len(log.steps)])
    pieces = [(piece, end < len(log.steps)) for first, end in bounds if len(piece := log.steps[first:end]) > 1]
    return [
        replace(_trajectory(piece, spec, f"{path.name}#{number}"), cut=goes_on)
        for number, (piece, goes_on) in enumerate(pieces)
    ]


def _trajectory(steps: list[LoggedStep], spec: PolicySpec, source: str) -> Trajectory:
    goal = ResolvedGoal(*(np.array(values, np.float32) for values in (steps[-1].goal, steps[-1].mask)))
    named = (name for name, element in spec.elements.items() if goal.mask[list(element.dims)].all())
    return Trajectory(
        states=np.array([step.state for step in steps], np.float32),
        targets=np.array([step.target for step in steps], np.float32),
        elements=tuple(name for name in named if spec.elements[name].is_done(goal.state)),
        source=source,
        authors=tuple(step.author for step in steps),
    )
