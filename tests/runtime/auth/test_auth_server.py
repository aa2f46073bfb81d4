"""Who may call a server: addresses, certificates and tokens, before any call is made."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from certificates import pems
from rpl_runtime.auth.server import Gate, SecurityConfig, is_local, server_credentials
from rpl_runtime.auth.tokens import Right, add_grant, grant, write_private
from rpl_runtime.errors import InvalidInput, PermissionDenied, RelayError, Unauthenticated

LOCAL, REMOTE = "127.0.0.1:50051", "0.0.0.0:50051"


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """A file of tokens which are the names of their holders."""
    file = tmp_path / "tokens"
    add_grant(file, grant("arm", "arm", [Right.ACT, Right.FETCH]))
    add_grant(file, grant("operator", "operator", [Right.ADMINISTER]))
    add_grant(file, grant("old", "old", list(Right), datetime.now(UTC) - timedelta(days=1)))
    return file


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:0", True),
        ("127.8.8.8:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("::1:1", True),
        ("unix:/run/rpl.sock", True),
        ("unix-abstract:rpl", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("192.168.1.2:1", False),
        ("[::ffff:10.0.0.1]:1", False),
        ("localhost.example.org:1", False),
        ("127.0.0.1.example.org:1", False),
        ("robot:1", False),
        ("", False),
    ],
)
def test_what_counts_as_this_machine_alone(address: str, local: bool) -> None:
    assert is_local(address) is local


def test_other_machines_are_served_over_tls_or_by_an_explicit_word(tmp_path: Path) -> None:
    cert, key, ca = pems(tmp_path)
    assert server_credentials(LOCAL, SecurityConfig()) is None
    assert server_credentials("unix:/tmp/x", SecurityConfig()) is None
    with pytest.raises(InvalidInput, match="in plain text; must be a loopback address, unix:PATH, --tls-cert"):
        server_credentials(REMOTE, SecurityConfig())
    assert server_credentials(REMOTE, SecurityConfig(insecure=True)) is None
    assert server_credentials(REMOTE, SecurityConfig(cert, key)) is not None
    assert server_credentials(LOCAL, SecurityConfig(cert, key, ca)) is not None


def test_settings_of_tls_that_do_not_fit_are_one_sentence(tmp_path: Path) -> None:
    cert, key, ca = pems(tmp_path)
    (tmp_path / "other").mkdir()
    _, other, _ = pems(tmp_path / "other")
    for config, sentence in (
        (SecurityConfig(cert, None), "needs both"),
        (SecurityConfig(None, key), "needs both"),
        (SecurityConfig(None, None, ca), "--client-ca needs"),
        (SecurityConfig(cert, other), "must be a certificate and its key"),
        (SecurityConfig(key, key), "must be a certificate and its key"),
        (SecurityConfig(cert, key, key), "no certificate of an authority"),
        (SecurityConfig(tmp_path / "gone", key), "gone cannot be read: No such file"),
        (SecurityConfig(cert, key, tmp_path / "gone"), "gone cannot be read: No such file"),
        (SecurityConfig(cert, tmp_path), "cannot be read: must be a regular file"),
    ):
        with pytest.raises(InvalidInput, match=sentence):
            server_credentials(REMOTE, config)
    key.chmod(0o644)
    with pytest.raises(InvalidInput, match="has mode 644, open to others"):
        server_credentials(REMOTE, SecurityConfig(cert, key))


@pytest.mark.parametrize(("first", "last"), [(-20, -1), (1, 20)])
def test_a_certificate_that_is_not_valid_today_is_said_with_its_dates(first: int, last: int, tmp_path: Path) -> None:
    today = datetime.now(UTC)
    begin, end = today + timedelta(days=first), today + timedelta(days=last)
    issued = trustme.CA().issue_cert("127.0.0.1", not_before=begin, not_after=end)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    key.chmod(0o600)
    with pytest.raises(InvalidInput, match=rf"cert.pem is valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}"):
        server_credentials("127.0.0.1:0", SecurityConfig(cert, key))


def test_without_tokens_whoever_reaches_the_server_may_use_it() -> None:
    for address in (LOCAL, REMOTE):
        gate = Gate(address, SecurityConfig(insecure=True))
        for right in (Right.ACT, Right.FETCH, None):
            assert gate.admit(right, None) is None
            assert gate.admit(right, "Bearer whatever") is None


def test_without_tokens_only_this_machine_administers() -> None:
    assert Gate(LOCAL, SecurityConfig()).admit(Right.ADMINISTER, None) is None
    with pytest.raises(PermissionDenied, match="nobody may administer this server from the network"):
        Gate(REMOTE, SecurityConfig()).admit(Right.ADMINISTER, None)


def test_with_tokens_everybody_shows_one_and_may_what_it_grants(tokens: Path) -> None:
    gate = Gate(LOCAL, SecurityConfig(tokens=tokens))
    admitted = gate.admit(Right.ACT, "Bearer arm")
    assert admitted is not None
    assert admitted.name == "arm"
    assert gate.admit(Right.FETCH, "bearer  arm ") == admitted
    assert gate.admit(None, "Bearer operator") is not None
    assert gate.admit(Right.ADMINISTER, "Bearer operator") is not None


REFUSED = {
    "nothing": (Right.ACT, None, Unauthenticated, "asks for a token; RPL_TOKEN_FILE"),
    "nothing to describe": (None, None, Unauthenticated, "asks for a token"),
    "another scheme": (Right.ACT, "Basic arm", Unauthenticated, "of another kind"),
    "no scheme": (Right.ACT, "arm", Unauthenticated, "of another kind"),
    "an empty one": (Right.ACT, "Bearer", Unauthenticated, "not one that this server knows"),
    "a wrong one": (Right.ACT, "Bearer arms", Unauthenticated, "not one that this server knows"),
    "an old one": (Right.ACT, "Bearer old", Unauthenticated, "token old expired at 20"),
    "another right": (Right.ADMINISTER, "Bearer arm", PermissionDenied, "no right to administer; it may act and fetch"),
    "and another": (Right.ACT, "Bearer operator", PermissionDenied, "no right to act; it may administer"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_everybody_else_is_refused_in_one_sentence(case: str, tokens: Path) -> None:
    right, authorization, error, sentence = REFUSED[case]
    with pytest.raises(RelayError, match=sentence) as caught:
        Gate(LOCAL, SecurityConfig(tokens=tokens)).admit(right, authorization)
    assert type(caught.value) is error


def test_a_change_of_the_tokens_holds_from_the_next_call_on(tokens: Path, caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(LOCAL, SecurityConfig(tokens=tokens))
    add_grant(tokens, grant("new", "new", [Right.ACT]))
    assert gate.admit(Right.ACT, "Bearer new") is not None
    kept = [line for line in tokens.read_text().splitlines() if not line.startswith("arm ")]
    tokens.write_text("\n".join(kept))
    with pytest.raises(Unauthenticated):
        gate.admit(Right.ACT, "Bearer arm")
    assert not caplog.records


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("?"), lambda path: path.chmod(0o666)])
def test_nobody_is_admitted_while_the_tokens_cannot_be_used(
    spoil: object, tokens: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The tokens that were read before may have been revoked since."""
    gate, text = Gate(LOCAL, SecurityConfig(tokens=tokens)), tokens.read_text()
    spoil(tokens)  # type: ignore[operator]
    for _ in range(3):
        with pytest.raises(Unauthenticated):
            gate.admit(Right.ACT, "Bearer arm")
    assert len(caplog.records) == 1  # once for a change, not for each call
    with pytest.raises(InvalidInput):
        Gate(LOCAL, SecurityConfig(tokens=tokens))
    tokens.unlink(missing_ok=True)
    write_private(tokens, text)
    assert gate.admit(Right.ACT, "Bearer arm") is not None
