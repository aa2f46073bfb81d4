"""Servers in processes of their own."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable

import onnxruntime
import pytest

from processes import started
from rpl_runtime.client import Access, Client
from rpl_runtime.client.admin import Admin
from rpl_runtime.errors import BundleNotFound, InvalidInput, PermissionDenied, ServerUnavailable
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.process import own_process
from rpl_runtime.server.server import ServerConfig, serve_in_thread
from rpl_runtime.server.subprocess import mortal_server, serve_in_process


def fail(on_ready: Callable[[str], None]) -> None:
    sys.exit(7)


def refuse(on_ready: Callable[[str], None]) -> None:
    raise PermissionDenied("token arm has no right to watch")


def exhaust(on_ready: Callable[[str], None]) -> None:
    raise RuntimeError("std::bad_alloc")


def break_off(on_ready: Callable[[str], None]) -> None:
    on_ready("here")
    raise PermissionDenied("no longer")


def test_a_bundle_is_served_for_the_length_of_the_block(tiny_bundle: Bundle):
    with serve_in_process(tiny_bundle.path) as address, Client(address) as client:
        assert client.describe().digest == tiny_bundle.digest
    with Client(address) as client, pytest.raises(ServerUnavailable):
        client.describe()


def test_a_server_can_be_killed_while_its_block_lasts(tiny_bundle: Bundle):
    with mortal_server(tiny_bundle.path) as (address, kill), Client(address) as client:
        assert client.describe().digest == tiny_bundle.digest
        kill()
        with pytest.raises(ServerUnavailable):
            client.describe()


def test_a_client_reaches_it_whatever_the_environment_says_of_others(tiny_bundle: Bundle, monkeypatch):
    for name, value in {"RPL_TLS": "1", "RPL_CA": "/nowhere/ca.pem", "RPL_TOKEN_FILE": "/nowhere/token"}.items():
        monkeypatch.setenv(name, value)
    with serve_in_process(tiny_bundle.path) as address, Client(address, access=Access()) as client:
        assert client.describe().digest == tiny_bundle.digest


def test_a_bundle_that_is_none_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(BundleNotFound), serve_in_process(tmp_path / "nothing"):
        pass


def test_a_server_computes_with_the_execution_providers_that_it_is_given(tiny_bundle: Bundle, monkeypatch):
    made, installed = [], onnxruntime.get_available_providers()

    class Session(onnxruntime.InferenceSession):
        def __init__(self, *arguments, providers):
            super().__init__(*arguments, providers=providers)
            made.append(self.get_providers())

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    config = ServerConfig("127.0.0.1:0", providers=",".join(installed))
    with serve_in_thread(tiny_bundle, config) as address, Admin(address) as admin:
        admin.load(str(tiny_bundle.path))
    assert made == [installed] * 4  # both levels, of both versions
    with pytest.raises(InvalidInput, match="no execution provider 'Abacus' here"):
        serve_in_process(tiny_bundle.path, "Abacus").__enter__()


def test_a_server_that_does_not_start_is_one_sentence():
    with pytest.raises(ServerUnavailable, match="exit code 7"), own_process(fail):
        pass


@pytest.mark.parametrize(("serve", "error"), [(refuse, PermissionDenied), (exhaust, MemoryError)])
def test_why_a_server_does_not_start_is_told_by_its_parent(serve, error, capfd: pytest.CaptureFixture[str]):
    with pytest.raises(error), own_process(serve):
        pass
    assert capfd.readouterr().err == ""


def test_a_server_that_fails_later_says_so_itself(capfd: pytest.CaptureFixture[str]):
    with own_process(break_off) as said:
        for child in multiprocessing.active_children():
            child.join()
    assert said == "here"
    assert "PermissionDenied: no longer" in capfd.readouterr().err


def test_grpc_stays_out_of_the_children_that_a_program_forks():
    """Between fork and exec its threads broke the pipe of a video's encoder."""
    script = "import os, rpl_runtime; print(os.environ['GRPC_ENABLE_FORK_SUPPORT'])"
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout == "0\n"


def test_a_server_ends_with_a_parent_that_is_killed(tiny_bundle: Bundle):
    script = """
import sys
from pathlib import Path
from rpl_runtime.server.server import ServerConfig, serve_in_thread
from rpl_runtime.server.subprocess import mortal_server, serve_in_process
if __name__ == "__main__":
    with serve_in_process(Path(sys.argv[1])) as address:
        print(address, flush=True)
        sys.stdin.read()
"""
    command = [sys.executable, "-c", script, str(tiny_bundle.path)]
    with started(command, stdin=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        address = parent.stdout.readline().strip()
        parent.kill()
        parent.communicate(timeout=60)  # its output ends when the server, which inherited it, has ended
    with Client(address) as client, pytest.raises(ServerUnavailable):
        client.describe()
