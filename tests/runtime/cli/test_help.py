"""The help of every command of the runtime: an example that the command takes, and no text lost to markup."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from rpl_runtime.cli.app import app

ROOT: Any = get_command(app)


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(words, command) of every group and command that the runtime brings; training may have added its own."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        if inner.callback is None or inner.callback.__module__.startswith("rpl_runtime"):
            yield from commands(inner, (*path, name))


EVERY = [pytest.param(path, command, id=" ".join(("rpl", *path))) for path, command in commands(ROOT)]


@pytest.mark.parametrize(("path", "command"), EVERY)
def test_the_help_has_an_example_that_the_command_takes(
    path: tuple[str, ...], command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"}).output
    [example] = re.findall(r"Example: rpl (.*)", shown)
    called: list[tuple[str, ...]] = []
    for words, each in commands(ROOT):
        if each.callback is not None:
            monkeypatch.setattr(each, "callback", lambda words=words, **_: called.append(words))
    monkeypatch.chdir(tmp_path)
    Path("run.mcap").touch()  # `rpl replay` takes only a file that exists
    ROOT.main(args=shlex.split(example), standalone_mode=False)
    assert called[-1][: len(path)] == path
    assert len(called) == 2  # the options before the command, and the command


@pytest.mark.parametrize(("path", "command"), EVERY)
def test_no_text_of_an_option_is_taken_for_markup(path: tuple[str, ...], command: Any) -> None:
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "4000"}).output
    texts = [option.help for option in command.params if getattr(option, "help", None)]
    assert [text for text in texts if text.replace("`", "") not in shown] == []
