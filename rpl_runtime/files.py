"""Files that a command writes, and folders that it writes them to."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rpl_runtime.errors import InvalidInput

JsonDict = dict[str, Any]  # a JSON object


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A path to write to in the block; at its end the file takes the place of `path`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.stem}.tmp{path.suffix}")  # writers choose a format by the suffix
    try:
        yield staging
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)


def write_json(path: Path, content: JsonDict) -> None:
    """Write a JSON object to a file, whole or not at all."""
    with staged(path) as staging:
        staging.write_text(json.dumps(content, indent=1) + "\n")


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make a folder, if need be, and keep other commands out of it during the block.

    The lock ends with the process, however that ends; its file stays, since removing it would let two commands in.

    Raises:
        InvalidInput: another command works in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidInput(
                f"another command writes to {folder} now; wait until it ends, or choose another folder"
            ) from None
        yield
