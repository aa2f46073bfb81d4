"""A demonstration, and a folder of demonstrations as `.npz` files."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rpl_runtime.errors import DemonstrationError, InvalidInput, RecordingError
from rpl_runtime.files import locked, opened, staged, translated
from rpl_runtime.policy.spec import PolicySpec

_MOST_BYTES = 1 << 30  # of a demonstration, as it is and unpacked
_LONGEST_NAME = 100  # [characters] of a source in a file's name
_FILES = "[!.]*.npz"  # a hidden file is a write that was cut off


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One demonstration: the observed state and the commanded target of each step.

    Raises:
        DemonstrationError: the shapes disagree, a number is not finite, or there are fewer than two steps.
    """

    states: np.ndarray  # (T, n) float32, observed when the target was chosen
    targets: np.ndarray  # (T, m) float32 [rad, m] joint position targets, without the noise that was added in execution
    elements: tuple[str, ...] = ()  # in the order of work, if the source states it
    source: str = ""  # recording and number
    authors: tuple[str, ...] = ()  # (T,) of a robot's run: POLICY or the pilot who decided the target; else empty
    goal: np.ndarray | None = None  # (n,) the state that was asked for; None: the last one
    cut: bool = False  # it ends before its goal is reached
    # (T, n) of a policy that drove: the targets were only advised, and teach its low level alone
    subgoals: np.ndarray | None = None

    def __post_init__(self) -> None:
        states, targets = self.states, self.targets
        if states.ndim != 2 or targets.ndim != 2 or len(states) != len(targets) or len(states) < 2:
            raise DemonstrationError(
                f"{self.source or 'a demonstration'}: states (T, n) and targets (T, m) need the same T >= 2; "
                f"got {states.shape} and {targets.shape}"
            )
        if self.authors and len(self.authors) != len(states):
            raise DemonstrationError(
                f"{self.source or 'a demonstration'} names {len(self.authors)} authors; must be one for each of its "
                f"{len(states)} steps"
            )
        for name, array in (("state", states), ("target", targets)):
            bad = np.argwhere(~np.isfinite(array))
            if len(bad):
                step, dim = bad[0]
                raise DemonstrationError(
                    f"{self.source or 'a demonstration'}: {name} {dim} at step {step} is {array[step, dim]}; "
                    "every number must be finite"
                )

    def __len__(self) -> int:
        return len(self.states)


def check_sizes(trajectory: Trajectory, spec: PolicySpec) -> None:
    """
    Raises:
        DemonstrationError: it is of another task than the spec's.
    """
    sizes = trajectory.states.shape[1], trajectory.targets.shape[1]
    if sizes != (spec.state.dim, spec.action.dim):
        raise DemonstrationError(
            f"{trajectory.source or 'a demonstration'} has states of {sizes[0]} and targets of {sizes[1]} numbers; "
            f"{spec.name} has {spec.state.dim} and {spec.action.dim}; --task names the task that it is of"
        )


def save(trajectory: Trajectory, path: Path) -> None:
    """Write one `.npz`, whole or not at all."""
    with staged(path) as staging, staging.open("wb") as file:
        np.savez_compressed(
            file,
            states=trajectory.states,
            targets=trajectory.targets,
            elements=np.array(trajectory.elements, dtype=np.str_),
            source=np.array(trajectory.source, dtype=np.str_),
            authors=np.array(trajectory.authors, dtype=np.str_),
            goal=np.empty(0, np.float32) if trajectory.goal is None else trajectory.goal,
            cut=np.array(trajectory.cut),
            subgoals=np.empty(0, np.float32) if trajectory.subgoals is None else trajectory.subgoals,
        )


def save_folder(trajectories: Sequence[Trajectory], folder: Path) -> None:
    """Write each demonstration as a `.npz` named after its source. If one fails, those before it stay.

    Raises:
        InvalidInput: the folder holds other demonstrations, which training would mix with these.
        RecordingError: two have the same source, or one cannot be written, for example because the disk is full.
    """
    names = [_file_name(trajectory, index) for index, trajectory in enumerate(trajectories)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RecordingError(f"several demonstrations would be called {twice[0]}; write each source to its own folder")
    with locked(folder / _FILES):
        if others := sorted({path.name for path in folder.glob(_FILES)} - set(names)):
            raise InvalidInput(f"{folder} holds other demonstrations, such as {others[0]}; choose another folder")
        for count, (trajectory, name) in enumerate(zip(trajectories, names, strict=True)):
            try:
                save(trajectory, folder / name)
            except OSError as error:
                raise RecordingError(
                    f"{folder} took {count} of {len(trajectories)} demonstrations, which are kept; "
                    f"{name} could not be written: {error.strerror or error}"
                ) from error


def _file_name(trajectory: Trajectory, index: int) -> str:
    recording, _, number = trajectory.source.rpartition("#")
    stem = re.sub(r"[^\w.]+", "-", Path(recording or trajectory.source or "demonstration").stem).strip("-")
    number = re.sub(r"[^\w]+", "-", number) if recording else str(index)  # a stranger's, too
    return f"{stem[:_LONGEST_NAME]}-{number[:_LONGEST_NAME]:0>5}.npz"


def load(path: Path) -> Trajectory:
    """Read one `.npz` written by `save`.

    Raises:
        DemonstrationError: the file is not a demonstration written by `save`.
    """
    with (
        translated(path, DemonstrationError, "a demonstration written by `rpl demos`"),
        opened(path, _MOST_BYTES) as raw,
        np.load(raw, allow_pickle=False) as file,
    ):
        unpacked = sum(part.file_size for part in file.zip.infolist())
        if unpacked > _MOST_BYTES:
            raise ValueError(f"it unpacks to {unpacked:,} bytes; must be {_MOST_BYTES:,} or less")
        states, targets = (file[name].astype(np.float32) for name in ("states", "targets"))
        elements, source = tuple(map(str, file["elements"])), str(file["source"])
        # Older files have none of these.
        authors = tuple(map(str, file["authors"])) if "authors" in file else ()
        goal, subgoals = (
            file[name].astype(np.float32) if name in file and len(file[name]) else None for name in ("goal", "subgoals")
        )
        cut = "cut" in file and bool(file["cut"])
    return Trajectory(states, targets, elements, source, authors, goal, cut, subgoals)


def load_folder(folder: Path) -> list[Trajectory]:
    """Read every demonstration in a folder, in the order of the file names.

    Raises:
        DemonstrationError: the folder holds none, or one of them cannot be read.
    """
    paths = sorted(folder.glob(_FILES))
    if not paths:
        raise DemonstrationError(f"{folder} holds no demonstrations (*.npz); `rpl demos import` writes them")
    return [load(path) for path in paths]


def digest(trajectories: Iterable[Trajectory]) -> str:
    """SHA-256 over the numbers and authors of the demonstrations in their order, as provenance records it."""
    total = hashlib.sha256()
    for trajectory in trajectories:
        total.update(np.ascontiguousarray(trajectory.states, dtype="<f4").tobytes())
        total.update(np.ascontiguousarray(trajectory.targets, dtype="<f4").tobytes())
        total.update("\n".join(trajectory.authors).encode())
        if trajectory.goal is not None:
            total.update(np.ascontiguousarray(trajectory.goal, dtype="<f4").tobytes() + bytes([trajectory.cut]))
    return total.hexdigest()
