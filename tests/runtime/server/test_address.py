"""Listening on ports and sockets, and the errors when that fails."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest

from rpl_runtime.auth.server import SecurityConfig
from rpl_runtime.client.client import Client
from rpl_runtime.errors import AddressInUse, InvalidInput, ServerUnavailable
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.server.server import ServerConfig, serve_in_thread

STATE = np.zeros(5, dtype=np.float32)


def test_a_port_in_use_is_named(tiny_address: str, own_bundle: Bundle) -> None:
    with (
        pytest.raises(AddressInUse, match=f"{tiny_address} is taken"),
        serve_in_thread(own_bundle, ServerConfig(tiny_address)),
    ):
        pass


@pytest.mark.parametrize(
    "address",
    [
        *("nowhere", "127.0.0.1:", ":50051", "127.0.0.1:65536", "127.0.0.1:-1", "192.0.2.1:0"),
        *("unix:", "unix:/", "unix:/no/such/folder/socket", "unix:/" + "x" * 200),
    ],
)
def test_an_address_that_cannot_be_listened_on_is_named(address: str, own_bundle: Bundle) -> None:
    config = ServerConfig(address, security=SecurityConfig(insecure=True))
    with pytest.raises(InvalidInput, match=r"must be|cannot listen on"), serve_in_thread(own_bundle, config):
        pass


def test_it_listens_on_loopback_only_unless_told(tiny_address: str) -> None:
    assert tiny_address.startswith("127.0.0.1:")
    assert ServerConfig().address.startswith("127.0.0.1:")


@pytest.fixture
def at_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A relative address in a temporary folder: the path of a socket must have at most 107 characters."""
    monkeypatch.chdir(tmp_path)
    return "unix:rpl.sock"


def test_a_socket_serves_as_a_port_does_and_is_gone_afterwards(at_path: str, own_bundle: Bundle) -> None:
    with (
        serve_in_thread(own_bundle, ServerConfig(at_path)) as address,
        Client(address) as client,
        client.control() as control,
    ):
        assert address == at_path
        control.start("a", ["door"], STATE)
        assert control.step("a", 0, STATE).replanned
    assert not Path("rpl.sock").exists()
    with Client(at_path) as client, pytest.raises(ServerUnavailable, match=f"no server answers at {at_path}"):
        client.describe()


def test_a_socket_in_use_is_named_and_stays_in_use(at_path: str, own_bundle: Bundle) -> None:
    with serve_in_thread(own_bundle, ServerConfig(at_path)), Client(at_path) as client:
        with (
            pytest.raises(AddressInUse, match=r"rpl\.sock is taken"),
            serve_in_thread(own_bundle, ServerConfig(at_path)),
        ):
            pass
        assert client.describe().digest == own_bundle.digest


def test_a_socket_that_a_killed_server_left_is_replaced(at_path: str, own_bundle: Bundle) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind("rpl.sock")
    with serve_in_thread(own_bundle, ServerConfig(at_path)), Client(at_path) as client:
        assert client.describe().digest == own_bundle.digest


def test_a_file_of_somebody_else_is_left_alone(at_path: str, own_bundle: Bundle) -> None:
    Path("rpl.sock").write_text("notes")
    with pytest.raises(InvalidInput, match="is not a socket"), serve_in_thread(own_bundle, ServerConfig(at_path)):
        pass
    assert Path("rpl.sock").read_text() == "notes"


def test_only_its_owner_may_connect_to_a_socket(at_path: str, own_bundle: Bundle) -> None:
    before = os.umask(0)
    try:
        with serve_in_thread(own_bundle, ServerConfig(at_path)):
            assert Path("rpl.sock").stat().st_mode & 0o077 == 0
    finally:
        os.umask(before)
