"""How commands write files and folders, and read files that others made."""

import errno
import fcntl
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from rpl_runtime.errors import InvalidInput, RelayError

JsonDict = dict[str, Any]  # a JSON object
_MOST = 64 << 20  # [bytes] of a file of settings or results
_SHOWN = 300  # [characters] of a foreign error in a message


@contextmanager
def staged(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """A new empty file to write in the block; at its end it replaces `path`, whole or not at all.

    A link stays, and what it leads to is replaced. A file that is replaced keeps its mode, and its owner and group as
    far as this process may set them.

    Args:
        path: the file's place; its folder is made if need be.
        mode: permissions of a new file, before the umask.

    Raises:
        OSError: the file cannot be written, or the path leads to something else than a regular file. It names the file.
    """
    path = followed(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.stat() if path.exists() else None
    if before is not None and not stat.S_ISREG(before.st_mode):
        raise OSError(errno.EINVAL, "must be a regular file", str(path))
    # A name of its own, so that two writers do not mix; the suffix stays, since writers choose a format by it.
    staging = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        os.close(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
        try:
            yield staging
            if before is not None:
                with suppress(PermissionError):  # only root gives files away
                    os.chown(staging, before.st_uid, before.st_gid)
                staging.chmod(stat.S_IMODE(before.st_mode))
            _to_disk(staging)
            os.replace(staging, path)
            _to_disk(path.parent)
        finally:
            staging.unlink(missing_ok=True)
    except OSError as error:
        # The system's own, which does not name the file of a write to a full disk; nobody knows the staging name.
        if error.errno is not None and error.filename in (None, str(staging)):
            error.filename = str(path)
        raise


def check_place(path: Path) -> None:
    """Check that a file can be put at a path, as far as names tell: before the work whose result it is to hold.

    Raises:
        InvalidInput: a folder is there, a file where its folder would be, or a folder that this user cannot write to.
    """
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder; must be a file, or a path where one can be put")
    if (there := in_the_way(path.parent)) is not None:
        raise InvalidInput(f"{there} is not a folder, so {path} cannot be written; choose another path")
    folder = next(above for above in path.absolute().parents if above.exists())
    if not os.access(folder, os.W_OK):
        raise InvalidInput(f"{folder} cannot be written to, so {path} cannot be written; choose another path")


def in_the_way(folder: Path) -> Path | None:
    """What is in the place of a folder that is to be made, or of one above it; None: nothing."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    return None if there.is_dir() else there


def followed(path: Path) -> Path:
    """The path at the end of links.

    Raises:
        OSError: the path holds a NUL, or its links lead in a circle.
    """
    _check_name(path)
    try:
        return path.resolve()
    except RuntimeError as error:  # of Python before 3.13
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error


def _to_disk(path: Path) -> None:
    """Wait until a file or the names in a folder would outlast a power cut."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _check_name(path: Path) -> None:
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "a path must not hold a NUL", repr(str(path)))


@contextmanager
def translated(path: Path, error: type[RelayError], what: str) -> Iterator[None]:
    """Turn what the reader of a foreign file raises into one sentence: the boundary that each reader has.

    Args:
        error: the class to raise.
        what: the file must be, with its article.

    Raises:
        RelayError: as `error` says; one that is raised in the block goes through unchanged.
    """
    try:
        yield
    except RelayError:
        raise
    except Exception as cause:  # readers of foreign formats raise classes without a common base
        if isinstance(cause, OSError) and cause.strerror:
            raise error(f"{path} cannot be read: {cause.strerror}") from cause
        raise error(f"{path} is damaged or not {what}: {_in_a_line(cause)[:_SHOWN]}") from cause


def _in_a_line(cause: Exception) -> str:
    from pydantic import ValidationError  # here, since it takes long to import

    if isinstance(cause, ValidationError):  # its own first line only counts what does not fit
        first = cause.errors()[0]
        return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
    return str(cause).strip().partition("\n")[0] or type(cause).__name__


@contextmanager
def opened(path: Path, most: int) -> Iterator[BinaryIO]:
    """A file that somebody else may have made, open to be read. A pipe or a device, which may never end, is refused.

    Args:
        path: of the file, or of a link to it.
        most: [bytes] the largest accepted size.

    Raises:
        OSError: it cannot be opened, is not a regular file, or is larger.
    """
    _check_name(path)
    # Without O_NONBLOCK the opening of a pipe waits for a writer.
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "must be a regular file", str(path))
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"has {status.st_size:,} bytes; must be {most:,} or less", str(path))
        with open(number, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(number)


def read(path: Path, most: int = _MOST) -> bytes:
    """The content of a file that somebody else may have made.

    Raises:
        OSError: as `opened`, or the file grew beyond `most` [bytes] while it was read.
    """
    with opened(path, most) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"grew while it was read; must be {most:,} bytes or less", str(path))
    return content


def read_json(path: Path, wanted: str) -> Any:
    """What a JSON file holds; `wanted` is what the file must be, for the message.

    Raises:
        InvalidInput: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(read(path))
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read ({error.strerror}); must be {wanted}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} is not JSON ({error}); must be {wanted}") from error


def write_json(path: Path, content: JsonDict) -> None:
    """Write a JSON object to a file, whole or not at all."""
    with staged(path) as staging:
        staging.write_text(json.dumps(content, indent=1) + "\n")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep two commands from changing what is at a path at once: the second waits.

    The path's folder is locked, which leaves no file behind. NFS cannot lock a folder; there nobody waits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    number = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make a folder, if need be, and lock it against other commands during the block.

    The lock ends with the process. Its file stays: two commands could get in while it is removed.

    Raises:
        InvalidInput: another command has locked the folder, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"the folder {folder} cannot be made ({error.strerror}); choose another path") from error
    # Neither a link to another file nor a pipe, whose opening waits.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(folder / ".lock", flags, 0o666), "rb") as file:
        lock_now(file.fileno(), folder)
        yield


def lock_now(file: int, what: Path) -> None:
    """Lock an open file until it is closed.

    Raises:
        InvalidInput: another command has locked it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InvalidInput(f"another command writes to {what} now; wait until it ends, or choose another") from None
