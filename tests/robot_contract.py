"""What every robot promises, whatever it is made of.

A test module derives a class from `RobotContract`, whose fixtures `robot` and `spec` say which robot it is and what
its policy accepts.
"""

import numpy as np
import pytest

from rpl_runtime.errors import InvalidInput
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.robots import LiveRobot, Robot


class RobotContract:
    """The tests of the `Robot` protocol; the fixture `robot` stands where a run starts."""

    noise = 0.0  # [rad, m] by which two readings of an arm at rest differ
    moving = slice(0, 1)  # the dimensions of the state that a target's first ones move
    step = 0.05  # [rad, m] a target that far away is gone for

    @pytest.fixture
    def spec(self) -> PolicySpec:
        raise NotImplementedError

    @pytest.fixture
    def robot(self) -> Robot:
        raise NotImplementedError

    def let_pass(self, robot: Robot) -> None:
        """Let a control period pass; where the world waits, `apply` has done so."""

    def where(self, robot: Robot) -> np.ndarray:
        return robot.observe()[self.moving].astype(np.float64)

    def target(self, robot: Robot, spec: PolicySpec) -> np.ndarray:
        """A target a step away from where the robot is."""
        target = np.clip(robot.observe()[: spec.action.dim], *spec.action.bounds).astype(np.float64)
        target[self.moving] += self.step
        return target

    def test_a_state_is_one_that_its_policy_accepts(self, robot: Robot, spec: PolicySpec) -> None:
        state = robot.observe()
        assert state.dtype == np.float32
        spec.state.check("state", state)

    def test_a_target_is_gone_for_until_the_next_one_comes(self, robot: Robot, spec: PolicySpec) -> None:
        target = self.target(robot, spec)
        for _ in range(60):
            robot.apply(target)
            self.let_pass(robot)
            if np.abs(self.where(robot) - target[self.moving]).max() < self.step / 2:
                return
        pytest.fail(f"after 60 periods the robot is at {self.where(robot)} on its way to {target[self.moving]}")

    @pytest.mark.parametrize("fault", [np.nan, np.inf, "size"])
    def test_a_bad_target_is_refused_and_moves_nothing(self, robot: Robot, spec: PolicySpec, fault) -> None:
        before, target = self.where(robot), self.target(robot, spec)
        if fault == "size":
            target = target[:-1]
        else:
            target[0] = fault
        with pytest.raises(InvalidInput, match=f"{spec.action.dim} finite numbers"):
            robot.apply(target)
        self.let_pass(robot)
        assert np.abs(self.where(robot) - before).max() <= self.noise

    def test_done_names_elements_of_its_policy(self, robot: Robot, spec: PolicySpec) -> None:
        robot.observe()
        assert robot.done() <= set(spec.elements)

    def test_it_comes_to_rest_when_stopped_as_often_as_it_is_told(self, robot: Robot, spec: PolicySpec) -> None:
        robot.stop()
        robot.apply(self.target(robot, spec))
        self.let_pass(robot)
        robot.stop()
        robot.stop()
        before = self.where(robot)
        for _ in range(3):
            self.let_pass(robot)
        np.testing.assert_allclose(self.where(robot), before, rtol=0, atol=self.noise)

    def test_a_stop_is_not_the_end(self, robot: Robot, spec: PolicySpec) -> None:
        robot.apply(self.target(robot, spec))
        robot.stop()
        self.test_a_target_is_gone_for_until_the_next_one_comes(robot, spec)

    def test_a_run_starts_where_it_started_before(self, robot: Robot, spec: PolicySpec) -> None:
        before = self.where(robot)
        for _ in range(3):
            robot.apply(self.target(robot, spec))
            self.let_pass(robot)
        robot.reset(0)
        assert np.abs(self.where(robot) - before).max() <= self.noise + 1e-3

    def test_a_world_that_waits_stands_still(self, robot: Robot) -> None:
        if not robot.waits:
            pytest.skip("the world of this robot does not wait")
        np.testing.assert_array_equal(robot.observe(), robot.observe())


class LiveContract(RobotContract):
    """The tests of the `LiveRobot` protocol besides."""

    def test_its_world_does_not_wait(self, robot: LiveRobot) -> None:
        assert not robot.waits

    def test_its_state_begins_with_the_joints_that_its_targets_move(self, robot: LiveRobot, spec: PolicySpec) -> None:
        assert len(robot.profile.low) == spec.action.dim
        assert spec.state.names[: spec.action.dim] == spec.action.names

    def test_where_targets_stay_out_it_comes_to_rest_by_itself(self, robot: LiveRobot, spec: PolicySpec) -> None:
        for _ in range(3):
            robot.apply(self.target(robot, spec))
            self.let_pass(robot)
        for _ in range(12):
            self.let_pass(robot)
        before = self.where(robot)
        for _ in range(3):
            self.let_pass(robot)
        np.testing.assert_allclose(self.where(robot), before, rtol=0, atol=self.noise)
        self.test_a_target_is_gone_for_until_the_next_one_comes(robot, spec)

    def test_a_target_out_of_reach_is_brought_inside_and_counted(self, robot: LiveRobot, spec: PolicySpec) -> None:
        before = dict(robot.limit_violations)
        for _ in range(10):
            target = self.target(robot, spec)
            target[self.moving] += 2 * np.pi
            robot.apply(target)
            self.let_pass(robot)
        robot.stop()
        joints = robot.observe()[: spec.action.dim]
        assert (joints >= robot.profile.low - self.noise).all()
        assert (joints <= robot.profile.high + self.noise).all()
        assert sum(robot.limit_violations.values()) > sum(before.values())
