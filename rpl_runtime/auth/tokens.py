"""Bearer tokens: who may act, fetch, watch or administer, and until when. The server's file holds a grant a line:

    # name   rights      sha256 of the token                                               expires (optional)
    arm-3    act,fetch   2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae  2027-03-01T00:00:00Z

A token is 256 random bits. It cannot be guessed, nor found from its digest, so the digest needs no salt and no slow
hash, and reading the server's file gives no access. Writing it does: a file that others may write or strangers may read
is refused. Only the client's own file holds the token itself.
"""

import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from rpl_runtime.errors import InvalidInput, Unauthenticated, hint
from rpl_runtime.files import followed, locked, opened, staged

_PREFIX = "rpl_"  # lets people, and scanners for leaked secrets, recognise a token
_NAME = re.compile(r"[\w.@-]{1,64}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LONGEST_FILE = 1 << 20  # [bytes]


class Right(StrEnum):
    ACT = "act"  # Plan, Act and Control
    FETCH = "fetch"  # the bundle's files
    WATCH = "watch"  # the robots that run, their states and subgoals
    ADMINISTER = "administer"  # the whole admin service


@dataclass(frozen=True)
class Grant:
    """What the holder of one token may do."""

    name: str
    rights: frozenset[Right]
    digest: str  # SHA-256 of the token, in hexadecimal digits
    expires: datetime | None = None  # UTC (no DST ambiguity); None: never

    def may(self, right: Right) -> bool:
        """Whether the holder has a right; who may administer may watch."""
        return right in self.rights or (right is Right.WATCH and Right.ADMINISTER in self.rights)


def new_token() -> str:
    """A new random token."""
    return _PREFIX + secrets.token_urlsafe(32)


def grant(token: str, name: str, rights: Sequence[Right], expires: datetime | None = None) -> Grant:
    """The grant for a token, to be added to the server's file.

    Raises:
        InvalidInput: the name is not valid, or there is no right.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"the token's name is {name!r}; must be 1 to 64 letters, digits and any of . _ - @")
    if not rights:
        raise InvalidInput(f"token {name} has no right; must be one of {', '.join(Right)}")
    return Grant(name, frozenset(rights), _digest(token), expires and expires.astimezone(UTC))


def find(grants: Sequence[Grant], token: str, now: datetime) -> Grant:
    """The grant of a token.

    Raises:
        Unauthenticated: the token is unknown or has expired.
    """
    shown = _digest(token)
    found = [held for held in grants if hmac.compare_digest(held.digest, shown)]  # always all, for constant time
    if not found:
        raise Unauthenticated("the token is not one that this server knows; ask its operator for one")
    [held] = found
    if held.expires is not None and held.expires <= now:
        raise Unauthenticated(f"token {held.name} expired at {_written(held.expires)}; ask the operator for another")
    return held


def read_grants(path: Path) -> tuple[Grant, ...]:
    """The grants of a server's file.

    Raises:
        InvalidInput: the file cannot be read or is open to others, or a line is not a grant.
    """
    grants: list[Grant] = []
    for number, line in enumerate(read_private(path).splitlines(), start=1):
        if words := line.partition("#")[0].split():
            grants.append(_parse(words, f"line {number} of {path}"))
    for what, values in (("name", [held.name for held in grants]), ("token", [held.digest for held in grants])):
        if len(set(values)) < len(values):
            raise InvalidInput(f"{path} names a {what} twice; each must be unique")
    return tuple(grants)


def add_grant(path: Path, held: Grant) -> None:
    """Add a grant to a server's file, and create the file if there is none.

    Raises:
        InvalidInput: the name is taken, or the file cannot be read or written.
    """
    _check_folder(path)
    with locked(followed(path)):
        before = read_private(path) if path.exists() else "# name  rights  sha256 of the token  expires (optional)\n"
        if path.exists() and held.name in {other.name for other in read_grants(path)}:
            raise InvalidInput(f"{path} has a token named {held.name}; choose another name, or revoke it first")
        expires = "" if held.expires is None else "  " + _written(held.expires)
        line = f"{held.name}  {','.join(sorted(held.rights))}  {held.digest}{expires}\n"
        write_private(path, before + ("" if before.endswith("\n") else "\n") + line)


def remove_grant(path: Path, name: str) -> None:
    """Take a grant out of a server's file; a running server notices.

    Raises:
        InvalidInput: there is none of that name, or the file cannot be read or written.
    """
    with locked(followed(path)):
        names = [held.name for held in read_grants(path)]
        if name not in names:
            raise InvalidInput(f"{path} has no token named {name}{hint(name, names)}; `rpl tokens list` shows all")
        lines = read_private(path).splitlines(keepends=True)
        write_private(path, "".join(line for line in lines if line.partition("#")[0].split()[:1] != [name]))


def read_private(path: Path) -> str:
    """The text of a file of grants, of a token or of a key.

    Raises:
        InvalidInput: it cannot be read, others may write it, or strangers may read it.
    """
    try:
        with opened(path, _LONGEST_FILE) as file:
            status = os.fstat(file.fileno())
            text = file.read(_LONGEST_FILE).decode()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not text; must be UTF-8") from error
    if status.st_uid not in (0, os.geteuid()):
        raise InvalidInput(f"{path} belongs to user {status.st_uid}; it must belong to you or to root")
    if stat.S_IMODE(status.st_mode) & 0o027:
        mode = f"{stat.S_IMODE(status.st_mode):o}"
        raise InvalidInput(f"{path} has mode {mode}, open to others; must be 640 or less: chmod 600 {path}")
    return text


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all; one that is replaced keeps its mode and owner.

    Raises:
        InvalidInput: it cannot be written.
    """
    _check_folder(path)
    try:
        with staged(path, mode=0o600) as staging:
            staging.write_text(text)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror}") from error


def _check_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise InvalidInput(f"{path} cannot be written: {path.parent} is not a folder")


def read_token(path: Path) -> str:
    """The token in a client's file.

    Raises:
        InvalidInput: the file cannot be read, is open to others, or holds something else.
    """
    token = read_private(path).strip()
    check_token(token, str(path))
    return token


def check_token(token: str, where: str) -> None:
    """Refuse a text that cannot be a token, without repeating it.

    Raises:
        InvalidInput: it is not one word of printable ASCII.
    """
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidInput(f"{where} holds no token; must be one word, as `rpl tokens new` prints it")


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _parse(words: list[str], where: str) -> Grant:
    if len(words) not in (3, 4):
        raise InvalidInput(f"{where} has {len(words)} words; must be name, rights, digest and perhaps an expiry")
    name, rights, digest, *expires = words
    unknown = [right for right in rights.split(",") if right not in set(Right)]
    if unknown:
        raise InvalidInput(f"{where} names the right {unknown[0]!r}; must be one of {','.join(Right)}")
    if not _NAME.fullmatch(name) or not _DIGEST.fullmatch(digest):
        raise InvalidInput(
            f"{where} is not a grant; must be name, rights and SHA-256 in hex, as `rpl tokens new` writes"
        )
    until = None
    if expires:
        try:
            moment = datetime.fromisoformat(expires[0])
            until = moment.astimezone(UTC) if moment.tzinfo else None
        except (ValueError, OverflowError):
            pass
        if until is None:
            raise InvalidInput(f"{where} expires at {expires[0]!r}; must be a time with its zone, 2027-03-01T00:00:00Z")
    return Grant(name, frozenset(map(Right, rights.split(","))), digest, until)
