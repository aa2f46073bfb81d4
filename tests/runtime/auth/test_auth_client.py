"""Clients of a server that asks who is there, with real certificates: who gets through, and what others are told."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
import trustme
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from rpl_runtime.auth.client import Access
from rpl_runtime.auth.quotas import QuotaConfig
from rpl_runtime.auth.server import SecurityConfig
from rpl_runtime.auth.tokens import Right, add_grant, grant
from rpl_runtime.client.admin import Admin
from rpl_runtime.client.client import Client
from rpl_runtime.errors import InvalidInput, LimitReached, PermissionDenied, ServerUnavailable, Unauthenticated
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.server.server import ServerConfig, serve_in_thread

pytestmark = pytest.mark.usefixtures("transport")  # each test with each way that the bytes can take

STATE = np.zeros(5, dtype=np.float32)


class Pair(NamedTuple):
    cert: Path
    key: Path


class Papers:
    """Certificates of one authority, as files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder, self._authority = folder, trustme.CA()
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(self._authority.cert_pem.bytes())

    def issue(self, name: str) -> Pair:
        issued = self._authority.issue_cert(name)
        pair = Pair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        pair.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        pair.key.touch(0o600)
        pair.key.write_bytes(issued.private_key_pem.bytes())
        return pair


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers") / "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers") / "theirs")


@contextmanager
def served(bundle: Bundle, security: SecurityConfig, **settings: Any) -> Iterator[str]:
    with serve_in_thread(bundle, ServerConfig("127.0.0.1:0", security=security, **settings)) as address:
        yield address


def describes(address: str, access: Access, bundle: Bundle) -> bool:
    with Client(address, access=access) as client:
        return client.describe().digest == bundle.digest


def test_over_tls_who_trusts_the_authority_gets_through(tiny_bundle: Bundle, ours: Papers, theirs: Papers) -> None:
    with served(tiny_bundle, SecurityConfig(*ours.issue("127.0.0.1"))) as address:
        assert describes(address, Access(ca=ours.ca), tiny_bundle)
        for access, sentence in (
            (Access(), f"no server answers at {address} in plain text; if it speaks TLS, RPL_CA"),
            (Access(ca=theirs.ca), f"{address} shows a certificate that is not trusted here; RPL_CA"),
            (Access(tls=True), f"{address} shows a certificate that is not trusted here"),
        ):
            with pytest.raises(ServerUnavailable, match=sentence):
                describes(address, access, tiny_bundle)


def test_a_certificate_of_another_name_or_none_is_not_trusted(tiny_bundle: Bundle, ours: Papers) -> None:
    for security, sentence in (
        (SecurityConfig(*ours.issue("elsewhere.example")), "the certificate must name the address"),
        (SecurityConfig(), "speaks plain text"),
    ):
        with served(tiny_bundle, security) as address, pytest.raises(ServerUnavailable, match=sentence):
            describes(address, Access(ca=ours.ca), tiny_bundle)


def test_a_server_that_asks_for_certificates_turns_others_away(
    tiny_bundle: Bundle, ours: Papers, theirs: Papers
) -> None:
    with served(tiny_bundle, SecurityConfig(*ours.issue("127.0.0.1"), ours.ca)) as address:
        own, foreign = ours.issue("robot.example"), theirs.issue("robot.example")
        assert describes(address, Access(ca=ours.ca, cert=own.cert, key=own.key), tiny_bundle)
        for access in (Access(ca=ours.ca), Access(ca=ours.ca, cert=foreign.cert, key=foreign.key)):
            with pytest.raises(ServerUnavailable, match="to this certificate; RPL_CERT and RPL_KEY"):
                describes(address, access, tiny_bundle)


def test_a_certificate_that_was_renewed_is_shown_to_who_comes_next(
    tiny_bundle: Bundle, ours: Papers, theirs: Papers
) -> None:
    shown, renewed = ours.issue("127.0.0.1"), theirs.issue("127.0.0.1")
    with served(tiny_bundle, SecurityConfig(*shown)) as address, Client(address, access=Access(ca=ours.ca)) as before:
        before.describe()
        shown.key.write_bytes(renewed.key.read_bytes())
        shown.cert.write_bytes(renewed.cert.read_bytes())
        assert describes(address, Access(ca=theirs.ca), tiny_bundle)
        before.describe()


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """A file of tokens which are the names of their holders."""
    for name, rights in (("arm", [Right.ACT]), ("copier", [Right.FETCH]), ("operator", [Right.ADMINISTER])):
        add_grant(tmp_path / "tokens", grant(name, name, rights))
    return tmp_path / "tokens"


def test_each_right_opens_its_own_calls(tiny_bundle: Bundle, tokens: Path, tmp_path: Path) -> None:
    row = np.zeros((1, 5), dtype=np.float32)
    with served(tiny_bundle, SecurityConfig(tokens=tokens)) as address:

        def tried(token: str | None) -> list[type[Exception] | None]:
            """What comes of acting by Act and Control, fetching, administering."""
            access, found = Access(token=token), []
            with Client(address, access=access) as client, Admin(address, access=access) as admin:
                for call in (
                    lambda: client.act(row, row, np.zeros((1, 2), dtype=np.float32)),
                    lambda: client.control().start(f"of {token}", ["door"], STATE),
                    lambda: client.fetch(tmp_path / f"copy of {token}"),
                    admin.models,
                ):
                    try:
                        call()
                        found.append(None)
                    except (PermissionDenied, Unauthenticated) as error:
                        found.append(type(error))
            return found

        no = PermissionDenied
        assert tried("arm") == [None, None, no, no]
        assert tried("copier") == [no, no, None, no]
        assert tried("operator") == [no, no, no, None]
        assert tried("nobody") == tried(None) == [Unauthenticated] * 4


def test_what_one_caller_takes_too_much_is_refused_and_another_goes_on(tiny_bundle: Bundle, tokens: Path) -> None:
    add_grant(tokens, grant("other", "other", [Right.ACT]))
    quotas = QuotaConfig(streams=2, calls_per_s=0.001, rows_per_s=0.001, burst_s=10_000)  # 10 of each, and no more
    with (
        served(tiny_bundle, SecurityConfig(tokens=tokens), quotas=quotas, max_robots=3) as address,
        Client(address, access=Access(token="arm")) as arm,
        Client(address, access=Access(token="other")) as other,
        other.control() as calm,
    ):
        calm.start("calm", ["door"], STATE)
        with arm.control() as one, arm.control() as two, arm.control() as three:
            one.start("a", ["door"], STATE)
            two.start("b", ["door"], STATE)
            with pytest.raises(LimitReached, match=r"arm has as many Control streams open as one caller may \(2\)"):
                three.start("c", ["door"], STATE)
            with pytest.raises(LimitReached, match=r"as many robots run as this server takes \(3\)"):
                one.start("c", ["door"], STATE)
            with pytest.raises(LimitReached, match="arm sends too many rows"):  # noqa: PT012
                for step in range(20):
                    one.step("a", step, STATE)
            with pytest.raises(LimitReached, match="arm makes too many calls"):  # noqa: PT012
                for _ in range(20):
                    arm.describe()
        assert calm.step("calm", 0, STATE).replanned


@pytest.mark.parametrize(
    ("address", "reflection", "found"),
    [("127.0.0.1:0", None, True), ("0.0.0.0:0", None, False), ("0.0.0.0:0", True, True)],
)
def test_the_service_describes_itself_on_this_machine_or_when_told(
    address: str, reflection: bool | None, found: bool, tiny_bundle: Bundle
) -> None:
    config = ServerConfig(address, security=SecurityConfig(insecure=True), reflection=reflection)
    with (
        serve_in_thread(tiny_bundle, config) as bound,
        grpc.insecure_channel(f"127.0.0.1:{bound.rpartition(':')[2]}") as channel,
    ):
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        replies = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]), timeout=5)
        try:
            assert bool(list(replies)) is found
        except grpc.RpcError:
            assert not found
            assert replies.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_token_does_not_go_out_in_plain_text_by_accident() -> None:
    with pytest.raises(InvalidInput, match=r"would go to policies.example:1 in plain text; set RPL_TLS or RPL_CA"):
        Client("policies.example:1", access=Access(token="secret"))
    for access in (Access(token="secret", insecure=True), Access(token="secret", tls=True)):
        Client("policies.example:1", access=access).close()
    for address in ("127.0.0.1:1", "unix:/run/rpl.sock"):
        Client(address, access=Access(token="secret")).close()
    assert "secret" not in repr(Access(token="secret"))


def test_the_environment_says_how_servers_are_reached(tmp_path: Path) -> None:
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text("secret\n")
    found = Access.from_environment(
        {"RPL_CA": "a", "RPL_CERT": "b", "RPL_KEY": "c", "RPL_TOKEN_FILE": str(tmp_path / "token")}
    )
    assert found == Access(ca=Path("a"), cert=Path("b"), key=Path("c"), token="secret")
    assert Access.from_environment({"RPL_TLS": "1", "RPL_TOKEN": "x", "RPL_INSECURE": "0"}) == Access(
        tls=True, token="x"
    )
    assert Access.from_environment({}) == Access()
    with pytest.raises(InvalidInput, match="exclude each other"):
        Access.from_environment({"RPL_TOKEN": "x", "RPL_TOKEN_FILE": "y"})
    with pytest.raises(InvalidInput, match="RPL_TOKEN holds no token"):
        Access.from_environment({"RPL_TOKEN": "two words"})
