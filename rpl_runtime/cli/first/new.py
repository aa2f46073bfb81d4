"""`rpl new`: a module of one's own to begin with, which works as it is: the project's example under another name."""

import keyword
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from rpl_runtime.errors import InvalidInput
from rpl_runtime.files import staged
from rpl_runtime.shipped import shipped

# The example of each kind, a module or a page whose first block is one, and what to do with it next.
_KINDS = {
    "task": ("docs/your-task.md", "rpl demos play runs/{name} --task {name}:make --sequences 10"),
    "robot": ("examples/my_robot.py", "rpl run --robot {name}:MyRobot --bundle models/kitchen --goal microwave"),
    "policy": ("examples/my_policy.py", "rpl export --from {name}:make models/{name}"),
}


def new_command(
    kind: Annotated[Literal["task", "robot", "policy"], typer.Argument(help="What to begin.")],
    name: Annotated[str, typer.Argument(help="Name of the module; NAME.py is written here.")],
) -> None:
    """Write a module that works as it is, to be made yours: a task, a robot's loop or a policy.

    Example: rpl new task lamps
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        raise InvalidInput(f"{name!r} cannot name a module; must be letters, digits and underscores, as in my_{kind}")
    path = Path(f"{name}.py")
    if path.exists():
        raise InvalidInput(f"{path} exists; choose another name")
    if name in sys.modules or find_spec(name):  # one of the two would hide the other
        raise InvalidInput(f"{name!r} is a module of this Python already; choose another name, such as my_{kind}")
    source, then = _KINDS[kind]
    text = shipped(source).read_text()
    if source.endswith(".md"):
        text = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[0]
    text = re.sub(rf"(?:examples[./])?\bmy_{kind}\b", name, text)
    with staged(path) as file:
        file.write_text(text)
    typer.echo(f"{path} is written; next: {then.format(name=name)}")
