"""Find a task by name: `module:factory`, or the name under which a package has installed one (entry points)."""

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import entry_points

from rpl_runtime.errors import InvalidInput, hint
from rpl_runtime.factories import call_factory
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.tasks.scenery import Scenery
from rpl_runtime.tasks.task import Task

GROUP = "rpl.tasks"  # of entry points, each module:factory
DEFAULT = "kitchen"
OWN = {DEFAULT: "rpl_runtime.robots.kitchen.task:make"}


def load_task(reference: str, own: Mapping[str, str] = OWN) -> Task:
    """The task that `module:factory` or an installed name names; `own` are the project's.

    Raises:
        InvalidInput: there is none, its factory fails, or it returns something else.
        MissingExtra: its module needs an extra that is not installed.
    """
    installed = _installed(own)
    if ":" not in reference and reference not in installed:
        near = hint(reference, installed)
        raise InvalidInput(
            f"no task is called {reference!r}{near}; must be module:factory or one of {', '.join(sorted(installed))}"
        )
    made = call_factory(installed.get(reference, reference), "examples.point_maze:make")
    if not isinstance(made, Task):
        raise InvalidInput(f"{reference} returned {type(made).__name__}; must be a rpl_runtime.tasks.Task")
    return replace(made, reference=reference)


def scenery_of(spec: PolicySpec) -> Scenery | None:
    """The scenery of the first installed task with the state of a policy; None if there is none to draw.

    Raises:
        MissingExtra: its simulator is not installed.
    """
    for reference in _installed(OWN):
        task = load_task(reference)
        if task.scenery is not None and task.spec.state.names == spec.state.names:
            return task.scenery()
    return None


def _installed(own: Mapping[str, str]) -> dict[str, str]:
    return {entry.name: entry.value for entry in entry_points(group=GROUP)} | dict(own)
