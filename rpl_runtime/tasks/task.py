"""A task: the contract of its policies, the world in which they act, its starts, goals and episodes.

One module that returns a `Task` is enough to demonstrate, train, evaluate and serve a policy (docs/your-task.md). A
policy's goal is a set of the spec's elements. If the spec has no elements, the world draws the goal of each episode, a
whole state.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from rpl_runtime.errors import InvalidGoal, InvalidInput, MissingExtra, WorldFault, hint
from rpl_runtime.estimation.body import Body
from rpl_runtime.policy.spec import PolicySpec, ResolvedGoal
from rpl_runtime.tasks.hazards import Hazards
from rpl_runtime.tasks.pictures import Renderer
from rpl_runtime.tasks.scenery import Scenery

DRAWN = "goal"  # the name of a goal that the world draws, in place of an element's
MAX_EPISODES = 1000  # of a goal in an evaluation: its share of the seeds
PLAIN_NAME = re.compile(r"\w[\w ,.+-]*")  # goals name folders and parts of tensor names


class World(Protocol):
    """One simulated world, which stands still between steps."""

    @property
    def state(self) -> np.ndarray:
        """The state (n,) float32 as observed now, with the noise of the sensors if there is any."""
        ...

    @property
    def truth(self) -> np.ndarray:
        """The state (n,) now without noise."""
        ...

    @property
    def goal(self) -> np.ndarray | None:
        """The goal state (n,) that the last reset drew; None if goals are elements."""
        ...

    def reset(self, seed: int, start: Any, /) -> np.ndarray:
        """Start an episode from one of the task's starts; the same seed gives the same one. Returns the state (n,)."""
        ...

    def step(self, action: np.ndarray, /) -> np.ndarray:
        """Hold an action (m,) for one control period. Returns the state (n,)."""
        ...

    def done(self) -> frozenset[str]:
        """The names of the elements at their goal now, or `DRAWN` if the drawn goal is reached."""
        ...

    def close(self) -> None:
        """Release the simulator."""
        ...


@dataclass(frozen=True, kw_only=True)
class Sight:
    """How the sensors of a real robot can fail to see a state: what they see apart from the robot, and its couplings.

    Noise and delay fall on `objects`; all other dimensions are the robot's own, which it measures itself.
    """

    objects: tuple[int, ...]
    still: tuple[int, ...] = ()  # the objects' dimensions that no element moves
    driven: Mapping[int, tuple[int, float]] = field(default_factory=dict)  # dimension -> what moves it, so much faster
    rotation: tuple[int, ...] = ()  # the quaternion (wxyz) of an object


class Limited(Protocol):
    """A world's robot that keeps the limits of a real one, from the start of an episode on."""

    @property
    def violations(self) -> Mapping[str, int]:
        """How often each kind of limit changed a motion."""
        ...

    def follow(self, action: np.ndarray, /) -> None:
        """Hold an action (m,) for one control period, as far as the limits allow it."""
        ...


class Performance(NamedTuple):
    """One demonstration of T steps."""

    states: np.ndarray  # (T, n) observed when the action was chosen
    actions: np.ndarray  # (T, m) to imitate
    elements: tuple[str, ...]  # of the goal, in the order of work
    goal: np.ndarray | None = None  # (n,) the state that was asked for; None: the last one
    cut: bool = False  # it ends before its goal is reached
    subgoals: np.ndarray | None = None  # (T, n) of a driver, in whose states these actions were only advised


class ShiftGoal(NamedTuple):
    """What became of one goal of a shift."""

    elements: tuple[str, ...]
    back: bool  # they were led back to their start
    steps: int
    left: tuple[str, ...]  # what was not finished when the demonstrator gave up
    alone: bool | None  # whether the driver reached it by itself; None: it was not to


class Shift(NamedTuple):
    """Goal after goal without a reset, in pieces: what no action caused is cut out."""

    pieces: tuple[Performance, ...]
    goals: tuple[ShiftGoal, ...]


class Driver(Protocol):
    """A policy that takes a demonstrator's place for a while."""

    @property
    def subgoal(self) -> np.ndarray:
        """The subgoal (n,) of the last action."""
        ...

    def begin(self, goal: ResolvedGoal) -> None:
        """Turn to a goal."""
        ...

    def act(self, state: np.ndarray) -> np.ndarray:
        """The action (m,) in a state (n,)."""
        ...


class Demonstrator(Protocol):
    """A frozen dataclass whose fields are its settings."""

    def perform(self, task: "Task", world: World, seed: int, index: int) -> Performance:
        """Demonstrate once; the seed and the index of the demonstration determine it."""
        ...


@runtime_checkable
class ShiftWorker(Protocol):
    """A demonstrator that also works in shifts."""

    def work_shift(self, task: "Task", world: World, seed: int, index: int, driver: Driver | None = None) -> Shift:
        """Work one shift; the seed, its index and the driver determine it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Gym:
    """The gymnasium environment of a task, as a Minari data set of it names it."""

    id: str
    entry_point: str
    kwargs: Mapping[str, object] = field(default_factory=dict)
    # From states (T, n) and actions (T, m) of the task to the environment's actions in [-1, 1]; None: they are the same
    own_actions: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None


class Goal(NamedTuple):
    """A goal by name."""

    name: str
    elements: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A task.

    Raises:
        InvalidInput: parts of it do not fit each other.
    """

    name: str
    spec: PolicySpec  # of its policies, with the horizon H
    open_world: Callable[[], World]
    episode_steps: int  # [control steps]
    starts: Mapping[str, object]  # by name; each value is what `World.reset` takes. Training uses the last
    goals: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by name; default: the spec's, each element
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # names of goals to evaluate; first: default
    selections: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # more of them, which tables do not name
    subgoal_dims: tuple[int, ...] = ()  # the dimensions of a subgoal that the low level sees; none given: all
    settings: Mapping[str, object] = field(default_factory=dict)  # of training, by dotted name, in place of defaults
    sight: Sight | None = None  # None: its observations cannot be degraded
    body: Body | None = None  # as the state estimator needs it; None: states are taken as they are observed
    limited: Callable[[World, str, float | None], Limited] | None = None  # by profile and time of a hand's command [s]
    open_renderer: Callable[[World], Renderer] | None = None  # None: no pictures
    scenery: Callable[[], Scenery] | None = None  # for a page that shows its robots; None: the page has no picture
    hazards: Hazards[Any] | None = None  # of the hard protocol; None: the task has none
    open_fast: Callable[[], World] | None = None  # worlds for training: the same states, sooner, without a renderer
    demonstrator: Demonstrator | None = None
    read: Callable[[Path], tuple[list[Any], list[str]] | None] | None = None  # recordings of others (rpl_train/data)
    gym: Gym | None = None
    environment: str = ""  # the simulator, named in evaluations; default: the task's name
    packages: tuple[str, ...] = ()  # whose versions results depend on
    reference: str = ""  # where it was loaded from, module:factory or an installed name

    def __post_init__(self) -> None:
        spec, own = self.spec, tuple(self.spec.elements) or (DRAWN,)
        goals = dict(self.goals) or {DRAWN: own} if own == (DRAWN,) else dict(self.goals or spec.library)
        goals |= {name: (name,) for name in own if (name,) not in goals.values()}
        groups = dict(self.groups) or {"all": tuple(self.goals or spec.library or goals)}
        for name, value in (("goals", goals), ("groups", groups), ("environment", self.environment or self.name)):
            object.__setattr__(self, name, value)
        faults = [
            *(
                f"the goal {name!r} needs a plain name"
                for name in goals
                if not PLAIN_NAME.fullmatch(name) or name == "base"
            ),
            *(f"{name!r} is not an element" for name in {n for goal in goals.values() for n in goal} - set(own)),
            *(
                f"{name!r} is not a goal"
                for name in {n for group in self._lists().values() for n in group} - set(goals)
            ),
            *(f"subgoal dimension {dim} does not exist" for dim in self.subgoal_dims if not 0 <= dim < spec.state.dim),
        ]
        if self.episode_steps < 1 or not self.starts:
            faults.append("it needs a start and at least one control step")
        if not spec.commanded and (shared := set(spec.action.names) & set(spec.state.names)):
            faults.append(f"actions are position targets in all dimensions or none; only {min(shared)!r} is a state's")
        if faults:
            raise InvalidInput(f"the task {self.name} does not fit together: {faults[0]}")

    @property
    def elements(self) -> tuple[str, ...]:
        """The names that goals are made of: the spec's elements, or `DRAWN`."""
        return tuple(self.spec.elements) or (DRAWN,)

    def open(self, fast: bool = False) -> World:
        """Open one world, a fast one if there is such a kind and it is asked for.

        Raises:
            WorldFault: the world disagrees with the spec.
            MissingExtra: its simulator is not installed.
        """
        world = self.open_fast() if fast and self.open_fast else self.open_world()
        self.reset(world, 0, list(self.starts)[-1])
        return world

    def renderer_of(self, world: World) -> Renderer:
        """Open a renderer of a world.

        Raises:
            MissingExtra: the task has none, or it cannot draw here.
        """
        if self.open_renderer is None:
            raise MissingExtra(f"{self.name} has no renderer; a task's open_renderer makes one")
        return self.open_renderer(world)

    def reset(self, world: World, seed: int, start: str) -> np.ndarray:
        """Start an episode of a world. Returns the state (n,) float32.

        Raises:
            InvalidInput: there is no such start.
            WorldFault: the world disagrees with the spec.
        """
        if start not in self.starts:
            raise InvalidInput(f"the start is {start!r}; {self.name} has {', '.join(self.starts)}")
        world.reset(seed, self.starts[start])
        if not self.spec.elements and world.goal is None:
            raise WorldFault(f"the world of {self.name} drew no goal; it must, since the spec has no elements")
        return self.seen(world)

    def seen(self, world: World) -> np.ndarray:
        """The state (n,) float32 that a world shows now.

        Raises:
            WorldFault: it has another size than the spec's, or a number is not finite.
        """
        try:
            return self.spec.state.check_finite(f"state that the world of {self.name} returned", world.state)
        except InvalidInput as error:
            raise WorldFault(str(error)) from error

    def resolve(self, elements: Sequence[str], world: World, state: np.ndarray) -> ResolvedGoal:
        """The goal of an episode that starts in a state (n,), as the policy's input.

        Raises:
            InvalidGoal: the elements are not the spec's.
            InvalidInput: the start or the drawn goal is not accepted.
        """
        if world.goal is None:
            return self.spec.resolve(elements, state)
        return self.spec.resolve_state(world.goal)

    def distance(self, name: str, world: World) -> float:
        """How far an element, or the drawn goal, is from done now, in its own units."""
        if world.goal is None:
            return self.spec.elements[name].distance(world.truth)
        dims = list(self.spec.goal_dims)
        return float(np.linalg.norm((world.truth - world.goal)[dims]))

    def parse_goals(self, text: str) -> list[Goal]:
        """The goals of a group, or the goal given by name, by initials, or as elements separated by commas.

        Raises:
            InvalidGoal: the text is none of these.
        """
        lists = self._lists()
        if text in lists:
            return [Goal(name, self.goals[name]) for name in lists[text]]
        if text in self.goals:
            return [Goal(text, self.goals[text])]
        names = tuple(name.strip() for name in text.split(","))
        initials = {name[0]: name for name in self.elements}
        if text and set(text) <= set(initials) and len(initials) == len(self.elements):
            names = tuple(initials[letter] for letter in text)
        if not set(names) <= set(self.elements):
            wrong = next(name for name in names if name not in self.elements)
            near = hint(wrong, (*self.elements, *lists, *self.goals))
            raise InvalidGoal(
                f"{text[:60]!r} is not a goal{near}; must be one of the groups {', '.join(lists)}, "
                f"a goal such as {next(iter(self.goals))}, or elements separated by commas: {', '.join(self.elements)}"
            )
        if len(set(names)) != len(names):
            raise InvalidGoal(f"the goal {text!r} names an element twice; each must be named once")
        # Each set has one name and one order of its elements, however it was written.
        known = (Goal(name, goal) for name, goal in self.goals.items() if set(goal) == set(names))
        ordered = tuple(name for name in self.elements if name in names)
        return [next(known, Goal(", ".join(ordered), ordered))]

    def parse_goal(self, text: str) -> Goal:
        """The one goal that a text names.

        Raises:
            InvalidGoal: it names none or several.
        """
        goals = self.parse_goals(text)
        if len(goals) != 1:
            raise InvalidGoal(f"{text} is {len(goals)} goals; must be one, since each has a run of its own")
        return goals[0]

    def group_of(self, elements: Sequence[str]) -> str:
        """The first group that holds the goal of these elements; "other" if none does."""
        groups = ((name, goal) for name, goals in self.groups.items() for goal in goals)
        return next((name for name, goal in groups if set(self.goals[goal]) == set(elements)), "other")

    def episode_seed(self, first: int, elements: Sequence[str], episode: int) -> int:
        """The seed of an episode: every set of elements has a thousand seeds of its own, from `first` on."""
        number = sum(1 << index for index, name in enumerate(self.elements) if name in elements)
        return first + MAX_EPISODES * number + episode

    def _lists(self) -> dict[str, tuple[str, ...]]:
        return {**self.groups, **self.selections}
