"""Which pairs of geoms are left out of collision detection: only those that cannot touch, and no other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpl_runtime.errors import InvalidInput, require
from rpl_runtime.tasks.kitchen.simulator import Kitchen
from rpl_train.tasks.kitchen.contacts import bounds, leave_out, separate

mujoco = require("mujoco", "sim")


def arm(links: int, wall: float, limited: bool = True, turn: float = 1.0):
    """Rods of 1 m, each hinged to the end of the one before, and a ball `wall` metres from the first hinge."""
    rod = "<geom type='capsule' fromto='.1 0 0 1 0 0' size='.02'/>"
    body = rod + f"<body pos='1 0 0'><joint axis='0 0 1' range='-1 1'/>{rod}" * (links - 1) + "</body>" * (links - 1)
    return mujoco.MjModel.from_xml_string(
        f"""<mujoco><compiler angle='radian'/><worldbody>
        <body><joint axis='0 0 1' range='{-turn} {turn}' limited='{"true" if limited else "false"}'/>{body}</body>
        <body pos='0 {wall} 0'><geom type='sphere' size='0.05'/></body>
        </worldbody></mujoco>"""
    )


def touching(model, qpos: np.ndarray) -> set[tuple[int, int]]:
    """The pairs that MuJoCo finds in contact."""
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_forward(model, data)
    return {(min(geoms), max(geoms)) for geoms in data.contact.geom.tolist()}


def allowed(model) -> set[tuple[int, int]]:
    """The pairs that the masks of a model allow."""
    meets = model.geom_contype[:, None] & model.geom_conaffinity[None] != 0
    return {(int(a), int(b)) for a, b in np.argwhere(np.triu(meets | meets.T, 1))}


def test_a_ball_out_of_reach_is_left_out_and_one_within_is_not():
    assert separate(arm(1, wall=1.2)) == {(0, 1)}
    assert separate(arm(1, wall=0.9, turn=1.6)) == frozenset()
    assert separate(arm(1, wall=0.9, turn=0.7)) == {(0, 1)}  # it does not turn that far


def test_what_is_not_bounded_or_hangs_on_too_many_joints_is_kept():
    assert separate(arm(1, wall=1.2, limited=False)) == frozenset()
    ball = 4
    assert {pair for pair in separate(arm(4, wall=9.0)) if ball in pair} == {(0, ball), (1, ball), (2, ball)}
    free = mujoco.MjModel.from_xml_string(
        """<mujoco><worldbody><geom type='sphere' size='.1'/>
        <body pos='9 0 0'><freejoint/><geom type='sphere' size='.1'/></body></worldbody></mujoco>"""
    )
    assert separate(free) == frozenset()
    swivel = mujoco.MjModel.from_xml_string(
        """<mujoco><worldbody><geom type='sphere' size='.1' pos='9 0 0'/>
        <body><joint type='ball' range='0 1' limited='true'/><geom type='sphere' size='.1'/></body>
        </worldbody></mujoco>"""
    )
    assert separate(swivel) == frozenset()


@settings(max_examples=30)
@given(wall=st.floats(0.2, 2.6), turn=st.floats(0.2, 3.0), seed=st.integers(0, 99))
def test_what_is_left_out_never_touches(wall, turn, seed):
    model = arm(2, wall, turn=turn)
    found = separate(model)
    rng = np.random.default_rng(seed)
    for _ in range(50):
        assert not touching(model, rng.uniform(*bounds(model))) & found


@settings(max_examples=30)
@given(seed=st.integers(0, 2**16))
def test_the_masks_leave_out_the_pairs_named_and_no_other(seed):
    rng = np.random.default_rng(seed)
    bodies = "".join(
        f"<body><freejoint/>{''.join(_sphere(rng) for _ in range(rng.integers(1, 4)))}</body>" for _ in range(5)
    )
    model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{_sphere(rng)}{bodies}</worldbody></mujoco>")
    together = {pair for pair in allowed(model) if len({*model.geom_bodyid[list(pair)]}) == 1}  # never tested anyway
    before = allowed(model) - together
    gone = frozenset(pair for pair in before if rng.random() < 0.4)
    leave_out(model, gone)
    assert allowed(model) - together == before - gone
    for of_body, of_geom in (
        (model.body_contype, model.geom_contype),
        (model.body_conaffinity, model.geom_conaffinity),
    ):
        assert [np.bitwise_or.reduce(of_geom[model.geom_bodyid == b]) for b in range(model.nbody)] == list(of_body)


def _sphere(rng: np.random.Generator) -> str:
    return f"<geom type='sphere' size='.1' contype='{rng.integers(4)}' conaffinity='{rng.integers(4)}'/>"


def test_more_groups_than_bits_are_refused():
    bodies = "<body><freejoint/><geom type='sphere' size='.1'/></body>" * 40
    model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{bodies}</worldbody></mujoco>")
    with pytest.raises(InvalidInput, match="40 groups of geoms need a bit of a mask each; must be 31 or fewer"):
        leave_out(model, frozenset((i, i + 1) for i in range(39)))


def test_nothing_that_is_left_out_of_the_kitchen_touches_anywhere_in_its_ranges():
    kitchen = Kitchen()
    model, found = kitchen.model, separate(kitchen.model)
    links = [[model.body(model.geom_bodyid[geom]).name for geom in pair] for pair in found]
    assert ["panda0_link0", "panda0_link2"] in links  # always near, and what makes leaving out worth while
    assert not any("kettleroot" in pair for pair in links)  # it may be thrown anywhere
    rng = np.random.default_rng(0)
    low, high = bounds(model)
    limited = np.isfinite(low)
    for _ in range(300):
        qpos = kitchen.qpos
        qpos[limited] = rng.uniform(low[limited], high[limited])
        assert not touching(model, qpos) & found
    kitchen.close()
