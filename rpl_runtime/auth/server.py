"""Who may call a server and from where: the address, TLS, and each caller's rights (docs/security.md).

Certificates and tokens are read again when their files change, for the connections and calls that come after. A change
that cannot be used is logged, and the earlier version stays in force.
"""

import ipaddress
import logging
import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar

import grpc

from rpl_runtime.auth.tokens import Grant, Right, find, read_grants, read_private
from rpl_runtime.errors import InvalidInput, PermissionDenied, RelayError, Unauthenticated
from rpl_runtime.files import read

_LOG = logging.getLogger(__name__)
_DATES = ("notBefore", "notAfter")  # between which a certificate is valid
_ANY_TIME = 0x200000  # OpenSSL's X509_V_FLAG_NO_CHECK_TIME
_T = TypeVar("_T")


@dataclass(frozen=True)
class SecurityConfig:
    """By default a server answers everybody on its own machine and nobody else."""

    tls_cert: Path | None = None  # PEM, the chain of certificates
    tls_key: Path | None = None  # PEM
    client_ca: Path | None = None  # PEM; clients without a certificate of this authority are refused
    tokens: Path | None = None  # the file of grants; None: whoever reaches the server may act and fetch
    insecure: bool = False  # serve other machines in plain text


def is_local(address: str) -> bool:
    """Whether an address, HOST:PORT or unix:PATH, can be reached from its own machine alone."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def server_credentials(address: str, config: SecurityConfig) -> grpc.ServerCredentials | None:
    """The credentials to listen on an address with; None for plain text.

    Raises:
        InvalidInput: other machines could listen in, or a certificate or key cannot be used.
    """
    if config.tls_cert is None and config.tls_key is None:
        if config.client_ca is not None:
            raise InvalidInput("clients show certificates over TLS only; --client-ca needs --tls-cert and --tls-key")
        if not (config.insecure or is_local(address)):
            raise InvalidInput(
                f"{address} can be reached from other machines, in plain text; must be a loopback address, "
                f"unix:PATH, --tls-cert with --tls-key, or --insecure for a trusted network"
            )
        return None
    if config.tls_cert is None or config.tls_key is None:
        raise InvalidInput("TLS needs both --tls-cert and --tls-key; one of them is missing")
    cert, key, client_ca = config.tls_cert, config.tls_key, config.client_ca
    files = [path for path in (cert, key, client_ca) if path is not None]
    current = _Kept(files, lambda: _certificates(cert, key, client_ca))
    return grpc.dynamic_ssl_server_credentials(current.value, current.get, client_ca is not None)


class Gate:
    """Checks each caller's token.

    Args:
        address: where the server listens.
        config: the operator's settings.

    Raises:
        InvalidInput: the file of tokens cannot be used.
    """

    def __init__(self, address: str, config: SecurityConfig) -> None:
        self._local = is_local(address)
        path = config.tokens
        self._grants = None if path is None else _Kept([path], lambda: read_grants(path), unusable=())

    def admit(self, right: Right | None, authorization: str | None) -> Grant | None:
        """The caller's grant; None if no tokens are configured.

        Args:
            right: the right that the call needs; None: any.
            authorization: the call's metadata entry of that name.

        Raises:
            Unauthenticated: the caller is unknown.
            PermissionDenied: the caller is known but lacks the right.
        """
        if self._grants is None:
            if right in (Right.WATCH, Right.ADMINISTER) and not self._local:
                raise PermissionDenied(
                    f"without tokens nobody may {right} this server from the network; use `rpl serve --tokens FILE`"
                )
            return None
        if authorization is None:
            raise Unauthenticated("this server asks for a token; RPL_TOKEN_FILE (rpl --token-file) names its file")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("the call's authorization is of another kind; must be a bearer token")
        grant = find(self._grants.get(), token.strip(), datetime.now(UTC))
        if right is not None and not grant.may(right):
            may = " and ".join(sorted(grant.rights))
            raise PermissionDenied(f"token {grant.name} has no right to {right}; it may {may}")
        return grant


class _Kept(Generic[_T]):
    """A value read from files, and read again when one of them has changed.

    Args:
        unusable: the value while they cannot be read; None: the one that was read before.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], _T], unusable: _T | None = None) -> None:
        self._paths = paths
        self._unusable = unusable
        self._read = read
        self._lock = threading.Lock()
        self._seen = self._look()
        self.value = read()

    def get(self) -> _T:
        with self._lock:
            found = self._look()
            if found != self._seen:
                self._seen = found
                try:
                    self.value = self._read()
                except RelayError as error:
                    if self._unusable is None:
                        _LOG.error("the version read before stays in force: %s", error)
                    else:
                        self.value = self._unusable  # it may have been revoked
                        _LOG.error("nobody is admitted until this is mended: %s", error)
            return self.value

    def _look(self) -> list[tuple[int, ...]]:
        found = []
        for path in self._paths:
            try:
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_ino, status.st_size, status.st_mode, status.st_uid))
            except OSError as error:
                found.append((error.errno or 0,))
        return found


def _certificates(cert: Path, key: Path, client_ca: Path | None) -> grpc.ServerCertificateConfiguration:
    private, chain = read_private(key), read_public(cert)

    def no_password() -> str:  # or OpenSSL would ask on the terminal
        raise ValueError("the key is encrypted; must be one without a password")

    try:
        # gRPC accepts any text and then fails at each handshake.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key, password=no_password)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidInput(f"{cert} and {key} must be a certificate and its key, in PEM: {error}") from error
    _check_dates(cert, context)
    authorities = None if client_ca is None else read_authorities(client_ca)
    return grpc.ssl_server_certificate_configuration([(private.encode(), chain)], authorities)


def _check_dates(cert: Path, context: ssl.SSLContext) -> None:
    """Check that a server's certificate is valid today: no client would connect, and gRPC would not say why.

    Only a handshake parses a certificate, so this makes one in memory.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(cert)  # trusts the certificate itself
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _ANY_TIME
    there, here = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking, answering = client.wrap_bio(there, here), context.wrap_bio(here, there, server_side=True)
    try:
        for side in (asking, answering, asking):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLError:  # another fault, which each client judges for itself
        return
    found = asking.getpeercert() or {}
    first, last = (datetime.fromtimestamp(ssl.cert_time_to_seconds(str(found[end])), UTC) for end in _DATES)
    if not first <= datetime.now(UTC) <= last:
        raise InvalidInput(
            f"{cert} is valid from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC, and it is "
            f"{datetime.now(UTC):%Y-%m-%d %H:%M} here; must be valid now, or no client will connect"
        )


def read_authorities(path: Path) -> bytes:
    """The content of a file of authorities' certificates.

    Raises:
        InvalidInput: it holds none, or cannot be read.
    """
    content = read_public(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:
        raise InvalidInput(f"{path} holds no certificate of an authority, in PEM: {error}") from error
    return content


def read_public(path: Path) -> bytes:
    """The content of a certificate's file.

    Raises:
        InvalidInput: it cannot be read.
    """
    try:
        return read(path)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
