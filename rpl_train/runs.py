"""The folder of a training run: JSON for its settings, safetensors for its weights, no pickle.

    run.json                  the spec, networks, statistics and provenance
    LEVEL.safetensors         the weights of a finished level
    LEVEL.resume.safetensors  weights, optimiser state and step of an unfinished level

Every file is written to a temporary name and renamed.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor, nn

from rpl_runtime.errors import InvalidInput, RunNotFound, TrainingError
from rpl_runtime.files import JsonDict, read, staged, translated
from rpl_runtime.policy.manifest import Provenance, Statistics
from rpl_runtime.policy.spec import PolicySpec
from rpl_train.networks import CPU, CommandedGoal, HighLevel, LowLevel, NetworkConfig, RelayPolicy, TargetStatistics

RUN = "run.json"
_MOST_RECORD, _MOST_WEIGHTS = 16 << 20, 4 << 30  # [bytes]
DEMONSTRATIONS = "demonstrations"  # setting: digest of those used when fine-tuning or distilling another run
_NO_EFFECT = ("jobs", "executor", "threads", "checkpoint_every", "report_every")  # settings, on the weights
LevelName = Literal["high", "low"]
LEVELS: tuple[LevelName, ...] = ("high", "low")


class RunRecord(BaseModel):
    """The content of `run.json`: everything but the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: PolicySpec
    networks: NetworkConfig
    statistics: Statistics
    targets: TargetStatistics
    provenance: Provenance
    task: str = "kitchen"  # where its task is loaded from, module:factory or an installed name
    subgoal_dims: tuple[int, ...] = ()  # the dimensions of a subgoal that the low level sees; none: all


class TrainedRun(NamedTuple):
    policy: RelayPolicy
    record: RunRecord


def build_level(level: LevelName, record: RunRecord) -> HighLevel | LowLevel | CommandedGoal:
    """An untrained level of a run."""
    spec, networks = record.spec, record.networks
    if level == "low":
        sees = spec.goal_dims if networks.flat else record.subgoal_dims or None
        commanded = spec.commanded if networks.relative else None
        return LowLevel(spec, record.statistics, record.targets, networks.low_hidden, sees, commanded)
    if networks.flat:
        return CommandedGoal()
    return HighLevel(spec, record.statistics, networks.high_hidden, networks.high_components)


def build_policy(record: RunRecord) -> RelayPolicy:
    """Both levels of a run, untrained."""
    return RelayPolicy(build_level("high", record), build_level("low", record))


def noted(settings: Any) -> JsonDict:
    """A stage's dataclass of settings as a run's record has them: those that the weights depend on, ready for JSON."""
    found = json.loads(json.dumps(asdict(settings)))
    for name in (*_NO_EFFECT, *["device"] * (found["device"] == CPU)):
        found.pop(name, None)
    return found


def open_run(run: Path, record: RunRecord) -> None:
    """Begin a run in a folder, or check that the folder holds the same run.

    Raises:
        TrainingError: the folder holds a run with other settings.
    """
    text = record.model_dump_json(indent=1) + "\n"
    path = run / RUN
    if not path.exists():
        with staged(path) as staging:
            staging.write_text(text)
        return
    found, record = read_run(run), RunRecord.model_validate_json(text)  # both through JSON, so both hold lists
    different, asked = differences(found, record), record.provenance.settings
    noted = {DEMONSTRATIONS: asked.get(DEMONSTRATIONS)} | found.provenance.settings  # a run that names none accepts any
    different += [key for key, value in asked.items() if noted.get(key) != value]
    if different:
        raise TrainingError(
            f"{run} holds a run with other settings ({', '.join(dict.fromkeys(different))}); continue it with its own "
            "settings or choose another folder"
        )


def differences(one: RunRecord, other: RunRecord) -> list[str]:
    """Fields that make two runs' weights incompatible."""
    names = ("spec", "networks", "targets", "subgoal_dims")
    different = [name for name in names if getattr(one, name) != getattr(other, name)]
    if _learned_from(one) != _learned_from(other):
        different.append("statistics")
    return different


def _learned_from(record: RunRecord) -> Statistics:
    """The statistics that weights depend on. The whitening is left out: its last digits depend on the machine."""
    return record.statistics.model_copy(update={"whitening": None})


def read_run(run: Path) -> RunRecord:
    """Read `run.json`.

    Raises:
        RunNotFound: there is none.
        TrainingError: it is damaged.
    """
    if not (run / RUN).exists():
        raise RunNotFound(f"{run} holds no {RUN}; must be a run, a folder that `rpl imitate` writes")
    with translated(run / RUN, TrainingError, "the record of a run"):
        content = read(run / RUN, _MOST_RECORD)
        try:
            record = RunRecord.model_validate_json(content)
        except InvalidInput as error:  # of the networks; a sentence that lacks the path
            raise ValueError(str(error)) from error
    return record


def load_run(run: Path) -> TrainedRun:
    """Both levels of a finished run.

    Raises:
        TrainingError: the run is missing, unfinished or damaged.
    """
    record = read_run(run)
    with translated(run / RUN, TrainingError, "the record of a run"):
        policy = build_policy(record)
    for level, module in zip(LEVELS, (policy.high, policy.low), strict=True):
        load_weights(run / f"{level}.safetensors", module)
    return TrainedRun(policy, record)


def save_weights(path: Path, module: nn.Module) -> None:
    """Write a module's weights and buffers."""
    save_tensors(path, module.state_dict())


def load_weights(path: Path, module: nn.Module) -> None:
    """Fill a module from a file.

    Raises:
        TrainingError: the file is missing, damaged, or of another architecture.
    """
    _fill(path, module, load_tensors(path))


@torch.no_grad()
def round_to_half(module: nn.Module) -> None:
    """Round a module's weights, but not its buffers, to numbers that float16 holds exactly."""
    for parameter in module.parameters():
        parameter.copy_(parameter.half())


def weights_digest(policy: RelayPolicy) -> str:
    """SHA-256 over the weights and buffers of both levels, as provenance records it."""
    total = hashlib.sha256()
    for module in (policy.high, policy.low):
        for name, values in sorted(module.state_dict().items()):
            total.update(name.encode() + values.contiguous().numpy().tobytes())
    return total.hexdigest()


def save_progress(path: Path, module: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
    """Write a level's weights, optimiser state and step, from which an interrupted run goes on bit for bit."""
    tensors = {f"module.{name}": value for name, value in module.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{key}": value for key, value in state.items()}
    save_tensors(path, tensors | {"step": torch.tensor(step)})


def load_progress(path: Path, module: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Restore what `save_progress` wrote. Returns the next step, 0 if nothing was saved yet.

    Raises:
        TrainingError: the file is damaged or of another architecture.
    """
    if not path.exists():
        return 0
    tensors = load_tensors(path)
    _fill(path, module, {name[7:]: value for name, value in tensors.items() if name.startswith("module.")})
    state: dict[int, dict[str, Tensor]] = {}
    with translated(path, TrainingError, "the progress of a run"):
        for name, value in tensors.items():
            if name.startswith("optimiser."):
                _, index, key = name.split(".")
                state.setdefault(int(index), {})[key] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return _step(path, tensors)


def save_modules(path: Path, modules: dict[str, nn.Module], step: int) -> None:
    """Write several modules and the number of steps they have made."""
    tensors = {f"{name}/{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    save_tensors(path, tensors | {"step": torch.tensor(step)})


def load_modules(path: Path, modules: dict[str, nn.Module]) -> int:
    """Restore what `save_modules` wrote. Returns the number of steps, 0 if nothing was saved yet.

    Raises:
        TrainingError: the file is damaged or of another architecture.
    """
    if not path.exists():
        return 0
    tensors = load_tensors(path)
    for name, module in modules.items():
        prefix = f"{name}/"
        _fill(path, module, {key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)})
    return _step(path, tensors)


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors and texts by name."""
    try:
        with staged(path) as staging:
            save_file({name: value.contiguous() for name, value in tensors.items()}, staging, metadata)
    except SafetensorError as error:
        raise TrainingError(f"{path} cannot be written: {error}") from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read what `save_tensors` wrote.

    Raises:
        TrainingError: the file is missing or damaged.
    """
    if not path.exists():
        raise TrainingError(f"{path} does not exist; the run has not finished this level")
    with translated(path, TrainingError, "a file of weights"):
        return load(read(path, _MOST_WEIGHTS))


def load_metadata(path: Path) -> dict[str, str]:
    """The texts of a file of `save_tensors` that `load_tensors` could read."""
    with translated(path, TrainingError, "a file of weights"), safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def _fill(path: Path, module: nn.Module, tensors: dict[str, Tensor]) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise TrainingError(
            f"{path} holds the weights of another architecture: {' '.join(str(error).split())}"
        ) from error


def _step(path: Path, tensors: dict[str, Tensor]) -> int:
    with translated(path, TrainingError, "the progress of a run"):
        step = int(tensors["step"])
    if step < 0:
        raise TrainingError(f"{path} has made {step} steps; must be 0 or more")
    return step
