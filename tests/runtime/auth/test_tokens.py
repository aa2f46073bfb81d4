"""Tokens: what the server's file says, who may write it, and whose a shown token is."""

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processes import rpl
from rpl_runtime.auth.tokens import (
    Grant,
    Right,
    add_grant,
    find,
    grant,
    new_token,
    read_grants,
    read_token,
    remove_grant,
    write_private,
)
from rpl_runtime.errors import InvalidInput, Unauthenticated

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SHA = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


def written(file: Path, text: str, mode: int = 0o600) -> Path:
    file.write_text(text)
    file.chmod(mode)
    return file


def test_a_token_is_known_by_what_was_written_of_it(file: Path) -> None:
    arm, operator = new_token(), new_token()
    add_grant(file, grant(arm, "arm-3", [Right.ACT, Right.FETCH], NOW + timedelta(days=1)))
    add_grant(file, grant(operator, "operator", list(Right)))
    grants = read_grants(file)
    assert find(grants, arm, NOW).name == "arm-3"
    assert find(grants, arm, NOW).rights == {Right.ACT, Right.FETCH}
    assert find(grants, operator, NOW) == grant(operator, "operator", list(Right))
    assert arm not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_token_nobody_granted_and_one_that_expired_are_nobodys(file: Path) -> None:
    token = new_token()
    add_grant(file, grant(token, "arm", [Right.ACT], NOW))
    grants = read_grants(file)
    assert find(grants, token, NOW - timedelta(seconds=1)).name == "arm"
    with pytest.raises(Unauthenticated, match="token arm expired at 2026-11-24T12:00:00Z"):
        find(grants, token, NOW)
    for other in (new_token(), "", grants[0].digest, token + " ", "\udcff"):
        with pytest.raises(Unauthenticated, match="not one that this server knows"):
            find(grants, other, NOW)


def test_two_tokens_are_never_the_same() -> None:
    assert len({new_token() for _ in range(100)}) == 100


@given(
    st.lists(st.sampled_from(Right), min_size=1, unique=True),
    st.none() | st.datetimes(datetime(2000, 1, 1), datetime(2999, 1, 1), timezones=st.timezones()),
)
def test_a_grant_comes_back_from_its_file(
    tmp_path_factory: pytest.TempPathFactory, rights: list[Right], expires: datetime | None
) -> None:
    file = tmp_path_factory.mktemp("tokens") / "file"
    expires = expires and expires.replace(microsecond=0)
    held = grant("secret", "a", rights, expires)
    add_grant(file, held)
    assert read_grants(file) == (held,)


def test_an_hour_that_comes_twice_is_kept_as_the_one_it_was(file: Path) -> None:
    twice = datetime(2026, 11, 1, 1, 30, fold=1, tzinfo=ZoneInfo("America/New_York"))
    held = grant("secret", "a", [Right.ACT], twice)
    add_grant(file, held)
    assert read_grants(file) == (held,)
    assert held.expires == datetime(2026, 11, 1, 6, 30, tzinfo=UTC)


def test_comments_and_empty_lines_are_passed_over(file: Path) -> None:
    written(file, f"# heading\n\n a  act {SHA} # who\n")
    assert read_grants(file) == (Grant("a", frozenset([Right.ACT]), SHA),)


BAD_FILES = {
    "no digest": ("a act\n", "line 1 of .* has 2 words"),
    "a right": (f"\na act,fly {SHA}\n", "line 2 of .* the right 'fly'; must be one of act,fetch,watch,administer"),
    "no right": (f"a , {SHA}\n", "the right ''"),
    "a plain token": ("a act rpl_secret\n", "is not a grant"),
    "a name": (f"a:b act {SHA}\n", "is not a grant"),
    "an expiry": (f"a act {SHA} tomorrow\n", "expires at 'tomorrow'"),
    "a time without a zone": (f"a act {SHA} 2027-03-01T00:00:00\n", "with its zone"),
    "a time past the last year": (f"a act {SHA} 9999-12-31T23:59:59-12:00\n", "with its zone"),
    "a name twice": (f"a act {SHA}\na act {SHA[::-1]}\n", "names a name twice"),
    "a token twice": (f"a act {SHA}\nb act {SHA}\n", "names a token twice"),
    "much": ("#" * (1 << 20) + "\n", "has 1,048,577 bytes; must be 1,048,576 or less"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_is_none_of_grants_is_refused(case: str, file: Path) -> None:
    text, sentence = BAD_FILES[case]
    with pytest.raises(InvalidInput, match=sentence):
        read_grants(written(file, text))


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o620, 0o660, 0o777, 0o601])
def test_a_file_open_to_others_is_refused(mode: int, file: Path) -> None:
    with pytest.raises(InvalidInput, match=f"has mode {mode:o}, open to others; .* chmod 600"):
        read_grants(written(file, f"a act {SHA}\n", mode))


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_a_file_of_the_owner_and_perhaps_a_group_that_reads_is_fine(mode: int, file: Path) -> None:
    assert len(read_grants(written(file, f"a act {SHA}\n", mode))) == 1


def test_a_file_of_another_user_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(file, f"a act {SHA}\n")
    if os.geteuid() == 0:
        os.chown(file, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(InvalidInput, match="belongs to user"):
        read_grants(file)


def test_a_file_that_is_not_there_is_one_sentence(file: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read: No such file"):
        read_grants(file)
    with pytest.raises(InvalidInput, match="is not a folder"):
        write_private(file / "below", "")


def test_grants_that_are_made_at_once_are_all_kept(file: Path) -> None:
    with ThreadPoolExecutor(12) as threads:
        made = list(threads.map(lambda n: add_grant(file, grant(f"t{n}", f"arm-{n}", [Right.ACT])), range(24)))
    assert len(read_grants(file)) == len(made) == 24


def test_a_file_that_a_group_reads_through_a_link_stays_so(file: Path) -> None:
    kept = written(file.with_name("kept"), f"a act {SHA}\n", 0o640)
    file.symlink_to(kept)
    before = kept.stat()
    add_grant(file, grant("x", "b", [Right.FETCH]))
    after = kept.stat()
    assert file.is_symlink()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert {held.name for held in read_grants(file)} == {"a", "b"}


def test_a_pipe_in_place_of_the_file_is_refused(file: Path) -> None:
    os.mkfifo(file, 0o600)
    for act in (lambda: read_grants(file), lambda: add_grant(file, grant("x", "b", [Right.FETCH]))):
        with pytest.raises(InvalidInput, match="must be a regular file"):
            act()


def test_a_new_token_takes_no_file_of_another(file: Path, tmp_path: Path) -> None:
    output = tmp_path / "token"
    written(file, f"arm act {SHA}\n")
    assert rpl("tokens", "new", file, "arm", "--right", "act", "--output", output).returncode == 2  # the name is taken
    assert not output.exists()
    output.write_text("mine")
    assert rpl("tokens", "new", file, "leg", "--right", "act", "--output", output).returncode == 2
    assert output.read_text() == "mine"
    assert [held.name for held in read_grants(file)] == ["arm"]


def test_a_name_is_granted_once_and_the_file_keeps_what_it_had(file: Path) -> None:
    written(file, f"# mine\na act {SHA}")
    add_grant(file, grant("x", "b", [Right.FETCH]))
    with pytest.raises(InvalidInput, match="has a token named a"):
        add_grant(file, grant("y", "a", [Right.ACT]))
    assert file.read_text().startswith(f"# mine\na act {SHA}\nb  fetch  ")
    assert [held.name for held in read_grants(file)] == ["a", "b"]


@pytest.mark.parametrize("name", ["", "a b", "a#", "ä", "x" * 65])
def test_a_name_that_is_no_name_is_not_granted(name: str) -> None:
    with pytest.raises(InvalidInput, match="the token's name is"):
        grant("x", name, [Right.ACT])


def test_a_grant_of_nothing_is_none() -> None:
    with pytest.raises(InvalidInput, match="has no right"):
        grant("x", "a", [])


def test_a_clients_file_holds_one_token(file: Path) -> None:
    token = new_token()
    assert read_token(written(file, token + "\n")) == token
    for text in ("", "two words", "a\nb", "ä"):
        with pytest.raises(InvalidInput, match="holds no token"):
            read_token(written(file, text))
    with pytest.raises(InvalidInput, match="open to others"):
        read_token(written(file, token, 0o644))


def test_a_token_is_taken_back(file: Path) -> None:
    for name in ("arm", "leg"):
        add_grant(file, grant(new_token(), name, [Right.ACT]))
    file.write_text(file.read_text() + "# arm is a comment\n")
    assert rpl("tokens", "revoke", file, "arm").returncode == 0
    assert [held.name for held in read_grants(file)] == ["leg"]
    assert file.read_text().endswith("# arm is a comment\n")
    with pytest.raises(InvalidInput, match=r"no token named legs \(did you mean leg\?\)"):
        remove_grant(file, "legs")
