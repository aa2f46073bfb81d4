"""The help of every command, with an example that the command takes; and what stands before or after a command."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from processes import rpl
from rpl_runtime.cli.app import command

ROOT: Any = command()


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(words, command) of every group and command."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


@cache
def wide_help(path: tuple[str, ...]) -> str:
    return rpl(*path, "--help", COLUMNS="4000").stdout


EVERY = [pytest.param(path, command, id=" ".join(("rpl", *path))) for path, command in commands(ROOT)]


@pytest.mark.parametrize(("path", "command"), EVERY)
def test_the_help_has_an_example_that_the_command_takes(
    path: tuple[str, ...], command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [example] = re.findall(r"Example: rpl (.*)", wide_help(path))
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
    texts = [option.help for option in command.params if getattr(option, "help", None)]
    assert [text for text in texts if text.replace("`", "") not in wide_help(path)] == []


@pytest.mark.parametrize(("path", "command"), EVERY)
def test_nothing_is_cut_off_at_80_columns(path: tuple[str, ...], command: Any) -> None:
    shown = rpl(*path, "--help", COLUMNS="80").stdout
    assert [line for line in shown.splitlines() if len(line) > 80 or "…" in line] == []


def test_the_options_of_access_stand_before_the_command_or_after_it() -> None:
    for words in (("--ca", "/no/file", "health"), ("health", "--ca", "/no/file")):
        refused = rpl(*words, "--address", "127.0.0.1:1")
        assert (refused.returncode, "/no/file cannot be read" in refused.stderr) == (2, True)
    both = rpl("--ca", "/no/first", "health", "--ca", "/no/second", "--address", "127.0.0.1:1", RPL_CA="/no/third")
    assert "/no/second" in both.stderr


def test_the_environment_says_where_the_server_is_unless_the_command_does() -> None:
    assert "127.0.0.1:3" in rpl("health", RPL_ADDRESS="127.0.0.1:3").stderr
    assert "127.0.0.1:2" in rpl("health", "--address", "127.0.0.1:2", RPL_ADDRESS="127.0.0.1:3").stderr
    assert "127.0.0.1:3" in rpl("run", "--goal", "kettle", "--patience", "0", RPL_ADDRESS="127.0.0.1:3").stderr


def test_the_version_is_said() -> None:
    assert re.fullmatch(r"relay-policy \d+\.\d+\.\d+\n", rpl("--version").stdout)


def test_a_shell_completes_commands_of_both_packages() -> None:
    asked = {"_RPL_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    assert rpl(COMP_WORDS="rpl ev", **asked).stdout.split() == ["evaluate"]
    assert "distill" in rpl(COMP_WORDS="rpl ", **asked).stdout.split()
