"""A journal of finished episodes, so that an interrupted evaluation continues where it stopped.

A file of JSON lines: first the conditions of the evaluation, then the episodes.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rpl_runtime.errors import InvalidInput
from rpl_runtime.evaluation.results import Episode
from rpl_runtime.files import JsonDict, staged


class Journal(NamedTuple):
    """An open journal."""

    episodes: list[Episode]  # in the file when it was opened
    append: Callable[[Episode], None]  # writes an episode at once


@contextmanager
def open_journal(path: Path | None, conditions: JsonDict) -> Iterator[Journal]:
    """Open the journal at `path`, which is created if need be. Without a path, nothing is kept.

    Raises:
        InvalidInput: the file is not a journal, or it holds episodes of other conditions.
    """
    if path is None:
        yield Journal([], lambda episode: None)
        return
    episodes = _read(path, conditions) if path.exists() else []
    # A killed process may leave half a line at the end; rewriting the file drops it.
    with staged(path) as staging:
        lines = json.dumps(conditions), *(episode.model_dump_json() for episode in episodes)
        staging.write_text("".join(f"{line}\n" for line in lines))
    with path.open("a") as file:

        def append(episode: Episode) -> None:
            file.write(f"{episode.model_dump_json()}\n")
            file.flush()

        yield Journal(episodes, append)


def _read(path: Path, conditions: JsonDict) -> list[Episode]:
    head, *lines = path.read_text().split("\n")[:-1] or ["{}"]  # text after the last line break is not a whole line
    try:
        kept = json.loads(head)
        episodes = [Episode.model_validate_json(line) for line in lines]
    except ValueError as error:
        raise InvalidInput(f"{path} is not a journal of episodes; remove it to start again ({error})") from error
    for key, value in conditions.items():
        if episodes and kept.get(key) != value:
            raise InvalidInput(
                f"{path} holds episodes with {key} {kept.get(key)}, but this evaluation has {value}; "
                "choose another folder, or remove the file to start again"
            )
    return episodes
