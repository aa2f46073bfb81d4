"""What a task promises, on the drawers, and what it says of a task that does not fit together."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import drawers
from drawers import FIRST, GOAL, SECOND, Drawers
from rpl_runtime.errors import InvalidGoal, InvalidInput
from rpl_runtime.evaluation.evaluate import check_policy
from rpl_runtime.robots.degraded import Conditions, DegradedRobot
from rpl_runtime.robots.kitchen.task import KITCHEN
from rpl_runtime.robots.simulated import SimulatedRobot
from rpl_runtime.tasks import DRAWN, Task, load_task


def drawn(**changed: Any) -> Task:
    """The drawers as a task whose world draws its goals."""
    spec = drawers.spec().model_copy(update={"elements": {}, "library": {}})
    given = {"spec": spec, "goals": {}, "groups": {}, "demonstrator": None} | changed
    return replace(drawers.TASK, **given)


class Drawing(Drawers):
    """Drawers whose goal is that the first is open, or what `wanted` says."""

    wanted = (0.0, 1.0, 0.0)

    @property
    def goal(self) -> np.ndarray:  # type: ignore[override]
        return np.array(self.wanted)


def test_goals_are_those_of_the_spec_and_each_element():
    task = drawers.task_of(drawers.spec())
    assert task.goals == {"mk": GOAL, FIRST: (FIRST,), SECOND: (SECOND,)}
    assert task.groups == {"all": ("mk",)}
    assert [goal.name for goal in task.parse_goals("all")] == ["mk"]
    for text in ("mk", "km", f"{SECOND}, {FIRST}"):
        assert task.parse_goal(text) == ("mk", GOAL)


@pytest.mark.parametrize("text", ["", "door", f"{FIRST},door", "mm", f"{FIRST},{FIRST}"])
def test_a_text_that_is_no_goal_is_refused(text: str):
    with pytest.raises(InvalidGoal):
        drawers.TASK.parse_goals(text)


def test_several_goals_are_not_one():
    with pytest.raises(InvalidGoal, match="paper is 17 goals; must be one"):
        KITCHEN.parse_goal("paper")


def test_a_world_without_elements_draws_its_goals():
    task = drawn(open_world=Drawing)
    assert (task.elements, task.goals, task.groups) == ((DRAWN,), {DRAWN: (DRAWN,)}, {"all": (DRAWN,)})
    with closing(task.open()) as world:
        goal = task.resolve((DRAWN,), world, task.reset(world, 3, "beside"))
        assert goal.state.tolist() == [0.0, 1.0, 0.0]
        assert goal.mask.tolist() == [0.0, 1.0, 1.0]  # the spec's goal dimensions
        assert task.distance(DRAWN, world) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"goals": {"both": ("door",)}}, "'door' is not an element"),
        ({"goals": {"a/b": GOAL}}, "the goal 'a/b' needs a plain name"),
        ({"groups": {"all": ("nothing",)}}, "'nothing' is not a goal"),
        ({"subgoal_dims": (3,)}, "subgoal dimension 3 does not exist"),
        ({"episode_steps": 0}, "it needs a start and at least one control step"),
        ({"starts": {}}, "it needs a start and at least one control step"),
    ],
)
def test_a_task_that_does_not_fit_together_is_one_sentence(changed: dict[str, Any], sentence: str):
    with pytest.raises(InvalidInput, match=f"the task drawers does not fit together: {sentence}"):
        replace(drawers.TASK, **changed)


def returning(state: Any) -> Callable[[], Drawers]:
    """A world that shows a state after the first step, whatever it is."""

    class Faulty(Drawers):
        def step(self, target: np.ndarray) -> np.ndarray:
            self.state = np.array(state, np.float32)
            return self.state

    return Faulty


@pytest.mark.parametrize(
    ("state", "sentence"),
    [([0, np.nan, 0], "the world of drawers returned has first_drawer = nan"), ([0, 0], r"has shape \(2,\)")],
)
def test_a_world_that_breaks_off_is_one_sentence(state: list[float], sentence: str):
    with closing(SimulatedRobot(replace(drawers.TASK, open_world=returning(state)))) as robot:
        robot.reset(0)
        robot.apply(np.zeros(1))
        with pytest.raises(InvalidInput, match=sentence):
            robot.observe()


def test_a_world_that_disagrees_with_its_spec_is_refused_when_it_opens():
    class Wide(Drawers):
        def reset(self, seed: int, start: float) -> np.ndarray:
            self.state = np.zeros(4, np.float32)
            return self.state

    with pytest.raises(InvalidInput, match=r"the world of drawers returned has shape \(4,\)"):
        replace(drawers.TASK, open_world=Wide).open()
    with pytest.raises(InvalidInput, match="drew no goal; it must, since the spec has no elements"):
        drawn().open()


def test_a_start_that_is_not_there_is_refused():
    with closing(drawers.TASK.open()) as world, pytest.raises(InvalidInput, match="'far'; drawers has beside"):
        drawers.TASK.reset(world, 0, "far")


def test_conditions_that_a_task_cannot_have_are_refused():
    with closing(SimulatedRobot(drawers.TASK)) as robot:
        with pytest.raises(InvalidInput, match="the robot of drawers has no other limits and no hand"):
            DegradedRobot(robot, Conditions("fr3"))
        with pytest.raises(InvalidInput, match="drawers does not say how its observations degrade"):
            DegradedRobot(robot, Conditions(latency=1))
        assert DegradedRobot(robot, Conditions()).observe().shape == (3,)


def test_a_policy_of_another_task_is_refused():
    with pytest.raises(InvalidInput, match="has a state of 3 dimensions that is not the one of kitchen, 30 dimensions"):
        check_policy(drawers.spec(), KITCHEN)


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("bathroom", r"no task is called 'bathroom'; must be module:factory or one of .*kitchen"),
        ("nowhere.at_all:make", "nowhere.at_all cannot be imported from"),
        ("drawers:build", "drawers has no factory 'build'; it has .*make"),
        ("drawers:spec", "drawers:spec returned PolicySpec; must be a rpl_runtime.tasks.Task"),
    ],
)
def test_a_name_that_leads_to_no_task_is_one_sentence(reference: str, sentence: str):
    with pytest.raises(InvalidInput, match=sentence):
        load_task(reference)


def test_a_task_is_loaded_from_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_drawers.py").write_text("from drawers import TASK\ndef make():\n    return TASK\n")
    monkeypatch.chdir(tmp_path)
    loaded = load_task("my_drawers:make")
    assert (loaded.name, loaded.reference) == ("drawers", "my_drawers:make")
    assert load_task("kitchen").name == "kitchen"
