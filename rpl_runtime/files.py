"""How commands write files and folders, and read files that others made."""

import errno
import fcntl
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from rpl_runtime.errors import InvalidInput

JsonDict = dict[str, Any]  # a JSON object


@contextmanager
def staged(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """A new empty file to write in the block; at its end it replaces `path`, whole or not at all.

    Args:
        path: the file's place; its folder is made if need be.
        mode: permissions of a new file, before the umask.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own, so that two writers do not mix; the suffix stays, since writers choose a format by it.
    staging = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    os.close(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
    try:
        yield staging
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)


@contextmanager
def opened(path: Path, most: int) -> Iterator[BinaryIO]:
    """A file that somebody else may have made, open to be read. A pipe or a device, which may never end, is refused.

    Args:
        path: of the file, or of a link to it.
        most: [bytes] the largest accepted size.

    Raises:
        OSError: it cannot be opened, is not a regular file, or is larger.
    """
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "a path must not hold a NUL", str(path))
    # Without O_NONBLOCK the opening of a pipe waits for a writer.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "must be a regular file", str(path))
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"has {status.st_size:,} bytes; must be {most:,} or less", str(path))
        yield file


def read(path: Path, most: int) -> bytes:
    """The content of a file that somebody else may have made.

    Raises:
        OSError: as `opened`, or the file grew beyond `most` [bytes] while it was read.
    """
    with opened(path, most) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"grew while it was read; must be {most:,} bytes or less", str(path))
    return content


def write_json(path: Path, content: JsonDict) -> None:
    """Write a JSON object to a file, whole or not at all."""
    with staged(path) as staging:
        staging.write_text(json.dumps(content, indent=1) + "\n")


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make a folder, if need be, and lock it against other commands during the block.

    The lock ends with the process. Its file stays: two commands could get in while it is removed.

    Raises:
        InvalidInput: another command has locked the folder.
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
