"""Every command ends with one sentence at Ctrl-C or SIGTERM, and within two seconds of a second one."""

import ast
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from processes import RPL, rpl, started
from rpl_runtime.cli import kept
from rpl_runtime.cli.app import command

pytest.importorskip("torch", reason="needs the train extra")

ROOT = Path(__file__).parents[1]
KITCHEN, SPECIALISTS = ROOT / "models" / "kitchen", ROOT / "models" / "relay-specialists.safetensors"
SHORT_S, LONG_S = 1.0, 2.0  # [s] from when a command hears signals to the last moment at which one may come
SECOND_S = 2.0  # [s] from a second signal to the end
# Their ordinary end is a signal.
ENDED_BY_SIGNAL = {"serve", "top", "view"}
FRANKA = "run --robot franka --no-realtime --goal microwave --objects fixed --bundle {kitchen} --host"

# What each command is interrupted in; {silent} is an address that takes connections and says nothing.
COMMANDS = [
    "serve {kitchen} --address 127.0.0.1:0",
    "demo --no-film",
    "doctor",
    "docs index",
    "new task mine",
    "models pull kitchen",
    "health --address {silent} --timeout 60",
    "top --address {silent}",
    "inspect {kitchen}",
    "run --goal microwave --bundle {kitchen}",
    "run --goal microwave --address {silent}",
    FRANKA + " sim",
    FRANKA + " {silent_robot}",
    "replay {log} --bundle {kitchen}",
    "view {log}",
    "accept {kitchen} --host sim --objects mirror --output {new} --yes",
    "evaluate {kitchen} --goals mkbs --episodes 3",
    "bench {kitchen} --steps 500 --seconds 2",
    "imitate {new} --demos {demos} --steps 2000",
    "export {base} {new}",
    "novelty {own_bundle} --demos {demos}",
    "stall {own_bundle}",
    "improve {kitchen} {new} --logs {log} --demos {demos}",
    "train {new} --demos {demos} --steps 2000",
    "finetune {base} {new} --goal mkbs --objective npg",
    "distill {base} {new} --specialist mkbs={base} --demos {demos}",
    "pack {base} {new} --specialist mkbs={base}",
    "unpack {specialists} {new}",
    "methods",
    "paper {new} --demos {demos} --env-steps 1000 --episodes 1 --runs {new}",
    "models list --address {silent}",
    "models load {kitchen} --address {silent}",
    "models unload kitchen --address {silent}",
    "subgoal show kitchen --address {silent}",
    "subgoal pin kitchen --address {silent}",
    "subgoal veto kitchen --address {silent}",
    "subgoal release kitchen --address {silent}",
    "tokens new {new} arm --right act",
    "tokens list {tokens}",
    "tokens revoke {tokens} nobody",
    "demos play {new} --sequences 20",
    "demos import {demos} --out {new}",
    "demos info {demos}",
    "demos hard {demos} --output {new}",
    "demos export {demos} --minari {new}-v0",
]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the commands are given."""
    folder = tmp_path_factory.mktemp("places")
    made = {"kitchen": KITCHEN, "specialists": SPECIALISTS} | {
        name: folder / name for name in ("log", "demos", "tokens", "runs")
    }
    assert rpl(
        "run", "--goal", "microwave", "--bundle", KITCHEN, "--steps", "3", "--log", folder / "log.mcap"
    ).returncode
    assert rpl("demos", "play", made["demos"], "--sequences", "2", "--jobs", "1").returncode == 0
    assert rpl("tokens", "new", made["tokens"], "arm", "--right", "act").returncode == 0
    assert rpl("unpack", SPECIALISTS, made["runs"]).returncode == 0
    robot = f"127.{os.getpid() // 250 % 250 + 1}.{os.getpid() % 250 + 1}.41"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server((robot, 1337)):
        made |= {"log": folder / "log.mcap", "base": made["runs"] / "base", "silent_robot": robot}
        yield made | {"silent": f"127.0.0.1:{server.getsockname()[1]}"}


def test_every_command_is_interrupted_here() -> None:
    def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
        for name, below in getattr(command, "commands", {}).items():
            yield from leaves(below, (*path, name))
        if not hasattr(command, "commands"):
            yield " ".join(path)

    assert {name for name in leaves(command()) if not any(c.startswith(name) for c in COMMANDS)} == set()


def interrupt(
    arguments: str, places: dict[str, Any], folder: Path, rng: np.random.Generator, signals: int, span_s: float
) -> None:
    """Start a command, send it one or two signals at random moments, and see how it ends."""
    new = {"new": folder / "new", "own_bundle": folder / "bundle"}
    if "{own_bundle}" in arguments:
        subprocess.run(["cp", "-r", KITCHEN, folder / "bundle"], check=True)
    command = [*RPL, *(word.format(**places, **new) for word in arguments.split())]
    errors = folder / "errors"
    # After a second signal nothing is tidied any more, so temporary files may stay.
    environment = os.environ | ({"TMPDIR": str(folder)} if signals == 2 else {})
    with (
        errors.open("wb") as stderr,
        subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True
        ) as process,
    ):
        try:
            while process.poll() is None and not hears(process):
                threading.Event().wait(0.005)
            for _ in range(signals):
                threading.Event().wait(rng.uniform(0, span_s))  # the moment is what is tested
                if hears(process):
                    terminal = bool(rng.integers(2))
                    os.killpg(process.pid, signal.SIGINT) if terminal else process.terminate()
                interrupted = time.monotonic()
            process.wait(SECOND_S if signals == 2 else 60)
            took_s = time.monotonic() - interrupted
        finally:
            process.kill()
    said = errors.read_text(errors="replace")
    where = f"`rpl {arguments}` ended with {process.returncode} in {took_s:.2f} s and said {said!r}"
    assert "Traceback" not in said, where
    if process.returncode < 0:  # at its very end the interpreter handles no signal any more, and nothing is left to say
        assert (said, -process.returncode in (signal.SIGINT, signal.SIGTERM)) == ("", True), where
    if process.returncode == 130:
        assert sum(line.startswith("interrupted") for line in said.splitlines()) == 1, where
    else:  # it was over before, or a signal is how it ends
        assert arguments.split()[0] in ENDED_BY_SIGNAL or "interrupted" not in said, where


def hears(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process handles SIGTERM: before, and at its very end, it is the bare interpreter."""
    if process.poll() is not None:
        return False
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next((line for line in status.splitlines() if line.startswith("SigCgt")), "SigCgt: 0")
    return bool(int(caught.split()[1], 16) & 1 << signal.SIGTERM - 1)


def faults_of(tries: Sequence[tuple[str, int, int]], places: dict[str, Any], folder: Path, span_s: float) -> list[str]:
    """What went wrong in tries (arguments, signals, seed); two are under way at a time, since most of it is waiting."""

    def fault(number: int, arguments: str, signals: int, seed: int) -> str | None:
        own = folder / str(number)
        own.mkdir()
        try:
            interrupt(arguments, places, own, np.random.default_rng(seed), signals, span_s)
        except (AssertionError, subprocess.TimeoutExpired) as found:
            return f"{arguments}: {found}"
        return None

    with ThreadPoolExecutor(2) as pool:
        return list(filter(None, pool.map(fault, itertools.count(), *zip(*tries, strict=True))))


def test_an_interrupt_before_the_packages_are_imported_is_one_word(tmp_path: Path) -> None:
    package = tmp_path / "rpl_runtime"
    package.mkdir()
    (package / "__init__.py").write_text("import time; print('importing', flush=True); time.sleep(60)")
    command = [sys.executable, "-c", "from rpl_command import main; main()"]
    path = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    with started(command, stderr=subprocess.PIPE, env=os.environ | path, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "interrupted\n")


def test_the_script_begins_where_an_interrupt_is_heard_at_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"rpl": "rpl_command:main"}
    module = ast.parse((ROOT / "rpl_command.py").read_text())
    assert [name.name for line in module.body if isinstance(line, ast.Import) for name in line.names] == [
        "os",
        "signal",
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("improve models/a models/b --logs run", "run the same command again to go on"),
        ("evaluate models/a --output=out", "run the same command again to go on"),
        ("evaluate models/a --output out", "run the same command again to go on"),
        ("evaluate models/a", "nothing is kept: with --output FOLDER"),
        ("run --goal microwave", "a robot is at rest"),
        ("inspect models/a", ""),
        ("export run models/a", ""),
        ("demos play runs/play", "run the same command again to go on"),
        ("demos info train", ""),
        ("demos hard bench", "nothing is kept: with --output FOLDER"),
        ("--tls --token-file bench run --goal microwave", "a robot is at rest"),
    ],
)
def test_an_interrupted_command_says_what_it_has_kept(line: str, said: str) -> None:
    assert said in kept(line.split())
    assert bool(said) == bool(kept(line.split()))


def test_the_options_before_a_command_that_take_a_value_are_known() -> None:
    names = [name for option in command().params if not option.is_flag for name in option.opts]
    assert names
    for name in names:
        assert kept([name, "bench", "run"]) == kept(["run"])


@pytest.mark.alone  # two seconds are little for a process that loads torch beside others
def test_every_command_ends_whenever_it_is_interrupted(places: dict[str, Any], tmp_path: Path) -> None:
    tries = [
        (arguments, signals, len(arguments) + signals)
        for arguments, signals in zip(COMMANDS, itertools.cycle((1, 2)), strict=False)
    ]
    faults = faults_of(tries, places, tmp_path, SHORT_S)
    assert not faults, "\n".join(faults)


@pytest.mark.long
def test_two_hundred_interruptions(places: dict[str, Any], tmp_path: Path) -> None:
    tries = [(COMMANDS[number % len(COMMANDS)], 2, number) for number in range(200)]
    faults = faults_of(tries, places, tmp_path, LONG_S)
    assert not faults, "\n".join(faults)
