"""The order of an acceptance: it asks, stops, goes on, and says in its report what it came to."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from browser import open_browser
from rpl_runtime.acceptance.day import accept
from rpl_runtime.acceptance.journal import FILE, Check, Curve, Journal, Picture, Record, Setting, Verdict
from rpl_runtime.acceptance.report import PAGE, page
from rpl_runtime.acceptance.steps import STEPS, AcceptanceStep, Found, Site
from rpl_runtime.cli.app import app
from rpl_runtime.errors import InvalidInput, RobotStopped

SETTING = Setting(
    robot="fr3 at 10.0.0.2",
    workspace=(-0.8, -0.8, 0.0, 0.8, 0.8, 1.1),
    objects="mirror",
    bundle="kitchen",
    digest="0123456789abcdef",
    elements=("kettle",),
)
GOOD = Check(name="standstill after", value=0.4, unit="s", high=0.7)
BAD = Check(name="one command of the hand", value=1.5, unit="s", high=1.2, meaning="the hand is too slow")
PICTURE = Picture(
    title="speed",
    x="time [s]",
    y="[rad/s]",
    curves=(Curve(name="joint", x=(0, 1), y=(0.2, 0)),),
    marks=((0.5, "stop"),),
)


@dataclass
class Day:
    """Three steps, of which the first does not move; `faults` are those that fail, by the name of the step."""

    folder: Path
    faults: dict[str, Check | Exception] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def run(self, may: Callable[[str], bool] = lambda name: True, setting: Setting = SETTING) -> Journal:
        def work(name: str) -> Found:
            self.made.append(name)
            fault = self.faults.get(name, GOOD)
            if isinstance(fault, Exception):
                raise fault
            return Found([fault], {"seen": "<b>"}, [PICTURE])

        def ask(step: AcceptanceStep) -> bool:
            self.asked.append(step.name)
            return may(step.name)

        steps = [
            AcceptanceStep(name, f"does {name}", name != "look", lambda _, name=name: work(name)) for name in NAMES
        ]
        site = cast(Site, _Folder(self.folder))
        self.made, self.asked = [], []
        return accept(site, setting, ask, steps=steps)

    @property
    def written(self) -> dict[str, Any]:
        return json.loads((self.folder / FILE).read_text())


NAMES = ("look", "stop", "go")


@dataclass
class _Folder:
    folder: Path


@pytest.fixture
def day(tmp_path: Path) -> Day:
    return Day(tmp_path / "acceptance")


def heading(folder: Path) -> str:
    [found] = re.findall(r"<h1[^>]*>(.*?)</h1>", (folder / PAGE).read_text())
    return found


def test_a_robot_that_passes_every_step_is_accepted(day: Day) -> None:
    assert day.run().verdict is Verdict.ACCEPTED
    assert day.made == ["look", "stop", "go"]
    assert day.asked == ["stop", "go"]  # before each step that moves
    assert day.written["verdict"] == "accepted"
    assert heading(day.folder) == "This robot may run this bundle: all 3 steps passed."


def test_a_step_outside_its_limits_ends_the_day_with_the_reason(day: Day) -> None:
    day.faults["stop"] = BAD
    assert day.run().verdict is Verdict.REFUSED
    assert day.made == ["look", "stop"]
    sentence = heading(day.folder)
    assert sentence.startswith(
        "This robot must not run this bundle: step stop failed. one command of the hand is 1.5 s;"
    )
    assert "must be at most 1.2 s: the hand is too slow" in sentence


def test_a_robot_that_stops_by_itself_fails_the_step(day: Day) -> None:
    day.faults["stop"] = RobotStopped("a reflex")
    assert "step stop failed. a reflex." in day.run().sentence


def test_nothing_moves_without_a_yes_and_nothing_is_decided(day: Day) -> None:
    journal = day.run(may=lambda name: False)
    assert day.made == ["look"]
    assert journal.verdict is Verdict.OPEN
    assert heading(day.folder) == "Not decided: 2 of 3 steps are left, stop is next."


def test_it_goes_on_where_it_ended_and_looks_again_first(day: Day) -> None:
    day.faults["go"] = BAD
    day.run()
    day.faults = {}
    assert day.run().verdict is Verdict.ACCEPTED
    assert day.made == ["look", "go"]  # the stop is kept
    assert day.asked == ["go"]
    day.faults["look"] = BAD  # another robot, perhaps
    assert day.run().verdict is Verdict.REFUSED


@pytest.mark.parametrize("other", [{"digest": "fedcba"}, {"robot": "panda at 10.0.0.2"}, {"elements": ("microwave",)}])
def test_the_acceptance_of_something_else_is_not_continued(day: Day, other: dict[str, Any]) -> None:
    day.run()
    with pytest.raises(InvalidInput, match=rf"is the acceptance of another {next(iter(other))}"):
        day.run(setting=SETTING.model_copy(update=other))


@pytest.mark.parametrize("content", ["", "{}", '{"setting": 3}', '{"records": [{"step": "look"}]}'])
def test_a_damaged_journal_is_refused(day: Day, content: str) -> None:
    day.folder.mkdir()
    (day.folder / FILE).write_text(content)
    with pytest.raises(InvalidInput, match="is not the journal of an acceptance"):
        day.run()
    assert (day.folder / FILE).read_text() == content


def test_a_value_that_was_not_measured_does_not_pass() -> None:
    assert not Check(name="trail", value=None, high=1.0).passed
    assert not Check(name="share", value=0.7, low=0.8, high=1.2).passed
    assert not Check(name="share", value=1.3, low=0.8, high=1.2).passed
    assert Check(name="share", value=1.2, low=0.8, high=1.2).passed


def test_what_strangers_wrote_is_escaped_and_every_tag_is_closed(day: Day) -> None:
    day.run()
    written = (day.folder / PAGE).read_text()
    assert "&lt;b&gt;" in written
    assert "<b>" not in written
    for tag in ("table", "svg", "h2", "p"):
        assert len(re.findall(rf"<{tag}[ >]", written)) == written.count(f"</{tag}>")


def test_a_browser_shows_verdict_values_and_pictures(day: Day, tmp_path: Path) -> None:
    day.faults["stop"] = BAD
    day.run()
    with open_browser(1100, 1400) as browser:
        browser.driver.get((day.folder / PAGE).as_uri())
        assert browser.text.startswith("This robot must not run this bundle: step stop failed.")
        assert "at most 1.2" in browser.text
        drawn = browser.driver.find_elements("css selector", "svg polyline")
        assert len(drawn) == 2
        assert all(line.size["width"] > 100 for line in drawn)


def test_a_real_robot_takes_no_general_yes_and_needs_its_workspace(tmp_path: Path) -> None:
    command = [
        "accept",
        "models/kitchen",
        "--objects",
        "fixed",
        "--output",
        str(tmp_path / "out"),
        "--host",
        "10.0.0.2",
    ]
    for more, sentence in ((["--yes"], "a person must allow"), ([], "needs the --workspace of its site")):
        result = CliRunner().invoke(app, [*command, *more], env={"COLUMNS": "300"})
        assert result.exit_code == 2
        assert sentence in result.output
    assert not (tmp_path / "out").exists()


def test_the_steps_have_names_of_their_own_and_only_the_first_do_not_ask() -> None:
    assert len({step.name for step in STEPS}) == len(STEPS)
    assert [step.moves for step in STEPS] == sorted(step.moves for step in STEPS)
    speeds = [float(step.name.partition("-")[2]) for step in STEPS if step.name.startswith("speed-")]
    assert speeds == sorted(speeds)
    assert STEPS.index(next(step for step in STEPS if step.name == "unplug")) < len(STEPS) - len(speeds)


def test_a_page_of_a_day_that_has_only_begun(tmp_path: Path) -> None:
    journal = Journal(setting=SETTING, steps=("look", "go"))
    record = Record(step="look", happens="looks", began="now", took_s=1.0, checks=(GOOD,))
    assert "not yet" in page(journal.with_record(record), tmp_path)
