"""The scripted demonstrator as a pilot: it takes a robot over when it should, finishes an element, and hands back."""

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from rpl_runtime.client.client import Client
from rpl_runtime.loop.lockstep import run
from rpl_runtime.loop.pilot import Between, Pilot, load_pilot
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.policy.spec import ResolvedGoal
from rpl_runtime.relay.run import RunConfig, RunResult
from rpl_runtime.robots.kitchen.task import KITCHEN
from rpl_runtime.robots.simulated import SimulatedRobot
from rpl_runtime.server.server import serve_in_thread
from rpl_runtime.tasks.kitchen.elements import ELEMENTS
from rpl_train.tasks.kitchen.pilot import KitchenPilot, wanted

SPEC = KITCHEN.spec
GOAL = ("microwave", "light switch")


@pytest.fixture(scope="module")
def address(kitchen_bundle: Bundle) -> Iterator[str]:
    """Of a server with a policy that has learned nothing."""
    with serve_in_thread(kitchen_bundle) as address:
        yield address


def ran(address: str, pilot: Pilot, steps: int) -> RunResult:
    with closing(SimulatedRobot(KITCHEN)) as robot, Client(address) as client, client.control() as control:
        return run(robot, control, RunConfig(GOAL, steps), pilot=pilot)


@pytest.mark.parametrize("elements", [GOAL, ("kettle",), tuple(ELEMENTS)])
def test_the_elements_of_a_goal_are_found_in_it(elements: tuple[str, ...]) -> None:
    start = np.array(SPEC.state.low) / 2 + np.array(SPEC.state.high) / 2
    assert set(wanted(SPEC.resolve(elements, start))) == set(elements)
    assert wanted(ResolvedGoal(start, np.zeros(30))) == ()


def test_it_finishes_an_element_of_the_goal_and_hands_back(address: str) -> None:
    pilot = load_pilot("rpl_train.tasks.kitchen.pilot:demonstrator")
    result = ran(address, Between(pilot, 5, 200), 100)
    hands = np.array([author == "demonstrator" for author in result.authors])
    assert hands[5]
    assert not hands[:5].any()
    back = 5 + int(np.argmin(hands[5:]))  # the first step that is the policy's again
    assert not hands[back:].any()
    assert ELEMENTS["microwave"].distance(result.states[back]) < 0.1
    assert "microwave" in result.ever_done


def test_it_takes_over_by_itself_where_nothing_comes_nearer(address: str) -> None:
    result = ran(address, KitchenPilot(stall=10), 300)
    hands = [author == "demonstrator" for author in result.authors]
    assert hands.index(True) == 10
    assert result.ever_done.issuperset(GOAL)
