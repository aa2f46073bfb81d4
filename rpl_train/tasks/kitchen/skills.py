"""One `Skill` for each element of the kitchen: where the gripper holds it, from which side, and where it leads it."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

_HINGE_DOOR = 21  # the dimension of the state


class Work(NamedTuple):
    """What to do with an element."""

    element: str
    back: bool = False  # lead it to its rest, not to its goal


@dataclass(frozen=True)
class Skill:
    """How the gripper takes one element along its path: approach from the front, grip, lead to the goal or back."""

    site: str
    dims: tuple[int, ...]  # dimensions of the state that the gripper leads
    aim: tuple[float, ...]  # [rad, m] where it leads them; beyond the goal only if a stop is near
    back: tuple[float, ...]  # [rad, m] where it leads them on the way back; beyond the rest if there is a stop
    lead: float  # [rad, m] distance of the gripper's set-point ahead of the element
    finished: float  # the work is finished within this distance of the goal, by the element's own measure
    approach: tuple[float, float, float]  # world direction in which the gripper points at the element's rest
    approach_end: tuple[float, float, float]  # and at its aim
    posture: tuple[float, ...]  # [rad] (7,) arm joints near the element; resolves the arm's redundancy
    posture_end: tuple[float, ...] | None = None  # and at its aim, where it differs
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)  # [m] from the site to where the gripper holds, world axes
    tall: bool = False  # a long upright handle, held a little higher or lower by style
    turns: bool = False  # the gripper turns with the element
    rest: tuple[float, ...] = (0.0,)  # [rad, m] the same dimensions at the start
    farther: float = 0.0  # [m] by which the gripper's place before it is farther away than the style's
    returned: float = 0.1  # [rad, m] the way back is finished within this distance of the rest
    berth: float = 0.07  # [m] clearance to each side for a gripper that leaves or passes it
    height: float = 0.10  # [m] the same above and below
    leave: tuple[float, float, float] | None = None  # [m] a step away from its front; None: towards the next element
    lift: float = 0.0  # [m] height at which it is carried


# Approach directions, offsets and postures are close to those of the human recordings.
SKILLS = {
    "microwave": Skill(
        "microhandle_site", (22,), (-0.75,), (0.05,), 0.14, 0.09, (-0.30, 0.95, -0.10), (-0.40, 0.90, -0.10),
        (-1.00, -1.70, 1.84, -1.61, -0.75, 1.39, 2.60), offset=(0.0, 0.0, 0.04), tall=True, berth=0.15, height=0.15,
    ),
    "kettle": Skill(
        "kettle_site", (24, 23), (0.76, -0.21), (0.35, -0.269), 0.06, 0.22, (0.40, 0.90, -0.17), (0.20, 0.97, 0.08),
        (-0.60, -1.74, 2.14, -2.15, 0.35, 0.90, 1.90), offset=(-0.09, 0.0, -0.06), rest=(0.35, -0.269), lift=0.09,
        posture_end=(-1.70, -1.74, 1.86, -1.50, -1.25, 1.18, 2.85),
    ),
    "bottom burner": Skill(
        "knob2_site", (11,), (-0.88,), (0.3,), 0.35, 0.12, (0.06, 0.99, 0.10), (0.06, 0.99, 0.10),
        (-1.38, -1.52, 1.43, -2.30, -0.08, 2.04, 1.60), offset=(0.0, -0.03, 0.0), turns=True,
    ),
    "top burner": Skill(
        "knob4_site", (15,), (-0.92,), (0.3,), 0.35, 0.12, (0.07, 0.97, 0.20), (0.07, 0.97, 0.20),
        (-1.41, -1.40, 1.29, -2.21, -0.06, 2.02, 1.50), offset=(0.0, -0.03, 0.0), turns=True,
    ),
    "light switch": Skill(
        "light_site", (17,), (-1.3,), (0.6,), 0.6, 0.10, (0.0, 0.97, 0.20), (0.0, 0.97, 0.20),
        (-1.29, -1.60, 1.37, -2.07, 0.10, 1.74, 1.50), offset=(0.0, -0.02, 0.0),
    ),
    "slide cabinet": Skill(
        "slide_site", (19,), (0.44,), (-0.02,), 0.06, 0.09, (0.39, 0.75, 0.53), (0.60, 0.60, 0.53),
        (-1.94, -1.34, 1.06, -2.00, 0.23, 1.93, 1.12), offset=(0.0, 0.0, -0.05), tall=True, returned=0.04,
    ),
    "hinge cabinet": Skill(
        "hinge_site2", (21,), (1.57,), (-0.05,), 0.15, 0.10, (0.04, 0.88, 0.48), (0.20, 0.85, 0.48),
        (-1.39, -1.70, 0.87, -1.82, 1.05, 1.30, 0.43), offset=(0.0, 0.0, -0.05), tall=True, berth=0.15, height=0.19,
        leave=(0.03, 0.015, -0.06),
    ),
}  # fmt: skip


# An open hinge door stands before the slide's handle on the left: come from the right.
_SLIDE_BESIDE_DOOR = replace(
    SKILLS["slide cabinet"],
    approach=(-0.60, 0.70, 0.35),
    approach_end=(-0.30, 0.80, 0.40),
    posture=(-0.30, -0.56, 0.35, -2.11, -0.27, 1.58, 0.45),
)

# An open hinge door swings about when the wrist touches it: come straight, from farther away.
_HINGE_BACK = replace(SKILLS["hinge cabinet"], approach_end=(0.0, 1.0, 0.2), farther=0.1)

# Beside a kettle at its goal the microwave bars the wrist that led it there: turn it over, and come from above, lower
# and from farther away.
_KETTLE_BACK = replace(
    SKILLS["kettle"],
    approach_end=(0.0, 0.97, -0.45),
    posture_end=(-1.48, -1.69, 2.01, -2.06, 0.28, 2.11, 1.44),
    farther=0.03,
    lift=0.05,
)
_WRIST, _FINGERS, _KETTLE_XY = 4, slice(7, 9), slice(23, 25)  # dimensions of the state
_STRAIGHT = -0.25  # [m] x of a kettle to which the gripper comes neither from the left nor from the right
_OUT = 0.45  # [m] y up to which a kettle is not beside the microwave
_LOWER = 0.015  # [m] by which it is held lower at its goal: there the handle's bar is close above the fingers


def _kettle_back(qpos: np.ndarray) -> Skill:
    """The way back of a kettle: the nearer it is to the microwave, the more the gripper comes from the right."""
    x, y = qpos[_KETTLE_XY]
    led_there = qpos[_WRIST] < -0.6 and 0.010 < qpos[_FINGERS].mean() < 0.030  # and it still holds it
    if y < _OUT or led_there:
        return SKILLS["kettle"]
    side, ahead, down = _KETTLE_BACK.approach_end
    along, across, up = _KETTLE_BACK.offset
    return replace(
        _KETTLE_BACK,
        approach_end=(side + min(max(4.0 * (float(x) - _STRAIGHT), -0.2), 0.2), ahead, down),
        offset=(along, across, up - _LOWER * progress(_KETTLE_BACK, qpos)),
    )


def skill_for(work: Work, qpos: np.ndarray) -> Skill:
    """The skill for a work in a configuration (30,)."""
    if work.element == "slide cabinet" and (work.back or qpos[_HINGE_DOOR] > 0.6):
        return _SLIDE_BESIDE_DOOR
    if work == Work("kettle", back=True):
        return _kettle_back(qpos)
    if work == Work("hinge cabinet", back=True):
        return _HINGE_BACK
    return SKILLS[work.element]


def progress(skill: Skill, qpos: np.ndarray) -> float:
    """How far (0 to 1) an element has come from its rest to its aim."""
    share = (qpos[skill.dims[0]] - skill.rest[0]) / (skill.aim[0] - skill.rest[0])
    return float(min(max(share, 0.0), 1.0))
