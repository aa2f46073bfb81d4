"""Where a server listens: an address as people write it, bound, or why it cannot be.

In: HOST:PORT or unix:PATH, and how it is to be secured. Out: the address that clients use. It does not know what is
served there.

A socket file of a server that was killed stays behind. It is replaced where nobody answers at it; gRPC alone would
replace that of a running server as well.
"""

import errno
import os
import socket
from pathlib import Path

import grpc.aio

from rpl_runtime.auth.server import SecurityConfig, server_credentials
from rpl_runtime.errors import AddressInUse, InvalidInput, RelayError

UNIX = "unix:"  # what the address of a Unix domain socket begins with


def listen(server: grpc.aio.Server, address: str, security: SecurityConfig) -> str:
    """Have a server listen at an address; port 0 takes a free one. Returns the address that it has then.

    Raises:
        AddressInUse: another program listens there.
        InvalidInput: it is no address, or none of this machine's, or not to be listened on with these settings.
    """
    if address.startswith(UNIX):
        return _listen_at_path(server, address, security)
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and int(port) < 2**16):
        raise InvalidInput(f"the address is {address!r}; must be HOST:PORT with a port from 0 to 65535, or unix:PATH")
    credentials = server_credentials(address, security)
    try:
        return f"{host}:{_add(server, address, credentials)}"
    except RuntimeError as error:
        raise _why_not(host, int(port)) from error


def _add(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    if credentials is None:
        return server.add_insecure_port(address)
    return server.add_secure_port(address, credentials)


def _listen_at_path(server: grpc.aio.Server, address: str, security: SecurityConfig) -> str:
    credentials = server_credentials(address, security)
    path = Path(address.removeprefix(UNIX))
    if path.exists() and not path.is_socket():
        raise InvalidInput(f"{path} is no socket; must be a path at which nothing stands, or a socket of before")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            pass
        except OSError as error:
            raise InvalidInput(f"cannot listen on {path}: {error.strerror or error}") from error
        else:
            raise AddressInUse(f"{path} is taken by another program; choose another path")
    before = os.umask(0o177)  # who may write to the socket may drive robots: its owner, until the owner says otherwise
    try:
        _add(server, address, credentials)
    except RuntimeError as error:
        raise InvalidInput(f"cannot listen on {path}; must be a path in a folder that can be written to") from error
    finally:
        os.umask(before)
    return address


def _why_not(host: str, port: int) -> RelayError:
    """What stands against listening on an address: gRPC itself only says that it failed."""
    host = host.strip("[]")
    try:
        family, *_ = socket.getaddrinfo(host, port)[0]
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return AddressInUse(f"{host}:{port} is taken by another program; choose another port, or 0 for a free one")
        why = os.strerror(error.errno or errno.EADDRNOTAVAIL)
        return InvalidInput(f"cannot listen on {host}:{port}: {why}; must be an address of this machine")
    return AddressInUse(f"{host}:{port} was taken by another program just now; try again")
