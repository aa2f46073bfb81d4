"""The hard protocol: what each condition does, whoever acts."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from rpl_runtime.cli.app import app
from rpl_runtime.client.client import Client
from rpl_runtime.client.control import Control, Rows
from rpl_runtime.errors import InvalidGoal, InvalidInput
from rpl_runtime.evaluation.protocol import (
    Hardship,
    Moment,
    Outcome,
    ProtocolConfig,
    conditions_of,
    hazards_of,
    run_protocol,
)
from rpl_runtime.evaluation.protocol_results import content_of, draw_protocol, summarized, table_rows, wilson
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.relay.messages import (
    Action,
    Finish,
    Finished,
    GoalSet,
    ModelInfo,
    Observation,
    Reply,
    SetGoal,
    Start,
    Started,
    valid_until_ns,
)
from rpl_runtime.robots.kitchen.task import KITCHEN
from rpl_runtime.server.server import serve_in_thread
from rpl_runtime.tasks.kitchen.disturbances import with_elements
from rpl_runtime.tasks.kitchen.elements import ELEMENTS, PERIOD, compound_goal, kitchen_spec
from rpl_runtime.tasks.kitchen.simulator import NOMINAL, clip_target, open_kitchen
from rpl_runtime.tasks.task import Task

SPEC = kitchen_spec("kitchen")


class Still:
    """A `Line` to a policy that holds the arm where it is, and keeps what it was asked for."""

    def __init__(self, heard: list[object]) -> None:
        self._heard = heard

    def exchange(self, rows: Rows) -> list[Reply]:
        [(_, request)] = rows
        match request:
            case Start():
                self._heard.append(request.goal)
                return [Started(SPEC.resolve(["kettle"], request.state), "", PERIOD, SPEC.horizon)]
            case SetGoal():
                self._heard.append(request.goal)
                return [GoalSet(SPEC.resolve(["kettle"], request.state))]
            case Observation():
                until_ns = valid_until_ns(request.observed_ns, round(PERIOD * 1e9))
                return [Action(clip_target(request.state[:9]), request.state, 0, False, until_ns)]
            case Finish():
                return [Finished(0)]

    def close(self) -> None:
        pass


def still(
    hardship: Hardship, episodes: int = 1, task: Task = KITCHEN, on_moment: Callable[[Moment], None] | None = None
) -> tuple[list[Outcome], list[object]]:
    """The outcomes of a condition under a policy that holds still, and the goals that it was given."""
    heard: list[object] = []
    model = ModelInfo(SPEC, "", 1, {})
    config = ProtocolConfig(episodes, jobs=1)
    control = partial(Control, model, Still(heard))
    outcomes = run_protocol(
        task, control, lambda robot: lambda: None, {"it": hardship}, config, {}, on_moment=on_moment
    )
    return outcomes, heard


@pytest.fixture(scope="module")
def rest() -> np.ndarray:
    with open_kitchen() as kitchen:
        return kitchen.qpos


def test_what_is_done_at_the_last_step_counts_and_nothing_else(rest: np.ndarray) -> None:
    """A policy that does nothing succeeds where everything is done, and fails where one element is not."""
    finished = tuple(with_elements(rest, ("microwave", "kettle")).tolist())
    done, _ = still(Hardship(("mk",), steps=5, start_from=(finished,)))
    half, _ = still(Hardship(("mks",), steps=5, start_from=(finished,)))
    assert (done[0].reached, half[0].reached) == (1, 0)
    assert half[0].goals == ((("microwave", "kettle", "slide cabinet"), ("microwave", "kettle")),)


def test_a_second_goal_names_what_is_open(rest: np.ndarray) -> None:
    finished = tuple(with_elements(rest, compound_goal("mkbt")).tolist())
    [outcome], heard = still(Hardship(("mkbt",), steps=4, second=True, start_from=(finished,)))
    assert heard == [compound_goal("mkbt"), compound_goal("lsh")]
    assert outcome.steps == 8
    assert outcome.goals == ((compound_goal("mkbt"), compound_goal("mkbt")), (compound_goal("lsh"), ()))
    assert summarized([outcome])["it"]["reached"] == 0  # only the second goal counts


def test_a_swapped_goal_names_what_the_first_did_not() -> None:
    [outcome], heard = still(Hardship(("mkbs",), steps=6, swap_at=3))
    assert heard == [compound_goal("mkbs"), ("top burner", "light switch", "hinge cabinet")]
    assert outcome.goals == ((("top burner", "light switch", "hinge cabinet"), ()),)
    assert outcome.steps == 6


@pytest.mark.parametrize("letter", "mkbtlsh")
def test_an_undo_asks_for_the_whole_start(letter: str) -> None:
    """The element is done at the start, the goal has it back; to do nothing is to fail."""
    [outcome], [goal] = still(Hardship((letter,), steps=4, undo=True, start=NOMINAL))
    [name] = compound_goal(letter)
    assert isinstance(goal, np.ndarray)
    assert not ELEMENTS[name].is_done(goal)
    assert outcome.goals == (((name,), ()),)


def test_a_whole_goal_is_a_state_with_the_elements_done() -> None:
    _, [goal] = still(Hardship(("btlh",), steps=2, whole=True))
    assert isinstance(goal, np.ndarray)
    assert SPEC.done(goal) == set(compound_goal("btlh"))


def test_a_goal_state_that_the_kitchen_cannot_reach_is_refused(rest: np.ndarray) -> None:
    wall = rest.copy()
    wall[24] = 1.3
    with pytest.raises(InvalidGoal, match="kettle_y"):
        still(Hardship(steps=2, goal_state=tuple(wall.tolist())))


def test_a_shift_is_goals_forward_and_back_each_with_its_time() -> None:
    hurried = replace(KITCHEN, hazards=replace(hazards_of(KITCHEN), steps_an_element=10))
    [outcome], heard = still(Hardship(("m",), shift=3), task=hurried)
    assert len(heard) == len(outcome.goals) == 3
    assert outcome.steps == 10 * sum(len(named) for named, _ in outcome.goals)
    assert all(1 <= len(named) <= 3 for named, _ in outcome.goals)
    assert heard[0] == outcome.goals[0][0]  # nothing is done yet, so the first goal goes forward


class Acts:
    """A disturbance that says that it acts, and does nothing."""

    def __init__(self, name: str) -> None:
        self.name, self.redrawn = name, Counter[str]()

    def act(self, step: int, done: frozenset[str]) -> bool:
        return True


@pytest.mark.parametrize(("put_back", "kinds"), [(None, {"jolt", "push"}), (5, {"jolt", "push", "put-back"})])
def test_a_shift_has_the_disturbances_that_are_asked_for_and_moments_name_them(
    put_back: int | None, kinds: set[str]
) -> None:
    named = {name.replace("-", "_"): lambda *_, name=name: Acts(name) for name in ("jolt", "push", "put-back")}
    hurried = replace(KITCHEN, hazards=replace(hazards_of(KITCHEN), steps_an_element=2, **named))
    moments: list[Moment] = []
    [outcome], _ = still(Hardship(("m",), shift=12, put_back=put_back), task=hurried, on_moment=moments.append)
    assert len(moments) == outcome.steps
    assert {what for moment in moments for what in moment.happens} == kinds
    assert len(moments[-1].happens) == 12  # one for each goal
    assert tuple(dict.fromkeys(moment.named for moment in moments)) == tuple(
        dict.fromkeys(named for named, _ in outcome.goals)
    )


def test_conditions_that_exclude_each_other_are_refused() -> None:
    for wrong in ({"second": True, "shift": 2}, {"jolt": -1.0}, {"steps": 0}, {"undo": True, "whole": True}):
        with pytest.raises(InvalidInput, match="must be"):
            Hardship(**wrong)


def test_episodes_do_not_depend_on_what_runs_beside_them_and_go_on_where_they_stopped(
    kitchen_bundle: Bundle, tmp_path: Path
) -> None:
    short = {
        "jolted": Hardship(("mkbs", "kbts"), steps=12, jolt=0.2, jolt_at=(3,)),
        "pushed": Hardship(("k",), steps=12, push=0.05, push_at=(2,)),
    }
    journal = tmp_path / "episodes.jsonl"

    def stop(outcome: Outcome) -> None:
        raise InterruptedError

    with serve_in_thread(kitchen_bundle) as address, Client(address) as client:

        def ran(jobs: int, on_outcome: Callable[[Outcome], None] = lambda outcome: None, **more) -> list[Outcome]:
            config = ProtocolConfig(2, jobs=jobs)
            return run_protocol(
                KITCHEN, client.control, lambda robot: lambda: None, short, config, **more, on_outcome=on_outcome
            )

        alone = ran(1, identity={})
        assert ran(2, identity={}) == alone
        with pytest.raises(InterruptedError):
            ran(1, stop, identity={"policy": 1}, journal=journal)
        assert len(journal.read_text().splitlines()) == 2
        assert ran(1, identity={"policy": 1}, journal=journal) == alone
        with pytest.raises(InvalidInput, match="policy"):
            ran(1, identity={"policy": 2}, journal=journal)
    assert {outcome.condition for outcome in alone} == set(short)


def test_the_interval_is_wilsons() -> None:
    """Values of the score interval from Brown, Cai and DasGupta's formula, by hand."""
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(17, 17) == pytest.approx((0.8157, 1.0), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_several_systems_are_one_table_and_one_picture(tmp_path: Path) -> None:
    made, _ = still(Hardship(("m",), steps=2), episodes=2)
    config = ProtocolConfig(2)
    hardships = {"it": Hardship(("m",))}
    contents = [content_of(name, "", hardships, config, KITCHEN, False, made) for name in ("one", "other")]
    assert json.loads(json.dumps(contents[0]))["conditions"]["it"]["asked"] == 2
    headings, rows = table_rows(contents)
    assert headings == ["condition", "one", "other"]
    assert rows == [["it", "0/2, 0% (0%–66%)", "0/2, 0% (0%–66%)"]]
    draw_protocol(contents, tmp_path / "hard.png")
    assert (tmp_path / "hard.png").stat().st_size > 1000


def test_the_command_runs_a_condition_of_ones_own_and_writes_it(kitchen_bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["evaluate", str(kitchen_bundle.path), "--episodes", "1", "--jobs", "1", "--output", str(out)]
    ran = CliRunner().invoke(app, [*command, "--goals", "k", "--steps", "5", "--push", "0.05", "--push-at", "1"])
    assert ran.exit_code == 0, ran.output
    content = json.loads((out / "hard.json").read_text())
    assert content["conditions"]["as asked"]["asked"] == 1
    assert content["protocol"]["conditions"]["as asked"]["push"] == 0.05
    assert (out / "hard.png").exists()
    beside = CliRunner().invoke(
        app, [*command[:-2], "--goals", "k", "--steps", "5", "--jolt", "0.1", "--beside", str(out / "hard.json")]
    )
    assert beside.exit_code == 0, beside.output
    assert beside.stdout.count("as asked") == 1


def test_a_condition_is_filmed(kitchen_bundle: Bundle, tmp_path: Path) -> None:
    """Five steps and a tile for the one subgoal and one for the end; of the moving picture every fourth step."""
    film, sheet = tmp_path / "film.webp", tmp_path / "sheet.png"
    command = ["evaluate", str(kitchen_bundle.path), "--episodes", "1", "--jobs", "1", "--goals", "k", "--steps", "5"]
    ran = CliRunner().invoke(app, [*command, "--jolt", "0.1", "--video", str(film), "--sheet", str(sheet)])
    if "apt-get" in ran.stderr:
        pytest.skip(ran.stderr)
    assert ran.exit_code == 0, ran.output
    with Image.open(film) as picture, Image.open(sheet) as tiles:
        assert (picture.n_frames, picture.info["loop"]) == (2, 0)
        assert tiles.size == (4 * picture.width, picture.height)


def test_a_film_that_cannot_be_made_loses_no_result(
    kitchen_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, out = tmp_path / "film.webp", tmp_path / "out"
    command = ["evaluate", str(kitchen_bundle.path), "--episodes", "1", "--jobs", "1", "--goals", "k", "--steps", "2"]
    command += ["--jolt", "0.1", "--video", str(video), "--output", str(out)]
    monkeypatch.setenv("MUJOCO_GL", "none")  # draws nothing
    blind = CliRunner().invoke(app, command)
    assert (blind.exit_code, "no video: " in blind.stderr, video.exists()) == (0, True, False)
    assert (out / "hard.json").exists()
    (out / "hard.json").unlink()
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setattr("rpl_runtime.evaluation.figures.check_place", lambda path: None)  # it was free before the work
    video.mkdir()  # a folder where the file should go
    full = CliRunner().invoke(app, command)
    if "apt-get" not in full.stderr:
        assert (full.exit_code, f"{video} was not written" in full.stderr) == (1, True)
    assert (out / "hard.json").exists()


def test_a_condition_that_is_not_there_is_one_sentence(kitchen_bundle: Bundle) -> None:
    ran = CliRunner().invoke(app, ["evaluate", str(kitchen_bundle.path), "--protocol", "hard", "--condition", "rain"])
    assert isinstance(ran.exception, InvalidInput)
    assert "start far away" in str(ran.exception)


def test_every_condition_of_the_protocol_has_goals_and_can_be_written() -> None:
    for name, hardship in conditions_of(KITCHEN).items():
        goals = [goal for text in hardship.goals for goal in KITCHEN.parse_goals(text)]
        assert goals, name
        assert json.dumps(asdict(hardship))


def test_a_task_without_hazards_has_no_hard_protocol() -> None:
    with pytest.raises(InvalidInput, match="kitchen has no hard protocol; its Task must say its hazards"):
        still(Hardship(), task=replace(KITCHEN, hazards=None))
