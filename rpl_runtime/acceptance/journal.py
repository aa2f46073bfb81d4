"""The journal of an acceptance: the records of its steps, in one file that is written whole after each of them.

The file is the acceptance's report as JSON, and what a repeated command goes on from.
"""

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rpl_runtime import provenance
from rpl_runtime.errors import InvalidInput
from rpl_runtime.files import JsonDict, read, write_json

FILE = "acceptance.json"
_MOST_BYTES = 1 << 26
_PACKAGES = ("relay-policy", "numpy", "onnxruntime", "grpcio", "franky-control")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Check(_Model):
    """A measured value and its limits."""

    name: str
    value: float | None  # None: could not be measured
    unit: str = ""
    low: float | None = None  # None: no limit
    high: float | None = None
    meaning: str = ""  # of a value outside, as one sentence

    @property
    def passed(self) -> bool:
        """Whether the value was measured and is within the limits."""
        return (
            self.value is not None
            and (self.low is None or self.value >= self.low)
            and (self.high is None or self.value <= self.high)
        )


class Curve(_Model):
    """A line in a picture."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


class Picture(_Model):
    """Curves over one axis, to be drawn in the report."""

    title: str
    x: str  # what the axis shows, with its unit
    y: str
    curves: tuple[Curve, ...]
    marks: tuple[tuple[float, str], ...] = ()  # a moment on the x axis, and what happened then
    same_scale: bool = False  # on both axes, for places


class Record(_Model):
    """The result of one step."""

    step: str
    happens: str  # what the operator was told
    began: str  # UTC
    took_s: float
    checks: tuple[Check, ...] = ()
    notes: dict[str, str] = Field(default_factory=dict)  # what was found and has no limit
    pictures: tuple[Picture, ...] = ()
    error: str | None = None  # what ended the step before its checks

    @property
    def passed(self) -> bool:
        """Whether the step came to its end and every value is within its limits."""
        return self.error is None and all(check.passed for check in self.checks)

    @property
    def reasons(self) -> list[str]:
        """Why it did not pass, one sentence each."""
        broken = [f"{shown(check)}{f': {check.meaning}' if check.meaning else ''}" for check in self.failed]
        return broken if self.error is None else [self.error, *broken]

    @property
    def failed(self) -> list[Check]:
        """The values outside of their limits."""
        return [check for check in self.checks if not check.passed]


def shown(check: Check) -> str:
    """A check as a clause: its name, its value and its limits."""
    unit = f" {check.unit}" if check.unit else ""
    value = "not measured" if check.value is None else f"{check.value:.3g}{unit}"
    return f"{check.name} is {value}; must be {limits(check)}{unit}"


def limits(check: Check) -> str:
    """The limits of a check in words."""
    if check.low is not None and check.low == check.high:
        return f"{check.low:g}"
    low = None if check.low is None else f"at least {check.low:g}"
    high = None if check.high is None else f"at most {check.high:g}"
    return " and ".join(part for part in (low, high) if part) or "measured"


class Verdict(StrEnum):
    """What an acceptance came to."""

    ACCEPTED = "This robot may run this bundle"
    REFUSED = "This robot must not run this bundle"
    OPEN = "Not decided"


class Setting(_Model):
    """What an acceptance is about. Another setting needs another acceptance."""

    robot: str  # host and profile
    workspace: tuple[float, ...]  # (6,) [m] lowest x, y, z, then highest, of the flange from the base
    objects: str  # their source
    bundle: str  # name
    digest: str
    elements: tuple[str, ...]


class Journal(_Model):
    """An acceptance so far."""

    model_config = ConfigDict(extra="ignore")  # the file begins with the verdict

    setting: Setting
    steps: tuple[str, ...]  # all, in their order
    records: tuple[Record, ...] = ()  # of those that were made, in the same order
    began: str = Field(default_factory=lambda: now())
    command: str = Field(default_factory=provenance.command)
    commit: str = Field(default_factory=provenance.commit)
    versions: dict[str, str] = Field(default_factory=lambda: provenance.versions(_PACKAGES))

    @classmethod
    def of(cls, folder: Path, setting: Setting, steps: tuple[str, ...]) -> Self:
        """The journal in a folder, or a new one.

        Raises:
            InvalidInput: the file there is not a journal, or of another setting.
        """
        path = folder / FILE
        if not path.exists():
            return cls(setting=setting, steps=steps)
        try:
            found = cls.model_validate_json(read(path, _MOST_BYTES))
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise InvalidInput(
                f"{path} is not the journal of an acceptance ({reason}); choose another folder"
            ) from error
        for name in Setting.model_fields:
            old, new = getattr(found.setting, name), getattr(setting, name)
            if old != new:
                raise InvalidInput(
                    f"{path} is the acceptance of another {name}: {old}, and this one is of {new}; must be the same, "
                    f"or in another folder"
                )
        kept = tuple(record for record in found.records if record.step in steps)
        return found.model_copy(update={"steps": steps, "records": kept})

    def record(self, step: str) -> Record | None:
        """The record of a step, if it was made."""
        return next((record for record in self.records if record.step == step), None)

    def with_record(self, record: Record) -> Self:
        """The journal with a record, in place of an earlier one of the same step."""
        others = [each for each in self.records if each.step != record.step]
        ordered = sorted([*others, record], key=lambda each: self.steps.index(each.step))
        return self.model_copy(update={"records": tuple(ordered)})

    @property
    def verdict(self) -> Verdict:
        """ACCEPTED if every step passed, REFUSED if one failed, OPEN if steps are left."""
        if any(not record.passed for record in self.records):
            return Verdict.REFUSED
        made = {record.step for record in self.records}
        return Verdict.ACCEPTED if made.issuperset(self.steps) else Verdict.OPEN

    @property
    def sentence(self) -> str:
        """The verdict with its reason."""
        failed = next((record for record in self.records if not record.passed), None)
        if failed is not None:
            return f"{self.verdict}: step {failed.step} failed. {failed.reasons[0]}."
        if self.verdict is Verdict.ACCEPTED:
            return f"{self.verdict}: all {len(self.steps)} steps passed."
        left = [step for step in self.steps if self.record(step) is None]
        return f"{self.verdict}: {len(left)} of {len(self.steps)} steps are left, {left[0]} is next."

    def write(self, folder: Path) -> None:
        """Write the file, whole or not at all."""
        content: JsonDict = {"verdict": self.verdict.name.lower(), "sentence": self.sentence}
        write_json(folder / FILE, content | self.model_dump(mode="json"))


def now() -> str:
    """The time in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
