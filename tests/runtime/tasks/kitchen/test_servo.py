"""The kitchen's servos, beside the simulator that has them."""

import numpy as np
import pytest

from rpl_runtime.tasks.kitchen import servo
from rpl_runtime.tasks.kitchen.elements import MAX_TARGET_STEP, PERIOD
from rpl_runtime.tasks.kitchen.simulator import Kitchen, open_kitchen

STILL = np.zeros(7)


@pytest.fixture(scope="module")
def kitchen():
    with open_kitchen() as opened:
        yield opened


def gravity(kitchen: Kitchen) -> np.ndarray:
    import mujoco

    data = mujoco.MjData(kitchen.model)
    data.qpos[:] = kitchen.qpos
    mujoco.mj_forward(kitchen.model, data)  # at rest
    return data.qfrc_bias[:7].copy()


def test_the_constants_are_those_of_the_model(kitchen: Kitchen):
    model = kitchen.model
    np.testing.assert_array_equal(model.actuator_gainprm[:7, 0], servo.STIFFNESS)
    np.testing.assert_array_equal(model.dof_damping[:7], servo.DAMPING)
    np.testing.assert_array_equal(model.jnt_range[:7].T, [servo.RANGE_LOW, servo.RANGE_HIGH])


def test_an_arm_in_free_space_goes_where_it_says(kitchen: Kitchen):
    rng = np.random.default_rng(0)
    kitchen.reset(0)
    kitchen.restore(kitchen.qpos + np.append([0, 0.3, 0, 0.3, 0, 0.3, 0], np.zeros(23)), seed=0)  # away from everything
    wrong, wrong_if_it_stood_there = [], []
    heading = STILL
    for _ in range(25):
        heading = 0.7 * heading + 0.3 * rng.uniform(-MAX_TARGET_STEP, MAX_TARGET_STEP, 7)
        reading = kitchen.state[:7].astype(np.float64)
        target = reading + heading
        predicted = servo.course(kitchen.qpos[:7], reading, target, gravity(kitchen), PERIOD).position
        kitchen.step(np.append(target, [0.04, 0.04]))
        wrong.append(predicted - kitchen.qpos[:7])
        wrong_if_it_stood_there.append(target - kitchen.qpos[:7])
    rms, rms_if = (np.sqrt(np.mean(np.square(each))) for each in (wrong, wrong_if_it_stood_there))
    assert rms < 0.004
    assert rms < rms_if / 4


def test_it_comes_to_rest_below_the_target_by_its_weight():
    gravity = np.array([0.0, 20.0, -20.0, 0.0, 0.0, 0.0, 0.0])
    position = np.array([0.0, -1.0, 1.0, -2.0, 0.0, 1.0, 1.0])
    target = position + 0.1
    after = servo.course(position, position, target, gravity, 10.0)
    np.testing.assert_allclose(after.position, target - gravity / servo.STIFFNESS, atol=1e-6)
    np.testing.assert_array_equal(after.rest, target - gravity / servo.STIFFNESS)


def test_a_long_course_is_two_short_ones():
    position = np.array([0.0, -1.0, 1.0, -2.0, 0.0, 1.0, 1.0])
    target = position + 0.1
    long = servo.course(position, position, target, STILL, 0.2)
    first = servo.course(position, position, target, STILL, 0.1)
    second = servo.course(first.position, position, target, STILL, 0.1)
    np.testing.assert_allclose(second.position, long.position, rtol=1e-12)


def test_it_never_leads_further_than_the_environment_would():
    position = np.array([0.0, -1.0, 1.0, -2.0, 0.0, 2.1, 1.0])
    rest = servo.course(position, position, position + 1.0, STILL, PERIOD).rest
    np.testing.assert_allclose(rest[:5], position[:5] + MAX_TARGET_STEP)
    assert rest[5] == servo.RANGE_HIGH[5]  # where the model ends, before its set-points do


def test_an_arm_that_is_led_is_where_it_is_led_to(kitchen: Kitchen):
    kitchen.reset(0)
    kitchen.restore(kitchen.qpos + np.append([0, 0.3, 0, 0.3, 0, 0.3, 0], np.zeros(23)), seed=0)
    start, reach, duration = kitchen.qpos[:7], 0.2, 1.0  # [rad, s] there and back, smoothly
    wrong = []

    def setpoints():
        for moment in np.arange(0.002, duration, 0.002):
            angle = 2 * np.pi * moment / duration
            place = start + reach * (1 - np.cos(angle)) / 2
            speed = np.full(7, reach * np.pi / duration * np.sin(angle))
            yield np.append(servo.setpoint(place, speed, kitchen.data.qfrc_bias[:7]), [0.04, 0.04])
            wrong.append(place - kitchen.qpos[:7])

    kitchen.follow(setpoints())
    assert np.abs(wrong).max() < 0.02
    assert np.sqrt(np.mean(np.square(wrong))) < 0.005
