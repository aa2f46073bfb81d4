"""The planner from words: sentences that it takes and those that it refuses with a reason, and a run in the kitchen."""

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from examples.words import WordsPlanner, elements_of
from processes import started
from rpl_runtime.client.client import Client
from rpl_runtime.errors import InvalidGoal
from rpl_runtime.loop.lockstep import run
from rpl_runtime.planning.planning import PlanningConfig
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.policy.trial import open_policy
from rpl_runtime.relay.plans import Question, Source
from rpl_runtime.relay.run import RunConfig, Step
from rpl_runtime.robots.kitchen.task import KITCHEN
from rpl_runtime.robots.simulated import SimulatedRobot
from rpl_runtime.server.server import ServerConfig, serve_in_thread
from rpl_runtime.tasks.kitchen.elements import compound_goal, kitchen_spec

ROOT = Path(__file__).parent.parent
SPEC = kitchen_spec("kitchen")

# Sentence -> the initials of its elements, in their sequence.
TAKEN = {
    "open the microwave": "m",
    "Open the microwave.": "m",
    "open the microwave door": "m",
    "please open the microwave": "m",
    "pull open the microwave": "m",
    "pull the microwave open": "m",
    "could you open the microwave?": "m",
    "put the kettle on the back burner": "k",
    "move the kettle to the back left burner": "k",
    "place the kettle onto the top burner": "k",
    "bring the tea kettle to the back": "k",
    "push the pot onto the rear plate": "k",
    "turn on the light": "l",
    "turn the light on": "l",
    "switch on the lamp": "l",
    "switch the light on, please": "l",
    "flip the light switch": "l",
    "turn on the bottom burner": "b",
    "turn the bottom burner on": "b",
    "turn on the front burner": "b",
    "light the lower burner": "b",
    "switch on the top burner": "t",
    "turn the back burner on": "t",
    "turn on the upper hob": "t",
    "turn on both burners": "bt",
    "turn the two burners on": "bt",
    "open the slide cabinet": "s",
    "slide open the sliding cupboard": "s",
    "slide the sliding door open": "s",
    "open the sliding cabinet door": "s",
    "open the hinge cabinet": "h",
    "swing open the hinged cupboard": "h",
    "open both cabinets": "sh",
    "open the cupboards": "sh",
    "open the microwave and put the kettle on the back burner": "mk",
    "open the microwave, then put the kettle on the back burner": "mk",
    "open the microwave, then put the kettle on the back burner and turn the light on": "mkl",
    "put the kettle on the back burner, then open the microwave": "km",
    "turn on the light; open the slide cabinet": "ls",
    "turn on the light. Then open the slide cabinet.": "ls",
    "first open the microwave, then turn on the top burner, and finally open the hinge cabinet": "mth",
    "firstly turn on the bottom burner, secondly switch the light on": "bl",
    "open the microwave and the slide cabinet": "ms",
    "open the microwave, the slide cabinet and the hinge cabinet": "msh",
    "turn on the bottom burner and the light": "bl",
    "turn on the bottom burner, the top burner and the lamp": "btl",
    "before you open the microwave, turn on the light": "lm",
    "open the slide cabinet before opening the hinge cabinet": "sh",
    "open the slide cabinet after opening the hinge cabinet": "hs",
    "after opening the microwave, put the kettle on the back burner": "mk",
    "after turning on the light, open the slide cabinet": "ls",
    "open the microwave; after that, turn on the bottom burner": "mb",
    "open the microwave and then turn the bottom burner on and then open the slide cabinet": "mbs",
    "Would you please turn on the light": "l",
    "I want you to open the hinge cabinet": "h",
    "now turn on the light and open the microwave": "lm",
    "open the oven": "m",
    "set the kettle on the rear burner, switch on the light, then slide open the slide cabinet": "kls",
    "put the kettle on the back burner, turn on both burners": "kbt",
    "open the microwave, put the kettle on the back burner, turn on the bottom burner, open the slide cabinet": "mkbs",
}
# Sentence -> words of the reason.
REFUSED = {
    "": "is empty",
    "please": "names nothing|is empty",
    "  ...  ": "is empty",
    "open the toaster": "names nothing that is known",
    "make tea": "names nothing that is known",
    "open the window and turn on the light": "names nothing that is known",
    "turn on the radio": "names nothing that is known",
    "dance": "names nothing that is known",
    "microwave": "asks to do nothing with the microwave; must be to open it",
    "the kettle": "names no place|do nothing with the kettle",
    "turn on the microwave": "asks to turn on the microwave; must be to open it",
    "open the light": "asks to open the light switch; must be to turn on it",
    "open the bottom burner": "asks to open the bottom burner; must be to turn on it",
    "put the microwave on the back burner": "asks to put the microwave; must be to open it",
    "open the kettle": "asks to open the kettle; must be to put it",
    "turn on the slide cabinet": "must be to open it",
    "close the microwave": "undoes something",
    "shut the hinge cabinet": "undoes something",
    "turn off the light": "undoes something",
    "turn the light off": "undoes something",
    "take the kettle off the stove": "undoes something",
    "open the microwave, then close the microwave": "undoes something",
    "open the cabinet": "can be read in two ways; must name the slide cabinet or the hinge cabinet",
    "turn on the burner": "can be read in two ways; must name the bottom burner or the top burner",
    "open the door": "can be read in two ways",
    "put the kettle on the front burner": "not a place of the kettle",
    "put the kettle in the microwave": "not a place of the kettle",
    "put the kettle on the floor": "not a place of the kettle",
    "move the kettle": "names no place",
    "open the microwave twice": "asks for a repetition",
    "open the microwave and open the microwave": "names the microwave twice",
    "turn on both burners and the top burner": "names the top burner twice",
    "turn on the light, then open the slide cabinet, then turn the light on again": "asks for a repetition",
    "don't open the microwave": "forbids something",
    "open everything except the microwave": "forbids something",
    "open the microwave or the slide cabinet": "leaves a choice",
    "if the light is on, open the microwave": "depends on a condition",
    "open the microwave when the kettle boils": "depends on a condition",
    "what is in the microwave?": "is a question",
    "open the m\u0131crowave": "names nothing that is known",
}


def test_the_suite_has_sixty_to_take_and_forty_to_refuse() -> None:
    assert (len(TAKEN), len(REFUSED)) == (60, 40)


@pytest.mark.parametrize(("order", "initials"), TAKEN.items())
def test_an_order_becomes_elements_in_its_sequence(order: str, initials: str) -> None:
    assert elements_of(order, SPEC) == compound_goal(initials)


@pytest.mark.parametrize(("order", "reason"), REFUSED.items())
def test_an_order_that_cannot_be_followed_is_refused_with_a_reason(order: str, reason: str) -> None:
    with pytest.raises(InvalidGoal, match=f"the order .* is refused: .*({reason})"):
        elements_of(order, SPEC)


@pytest.fixture(scope="module")
def planner() -> WordsPlanner:
    return WordsPlanner(
        open_policy(load_bundle(ROOT / "models" / "kitchen")), "open the microwave and turn on the light"
    )


def question(planner: WordsPlanner, **done: float) -> Question:
    """Of a run whose goal is the planner's order, with some dimensions of the state changed."""
    state = np.clip(np.zeros(30, np.float32), *SPEC.state.bounds)
    for name, value in done.items():
        state[SPEC.state.names.index(name)] = value
    return Question("a", 0, state, SPEC.resolve(planner.elements, state), None, np.zeros(30, np.float32))


def test_the_next_element_is_the_first_that_is_not_done(planner: WordsPlanner) -> None:
    assert planner.next_elements(question(planner).state) == ("microwave",)
    for done in ({"microwave_door": -0.75}, {"microwave_door": -0.75, "light_switch": -0.69, "light": -0.05}):
        assert planner.next_elements(question(planner, **done).state) == ("microwave", "light switch")


def test_a_run_with_another_goal_than_the_order_is_refused(planner: WordsPlanner) -> None:
    asked = question(planner)
    with pytest.raises(InvalidGoal, match="the run's goal lacks light switch, which the order names"):
        planner.plan(asked._replace(goal=SPEC.resolve(["microwave"], asked.state)), 1.0)


def test_a_policy_without_an_element_is_told() -> None:
    elements = {name: element for name, element in SPEC.elements.items() if name != "kettle"}
    less = PolicySpec.model_validate(SPEC.model_dump() | {"elements": elements, "library": {}})
    with pytest.raises(InvalidGoal, match="kitchen has no kettle; it has microwave, "):
        elements_of("put the kettle on the back burner", less)


def test_an_order_is_followed_in_the_kitchen_by_a_planner_in_another_process(grpc_aio: None) -> None:
    bundle = ROOT / "models" / "kitchen"
    order = "open the microwave, then put the kettle on the back burner and turn the light on"
    command = [sys.executable, "examples/words.py", str(bundle), order, "--address", "127.0.0.1:0"]
    with started(command, cwd=ROOT) as process:
        assert process.stdout is not None
        said, _, address = process.stdout.readline().rpartition(" at ")
        assert said == "microwave, then kettle, then light switch: rpl.v1.Planner"
        config = ServerConfig(address="127.0.0.1:0", planning=PlanningConfig(address.strip(), deadline_s=30.0))
        with (
            serve_in_thread(load_bundle(bundle), config) as server,
            Client(server) as client,
            client.control() as control,
            closing(SimulatedRobot(KITCHEN)) as robot,
        ):
            steps: list[Step] = []
            run(robot, control, RunConfig(("microwave", "kettle", "light switch"), steps=280), steps.append)
    done = [next((step.step for step in steps if name in step.done), None) for name in compound_goal("mkl")]
    assert None not in done
    assert done == sorted(done)
    planned = [step.action.origin for step in steps if step.action.replanned]
    assert [origin and (origin.source, origin.waited) for origin in planned] == [(Source.PLANNER, 0)] * len(planned)


def test_the_example_refuses_an_order_in_one_sentence() -> None:
    command = [sys.executable, "examples/words.py", "models/kitchen", "open the cabinet"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert ended.stderr == (
        "the order 'open the cabinet' is refused: 'open the cabinet' can be read in two ways; must name the slide "
        "cabinet or the hinge cabinet\n"
    )
