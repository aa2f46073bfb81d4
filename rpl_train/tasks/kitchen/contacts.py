"""Pairs of geoms that can never touch: proven from a model's joint ranges, and left out of its collision detection.

A pair is left out if at most three hinges and slides, all with a range, change its distance, and branch and bound
proves that distance positive over these ranges. A joint that turns by an angle moves a geom by at most that angle times
the geom's lever. So the distance in the middle of a box of joint positions, less the levers times the half-widths, is a
lower bound for the whole box; if the bound is not positive, the box is halved. Pairs without a proof within the budget
are tested as before. Distances are MuJoCo's own, by the method with which it finds contacts.

MuJoCo orders contacts by body and geom, so the remaining contacts keep their order, and the physics stays the same to
the last bit.
"""

from typing import Any

import numpy as np

from rpl_runtime.errors import InvalidInput
from rpl_runtime.tasks.mujoco import load_mujoco
from rpl_runtime.tasks.scenery import Model

mujoco = load_mujoco()

_JOINTS = 3  # each one multiplies the number of boxes
_BUDGET = 3000  # boxes per pair
_ALLOWANCE = 1e-4  # [m] for rounding
_MASK_BITS = 31
_HINGE, _SLIDE = int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE)
_JOINT = int(mujoco.mjtTrn.mjTRN_JOINT)
# How far a motion may pass a joint's stop, which is soft: [rad] of a hinge, [m] of a slide. An actuator's set-points
# end at the stop; a joint without an actuator can be forced past it.
_ACTUATED_SLACK = 0.1, 0.05
_PASSIVE_SLACK = 0.5, 0.1


def bounds(model: Model, share: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds (nq,) [rad, m]: each joint's range and a share of its slack, infinite without a range."""
    low, high = np.full(model.nq, -np.inf), np.full(model.nq, np.inf)
    for joint in map(int, np.flatnonzero(_has_range(model))):
        at, slack = model.jnt_qposadr[joint], share * _slack(model, joint)
        low[at], high[at] = model.jnt_range[joint] + (-slack, slack)
    return low, high


def separate(model: Model) -> frozenset[tuple[int, int]]:
    """The pairs of geoms, the lower first, that MuJoCo would test and that never touch within `bounds(model)`."""
    low, high = bounds(model)
    data = mujoco.MjData(model)
    levers = np.array([_levers(model, geom) for geom in range(model.ngeom)])  # (ngeom, njnt)
    moves, has_range = levers > 0, _has_range(model)
    pairs = []
    for pair in _tested_pairs(model):
        first, second = pair
        joints = np.flatnonzero(moves[first] ^ moves[second])  # what moves both leaves their distance as it is
        if len(joints) <= _JOINTS and has_range[joints].all():
            lever = levers[first, joints] + levers[second, joints]
            at = model.jnt_qposadr[joints]
            if _apart(model, data, pair, at, lever, (low[at] + high[at]) / 2, (high[at] - low[at]) / 2):
                pairs.append(pair)
    return frozenset(pairs)


def leave_out(model: Model, pairs: frozenset[tuple[int, int]]) -> None:
    """Change the model's masks so that these pairs are not tested any more, and all other pairs are.

    Geoms with a contype that collide with the same geoms share one bit of the masks.

    Raises:
        InvalidInput: more bits are needed than a mask has.
    """
    meets = np.zeros((model.ngeom, model.ngeom), dtype=np.bool_)
    for first, second in _tested_pairs(model):
        if (first, second) not in pairs:
            meets[first, second] = model.geom_contype[first] & model.geom_conaffinity[second] != 0
            meets[second, first] = model.geom_contype[second] & model.geom_conaffinity[first] != 0
    active = meets.any(axis=1)
    rows, group = np.unique(meets[active], axis=0, return_inverse=True)
    if len(rows) > _MASK_BITS:
        raise InvalidInput(f"{len(rows)} groups of geoms need a bit of a mask each; must be {_MASK_BITS} or fewer")
    bits = 1 << np.arange(len(rows))
    model.geom_contype[:] = 0
    model.geom_contype[active] = bits[group]
    model.geom_conaffinity[:] = bits @ rows
    for of_body, of_geom in (
        (model.body_contype, model.geom_contype),
        (model.body_conaffinity, model.geom_conaffinity),
    ):
        of_body[:] = 0
        np.bitwise_or.at(of_body, model.geom_bodyid, of_geom)


def _tested_pairs(model: Model) -> list[tuple[int, int]]:
    """The pairs of geoms that MuJoCo tests when they are near: not welded, not parent and child, not masked."""
    weld = model.body_weldid[model.geom_bodyid]
    parent = model.body_weldid[model.body_parentid[weld]]
    collides = model.geom_contype[:, None] & model.geom_conaffinity[None] != 0
    family = (weld[:, None] == parent[None]) & (weld[:, None] != 0) & (weld[None] != 0)
    tested = (collides | collides.T) & (weld[:, None] != weld[None]) & ~family & ~family.T
    return [(int(first), int(second)) for first, second in np.argwhere(np.triu(tested))]


def _has_range(model: Model) -> np.ndarray:
    return (model.jnt_limited != 0) & np.isin(model.jnt_type, (_HINGE, _SLIDE))  # (njnt,)


def _slack(model: Model, joint: int) -> float:
    actuated = joint in model.actuator_trnid[model.actuator_trntype == _JOINT, 0]
    return (_ACTUATED_SLACK if actuated else _PASSIVE_SLACK)[int(model.jnt_type[joint] == _SLIDE)]


def _levers(model: Model, geom: int) -> np.ndarray:
    """The largest motion (njnt,) of the geom's points for a unit of each joint [m/rad, m/m]; 0 if it moves none.

    This holds in every posture: the lever of a hinge is the length of the chain from it to the geom's farthest point.
    """
    levers = np.zeros(model.njnt)
    box = model.geom_aabb[geom]  # centre and half-sizes in the geom's frame
    length = np.linalg.norm(model.geom_pos[geom]) + np.linalg.norm(np.abs(box[:3]) + box[3:])
    body = model.geom_bodyid[geom]
    while body:
        first = model.body_jntadr[body]
        for joint in range(first, first + model.body_jntnum[body]):
            turns = model.jnt_type[joint] != _SLIDE
            levers[joint] = length + np.linalg.norm(model.jnt_pos[joint]) if turns else 1.0
            length += 0.0 if turns else np.abs(model.jnt_range[joint]).max() + _slack(model, joint)
        length += np.linalg.norm(model.body_pos[body])
        body = model.body_parentid[body]
    return levers


def _apart(
    model: Model,
    data: Any,
    pair: tuple[int, int],
    at: np.ndarray,
    levers: np.ndarray,
    centre: np.ndarray,
    half: np.ndarray,
) -> bool:
    """Whether two geoms are proven apart for all coordinates `at` within centre +- half, (j,) each."""
    margin = model.geom_margin[list(pair)].sum() + _ALLOWANCE
    boxes = [(centre, half)]
    for _ in range(_BUDGET):
        if not boxes:
            return True
        centre, half = boxes.pop()
        data.qpos[at] = centre
        mujoco.mj_kinematics(model, data)
        reach = margin + levers @ half
        distance = mujoco.mj_geomDistance(model, data, *pair, reach, None)  # 0 also where it fails: then halve
        if distance < 0:
            return False
        if distance < reach:
            widest = np.argmax(levers * half)
            half = half.copy()
            half[widest] /= 2
            offset = np.zeros_like(half)
            offset[widest] = half[widest]
            boxes += [(centre - offset, half), (centre + offset, half)]
    return False
