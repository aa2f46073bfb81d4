"""What the jobs of tests call: a worker imports this module."""

import os
import signal
import threading
from pathlib import Path

from rpl_runtime.errors import TrainingError


def square(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


def killed_once(marker: Path, number: int) -> int:
    """The result of the second try; the first is killed half way."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def killed(marker: Path) -> None:
    marker.write_text(marker.read_text() + "x" if marker.exists() else "x")
    os.kill(os.getpid(), signal.SIGKILL)


def endless(tries: Path) -> None:
    tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
    threading.Event().wait()


def sound(number: int) -> int:
    if number == 1:
        raise ValueError("the goal is out of this world")
    if number == 2:
        raise TrainingError("the loss is nan at step 7")
    return number


def threads() -> tuple[int, str]:
    import torch

    return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]


def say_and_wait(path: Path) -> None:
    path.write_text("begun")
    threading.Event().wait()


def together(folder: Path, number: int, of: int) -> str:
    """The node of Ray on which this runs, once so many others run as well."""
    import ray

    (folder / str(number)).touch()
    while len(list(folder.iterdir())) < of:
        pass
    return ray.get_runtime_context().get_node_id()
