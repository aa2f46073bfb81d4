"""The kitchen's state, its seven elements and compound goals: the one home of every index, goal value and threshold.

Values are those of gymnasium-robotics' FrankaKitchen-v1 (Apache-2.0); a test compares them with it.
"""

import numpy as np

from rpl_runtime.errors import InvalidGoal
from rpl_runtime.policy.spec import ElementSpec, PolicySpec, VectorSpec

PERIOD = 0.08  # [s] one control step: 40 physics steps of 2 ms
HORIZON = 30  # [control steps] for which a subgoal is kept: the paper's H
EPISODE_STEPS = 280  # [control steps] the protocol's episode: 22.4 s
DONE_DISTANCE = 0.3  # an element is done when |qpos - goal| is below this; mixed units, the environment's own
MAX_TARGET_STEP = 0.16  # [rad, m] largest move of a set-point from the last reading in a control step: 2 rad/s x 0.08 s

ROBOT_DIM = 9
STATE_DIM = 30
OBJECT_DIMS = tuple(range(ROBOT_DIM, STATE_DIM))

# (name, unit, lowest, highest) of each state dimension: the range of FrankaKitchen-v1's model or of its set-points.
# The kettle's pose is free: the arm may knock it anywhere in the room.
_STATE = (
    ("panda_joint1", "rad", -2.9, 2.9),
    ("panda_joint2", "rad", -1.8, 1.8),
    ("panda_joint3", "rad", -2.9, 2.9),
    ("panda_joint4", "rad", -3.1, 0.0),
    ("panda_joint5", "rad", -2.9, 2.9),
    ("panda_joint6", "rad", -1.66, 3.8),
    ("panda_joint7", "rad", -2.9, 2.9),
    ("finger_left", "m", 0.0, 0.04),
    ("finger_right", "m", 0.0, 0.04),
    ("bottom_right_knob", "rad", -1.57, 0.0),
    ("bottom_right_burner", "m", -0.01, 0.0),
    ("bottom_left_knob", "rad", -1.57, 0.0),
    ("bottom_left_burner", "m", -0.01, 0.0),
    ("top_right_knob", "rad", -1.57, 0.0),
    ("top_right_burner", "m", -0.01, 0.0),
    ("top_left_knob", "rad", -1.57, 0.0),
    ("top_left_burner", "m", -0.01, 0.0),
    ("light_switch", "rad", -0.7, 0.0),
    ("light", "m", -0.05, 0.0),
    ("slide_cabinet", "m", 0.0, 0.44),
    ("left_hinge_door", "rad", -1.57, 0.0),
    ("right_hinge_door", "rad", 0.0, 1.57),
    ("microwave_door", "rad", -2.094, 0.0),
    ("kettle_x", "m", -5.0, 5.0),
    ("kettle_y", "m", -5.0, 5.0),
    ("kettle_z", "m", -1.0, 5.0),
    ("kettle_qw", "1", -1.0, 1.0),
    ("kettle_qx", "1", -1.0, 1.0),
    ("kettle_qy", "1", -1.0, 1.0),
    ("kettle_qz", "1", -1.0, 1.0),
)
STATE_NAMES = tuple(name for name, *_ in _STATE)
STATE_UNITS = tuple(unit for _, unit, *_ in _STATE)
_RANGE = np.array([bounds for _, _, *bounds in _STATE], dtype=np.float32)  # (30, 2)
# (9,) [rad, m]: the joint bounds to which FrankaKitchen-v1 clips set-points. Its joint 6 can go lower.
TARGET_LOW = np.array([-2.9, -1.8, -2.9, -3.1, -2.9, 0.0, -2.9, 0.0, 0.0], dtype=np.float32)
TARGET_HIGH = np.array([2.9, 1.8, 2.9, 0.0, 2.9, 3.8, 2.9, 0.04, 0.04], dtype=np.float32)
# Noise and soft joint stops carry a reading past its range, an object's further than the arm's. A reading past
# these bounds is a fault.
_SLACK = np.where(np.arange(STATE_DIM) < ROBOT_DIM, 0.1, 0.25) * (0.5 + _RANGE[:, 1] - _RANGE[:, 0])
STATE_LOW = (_RANGE[:, 0] - _SLACK).astype(np.float32)  # (30,) [rad, m]
STATE_HIGH = (_RANGE[:, 1] + _SLACK).astype(np.float32)  # (30,) [rad, m]

NEVER_MOVED = tuple(  # by any element
    STATE_NAMES.index(name)
    for name in ("bottom_right_knob", "bottom_right_burner", "top_right_knob", "top_right_burner", "left_hinge_door")
)
# FrankaKitchen-v1's model moves a burner with its knob and the light with its switch, slower by this ratio, so noise on
# the two must agree.
DRIVEN = {
    STATE_NAMES.index(driven): (STATE_NAMES.index(driver), ratio)
    for driven, driver, ratio in (
        *((f"{place}_burner", f"{place}_knob", 174.0) for place in ("bottom_right", "bottom_left")),
        *((f"{place}_burner", f"{place}_knob", 174.0) for place in ("top_right", "top_left")),
        ("light", "light_switch", 14.0),
    )
}


def _element(dims: tuple[int, ...], *goal: float) -> ElementSpec:
    return ElementSpec(dims=dims, goal=goal, tolerance=DONE_DISTANCE)


# In the order in which human demonstrators work. Goals in [rad, m, quaternion wxyz].
ELEMENTS = {
    "microwave": _element((22,), -0.75),
    "kettle": _element(tuple(range(23, 30)), -0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06),
    "bottom burner": _element((11, 12), -0.88, -0.01),
    "top burner": _element((15, 16), -0.92, -0.01),
    "light switch": _element((17, 18), -0.69, -0.05),
    "slide cabinet": _element((19,), 0.37),
    "hinge cabinet": _element((20, 21), 0.0, 1.45),
}
_BY_LETTER = {name[0]: name for name in ELEMENTS}  # the initials differ


def compound_goal(letters: str) -> tuple[str, ...]:
    """The elements with these initials, such as ``"mkbs"``.

    Raises:
        InvalidGoal: a letter names no element.
    """
    unknown = sorted(set(letters) - set(_BY_LETTER))
    if unknown:
        raise InvalidGoal(f"no element has the letter {', '.join(unknown)}; must be one of {', '.join(_BY_LETTER)}")
    return tuple(_BY_LETTER[letter] for letter in letters)


def completed_in_order(states: np.ndarray) -> tuple[str, ...]:
    """The elements that reach their goal in a sequence of states (T, 30), in the order in which they do."""
    first_done = {
        name: next((step for step, state in enumerate(states) if element.is_done(state)), None)
        for name, element in ELEMENTS.items()
    }
    reached = [(step, name) for name, step in first_done.items() if step is not None]
    return tuple(name for _, name in sorted(reached))


# The 17 compound goals of the paper (from the folders of the released demonstrations), the seven others in the
# human data, and the eleven sets of four in neither.
PAPER_GOALS = (
    *("kbsh", "kbls", "klsh", "kbts", "ktls", "mbsh", "mbls", "mkbh", "mkbs"),
    *("mksh", "mkls", "mkth", "mktl", "mbth", "mbts", "btsh", "btls"),
)
OTHER_HUMAN_GOALS = ("kbth", "kbtl", "kblh", "mbtl", "mklh", "mtlh", "mlsh")
UNSEEN_GOALS = ("mkbt", "mkbl", "mkts", "mblh", "mtls", "mtsh", "ktlh", "ktsh", "btlh", "blsh", "tlsh")


def kitchen_spec(
    name: str, horizon: int = HORIZON, high_noise: int = STATE_DIM, low_noise: int = ROBOT_DIM
) -> PolicySpec:
    """The spec of a policy for this kitchen, by default one with a Gaussian at each level."""
    return PolicySpec(
        name=name,
        description="Brings any set of the kitchen's seven elements to its goal with a 9-DoF Franka.",
        state=VectorSpec(
            names=STATE_NAMES, units=STATE_UNITS, low=tuple(STATE_LOW.tolist()), high=tuple(STATE_HIGH.tolist())
        ),
        action=VectorSpec(
            names=STATE_NAMES[:ROBOT_DIM],
            units=STATE_UNITS[:ROBOT_DIM],
            low=tuple(TARGET_LOW.tolist()),
            high=tuple(TARGET_HIGH.tolist()),
        ),
        horizon=horizon,
        period_s=PERIOD,
        high_noise=high_noise,
        low_noise=low_noise,
        elements=ELEMENTS,
        library={letters: compound_goal(letters) for letters in PAPER_GOALS},
        goal_dims=OBJECT_DIMS,
    )
