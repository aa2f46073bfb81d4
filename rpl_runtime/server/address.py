"""Bind a server to an address, HOST:PORT or unix:PATH, or say why that fails.

A killed server leaves its socket file behind. `listen` replaces such a file only if no server answers there; gRPC alone
would also replace the socket of a running server.
"""

import errno
import os
import socket
from pathlib import Path

import grpc.aio

from rpl_runtime.auth.server import SecurityConfig, server_credentials
from rpl_runtime.errors import AddressInUse, InvalidInput, RelayError

_UNIX = "unix:"  # prefix of the address of a Unix domain socket


def listen(server: grpc.aio.Server, address: str, security: SecurityConfig) -> str:
    """Have a server listen at an address; port 0 takes a free one. Returns the address with the port it got.

    Raises:
        AddressInUse: another program listens there.
        InvalidInput: the address is malformed or not of this machine, or needs other security settings.
    """
    if address.startswith(_UNIX):
        path = Path(address.removeprefix(_UNIX))
        credentials = server_credentials(address, security)
        _free_socket(path)
        before = os.umask(0o177)  # only its owner may connect: who can connect can drive robots
        try:
            _add(server, address, credentials)
        except RuntimeError as error:
            raise InvalidInput(f"cannot listen on {path}; must be a path in a folder that can be written to") from error
        finally:
            os.umask(before)
        return address
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and int(port) < 2**16):
        raise InvalidInput(f"the address is {address!r}; must be HOST:PORT with a port from 0 to 65535, or unix:PATH")
    credentials = server_credentials(address, security)
    try:
        return f"{host}:{_add(server, address, credentials)}"
    except RuntimeError as error:  # which only says that it failed
        raise _bind_error(host.strip("[]"), int(port)) from error


def _add(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    if credentials is None:
        return server.add_insecure_port(address)
    return server.add_secure_port(address, credentials)


def _free_socket(path: Path) -> None:
    """Check that no server uses a path, nor any other file."""
    if path.exists() and not path.is_socket():
        raise InvalidInput(f"{path} exists and is not a socket; must be a free path, or a socket that a server left")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return
        except OSError as error:
            raise InvalidInput(f"cannot listen on {path}: {error.strerror or error}") from error
    raise AddressInUse(f"{path} is taken by another program; choose another path")


def _bind_error(host: str, port: int) -> RelayError:
    """Why binding to an address fails, found out by trying again."""
    try:
        family, *_ = socket.getaddrinfo(host, port)[0]
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return AddressInUse(f"{host}:{port} is taken by another program; choose another port, or 0 for a free one")
        why = os.strerror(error.errno or errno.EADDRNOTAVAIL)
        return InvalidInput(f"cannot listen on {host}:{port}: {why}; must be an address of this machine")
    return AddressInUse(f"{host}:{port} was taken by another program just now; try again")
