"""A journal of finished episodes, so that an evaluation that was cut short goes on where it stopped.

In: a file of JSON lines, or none yet. Out: the episodes in it, and more appended as they finish. Its first line
says under which conditions they were measured. It does not know how episodes are run.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from rpl_runtime.errors import InvalidInput
from rpl_runtime.evaluation.results import Episode


class Journal(NamedTuple):
    """An open journal."""

    episodes: list[Episode]  # what was in it when it was opened
    append: Callable[[Episode], None]  # keeps one more, at once


@contextmanager
def open_journal(path: Path, conditions: dict[str, Any]) -> Iterator[Journal]:
    """The journal at `path`, begun if there is none.

    Raises:
        InvalidInput: the file is no journal, or was kept under other conditions.
    """
    episodes = _read(path, conditions) if path.exists() else []
    # Written anew, the journal ends with a whole line, whatever a killed process left at its end.
    staging = path.with_name(f".{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    staging.write_text("".join(f"{line}\n" for line in (json.dumps(conditions), *map(_line, episodes))))
    os.replace(staging, path)
    with path.open("a") as file:

        def append(episode: Episode) -> None:
            file.write(f"{_line(episode)}\n")
            file.flush()

        yield Journal(episodes, append)


def _line(episode: Episode) -> str:
    return episode.model_dump_json()


def _read(path: Path, conditions: dict[str, Any]) -> list[Episode]:
    head, *lines = path.read_text().split("\n")[:-1] or ["{}"]  # what follows the last line end is no whole line
    try:
        kept = json.loads(head)
        episodes = [Episode.model_validate_json(line) for line in lines]
    except (ValueError, ValidationError) as error:
        raise InvalidInput(f"{path} is not a journal of episodes; remove it to begin anew ({error})") from error
    for key, value in conditions.items():
        if episodes and kept.get(key) != value:
            raise InvalidInput(
                f"{path} holds episodes with {key} {kept.get(key)}, but this evaluation has {value}; "
                f"choose another folder, or remove the file to begin anew"
            )
    return episodes
