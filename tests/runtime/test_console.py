"""Texts of strangers on a terminal: what they say is shown, what they would do is not done."""

import io
import json
import logging

import pytest
from rich.markdown import Markdown
from rich.table import Table

from processes import rpl
from rpl_runtime.cli.report import print_run
from rpl_runtime.cli.top import robots_table
from rpl_runtime.console import Console, count, progress, say
from rpl_runtime.policy.bundle import HIGH, LOW, MANIFEST, Bundle, attach_evaluation, write_bundle
from rpl_runtime.policy.manifest import Provenance
from rpl_runtime.relay.messages import StageTimes
from rpl_runtime.telemetry.log_format import LogFormat, write_log
from rpl_runtime.wire.admin import RobotStatus

# Clears the screen, sets the title, writes backwards, rings, and goes up to an earlier line.
HOSTILE = "a\x1b[2J\x1b]0;owned\x07b\u202ec\x9b1Ad\re\udcfff"
WRITTEN = HOSTILE[:-2]  # what UTF-8 can hold
SHOWN = "\\x1b[2J"


def controls(printed: str) -> set[str]:
    """The characters of a printed text that could control a terminal."""
    return {c for c in printed if not c.isprintable() and c != "\n"}


@pytest.mark.parametrize("renderable", [HOSTILE, Markdown(HOSTILE), Markdown(f"`{HOSTILE}`\n\n    {HOSTILE}")])
def test_what_a_stranger_wrote_is_shown_and_not_done(renderable: object) -> None:
    table = Table("heading", title=HOSTILE)
    table.add_row(renderable)  # type: ignore[arg-type]
    for shown in (renderable, table):
        console = Console(file=io.StringIO(), width=200)
        console.print(shown)
        assert controls(console.file.getvalue()) == set()  # type: ignore[attr-defined]
        assert SHOWN in console.file.getvalue()  # type: ignore[attr-defined]


def test_colours_of_our_own_stay() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print("[red]no[/]")
    assert console.file.getvalue() == "\x1b[31mno\x1b[0m\n"  # type: ignore[attr-defined]


def test_a_line_is_said_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    say("[m] is a unit :smile: Müller – 5 µs " + "x" * 300)
    say(HOSTILE, err=True)
    captured = capsys.readouterr()
    assert captured.out == "[m] is a unit :smile: Müller – 5 µs " + "x" * 300 + "\n"
    assert controls(captured.err) == set()


@pytest.fixture
def hostile_bundle(own_bundle: Bundle) -> Bundle:
    """A sound bundle with control characters in every text that may hold any."""
    provenance = Provenance(command=WRITTEN, commit=WRITTEN, settings={WRITTEN: WRITTEN})
    manifest = own_bundle.manifest.model_copy(update={"provenance": provenance})
    bundle = write_bundle(own_bundle.path, manifest, own_bundle.files[HIGH], own_bundle.files[LOW])
    return attach_evaluation(bundle, {"starts": {WRITTEN: {"goals": {WRITTEN: {}}}}, "command": WRITTEN})


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_inspect(options: list[str], hostile_bundle: Bundle) -> None:
    ended = rpl("inspect", hostile_bundle.path, *options)
    assert ended.returncode == 0
    assert controls(ended.stdout + ended.stderr) == set()
    assert SHOWN in ended.stdout.replace("\\u001b", "\\x1b")


def test_a_name_that_is_refused_is_shown(own_bundle: Bundle) -> None:
    file = own_bundle.path / MANIFEST
    file.write_text(file.read_text().replace('"name": "tiny"', f'"name": {json.dumps(WRITTEN)}'))
    ended = rpl("inspect", own_bundle.path)
    assert ended.returncode == 3
    assert controls(ended.stderr) == set()


@pytest.mark.parametrize("format", LogFormat)
def test_the_log_of_a_server(format: LogFormat) -> None:
    stream = io.StringIO()
    handler = write_log(format, stream)
    try:
        logging.getLogger("rpl_runtime.server").error("robot %s: %s", WRITTEN, "two\nlines")
    finally:
        for logger in (logging.getLogger("rpl_runtime"), logging.getLogger()):
            logger.removeHandler(handler)
    assert controls(stream.getvalue()) == set()
    assert stream.getvalue().count("\n") == 1


def test_top() -> None:
    times = StageTimes(1, 2, 3, 4)
    fields = {"robot": HOSTILE, "model": HOSTILE, "digest": HOSTILE, "peer": HOSTILE, "times": times}
    numbers = {"stream": 1, "step": 1, "age": 1, "subgoal": None, "idle_s": 0.0, "pinned": False, "vetoes": 0}
    robot = RobotStatus(**fields | numbers | {"novelty": None})  # type: ignore[arg-type]
    console = Console(file=io.StringIO(), width=300)
    console.print(robots_table([robot], {}, HOSTILE))
    assert controls(console.file.getvalue()) == set()  # type: ignore[attr-defined]


def test_the_report_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    facts = {
        "policy": HOSTILE,
        "steps": 1,
        "elements": {},
        "unasked": [HOSTILE],
        "by_hand": {HOSTILE: 1},
        "done": 0,
        "success": True,
        "bundle_digest": HOSTILE,
    }
    found = {"ever_done": True, "done_at_end": True, "first_done": 1, "distance_at_end": 0.1}
    print_run(facts | {"elements": {HOSTILE: found}}, 0.05)
    assert controls(capsys.readouterr().out) == set()


def test_progress_is_said_in_lines_where_no_bar_can_be_drawn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress() as report:
        report("episodes", 1, 3)
    assert capsys.readouterr().err == ""  # a short command stays silent
    with progress(stays=True) as report:
        report("episodes", 1, 3)
        report("episodes", 3, 3, "loss 1")
    assert capsys.readouterr().err == "episodes 3 of 3, loss 1\n"
    monkeypatch.setattr("rpl_runtime.console._EVERY_S", 0.0)
    with progress() as report:
        report("episodes", 1, 3)
        report("episodes", 2, 3, "a \x1b remark")
        report("film", 5, None)
    first, second, third = capsys.readouterr().err.splitlines()
    assert (first, third) == ("episodes 1 of 3", "film 5")
    assert second.startswith("episodes 2 of 3, a \\x1b remark")


def test_one_thing_is_not_several() -> None:
    assert [count(number, "robot") for number in (0, 1, 2)] == ["0 robots", "1 robot", "2 robots"]
