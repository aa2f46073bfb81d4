"""Dataset aggregation on the drawers: what each round works, what it learns from, and from which weights it goes on."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import drawers
from demonstrations import drawer_demonstrations
from rpl_runtime.errors import InvalidInput
from rpl_runtime.tasks import Scripted, Task
from rpl_runtime.tasks.task import Driver, Shift, ShiftGoal, World
from rpl_train.data.recordings import load_demonstrations
from rpl_train.data.trajectory import load_folder, save
from rpl_train.imitate import ImitateConfig, imitate
from rpl_train.networks import NetworkConfig
from rpl_train.play import PlayConfig
from rpl_train.runs import TrainedRun, load_run, weights_digest
from rpl_train.shifts.aggregate import AggregateConfig, aggregate

SMALL = NetworkConfig((8,), (8,))
PLAY = PlayConfig(seed=5)
CONFIG = AggregateConfig(
    rounds=2, first=3, shifts=2, last=7, imitate=ImitateConfig(steps=4, batch=16, jobs=1, pool=drawers.POOL)
)


@dataclass(frozen=True)
class InShifts(Scripted):
    """Pulls both drawers in a shift of one goal; a driver has the first six steps of it."""

    def work_shift(self, task: Task, world: World, seed: int, index: int, driver: Driver | None = None) -> Shift:
        alone = None
        if driver is not None:
            state = task.reset(world, index, "beside")
            driver.begin(task.spec.resolve(drawers.GOAL, state))
            for _ in range(6):
                state = world.step(driver.act(state))
            alone = index == 0
        performed = self.perform(task, world, seed, index)
        left = drawers.GOAL[:1] if index == 2 else ()
        return Shift((performed,), (ShiftGoal(drawers.GOAL, False, len(performed.states), left, alone),))


TASK = replace(drawers.TASK, demonstrator=InShifts(script=drawers.pull, elements=drawers.GOAL))
Report = tuple[int, str, int, int]


class Aggregated(NamedTuple):
    folder: Path  # with the demonstrations, the initial run and the rounds
    trained: TrainedRun
    reports: list[Report]


def work(folder: Path, config: AggregateConfig = CONFIG, progress: Callable[..., None] = lambda *_: None) -> TrainedRun:
    """Train in rounds from a folder's demonstrations and its initial run."""
    return aggregate(TASK, [folder / "taught"], folder / "run", PLAY, config, folder / "initial", progress)


def prepare(folder: Path) -> Path:
    for number, each in enumerate(drawer_demonstrations(3).trajectories):
        save(each, folder / "taught" / f"{number}.npz")
    drawers.imitated(folder / "initial", 2, SMALL)
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Aggregated:
    """Three rounds, which nothing interrupted."""
    folder, reports = prepare(tmp_path_factory.mktemp("aggregate")), list[Report]()
    return Aggregated(folder, work(folder, progress=lambda *report: reports.append(report)), reports)


def digests(folder: Path, rounds: int = 3) -> list[str]:
    return [weights_digest(load_run(folder / "run" / f"round-{number}").policy) for number in range(rounds)]


def test_each_round_learns_from_all_so_far_on_from_the_weights_of_the_one_before(done: Aggregated, tmp_path: Path):
    """The last one for longer. Weights are those of an imitation of the same data from the same weights."""
    run, before, expected = done.folder / "run", done.folder / "initial", []
    for number, steps in enumerate((4, 4, 7)):
        paths = [done.folder / "taught", *(run / f"shifts-{each}" for each in range(number + 1))]
        learning = replace(CONFIG.imitate, networks=SMALL, steps=steps)
        alone = imitate(
            *(load_demonstrations(paths, TASK), TASK, tmp_path / str(number), learning, lambda *_: None, before)
        )
        expected.append(weights_digest(alone.policy))
        before = run / f"round-{number}"
    assert digests(done.folder) == expected
    assert weights_digest(done.trained.policy) == expected[-1]
    assert len(set(expected)) == 3


def test_each_round_works_shifts_of_its_own_and_is_driven_by_the_policy_of_the_one_before(done: Aggregated):
    folders = [done.folder / "run" / f"shifts-{number}" for number in range(3)]
    settings = [json.loads((folder / "play.json").read_text()) for folder in folders]
    assert [each["seed"] for each in settings] == [5, 6, 7]
    assert [each.get("driver") for each in settings] == [None, *digests(done.folder, 2)]
    assert [len(list(folder.glob("shift-*.json"))) for folder in folders] == [3, 2, 2]
    first = [load_folder(folder)[0].states for folder in folders]
    assert not any(np.array_equal(first[one], first[other]) for one, other in ((0, 1), (0, 2), (1, 2)))


def test_the_curve_says_how_many_goals_the_policy_of_the_round_before_reached(done: Aggregated):
    curve = json.loads((done.folder / "run" / "curve.json").read_text())
    driven = {"reached alone": 0.5, "works": 4, "finished": 1.0}
    assert curve[0] == {"round": 0, "reached alone": None, "works": 6, "finished": pytest.approx(5 / 6)}
    assert curve[1:] == [{"round": 1, **driven}, {"round": 2, **driven}]


def test_every_stage_reports_how_far_it_is(done: Aggregated):
    last = {(number, what): (finished, total) for number, what, finished, total in done.reports}
    assert last == {
        (number, what): (total, total)
        for number, shifts, steps in ((0, 3, 4), (1, 2, 4), (2, 2, 7))
        for what, total in (("shifts", shifts), ("high level", steps), ("low level", steps))
    }


def test_a_broken_aggregation_ends_in_the_same_weights_and_curve(done: Aggregated, tmp_path: Path):
    class Break(Exception):
        pass

    def break_at(*stage: object) -> Callable[..., None]:
        def progress(*report: object) -> None:
            if report[:3] == stage:
                raise Break

        return progress

    prepare(tmp_path)
    for stage in ((0, "high level", 4), (1, "shifts", 1), (2, "low level", 7)):
        with pytest.raises(Break):
            work(tmp_path, progress=break_at(*stage))
    work(tmp_path)
    assert digests(tmp_path) == digests(done.folder)
    whole, broken = ((folder / "run" / "curve.json").read_text() for folder in (done.folder, tmp_path))
    assert whole == broken


def test_without_later_rounds_the_first_is_the_last(tmp_path: Path):
    record = work(prepare(tmp_path), replace(CONFIG, rounds=0)).record
    assert record.provenance.settings["steps"] == CONFIG.last
    assert [source["name"] for source in record.provenance.data] == ["taught", "shifts-0"]
    assert not (tmp_path / "run" / "shifts-1").exists()


def test_a_task_whose_demonstrator_works_no_shifts_is_refused(done: Aggregated, tmp_path: Path):
    with pytest.raises(InvalidInput, match="drawers has no demonstrator that works in shifts"):
        aggregate(drawers.TASK, [done.folder / "taught"], tmp_path, PLAY, CONFIG, done.folder / "initial")


@pytest.mark.parametrize("setting", [{"rounds": -1}, {"first": 0}, {"shifts": 0}, {"last": 0}, {"last": 1_000_001}])
def test_a_number_out_of_range_is_named(setting: dict[str, int]):
    with pytest.raises(InvalidInput, match=f"{next(iter(setting))} of aggregation is"):
        replace(CONFIG, **setting)
