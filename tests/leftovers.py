"""What a test leaves behind: processes, threads, sockets and files. A test that leaves any fails, and they end here.

Fixtures of a module or of the session stand before the first test that uses them, and are no test's own.
"""

import ctypes
import gc
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
WAIT_S = 5.0  # [s] for what is on its way out, such as the socket of a closed channel

# What one test starts and the whole session keeps.
KEPT_PROCESSES = ("multiprocessing.resource_tracker", "--type=")  # the latter: of a browser, which is seen itself
KEPT_THREADS = re.compile("asyncio_|tqdm_monitor")  # the executor of a server of the session; of progress bars
KEPT_FILES = re.compile("torchinductor_")  # torch's cache
KEPT_FOLDERS = {".git", ".venv", ".hypothesis", ".pytest_cache", ".ruff_cache", "__pycache__"}


class Standing(NamedTuple):
    """What is there at one moment, each with a text that names it."""

    processes: dict[int, str]  # id -> command line
    threads: dict[int, str]  # id -> name
    sockets: dict[str, str]  # "socket:[inode]"
    files: dict[str, str]  # in the temporary folder

    def beyond(self, before: "Standing") -> list[str]:
        """What is here and was not there before."""
        return [
            f"{what} {place(found) if what == 'sockets' else found}"
            for what, now, then in zip(self._fields, self, before, strict=True)
            for key, found in now.items()
            if key not in then
        ]


def standing() -> Standing:
    threads = {
        thread.ident: thread.name
        for thread in threading.enumerate()
        if thread.ident and not KEPT_THREADS.match(thread.name)
    }
    folder = os.scandir(tempfile.gettempdir())
    temporary = {entry.name: entry.path for entry in folder if not KEPT_FILES.match(entry.name)}
    return Standing(_descendants(), threads, _sockets(), temporary)


def _descendants() -> dict[int, str]:
    """The command line of each process below this one that still runs."""
    found, parents = {}, [os.getpid()]
    while parents:
        for task in Path(f"/proc/{parents.pop()}/task").glob("*/children"):
            try:
                children = task.read_text().split()
            except OSError:  # the task has just ended
                continue
            for child in map(int, children):
                try:
                    line = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
                except OSError:
                    continue
                if state != "Z" and not any(kept in line for kept in KEPT_PROCESSES):  # Z: has ended
                    found[child] = line.strip()
                    parents.append(child)
    return found


def _sockets() -> dict[str, str]:
    found = {}
    for descriptor in os.scandir("/proc/self/fd"):
        try:
            target = os.readlink(descriptor.path)
        except OSError:  # closed meanwhile
            continue
        if target.startswith("socket:"):
            found[target] = target
    return found


def place(socket: str) -> str:
    """Where a socket "socket:[inode]" is bound and connected to, as far as its protocol has places."""
    inode = socket.removeprefix("socket:[").removesuffix("]")
    for table, column in (("tcp", 9), ("tcp6", 9), ("udp", 9), ("udp6", 9), ("unix", 6)):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            parts = line.split()
            if parts[column] == inode:
                if table == "unix":
                    return f"unix {parts[7] if len(parts) > 7 else 'without a path'}"
                here, there = (int(end.rpartition(":")[2], 16) for end in parts[1:3])
                return f"{table}, port {here} to port {there}"
    return socket


def end(processes: dict[int, str]) -> None:
    for process in processes:
        try:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        except (ProcessLookupError, ChildProcessError):  # it has ended, or its parent waits for it
            continue


def source_files() -> set[str]:
    """Every file of the project's folder, the tools' own caches aside."""
    found = set()
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in KEPT_FOLDERS]
        found |= {os.path.join(folder, name) for name in files}
    return found


def adopt_orphans() -> None:
    """Have the children of a child that dies become children of this process, so that they are seen."""
    if sys.platform == "linux":
        set_child_subreaper = 36
        ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)


@pytest.fixture(scope="session", autouse=True)
def own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Temporary files go to a folder in which nobody else writes."""
    adopt_orphans()
    with pytest.MonkeyPatch.context() as patch:
        folder = str(tmp_path_factory.mktemp("t"))
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(scope="module", autouse=True)
def source_tree_untouched() -> Iterator[None]:
    before = source_files()
    yield
    if new := source_files() - before:
        pytest.fail(f"tests wrote into the source tree: {', '.join(sorted(new)[:10])}", pytrace=False)


@pytest.fixture(autouse=True)
def nothing_left_behind(own_temporary_folder: None) -> Iterator[None]:
    before = standing()
    yield
    over = time.monotonic() + WAIT_S
    while (left := standing().beyond(before)) and time.monotonic() < over:
        gc.collect()  # gRPC's poller ends with the last object that needs it
        time.sleep(0.01)
    if left:
        end({process: line for process, line in _descendants().items() if process not in before.processes})
        pytest.fail("left behind: " + "; ".join(left), pytrace=False)
