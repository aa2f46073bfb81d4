"""Who reaches a page: this machine alone, and only with the secret in the address."""

import socket
import urllib.error
import urllib.request

import pytest

from rpl_runtime.errors import AddressInUse
from rpl_runtime.view.gate import page_server

pytest.importorskip("viser", reason="needs the view extra")
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol


def test_only_the_whole_address_opens_the_page() -> None:
    with page_server(0, "a page") as (_, address):
        with urllib.request.urlopen(address) as page:
            assert page.headers["Content-Type"].startswith("text/html")
            assert page.headers["Cache-Control"] == "no-store"  # one that is left is closed, and lets go of a robot
        place, _, secret = address.rpartition("/")
        for wrong in (place, f"{place}/", f"{place}/{secret}x", f"{place}/{secret[:-1]}", f"{place}/index.html"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(wrong)
            with refused.value:
                assert refused.value.code == 403
                assert b"needs the whole address that `rpl view` printed" in refused.value.read()


def test_only_the_whole_address_lets_one_act() -> None:
    """What is done on the page goes over a web socket, which a page of another site could open, too."""
    import viser

    spoken = [Subprotocol(f"viser-v{viser.__version__}")]
    with page_server(0, "a page") as (_, address):
        socket_address = address.replace("http", "ws")
        with connect(socket_address, subprotocols=spoken) as line:
            assert line.recv(timeout=10)
        with pytest.raises(InvalidStatus, match="403"):
            connect(socket_address.rpartition("/")[0], subprotocols=spoken)


def test_two_pages_have_two_secrets_and_neither_tells_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with page_server(0, "a page") as (_, one), page_server(0, "a page") as (_, other):
        secrets = {address.rpartition("/")[2] for address in (one, other)}
        assert [len(secret) for secret in secrets] == [22, 22]
    assert capsys.readouterr() == ("", "")


def test_a_page_listens_on_this_machine_alone() -> None:
    with page_server(0, "a page") as (_, address):
        port = int(address.split(":")[2].split("/")[0])
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port))


def test_a_port_in_use_is_one_sentence_and_no_other_port_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(AddressInUse, match=rf"the page cannot use port {port}: .*in use; `--port` names another"),
            page_server(port, "a page"),
        ):
            pass
