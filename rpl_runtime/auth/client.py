"""How a client reaches a server: certificates, a token, and the channel that shows them.

    RPL_TLS          1 to speak TLS and trust the system's certificate authorities
    RPL_CA           file of the authorities to trust instead, PEM
    RPL_CERT         file of the client's own certificate, PEM; RPL_KEY its key
    RPL_TOKEN_FILE   file of the token; RPL_TOKEN the token itself
    RPL_INSECURE     1 to send a token in plain text to another machine, over a trusted network

A token never comes from the command line, where every user of the machine could read it.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc

from rpl_runtime.auth.server import is_local, read_authorities, read_public
from rpl_runtime.auth.tokens import check_token, read_private, read_token
from rpl_runtime.errors import InvalidInput, ProtocolViolation, RelayError, ServerUnavailable, error_named, printable

TLS, CA, CERT, KEY = "RPL_TLS", "RPL_CA", "RPL_CERT", "RPL_KEY"
TOKEN, TOKEN_FILE, INSECURE = "RPL_TOKEN", "RPL_TOKEN_FILE", "RPL_INSECURE"
_NAMED = ("unix:", "unix-abstract:", "passthrough:")  # prefixes of addresses without a port
IS_ONE_THERE = "; is `rpl serve` running there?"  # ends what is said where no server answers
_RESOLVED = ("dns:", "ipv4:", "ipv6:")  # addresses that may name several replicas; calls and streams take turns


@dataclass(frozen=True)
class Access:
    """How a server is reached. By default in plain text and without a token, as a private local server is."""

    tls: bool = False  # implied by `ca` and `cert`
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    token: str | None = field(default=None, repr=False)
    insecure: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The access that the variables of an environment describe.

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
        tls, insecure = (environment.get(key, "") not in ("", "0") for key in (TLS, INSECURE))
        return cls(tls, named.get(CA), named.get(CERT), named.get(KEY), token, insecure)

    @property
    def secure(self) -> bool:
        """Whether the client speaks TLS."""
        return self.tls or self.ca is not None or self.cert is not None


def check_address(address: str, whose: str = "the address") -> None:
    """
    Raises:
        InvalidInput: it is malformed; the message calls it as `whose` says.
    """
    if not address.startswith((*_NAMED, *_RESOLVED)):
        host, _, port = address.rpartition(":")
        if not (host and port.isdecimal() and int(port) < 2**16) or "/" in address:
            raise InvalidInput(f"{whose} is {address!r}; must be HOST:PORT, as in 127.0.0.1:50051, or unix:PATH")


class Connection:
    """A connection to one server, opened at its first call.

    Args:
        address: HOST:PORT or unix:PATH, or a name with gRPC's own prefix, such as dns:///HOST:PORT.
        access: how the server is reached; None reads it from the environment.
        settings: further options of gRPC's channel.

    Raises:
        InvalidInput: the address is malformed, a certificate or key cannot be used, or a token would be sent in plain
            text to another machine.
    """

    def __init__(self, address: str, access: Access | None = None, settings: Sequence[tuple[str, int]] = ()) -> None:
        check_address(address)
        self.address = address
        access = self._access = Access.from_environment() if access is None else access
        # What each call carries.
        self.metadata = () if access.token is None else (("authorization", f"Bearer {access.token}"),)
        options: list[tuple[str, int | str]] = [
            ("grpc.enable_http_proxy", 0),  # ignore the environment's proxy for the web
            # Not shared with an older client, whose connection may be broken and waiting to retry.
            ("grpc.use_local_subchannel_pool", 1),
            *settings,
        ]
        if address.startswith(_RESOLVED):
            options.append(("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'))
        if access.secure:
            if (access.cert is None) != (access.key is None):
                raise InvalidInput(f"a client's certificate needs its key and the reverse; {CERT} or {KEY} is missing")
            credentials = grpc.ssl_channel_credentials(
                None if access.ca is None else read_authorities(access.ca),
                None if access.key is None else read_private(access.key).encode(),
                None if access.cert is None else read_public(access.cert),
            )
            self.channel = grpc.secure_channel(address, credentials, options)
        elif access.token is None or access.insecure or is_local(address):
            self.channel = grpc.insecure_channel(address, options)
        else:
            raise InvalidInput(
                f"the token would go to {address} in plain text; set {TLS} or {CA}, or {INSECURE}=1 for a trusted "
                f"network"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, and every call and stream on it."""
        self.channel.close()

    @contextmanager
    def translated(self, timeout_s: float) -> Iterator[None]:
        """Raise gRPC's errors in the block as errors of this project."""
        try:
            yield
        except grpc.RpcError as error:
            raise self.translate(error, timeout_s) from None

    def translate(self, error: Any, timeout_s: float) -> RelayError:  # grpc.RpcError has no typed status
        """The exception for the status of a call that was given a time [s]."""
        reason, details = dict(error.trailing_metadata() or ()).get("rpl-reason"), printable(error.details() or "")
        if reason is not None:
            return error_named(reason)(details)
        match error.code():
            case grpc.StatusCode.UNAVAILABLE:
                return ServerUnavailable(self._why_no_answer(details))
            case grpc.StatusCode.DEADLINE_EXCEEDED | grpc.StatusCode.CANCELLED:
                return ServerUnavailable(f"the server at {self.address} is gone: no answer came within {timeout_s:g} s")
            case grpc.StatusCode.UNIMPLEMENTED:
                return ProtocolViolation(f"the server at {self.address} does not speak rpl.v1 as this client does")
            case grpc.StatusCode.RESOURCE_EXHAUSTED:
                return InvalidInput(f"the message is too large: {details}")
            case code:
                return RelayError(f"the server at {self.address} failed with {code.name}: {details}")

    def _why_no_answer(self, details: str) -> str:
        said, address = details.lower(), self.address
        if "certificate_verify_failed" in said or "hostname verification" in said:
            return (
                f"the server at {address} shows a certificate that is not trusted here; {CA} (rpl --ca) must name the "
                f"authority that signed it, and the certificate must name the address"
            )
        if "wrong_version_number" in said:
            return f"the server at {address} speaks plain text; unset {TLS}, {CA} and {CERT}, which ask for TLS"
        if "failed to connect" in said and "socket closed" in said:
            if self._access.secure:
                return f"no server answers at {address} to this certificate; {CERT} and {KEY} must name one it trusts"
            return f"no server answers at {address} in plain text; if it speaks TLS, {CA} (rpl --ca) must name its CA"
        if "errors resolving" in said or "dns resolution failed" in said:
            return f"no server answers at {address}: this machine finds no host of that name"
        return f"no server answers at {address}{IS_ONE_THERE}"
