"""The contract of a bi-level policy in any domain: dimensions, control period, limits and goals."""

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, NamedTuple, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from rpl_runtime.errors import InvalidGoal, InvalidInput, hint

_LARGEST = float(np.finfo(np.float32).max)
_MOST_DIMS = 4096  # of a state, an action or a noise
_SHOWN = 60  # [characters] of an unknown name in a message


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"got {text[:_SHOWN]!r}; must be one line of printable characters")
    return text


# Texts of strangers end in terminals, logs and tables.
_Text = Annotated[str, AfterValidator(_printable), Field(max_length=2000)]
_Name = Annotated[_Text, Field(min_length=1, max_length=128)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class VectorSpec(_Frozen):
    """A named vector: one name, unit, lowest and highest accepted value for each dimension."""

    names: tuple[_Name, ...] = Field(min_length=1, max_length=_MOST_DIMS)
    units: tuple[_Text, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def dim(self) -> int:
        return len(self.names)

    @cached_property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """low and high as float32 arrays (dim,) each."""
        return np.array(self.low, dtype=np.float32), np.array(self.high, dtype=np.float32)

    @model_validator(mode="after")
    def _check(self) -> Self:
        sizes = {len(self.names), len(self.units), len(self.low), len(self.high)}
        if len(sizes) != 1 or len(set(self.names)) != self.dim:
            raise ValueError("names (each once), units, low and high must have one entry for each dimension")
        if any(low > high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError("low must not exceed high")
        if any(abs(value) > _LARGEST for value in (*self.low, *self.high)):
            raise ValueError(f"low and high must be float32 numbers, from {-_LARGEST:.8g} to {_LARGEST:.8g}")
        return self

    def accepts(self, batch: np.ndarray) -> bool:
        """Whether every row of a float32 batch (B, dim) is finite and inside the accepted range."""
        if batch.ndim != 2 or batch.shape[1] != self.dim:
            return False
        # A NaN fails both comparisons. For a single row, rows as bounds and a count in place of `all` save two thirds.
        low, high = self.bounds
        return np.count_nonzero((batch >= low[None]) & (batch <= high[None])) == batch.size

    def check(self, what: str, value: np.ndarray) -> np.ndarray:
        """`value` as float32 (dim,).

        Raises:
            InvalidInput: its size is wrong, or a number is not finite or outside the accepted range; the message names
                the first dimension at fault.
        """
        vector = self._sized(what, value)
        low, high = self.bounds
        inside = (vector >= low) & (vector <= high)
        if inside.all():
            return vector
        at = int(np.argmin(inside))
        got = f"the {what} has {self.names[at]} = {vector[at]:.6g} {self.units[at]}"
        raise InvalidInput(f"{got}; must be a finite number from {self.low[at]:.6g} to {self.high[at]:.6g}")

    def check_finite(self, what: str, value: np.ndarray) -> np.ndarray:
        """`value` as float32 (dim,); it may lie outside the accepted range.

        Raises:
            InvalidInput: its size is wrong or a number is not finite; the message names the first dimension at fault.
        """
        vector = self._sized(what, value)
        finite = np.isfinite(vector)
        if finite.all():
            return vector
        at = int(np.argmin(finite))
        raise InvalidInput(f"the {what} has {self.names[at]} = {vector[at]}; must be a finite number")

    def _sized(self, what: str, value: np.ndarray) -> np.ndarray:
        vector = np.asarray(value, dtype=np.float32)
        if vector.shape != (self.dim,):
            raise InvalidInput(f"the {what} has shape {vector.shape}; this policy's is ({self.dim},)")
        return vector


class ElementSpec(_Frozen):
    """An element: state dimensions with their goal values, under a name that goals can use."""

    dims: tuple[int, ...] = Field(min_length=1)
    goal: tuple[float, ...]
    tolerance: float = Field(gt=0)  # done when the distance is below this

    def distance(self, state: np.ndarray) -> float:
        """Norm of (state - goal) over the element's dimensions, for a state (n,)."""
        return float(np.linalg.norm(np.asarray(state)[list(self.dims)] - self.goal))

    def is_done(self, state: np.ndarray) -> bool:
        """Whether the element is within its tolerance of its goal in a state (n,)."""
        return self.distance(state) < self.tolerance


class ResolvedGoal(NamedTuple):
    """A goal as the policy's input, fixed for a whole run."""

    state: np.ndarray  # (n,) float32 goal state
    mask: np.ndarray  # (n,) float32, 1 where a dimension counts, 0 elsewhere


class PolicySpec(_Frozen):
    """The contract of one bi-level policy.

    Its graphs are `high(state, goal, mask, noise) -> subgoal` and `low(state, subgoal, noise) -> action`, each
    with a free batch dimension first and float32 throughout.
    """

    name: _Name
    description: _Text = ""
    state: VectorSpec
    action: VectorSpec
    horizon: int = Field(ge=1, le=1_000_000)  # steps a subgoal is kept
    period_s: float = Field(ge=1e-4, le=3600)  # [s] one control step
    high_noise: int = Field(ge=0, le=_MOST_DIMS)  # size of the high level's noise input
    low_noise: int = Field(ge=0, le=_MOST_DIMS)
    elements: dict[_Name, ElementSpec] = {}
    library: dict[_Name, tuple[_Name, ...]] = {}  # named compound goals, each a set of elements
    goal_dims: tuple[int, ...] = Field(min_length=1)  # state dimensions that count in a goal of a whole state

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, element in self.elements.items():
            if len(element.dims) != len(element.goal) or any(not 0 <= d < self.state.dim for d in element.dims):
                raise ValueError(f"element {name!r} must have one goal value for each of its state dimensions")
            low, high = ([bounds[d] for d in element.dims] for bounds in (self.state.low, self.state.high))
            if any(not a <= value <= b for a, value, b in zip(low, element.goal, high, strict=True)):
                raise ValueError(f"element {name!r} has a goal outside the state's range; must be from low to high")
        if any(not 0 <= d < self.state.dim for d in self.goal_dims):
            raise ValueError(f"goal_dims must be from 0 to {self.state.dim - 1}")
        for name, goal in self.library.items():
            if not goal or set(goal) - set(self.elements):
                raise ValueError(f"compound goal {name!r} must name elements of this policy")
        return self

    @property
    def commanded(self) -> tuple[int, ...]:
        """The state dimension that each action dimension is a position target of, by its name; empty for other actions.

        Actions are position targets if each of their dimensions is named like one of the state.
        """
        names = self.state.names
        shared = tuple(names.index(name) for name in self.action.names if name in names)
        return shared if len(shared) == self.action.dim else ()

    def resolve(self, elements: Sequence[str], start: np.ndarray) -> ResolvedGoal:
        """The goal "these elements done, the rest as at the start", for a start state (n,).

        Raises:
            InvalidGoal: no element is named, or an element is unknown or named twice.
            InvalidInput: the start state is not accepted.
        """
        known = ", ".join(self.elements) or "none: this policy takes whole goal states"
        if not elements:
            raise InvalidGoal(f"the goal names no element; must be one or more of {known}")
        unknown = next((name for name in elements if name not in self.elements), None)
        if unknown is not None:
            near = hint(unknown, self.elements)
            raise InvalidGoal(f"unknown element {unknown[:_SHOWN]!r}{near}; must be one of {known}")
        if len(set(elements)) != len(elements):
            twice = next(name for at, name in enumerate(elements) if name in elements[:at])
            raise InvalidGoal(f"the goal names {twice} twice; must name each element once")
        goal = self.state.check("start state", start).copy()
        mask = np.zeros_like(goal)
        for name in elements:
            element = self.elements[name]
            goal[list(element.dims)] = element.goal
            mask[list(element.dims)] = 1.0
        return ResolvedGoal(goal, mask)

    def resolve_state(self, goal: np.ndarray) -> ResolvedGoal:
        """The goal "reach this whole state (n,)", counted over `goal_dims`.

        Raises:
            InvalidInput: the goal state is not accepted.
        """
        mask = np.zeros(self.state.dim, dtype=np.float32)
        mask[list(self.goal_dims)] = 1.0
        return ResolvedGoal(self.state.check("goal state", goal), mask)

    def check_goal(self, goal: ResolvedGoal) -> ResolvedGoal:
        """A goal that was resolved before, unchanged.

        Raises:
            InvalidInput: its state or mask is not accepted.
            InvalidGoal: no dimension counts.
        """
        state = self.state.check_finite("goal state", goal.state)
        mask = self.state.check_finite("goal mask", goal.mask)
        if not np.isin(mask, (0.0, 1.0)).all():
            raise InvalidInput("the goal mask has other values; must be 0 and 1")
        if not mask.any():
            raise InvalidGoal("the goal mask is 0 everywhere; must be 1 for at least one dimension")
        return ResolvedGoal(state, mask)

    def asked(self, mask: Sequence[float] | np.ndarray) -> tuple[str, ...]:
        """The elements of which every dimension counts in the mask (n,) of a goal; none for an empty mask."""
        counts = np.array(mask) > 0
        named = self.elements.items() if len(counts) else ()
        return tuple(name for name, element in named if counts[list(element.dims)].all())

    def done(self, state: np.ndarray) -> frozenset[str]:
        """The elements that are done in a state (n,)."""
        return frozenset(name for name, element in self.elements.items() if element.is_done(state))


def parse_goal(text: str, spec: PolicySpec) -> tuple[str, ...]:
    """The elements of a goal in text: a compound goal of the policy's library, or elements separated by commas.

    Raises:
        InvalidGoal: the text is neither.
    """
    elements = spec.library.get(text) or tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in elements if name not in spec.elements]
    if unknown or not elements:
        near = hint(unknown[0] if unknown else text, (*spec.elements, *spec.library))
        raise InvalidGoal(
            f"{text!r} is not a goal of {spec.name}{near}; must be elements separated by commas "
            f"({', '.join(spec.elements) or 'none'}) or one of {', '.join(spec.library) or 'no compound goals'}"
        )
    return elements
