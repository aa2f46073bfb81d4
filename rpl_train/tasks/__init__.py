"""Tasks with what training adds to them."""

from rpl_runtime.tasks import load
from rpl_runtime.tasks.task import Task

_OWN = {load.DEFAULT: "rpl_train.tasks.kitchen.task:make"}


def load_task(reference: str) -> Task:
    """As `rpl_runtime.tasks.load_task`, with what training adds to the project's own tasks."""
    return load.load_task(reference, _OWN)
