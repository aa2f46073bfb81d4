"""Every setting of training, by dotted name: defaults, then the task's, then a TOML file's, then the command line's.

The dataclasses of the stages are the one home of the defaults, and `Settings` holds one of each:

    [imitate]
    steps = 6000

    [imitate.pool]
    named_goals = 0.8

Any of them can be set on the command line as well, as imitate.pool.named_goals=0.8.
"""

import difflib
import tomllib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from rpl_runtime.errors import InvalidInput
from rpl_runtime.files import JsonDict, read
from rpl_runtime.tasks.task import Task
from rpl_train.distill import DistillConfig
from rpl_train.export.parity import ParityConfig
from rpl_train.imitate import ImitateConfig
from rpl_train.improve import ImproveConfig
from rpl_train.play import PlayConfig
from rpl_train.rl.finetune import FinetuneConfig
from rpl_train.shifts.aggregate import AggregateConfig

Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of every stage. The goal of fine-tuning is a placeholder."""

    finetune: FinetuneConfig
    play: PlayConfig = field(default_factory=PlayConfig)
    demonstrator: Any = None  # the task's
    imitate: ImitateConfig = field(default_factory=ImitateConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    improve: ImproveConfig = field(default_factory=ImproveConfig)
    aggregate: AggregateConfig = field(default_factory=AggregateConfig)
    parity: ParityConfig = field(default_factory=ParityConfig)

    @property
    def task_settings(self) -> JsonDict:
        """All of them as nested values, as a TOML file has them."""
        found = {each.name: asdict(getattr(self, each.name)) for each in fields(self) if getattr(self, each.name)}
        del found["finetune"]["goal"]
        return found


def settings_of(
    task: Task, file: Path | None = None, texts: Iterable[str] = (), given: Mapping[str, object] | None = None
) -> Settings:
    """The settings of a task's training.

    Args:
        file: a TOML file.
        texts: NAME=VALUE each; a value is written as in TOML, and may be a word without quotes.
        given: values by dotted name, from options of their own; None leaves a setting as it is.

    Raises:
        InvalidInput: a name is unknown, a value has another type or is out of range, or the file is not TOML.
    """
    settings = Settings(finetune=FinetuneConfig(goal=task.elements), demonstrator=task.demonstrator)
    asked = {name: value for name, value in (given or {}).items() if value is not None}
    sources = (_flat(task.settings), _read(file) if file else {}, asked, dict(map(_pair, texts)))
    for source in sources:
        for name, value in source.items():
            settings = changed(settings, name.split("."), value, name)
    return settings


def changed(config: Config, path: list[str], value: object, name: str) -> Config:
    """A configuration with one setting, at a path of fields, replaced.

    Raises:
        InvalidInput: there is no such setting, or the value does not fit it; `name` is for the message.
    """
    assert is_dataclass(config)
    known = [each.name for each in fields(config) if each.name != "goal"]
    if path[0] not in known:
        place = ".".join(name.split(".")[: -len(path)])
        near = difflib.get_close_matches(path[0], known, 1, 0.5)
        hint = (
            f"; is it {'.'.join(filter(None, (place, near[0])))}?" if near else f"; must be one of {', '.join(known)}"
        )
        raise InvalidInput(f"there is no setting {name}{hint}")
    present = getattr(config, path[0])
    if len(path) > 1 and is_dataclass(present):
        value = changed(present, path[1:], value, name)
    elif len(path) > 1 or is_dataclass(present):
        raise InvalidInput(f"{name} is {'not a group' if len(path) > 1 else 'a group'} of settings; name one setting")
    else:
        value = _fitting(typing.get_type_hints(type(config))[path[0]], value, name)
    try:
        return replace(config, **{path[0]: value})  # type: ignore[type-var]
    except InvalidInput as error:
        raise InvalidInput(f"the setting {name}: {error}") from error


def shown(settings: Settings) -> str:
    """Settings as TOML. A setting without a value, which the task decides, is a comment."""
    lines: list[str] = []

    def table(values: Mapping[str, object], name: str) -> None:
        lines.extend(("", f"[{name}]"))
        for key, value in values.items():
            if not isinstance(value, dict) and not callable(value):
                lines.append(f"# {key} is up to the task" if value is None else f"{key} = {_toml(value)}")
        for key, value in values.items():
            if isinstance(value, dict):
                table(value, f"{name}.{key}")

    for name, values in settings.task_settings.items():
        table(values, name)
    return "\n".join(lines).strip()


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case tuple() | list():
            return f"[{', '.join(map(_toml, value))}]"
        case _:
            return f'"{value}"'


def _fitting(kind: Any, value: object, name: str) -> object:
    if isinstance(value, bool) and kind is not bool:
        raise InvalidInput(f"the setting {name} is {str(value).lower()}; must be {getattr(kind, '__name__', kind)}")
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Input should be ")
        raise InvalidInput(f"the setting {name} is {value!r}; must be {reason}") from error


def _pair(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise InvalidInput(f"{text!r} is not a setting; must be NAME=VALUE, such as imitate.steps=6000")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value.strip()


def _read(file: Path) -> dict[str, object]:
    try:
        return _flat(tomllib.loads(read(file).decode()))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{file} cannot be read as TOML: {error}") from error


def _flat(values: Mapping[str, object], place: str = "") -> dict[str, object]:
    """Nested values by dotted name."""
    found: dict[str, object] = {}
    for name, value in values.items():
        found |= _flat(value, f"{place}{name}.") if isinstance(value, Mapping) else {place + name: value}
    return found
