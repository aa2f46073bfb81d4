"""`rpl doctor`: what works on this machine, and what to do about the rest."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import machine, python_version
from typing import Literal, NamedTuple

import typer
from rich.markup import escape
from rich.table import Column, Table

from rpl_runtime.cli.options import ADDRESS, Json, show
from rpl_runtime.console import Console
from rpl_runtime.errors import RelayError, installation, packages_of
from rpl_runtime.shipped import shipped

# What each extra is for.
_EXTRAS = {
    "sim": "run and evaluate in the simulated kitchen",
    "view": "see robots in a browser",
    "train": "train and export policies",
    "record": "log and record runs",
    "lerobot": "export runs as LeRobot data sets",
    "otel": "send traces",
    "ray": "play, learn and evaluate on a Ray cluster",
    "gamepad": "lead an arm with a gamepad or a SpaceMouse",
    "franka": "drive a Franka",
    "franka-sim": "simulate a Franka",
}


class Finding(NamedTuple):
    what: str
    verdict: Literal["ok", "absent", "broken"]  # absent: nobody needs it for everything
    detail: str


def doctor_command(as_json: Json = False) -> None:
    """Look at this machine: versions, extras, rendering, ports, the real-time kernel, the shipped policy.

    Exits with 1 if something that is installed does not work. What is absent is no fault, and its line says how to get
    it.

    Example: rpl doctor
    """
    findings = list(_findings())
    broken = [finding.what for finding in findings if finding.verdict == "broken"]
    facts = {"works": not broken, "findings": [finding._asdict() for finding in findings]}

    def table() -> None:
        console = Console(highlight=False)
        colours = {"ok": "green", "absent": "yellow", "broken": "red"}
        table = Table("what", "", Column("", overflow="fold"), box=None, show_header=False)
        for what, verdict, detail in findings:
            table.add_row(what, f"[{colours[verdict]}]{verdict}[/]", escape(detail))
        console.print(table)
        console.print(f"[red]broken:[/] {', '.join(broken)}" if broken else "[green]everything installed works[/]")

    show(as_json, facts, table)
    raise typer.Exit(1 if broken else 0)


def _findings() -> Iterator[Finding]:
    yield Finding("versions", "ok", f"relay-policy {version('relay-policy')}, Python {python_version()}, {machine()}")
    for extra in ("", *_EXTRAS):
        absent = [name for name in packages_of(extra) if not _installed(name)]
        if not extra:
            missing = ", ".join(f"{name} is missing" for name in absent)
            yield Finding("base packages", "broken" if absent else "ok", missing)
        elif absent:
            yield Finding(f"extra {extra}", "absent", f"to {_EXTRAS[extra]}: {installation(extra)}")
        else:
            yield Finding(f"extra {extra}", "ok", f"can {_EXTRAS[extra]}")
    yield _tried("policy", _policy)
    if all(map(_installed, packages_of("sim"))):
        yield _tried("rendering", _rendering)
    yield _port(ADDRESS)
    realtime = Path("/sys/kernel/realtime").exists()
    advice = "" if realtime else "only a real Franka needs one; `rpl run --no-realtime` does without"
    yield Finding("real-time kernel", "ok" if realtime else "absent", advice)


def _installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def _tried(what: str, attempt: Callable[[], str]) -> Finding:
    try:
        return Finding(what, "ok", attempt())
    except RelayError as error:
        return Finding(what, "broken", str(error))


def _policy() -> str:
    from rpl_runtime.policy.bundle import load_bundle
    from rpl_runtime.policy.trial import open_policy

    bundle = load_bundle(shipped("models/kitchen"))
    open_policy(bundle)
    return f"{bundle.path} is intact and answers"


def _rendering() -> str:
    from rpl_runtime.tasks.load import DEFAULT, load_task
    from rpl_runtime.tasks.pictures import Frame

    task = load_task(DEFAULT)
    with closing(task.open_world()) as world:
        state = world.reset(0, next(iter(task.starts.values())))
        with closing(task.renderer_of(world)) as renderer:
            renderer.draw(Frame(world.truth, state, 1, 0, (), frozenset()))
    return f"draws by {os.environ.get('MUJOCO_GL') or 'a GL library of the system'}"


def _port(address: str) -> Finding:
    host, _, port = address.partition(":")
    try:
        with socket.create_server((host, int(port))):
            return Finding("port", "ok", f"{address} is free for `rpl serve`")
    except OSError as error:
        reason = os.strerror(error.errno or 0)  # Python's own text names the address once more
        detail = f"{address}: {reason}; a server may run there: `rpl health`. If not, `rpl serve --address`"
        return Finding("port", "absent", detail)
