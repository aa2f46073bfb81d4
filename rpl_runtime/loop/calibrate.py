"""Calibrates a robot's senses and hand: a scene at rest, the hand once, the last joints of the arm a little."""

import numpy as np

from rpl_runtime.estimation.body import Body
from rpl_runtime.estimation.calibration import Calibration, Sensed, calibrating
from rpl_runtime.loop.clock import Clock, MonotonicClock, Schedule
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.robots import Robot

UNHURRIED = 1.0  # share of an arm's limits; less holds back the small motion of 0.3 rad/s, which then looks late


def calibrate(robot: Robot, body: Body, spec: PolicySpec, seed: int = 0, clock: Clock | None = None) -> Calibration:
    """Measure a robot's senses and hand in some 17 s; nothing in the scene may move meanwhile.

    Args:
        robot: each dimension of its action must be a position target of the state dimension with the same name.
        seed: draws the start of a simulated robot.
        clock: of a robot that does not wait; the system's monotonic clock by default.

    Raises:
        RobotStopped: the robot stopped by itself.
    """
    robot.reset(seed)
    schedule = None if robot.waits else Schedule(clock or MonotonicClock(), spec.period_s)
    if schedule is not None:
        schedule.wait()  # the first period begins
    reading = robot.observe()
    target = reading[[spec.state.names.index(name) for name in spec.action.names]].astype(np.float64)
    if body.hand is not None:
        target[list(body.hand.targets)] = body.hand.opened
    motion = calibrating(body, spec.state.names, Sensed(reading, robot.ages), target, spec.period_s)
    try:
        command = next(motion)
        while True:
            robot.apply(command)
            if schedule is not None:
                schedule.wait()
            command = motion.send(Sensed(robot.observe(), robot.ages))
    except StopIteration as over:
        return over.value
    finally:
        robot.stop()
