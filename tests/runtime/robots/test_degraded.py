"""The kitchen's robot under conditions: limits that its arm keeps, and what is seen of the objects."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from robot_contract import RobotContract
from rpl_runtime.errors import InvalidInput
from rpl_runtime.estimation.body import Ages
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.robots import Robot
from rpl_runtime.robots.degraded import Conditions, DegradedRobot
from rpl_runtime.robots.franka.frames import JOINT_ZERO
from rpl_runtime.robots.kitchen.task import KITCHEN
from rpl_runtime.robots.profiles import PROFILES
from rpl_runtime.robots.simulated import SimulatedRobot
from rpl_runtime.tasks.kitchen.elements import ELEMENTS, MAX_TARGET_STEP, PERIOD, STATE_NAMES, kitchen_spec

EVERYTHING = Conditions("fr3", 0.01, 0.02, object_latency=2, object_dropout=0.3, latency=1)
KNOB, BURNER, DOOR = (STATE_NAMES.index(name) for name in ("top_left_knob", "top_left_burner", "microwave_door"))


@pytest.fixture(scope="module")
def kitchen() -> Iterator[SimulatedRobot]:
    with closing(SimulatedRobot(KITCHEN)) as robot:
        yield robot


class TestContract(RobotContract):
    noise = 5e-3  # that of the environment's readings, and how far the arm sags below its set-points in a period
    moving = slice(0, 7)

    @pytest.fixture(params=["own", "panda", "fr3"])
    def profile(self, request: pytest.FixtureRequest) -> str:
        return request.param

    @pytest.fixture
    def spec(self) -> PolicySpec:
        return kitchen_spec("kitchen")

    @pytest.fixture
    def robot(self, kitchen: SimulatedRobot, profile: str) -> Robot:
        return DegradedRobot(kitchen, Conditions(profile))


def wander(robot: Robot, seed: int = 0, steps: int = 12) -> np.ndarray:
    """States (T, 30) of targets that jump about."""
    rng = np.random.default_rng(seed)
    robot.reset(seed)
    states = [robot.observe()]
    for _ in range(steps):
        robot.apply(states[-1][:9] + rng.uniform(-MAX_TARGET_STEP, MAX_TARGET_STEP, 9))
        states.append(robot.observe())
    return np.array(states)


def test_no_conditions_change_nothing(kitchen: SimulatedRobot) -> None:
    alone = wander(kitchen, seed=3)
    np.testing.assert_array_equal(wander(DegradedRobot(kitchen, Conditions()), seed=3), alone)


def test_a_seed_fixes_an_episode(kitchen: SimulatedRobot) -> None:
    robot = DegradedRobot(kitchen, EVERYTHING)
    first, other, again = wander(robot, 3), wander(robot, 4), wander(DegradedRobot(kitchen, EVERYTHING), 3)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("name", ["panda", "fr3"])
def test_an_arm_in_free_space_keeps_its_limits(
    kitchen: SimulatedRobot, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However its targets jump; soft servos follow the motion closely, and are given some room for it."""
    simulator, arm = kitchen.world, PROFILES[name].rezeroed(JOINT_ZERO).arm
    assert arm is not None
    speeds: list[np.ndarray] = []
    simulate = simulator._env.robot_env.do_simulation

    def simulate_and_see(setpoint: np.ndarray, frames: int) -> None:
        simulate(setpoint, frames)
        speeds.append(simulator.data.qvel[:7].copy())

    monkeypatch.setattr(simulator._env.robot_env, "do_simulation", simulate_and_see)
    kitchen.reset(0)
    away = simulator.qpos + np.append([0, 0.3, 0, 0.3, 0, 0.3, 0], np.zeros(23))  # from everything
    monkeypatch.setattr(kitchen, "reset", lambda seed: simulator.restore(away, seed))
    robot = DegradedRobot(kitchen, Conditions(name))
    wander(robot, steps=25)
    assert robot.limit_violations["acceleration"] > 10
    velocity = np.array(speeds)
    assert len(velocity) == 25 * 40
    assert (abs(velocity) <= 1.05 * arm.velocity).all()
    acceleration = abs(np.diff(velocity, axis=0)) / simulator.model.opt.timestep
    assert (acceleration <= 1.5 * arm.acceleration).all()


def test_what_is_late_was_seen_before(kitchen: SimulatedRobot) -> None:
    seen = wander(DegradedRobot(kitchen, Conditions(latency=3)))
    np.testing.assert_array_equal(seen[:4], seen[[0, 0, 0, 0]])
    assert not np.array_equal(seen[4], seen[0])


def test_an_observation_says_how_old_it_is(kitchen: SimulatedRobot) -> None:
    """However its lateness jitters; none arrives before an older one, and without timestamps none says so."""
    on_time = wander(kitchen, steps=40)
    robot = DegradedRobot(kitchen, Conditions(latency=2, latency_jitter=2, object_latency=1))
    rng = np.random.default_rng(0)
    robot.reset(0)
    state, ages, taken = robot.observe(), list[int](), list[int]()
    for step in range(41):
        arm_s, objects_s = robot.ages
        assert arm_s is not None
        assert objects_s is not None
        taken.append(step - round(arm_s / PERIOD))
        np.testing.assert_array_equal(state[:9], on_time[taken[-1], :9])
        np.testing.assert_array_equal(state[9:], on_time[step - round(objects_s / PERIOD), 9:])
        ages.append(round(arm_s / PERIOD))
        # The targets of `wander` follow from its own states.
        robot.apply(on_time[step, :9] + rng.uniform(-MAX_TARGET_STEP, MAX_TARGET_STEP, 9))
        state = robot.observe()
    assert {1, 2, 3} <= set(ages) <= {0, 1, 2, 3, 4}
    assert taken == sorted(taken)
    assert DegradedRobot(kitchen, Conditions(latency=2, stamped=False)).ages == Ages()


def test_a_bias_lasts_an_episode(kitchen: SimulatedRobot) -> None:
    truth, one, other = (
        wander(DegradedRobot(kitchen, each), seed)
        for each, seed in ((Conditions(), 0), *((Conditions(position_bias=0.005, angle_bias=0.01), s) for s in (0, 1)))
    )
    off = (one - truth)[:, 9:]
    np.testing.assert_allclose(off[:, :17], off[:1, :17] * np.ones((len(off), 1)), atol=1e-6)
    for name, size in (("kettle_x", 0.005), ("microwave_door", 0.01), ("bottom_left_burner", 0.01 / 174)):
        assert abs(off[0, STATE_NAMES.index(name) - 9]) == pytest.approx(size, rel=1e-2)
    assert not np.array_equal(np.sign(off[0]), np.sign((other - truth)[0, 9:]))


def test_objects_may_be_later_than_the_arm(kitchen: SimulatedRobot) -> None:
    on_time, late = (wander(DegradedRobot(kitchen, Conditions(object_latency=n))) for n in (0, 2))
    np.testing.assert_array_equal(late[:, :9], on_time[:, :9])
    np.testing.assert_array_equal(late[2:, 9:], on_time[:-2, 9:])


def test_objects_that_are_never_seen_stay_where_they_were(kitchen: SimulatedRobot) -> None:
    seen = wander(DegradedRobot(kitchen, Conditions(object_dropout=1.0)))
    np.testing.assert_array_equal(seen[:, 9:], np.repeat(seen[:1, 9:], len(seen), axis=0))
    sometimes = wander(DegradedRobot(kitchen, Conditions(object_dropout=0.5)), steps=60)
    kept = np.mean([np.array_equal(*pair) for pair in zip(sometimes[:-1, 9:], sometimes[1:, 9:], strict=True)])
    assert 0.3 < kept < 0.7


def test_objects_are_seen_with_noise_and_the_arm_is_not(kitchen: SimulatedRobot) -> None:
    exact = Conditions()
    truth = wander(DegradedRobot(kitchen, exact), steps=100)
    noisy = wander(DegradedRobot(kitchen, replace(exact, position_noise=0.01, angle_noise=0.02)), steps=100)
    noise = noisy - truth
    np.testing.assert_array_equal(noise[:, :9], 0)
    assert noise[:, 23:26].std() == pytest.approx(0.01, rel=0.2)
    assert noise[:, [KNOB, DOOR]].std() == pytest.approx(0.02, rel=0.2)
    np.testing.assert_allclose(noise[:, BURNER], noise[:, KNOB] / 174, atol=1e-6)
    angle = 2 * np.linalg.norm(noise[:, 27:30], axis=1)
    assert np.sqrt(np.mean(angle**2) / 3) == pytest.approx(0.02, rel=0.2)
    np.testing.assert_allclose(np.linalg.norm(noisy[:, 26:30], axis=1), 1.0, atol=1e-6)


def test_a_hand_takes_one_command_at_a_time(kitchen: SimulatedRobot) -> None:
    """It closes at 0.1 m/s when told to, and what it is told before that command is over is not made up for."""
    robot = DegradedRobot(kitchen, Conditions(hand_time=0.8))
    robot.reset(0)
    arm, widths = robot.observe()[:7], []
    for step in range(30):
        wanted = 0.0 if step in (0, 15) else 0.04  # [m] of each finger
        robot.apply(np.append(arm, [wanted, wanted]))
        widths.append(robot.observe()[7:9].sum())
    assert widths[0] > 0.06
    assert min(widths[:10]) < 0.02
    assert widths[20] > 0.05  # the second command, to open, came when the first was over
    assert widths[-1] == pytest.approx(0.08, abs=0.005)  # and the third, to close, while the second was not


def test_what_no_element_moves_may_be_known_to_stand_still(kitchen: SimulatedRobot) -> None:
    noisy = Conditions(position_noise=0.01, angle_noise=0.02)
    robots = (DegradedRobot(kitchen, each) for each in (Conditions(), noisy, replace(noisy, still_known=True)))
    truth, all_noisy, some = (wander(robot) for robot in robots)
    moved = {dim for element in ELEMENTS.values() for dim in element.dims if element.goal[element.dims.index(dim)]}
    moved |= {*range(9), *range(23, 30)}  # the arm; the kettle, whichever way it is to stand
    for dim in range(30):
        np.testing.assert_array_equal(some[:, dim], (all_noisy if dim in moved else truth)[:, dim])
    assert (all_noisy[:, STATE_NAMES.index("left_hinge_door")] != truth[:, STATE_NAMES.index("left_hinge_door")]).all()


def test_a_burner_is_seen_where_its_knob_would_have_it(kitchen: SimulatedRobot) -> None:
    """The ratios are those of the model's couplings."""
    model = kitchen.world.model
    coupled = {int(model.eq_obj2id[each]): model.eq_data[each][1] for each in range(model.neq)}
    assert sorted(coupled.values()) == [14.0, 174.0, 174.0, 174.0, 174.0]
    assert coupled[BURNER] == 174.0


def test_a_start_is_drawn_as_it_is_for_the_kitchen(kitchen: SimulatedRobot) -> None:
    kitchen.start = "perturbed"
    kitchen.reset(5)
    alone = kitchen.observe()
    robot = DegradedRobot(kitchen, Conditions("fr3"))
    robot.reset(5)
    np.testing.assert_array_equal(robot.observe(), alone)


@pytest.mark.parametrize(
    "wrong",
    [
        {"profile": "toaster"},
        {"position_noise": -0.1},
        {"angle_noise": np.nan},
        {"latency": 1, "latency_jitter": 2},
        {"position_bias": -0.1},
        {"object_dropout": 1.5},
        {"latency": -1},
        {"object_latency": 1000},
        {"hand_time": -1.0},
    ],
)
def test_conditions_that_are_none(wrong: dict) -> None:
    with pytest.raises(InvalidInput, match="must be"):
        Conditions(**wrong)
