"""Peers in a bench: a server and a driver of each, in their own processes, with the same orders for all."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rpl_runtime.bench.load import Order
from rpl_runtime.errors import InvalidInput, RelayError

_ROOT = Path(__file__).parents[2]  # a peer imports rpl_runtime.bench.load from here
_EXIT_S = 15.0  # [s] for a server to end before it is killed


class Peer(NamedTuple):
    """A program to measure."""

    name: str
    what: str  # its title in tables
    command: Sequence[str]  # without the verb


class Spent(NamedTuple):
    """The durations of an order."""

    steps_ns: np.ndarray  # (streams * steps,) [ns] of each step
    wall_s: float  # [s] from the first measured step to the last


def joined(several: Sequence[Spent]) -> Spent:
    """Several orders as one."""
    return Spent(np.concatenate([spent.steps_ns for spent in several]), sum(spent.wall_s for spent in several))


def own_peers() -> list[Peer]:
    """The peers of this installation, the echo first."""
    found = {"echo": "bare gRPC echo", "control": "Control", "control_unix": "Control, Unix socket"}
    if shutil.which("openssl"):
        found["control_secure"] = "Control, TLS, token, sampled"
    return [Peer(name, what, (sys.executable, "-m", f"rpl_runtime.bench.peers.{name}")) for name, what in found.items()]


def folder_peers(folder: Path) -> list[Peer]:
    """The peers of a folder, each a subfolder with a peer.py; the first line of its docstring is its title.

    A peer with a requirements.txt runs in its own environment beside that file, which is created if need be.

    Raises:
        InvalidInput: the folder holds no peer.
        RelayError: an environment cannot be created.
    """
    scripts = sorted(folder.glob("*/peer.py"))
    if not scripts:
        raise InvalidInput(f"{folder} has no peers; it must hold at least one folder with a peer.py")
    peers = []
    for script in scripts:
        what = script.read_text().splitlines()[0].strip('"').split(":")[0]
        peers.append(Peer(script.parent.name, what, (_python(script.parent), str(script))))
    return peers


@dataclass(frozen=True, eq=False)
class Contestant:
    """A running peer."""

    peer: Peer
    driver: "subprocess.Popen[str]"  # takes orders
    server: int  # process id

    def obey(self, order: Order) -> Spent:
        """Run an order.

        Raises:
            RelayError: the peer failed; its own output says why.
        """
        print(json.dumps(order._asdict()), file=self.driver.stdin, flush=True)
        found = json.loads(_line(self.peer, self.driver))
        return Spent(np.array(found["spent_ns"]), found["wall_ns"] / 1e9)

    def memory_mb(self) -> float | None:
        """Resident memory [MB] of the server; None if the system has no /proc."""
        try:
            status = Path(f"/proc/{self.server}/status").read_text()
        except OSError:
            return None
        return next(int(line.split()[1]) / 1e3 for line in status.splitlines() if line.startswith("VmRSS"))


@contextmanager
def contest(peers: Sequence[Peer], bundle: Path) -> Iterator[list[Contestant]]:
    """Run a server and a driver of each peer during the block.

    Raises:
        RelayError: a peer does not start; its own output says why.
    """
    with ExitStack() as stack:
        contestants = []
        for peer in peers:
            server = stack.enter_context(_process(peer, "serve", str(bundle)))
            address = _line(peer, server).strip()
            driver = stack.enter_context(_process(peer, "drive", address, str(bundle)))
            contestants.append(Contestant(peer, driver, server.pid))
        yield contestants


@contextmanager
def _process(peer: Peer, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    script = Path(peer.command[-1])
    path = os.pathsep.join([str(_ROOT), str(script.parent.parent)])
    with subprocess.Popen(  # nosec B603 # a peer's program is the caller's own choice
        [*peer.command, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,  # Ctrl-C is this process's to hear; a peer ends with its input
        env=os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore"},  # about the peer's own packages
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_EXIT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _line(peer: Peer, process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RelayError(f"{peer.what} ended with exit code {process.wait()}; its own output says why")
    return line


def _python(folder: Path) -> str:
    """The interpreter of a peer; its environment is created anew when its requirements change."""
    requirements = folder / "requirements.txt"
    if not requirements.exists():
        return sys.executable
    environment = folder / ".venv"
    python, stamp = environment / "bin" / "python", environment / "requirements"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(environment)],
            [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(requirements)],
        ):
            made = subprocess.run(command, capture_output=True, text=True)  # nosec B603 # no shell, and both are fixed
            if made.returncode:
                why = (made.stderr or made.stdout).strip().splitlines()[-1:]
                raise RelayError(f"the environment of {folder.name} cannot be created: {' '.join(why)}")
        stamp.write_text(digest)
    return str(python)
