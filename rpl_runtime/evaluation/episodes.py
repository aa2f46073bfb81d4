"""A journal of finished episodes, so that an interrupted evaluation continues where it stopped.

A file of JSON lines: first the conditions of the evaluation, then the episodes.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from pydantic import BaseModel

from rpl_runtime.errors import InvalidInput
from rpl_runtime.files import JsonDict, lock_now, read, translated

_KIND = "a journal of episodes; remove it to start again"
_MOST_BYTES = 256 << 20

T = TypeVar("T", bound=BaseModel)


class Journal(NamedTuple, Generic[T]):
    """An open journal."""

    episodes: list[T]  # in the file when it was opened
    append: Callable[[T], None]  # writes an episode at once


@contextmanager
def open_journal(path: Path | None, conditions: JsonDict, kind: type[T]) -> Iterator[Journal[T]]:
    """Open the journal at `path` of one kind of episode, which is created if need be. Without a path, nothing is kept.

    Raises:
        InvalidInput: the file is not a journal, holds episodes of other conditions, or another evaluation writes to it.
    """
    if path is None:
        yield Journal([], lambda episode: None)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with translated(path, InvalidInput, _KIND):  # O_NONBLOCK: the opening of a pipe would wait
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    with open(number, "r+b", buffering=0) as file:
        with translated(path, InvalidInput, _KIND):
            episodes = _begin(file, path, conditions, kind)

        def append(episode: T) -> None:
            file.write(f"{episode.model_dump_json()}\n".encode())

        yield Journal(episodes, append)


def _begin(file: FileIO, path: Path, conditions: JsonDict, kind: type[T]) -> list[T]:
    """Lock an open journal and place the file at its end. Returns its episodes."""
    lock_now(file.fileno(), path)
    content = read(path, _MOST_BYTES)
    # A killed process may leave half a line at the end.
    lines = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
    head, *rest = lines or [b"{}"]
    kept = dict(json.loads(head))
    episodes = [kind.model_validate_json(line) for line in rest]
    for key, value in conditions.items():
        if episodes and kept.get(key) != value:
            raise InvalidInput(
                f"{path} holds episodes with {key} {kept.get(key)}, but this evaluation has {value}; "
                "choose another folder, or remove the file to start again"
            )
    if not episodes:
        lines = [json.dumps(conditions).encode() + b"\n"]
    file.truncate(0)
    file.seek(0)
    file.write(b"".join(lines))
    return episodes
