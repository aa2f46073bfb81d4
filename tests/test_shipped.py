"""The shipped policies: where one came from, and that they do a compound goal, and goal after goal."""

import re
from contextlib import closing
from pathlib import Path

from rpl_runtime.client.admin import Admin
from rpl_runtime.client.client import Client
from rpl_runtime.loop.lockstep import run
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.relay.run import RunConfig
from rpl_runtime.robots.kitchen.task import KITCHEN
from rpl_runtime.robots.simulated import SimulatedRobot
from rpl_runtime.server.subprocess import serve_in_process
from rpl_runtime.tasks.kitchen.elements import PAPER_GOALS, compound_goal
from rpl_train.runs import weights_digest
from rpl_train.specialists import load_specialists

ROOT = Path(__file__).parent.parent
MODELS = ROOT / "models"
NAMED = ("microwave", "light switch", "top burner", "kettle")


def test_the_manifest_names_the_specialists_that_are_kept() -> None:
    family = load_specialists(MODELS / "relay-specialists.safetensors")
    named = load_bundle(MODELS / "relay").manifest.provenance.settings["specialists"]
    kept = {goal: weights_digest(trained.policy) for goal, trained in family.specialists.items()}
    assert kept == {goal: teacher["weights"] for goal, teacher in named.items()}
    assert set(kept) == set(PAPER_GOALS)


def test_it_completes_four_subtasks_in_one_episode() -> None:
    """A server in a process of its own, the simulated kitchen, and the 280 steps of an episode; it needs about 180."""
    goal = compound_goal("ktls")
    with (
        closing(SimulatedRobot(KITCHEN)) as robot,
        serve_in_process(MODELS / "kitchen") as address,
        Client(address) as client,
        client.control() as control,
    ):
        result = run(robot, control, RunConfig(goal, steps=280))
    assert result.done_at_end == set(goal)
    assert max(result.first_done(element) or 280 for element in goal) < 250


def test_the_policy_that_make_view_runs_does_goals_that_are_named_later() -> None:
    """As somebody does it in the page: another element is added to the goal when the last one is done."""
    [bundle] = re.findall(r"rpl run --bundle (\S+) --goal microwave .*--view", (ROOT / "Makefile").read_text())
    with (
        closing(SimulatedRobot(KITCHEN)) as robot,
        serve_in_process(ROOT / bundle) as address,
        Client(address) as client,
        Admin(address) as admin,
        client.control() as control,
    ):
        robot.reset(0)
        state, step = robot.observe(), 0
        control.start("arm", NAMED[:1], state)
        for named in range(1, len(NAMED) + 1):
            if named > 1:
                admin.set_goal("arm", NAMED[:named])
            last = step + 150  # [steps] 12 s; most take less than 6 s
            while not robot.done().issuperset(NAMED[:named]):
                assert step < last, f"{NAMED[:named]}: only {sorted(robot.done())} are done"
                robot.apply(control.step("arm", step, state).target)
                state, step = robot.observe(), step + 1
