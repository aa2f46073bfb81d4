"""Leases: when a robot may begin a run."""

import pytest

from rpl_runtime.errors import LimitReached, RobotLeased, ServerStopping
from rpl_runtime.relay.leases import Leases


def test_a_robot_runs_once_until_it_is_free() -> None:
    leases = Leases()
    leases.check("a", "me", here=False)
    leases.take("a", "me")
    with pytest.raises(RobotLeased, match="'a' runs on another stream"):
        leases.check("a", "me", here=False)
    with pytest.raises(RobotLeased, match="'a' runs on this stream"):
        leases.check("a", "me", here=True)
    leases.check("b", "me", here=False)
    leases.free(["a", "never"])
    leases.check("a", "me", here=False)
    assert len(leases) == 0


def test_no_more_robots_run_than_may() -> None:
    leases = Leases(most=2)
    for robot in "ab":
        leases.take(robot, "me")
    with pytest.raises(LimitReached, match=r"as many robots run as this server takes \(2\)"):
        leases.check("c", "me", here=False)
    leases.free("a")
    leases.check("c", "me", here=False)


def test_a_caller_runs_no_more_robots_than_one_caller_may() -> None:
    leases = Leases(most=10, most_each=2)
    for robot in "ab":
        leases.check(robot, "greedy", here=False)
        leases.take(robot, "greedy")
    with pytest.raises(LimitReached, match=r"greedy runs as many robots as one caller may \(2\)"):
        leases.check("c", "greedy", here=False)
    leases.check("c", "other", here=False)
    leases.free("ab")
    leases.free("ab")
    for robot in "ab":
        leases.check(robot, "greedy", here=False)
        leases.take(robot, "greedy")
    with pytest.raises(LimitReached):
        leases.check("c", "greedy", here=False)


def test_once_closed_none_begins_and_those_that_run_are_still_known() -> None:
    leases = Leases()
    leases.take("a", "me")
    leases.close()
    with pytest.raises(ServerStopping, match="takes no new runs"):
        leases.check("b", "me", here=False)
    with pytest.raises(RobotLeased):
        leases.check("a", "me", here=False)
    leases.free("a")
    assert len(leases) == 0
