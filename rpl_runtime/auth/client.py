"""How a client reaches a server that asks who is there: certificates, a token, and the channel that shows them.

In: files, and variables of the environment. Out: a channel, metadata for its calls, and one sentence for people where
it does not get through. It does not know calls.

    RPL_TLS          1 to speak TLS, trusting the authorities that the system knows
    RPL_CA           file of the authorities to trust instead, PEM
    RPL_CERT         file of the client's own certificate, PEM; RPL_KEY that of its key
    RPL_TOKEN_FILE   file of the token; RPL_TOKEN the token itself
    RPL_INSECURE     1 to send a token in plain text to another machine, where the network itself is trusted

A token is not taken from the command line, where every user of the machine could read it.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from rpl_runtime.auth.server import check_authorities, is_local
from rpl_runtime.auth.tokens import check_token, read_private, read_token
from rpl_runtime.errors import InvalidInput, ProtocolViolation, RelayError, ServerUnavailable, error_named

TLS, CA, CERT, KEY = "RPL_TLS", "RPL_CA", "RPL_CERT", "RPL_KEY"
# What may stand for several replicas, between which calls and streams then take turns.
_NAMES = ("dns:", "ipv4:", "ipv6:")
TOKEN, TOKEN_FILE, INSECURE = "RPL_TOKEN", "RPL_TOKEN_FILE", "RPL_INSECURE"


@dataclass(frozen=True)
class Access:
    """By default plain text, and no token."""

    tls: bool = False  # on by itself where `ca` or `cert` is given
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    token: str | None = field(default=None, repr=False)
    insecure: bool = False

    @property
    def secure(self) -> bool:
        """Whether TLS is spoken."""
        return self.tls or self.ca is not None or self.cert is not None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What each call carries."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)


def access_from(environment: Mapping[str, str] = os.environ) -> Access:
    """The access that variables of the environment describe.

    Raises:
        InvalidInput: two of them exclude each other, or the token's file cannot be used.
    """
    named = {key: Path(environment[key]) for key in (CA, CERT, KEY, TOKEN_FILE) if environment.get(key)}
    token = environment.get(TOKEN) or None
    if token is not None and TOKEN_FILE in named:
        raise InvalidInput(f"{TOKEN} and {TOKEN_FILE} exclude each other; give one of them")
    if token is not None:
        check_token(token, TOKEN)
    elif TOKEN_FILE in named:
        token = read_token(named[TOKEN_FILE])
    flags = {key: environment.get(key, "") not in ("", "0") for key in (TLS, INSECURE)}
    return Access(flags[TLS], named.get(CA), named.get(CERT), named.get(KEY), token, flags[INSECURE])


@contextmanager
def plain_text() -> Iterator[None]:
    """Have the environment of this process, and of those it starts, say nothing of access for the length of a block.

    For a server of one's own on this machine, which asks nobody who is there, whatever holds of the others.
    """
    kept = {key: os.environ.pop(key) for key in (TLS, CA, CERT, KEY, TOKEN, TOKEN_FILE, INSECURE) if key in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


class Connection:
    """The way to one server, which is opened when it is first used.

    Args:
        address: HOST:PORT or unix:PATH, or a name with gRPC's own prefix, such as dns:///HOST:PORT.
        access: how the server is reached and what it is shown; None takes what the environment says.

    Raises:
        InvalidInput: a certificate or key cannot be used, or a token would go out for everybody to read.
    """

    def __init__(self, address: str, access: Access | None = None) -> None:
        self.address = address
        self._access = access_from() if access is None else access
        self.metadata = self._access.metadata
        self.channel = _open_channel(address, self._access)

    def close(self) -> None:
        """Close it, and every call on it."""
        self.channel.close()

    @contextmanager
    def translated(self, timeout_s: float) -> Iterator[None]:
        """Have what a call raises be of this project's tree."""
        try:
            yield
        except grpc.RpcError as error:
            raise self.translate(error, timeout_s) from None

    def translate(self, error: Any, timeout_s: float) -> RelayError:
        """The exception that a call's status stands for."""
        reason = dict(error.trailing_metadata() or ()).get("rpl-reason")
        if reason is not None:
            return error_named(reason)(error.details())
        match error.code():
            case grpc.StatusCode.UNAVAILABLE:
                return ServerUnavailable(self._why_no_answer(error.details() or ""))
            case grpc.StatusCode.DEADLINE_EXCEEDED | grpc.StatusCode.CANCELLED:
                return ServerUnavailable(f"the server at {self.address} is gone: no answer came within {timeout_s:g} s")
            case grpc.StatusCode.UNIMPLEMENTED:
                return ProtocolViolation(f"the server at {self.address} does not speak rpl.v1 as this client does")
            case grpc.StatusCode.RESOURCE_EXHAUSTED:
                return InvalidInput(f"the message is too large: {error.details()}")
            case code:
                return RelayError(f"the server at {self.address} failed with {code.name}: {error.details()}")

    def _why_no_answer(self, details: str) -> str:
        said, address = details.lower(), self.address
        if "certificate_verify_failed" in said or "hostname verification" in said:
            return (
                f"the server at {address} shows a certificate that is not trusted here; RPL_CA (rpl --ca) names the "
                f"authority that signed it, and the certificate names the address"
            )
        if "wrong_version_number" in said:
            return f"the server at {address} speaks plain text; RPL_TLS, RPL_CA and RPL_CERT make this client speak TLS"
        if "failed to connect" in said and "socket closed" in said:
            if self._access.secure:
                return (
                    f"no server answers at {address} to this certificate; RPL_CERT and RPL_KEY name one that it trusts"
                )
            return (
                f"no server answers at {address} in plain text; if it speaks TLS, RPL_CA (rpl --ca) names its authority"
            )
        return f"no server answers at {address}; is `rpl serve` running there?"


def _open_channel(address: str, access: Access) -> grpc.Channel:
    options: list[tuple[str, int | str]] = [
        ("grpc.enable_http_proxy", 0),  # directly, whatever proxy the environment names for the web
        # A connection of its own: one shared with an older client may be broken, and waiting to try again.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if address.startswith(_NAMES):
        options.append(("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'))
    if access.secure:
        return grpc.secure_channel(address, _credentials(access), options)
    if access.token is not None and not (access.insecure or is_local(address)):
        raise InvalidInput(
            f"the token would go to {address} in plain text; set {TLS} or {CA}, or {INSECURE}=1 where the "
            f"network itself is trusted"
        )
    return grpc.insecure_channel(address, options)


def _credentials(access: Access) -> grpc.ChannelCredentials:
    if (access.cert is None) != (access.key is None):
        raise InvalidInput(f"a client's certificate and its key go together; one of {CERT} and {KEY} is missing")
    if access.ca is not None:
        check_authorities(access.ca)
    return grpc.ssl_channel_credentials(
        None if access.ca is None else access.ca.read_bytes(),
        None if access.key is None else read_private(access.key).encode(),
        None if access.cert is None else _read(access.cert),
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
