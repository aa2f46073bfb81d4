"""The kitchen as a task: FrankaKitchen-v1 with its seven elements, without what training adds (rpl_train/tasks)."""

from itertools import combinations

from rpl_runtime.robots.kitchen.limits import LimitedKitchen
from rpl_runtime.tasks.kitchen.body import KITCHEN_BODY
from rpl_runtime.tasks.kitchen.disturbances import HAZARDS
from rpl_runtime.tasks.kitchen.elements import (
    DRIVEN,
    ELEMENTS,
    EPISODE_STEPS,
    MAX_TARGET_STEP,
    NEVER_MOVED,
    OBJECT_DIMS,
    OTHER_HUMAN_GOALS,
    PAPER_GOALS,
    ROBOT_DIM,
    STATE_NAMES,
    UNSEEN_GOALS,
    compound_goal,
    kitchen_spec,
)
from rpl_runtime.tasks.kitchen.render import Renderer
from rpl_runtime.tasks.kitchen.scenery import scenery
from rpl_runtime.tasks.kitchen.simulator import NOMINAL, PERTURBED, Kitchen
from rpl_runtime.tasks.task import Gym, Sight, Task

_GROUPS = {"paper": PAPER_GOALS, "human": OTHER_HUMAN_GOALS, "unseen": UNSEEN_GOALS}
_ALL = tuple(letters for goals in _GROUPS.values() for letters in goals)
_KNOWN = {frozenset(letters): letters for letters in _ALL}
_INITIALS = [name[0] for name in ELEMENTS]
_SETS = {
    f"sets{size}": tuple(_KNOWN.get(frozenset(s), "".join(s)) for s in combinations(_INITIALS, size))
    for size in range(1, len(ELEMENTS) + 1)
}

KITCHEN = Task(
    name="kitchen",
    spec=kitchen_spec("kitchen"),
    open_world=Kitchen,
    episode_steps=EPISODE_STEPS,
    starts={"nominal": NOMINAL, "perturbed": PERTURBED},
    goals={
        letters: compound_goal(letters) for letters in (*_ALL, *(goal for goals in _SETS.values() for goal in goals))
    },
    groups=_GROUPS,
    selections={"all35": _ALL} | _SETS,
    sight=Sight(
        objects=OBJECT_DIMS,
        still=NEVER_MOVED,
        driven=DRIVEN,
        rotation=tuple(STATE_NAMES.index(name) for name in ("kettle_qw", "kettle_qx", "kettle_qy", "kettle_qz")),
    ),
    body=KITCHEN_BODY,
    limited=LimitedKitchen,  # type: ignore[arg-type]  # its worlds are kitchens
    open_renderer=lambda kitchen: Renderer(kitchen.model),  # type: ignore[attr-defined]
    scenery=scenery,
    hazards=HAZARDS,
    settings={"imitate.networks.high_components": 4},  # demonstrators differ in what they do next
    gym=Gym(
        id="FrankaKitchen-v1",
        entry_point="gymnasium_robotics.envs.franka_kitchen:KitchenEnv",
        kwargs={"terminate_on_tasks_completed": False, "remove_task_when_completed": False},
        own_actions=lambda states, targets: (targets - states[:, :ROBOT_DIM]) / MAX_TARGET_STEP,
    ),
    environment="FrankaKitchen-v1",
    packages=("gymnasium-robotics", "mujoco"),
    reference="kitchen",
)


def make() -> Task:
    """The factory for `--task`."""
    return KITCHEN
