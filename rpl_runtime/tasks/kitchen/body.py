"""The kitchen's robot and objects as the state estimator needs them."""

from rpl_runtime.estimation.body import Body, Hand
from rpl_runtime.tasks.kitchen.elements import ROBOT_DIM, STATE_NAMES
from rpl_runtime.tasks.kitchen.servo import ARM_DIM, follow

_FINGERS = tuple(range(ARM_DIM, ROBOT_DIM))
_POSITION = tuple(STATE_NAMES.index(f"kettle_{axis}") for axis in "xyz")
_ROTATION = tuple(STATE_NAMES.index(f"kettle_q{axis}") for axis in "wxyz")


def _joint(*names: str) -> tuple[int, ...]:
    return tuple(map(STATE_NAMES.index, names))


KITCHEN_BODY = Body(
    objects=(
        # A burner moves with its knob, and the light with its switch.
        *(_joint(f"{place}_knob", f"{place}_burner") for place in ("bottom_right", "bottom_left")),
        *(_joint(f"{place}_knob", f"{place}_burner") for place in ("top_right", "top_left")),
        _joint("light_switch", "light"),
        *map(_joint, ("slide_cabinet", "left_hinge_door", "right_hinge_door", "microwave_door")),
        _POSITION,
        _ROTATION,
    ),
    rotations=(_ROTATION,),
    arm=tuple(range(ARM_DIM)),
    arm_targets=tuple(range(ARM_DIM)),
    servo=follow,
    hand=Hand(dims=_FINGERS, targets=_FINGERS, opened=0.04, close_below=0.035, open_above=0.045),
)
