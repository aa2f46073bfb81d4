"""What a page shows of the kitchen. Its states are configurations of its model."""

import contextlib

import numpy as np

from rpl_runtime.tasks.kitchen.elements import ELEMENTS, ROBOT_DIM
from rpl_runtime.tasks.kitchen.simulator import new_environment
from rpl_runtime.tasks.scenery import Scenery


def scenery() -> Scenery:
    """The kitchen's scenery.

    Raises:
        MissingExtra: the `sim` extra is not installed.
    """
    with contextlib.closing(new_environment()) as environment:
        model, rest = environment.model, np.array(environment.robot_env.init_qpos, dtype=np.float32)
    body_of = {int(at): int(body) for at, body in zip(model.jnt_qposadr, model.jnt_bodyid, strict=True)}
    elements = {body_of[dim]: name for name, element in ELEMENTS.items() for dim in element.dims if dim in body_of}
    return Scenery(
        model=model,
        qpos=lambda state: state,
        rest=rest,
        robot=frozenset(body_of[dim] for dim in range(ROBOT_DIM)),
        flange=body_of[ROBOT_DIM - 3],
        elements=elements,
        eye=(-0.95, -1.25, 3.05),
        look_at=(-0.25, 0.5, 1.95),
    )
