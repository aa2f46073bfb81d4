"""The scripted demonstrator as a pilot: it takes a robot over when it should, finishes an element, and hands back."""

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from rpl_runtime.client.client import Client
from rpl_runtime.loop.lockstep import run
from rpl_runtime.loop.pilot import Between, Pilot, Seen, load_pilot
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.policy.spec import ResolvedGoal
from rpl_runtime.relay.run import RunConfig, RunResult
from rpl_runtime.robots.kitchen.task import KITCHEN
from rpl_runtime.robots.simulated import SimulatedRobot
from rpl_runtime.server.server import serve_in_thread
from rpl_runtime.tasks.kitchen.elements import ELEMENTS
from rpl_runtime.tasks.kitchen.simulator import open_kitchen
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


def test_what_was_put_back_and_is_done_again_is_progress() -> None:
    pilot = KitchenPilot(stall=10)
    [door] = ELEMENTS["microwave"].dims
    state = np.zeros(30)
    goal = SPEC.resolve(GOAL, state)
    ways = [np.linspace(0.0, -0.75, 20), np.linspace(-0.75, 0.0, 5), np.linspace(0.0, -0.75, 20), np.full(10, -0.75)]
    told = []
    for step, place in enumerate(np.concatenate(ways)):
        state[door] = place
        told.append(pilot.takes_over(Seen(step, state.copy(), goal, 0.0, True, None, SPEC.action.bounds)))
    assert told[:-2] == [None] * 53  # and then ten steps at rest, with the light left
    assert told[-1] is not None


ALONE = ["bottom burner", "light switch", "slide cabinet"]  # what is left when the kettle is done
LEFT = {  # arm, fingers, doors and kettle where models/relay asked for help from wide starts, the kettle on its way
    "hangs on a finger": (
        (-1.28, -1.674, 1.592, -1.715, -0.896, 1.794, 2.419, 0.012, 0.0),
        (-0.441, 0.449, 1.822, 0.949, -0.221, -0.197, 0.106),
    ),
    "holds the hand in its handle": (
        (-1.059, -1.759, 1.961, -1.882, -0.233, 1.199, 2.187, 0.0, 0.001),
        (-0.42, 0.444, 1.631, 0.954, -0.022, 0.002, -0.298),
    ),
    "stands twisted": (
        (-1.658, -1.716, 1.811, -1.509, -0.805, 1.03, 2.458, 0.007, 0.006),
        (-0.214, 0.599, 1.62, 0.929, 0.001, -0.003, -0.369),
    ),
}


@pytest.mark.parametrize("where", LEFT)
def test_it_takes_a_kettle_from_where_a_policy_got_stuck_with_it(where: str) -> None:
    pilot = KitchenPilot()
    with open_kitchen() as kitchen:
        qpos = kitchen.reset(seed=0) * 1.0
        qpos[:9], qpos[23:30] = LEFT[where]
        state = kitchen.restore(qpos, seed=0)
        goal = SPEC.resolve(["kettle", *ALONE], state)
        seen = Seen(100, state, goal, None, True, None, SPEC.action.bounds)
        while (target := pilot.target(seen)) is not None:
            assert seen.step < 190, f"it still works on a kettle that {where}"
            seen = seen._replace(step=seen.step + 1, state=kitchen.step(target))
        assert kitchen.done() == {"kettle"}
