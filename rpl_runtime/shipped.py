"""What comes with the project beside its packages: `models/kitchen`, `docs`, `proto` and `examples`.

In a checkout they stand beside the packages; a wheel installs them under `share/relay-policy`.
"""

from functools import cache
from importlib.metadata import files
from pathlib import Path

from rpl_runtime.errors import InvalidInput

_MARK = "share/relay-policy/docs/index.md"


def shipped(path: str) -> Path:
    """A file or a folder that comes with the project, such as models/kitchen.

    Raises:
        InvalidInput: this installation came without it.
    """
    found = _root() / path
    if not found.exists():
        raise InvalidInput(f"{path} did not come with this installation; the project's wheel and its checkout have it")
    return found


@cache
def _root() -> Path:
    checkout = Path(__file__).parents[1]
    if (checkout / "pyproject.toml").exists():
        return checkout
    marks = (Path(str(file.locate())) for file in files("relay-policy") or () if file.match(_MARK))
    return next((mark.resolve().parents[1] for mark in marks), checkout)
