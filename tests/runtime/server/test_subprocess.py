"""Servers in processes of their own."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from processes import started
from rpl_runtime.client import Access, Client
from rpl_runtime.errors import BundleNotFound, LimitReached, ServerUnavailable
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.process import own_process
from rpl_runtime.server.server import serve_in_thread
from rpl_runtime.server.subprocess import serve_in_process


def fail(on_ready: Callable[[str], None]) -> None:
    sys.exit(7)


def test_a_bundle_is_served_for_the_length_of_the_block(tiny_bundle: Bundle):
    with serve_in_process(tiny_bundle.path) as address, Client(address) as client:
        assert client.describe().digest == tiny_bundle.digest
    with Client(address) as client, pytest.raises(ServerUnavailable):
        client.describe()


def test_a_client_reaches_it_whatever_the_environment_says_of_others(tiny_bundle: Bundle, monkeypatch):
    for name, value in {"RPL_TLS": "1", "RPL_CA": "/nowhere/ca.pem", "RPL_TOKEN_FILE": "/nowhere/token"}.items():
        monkeypatch.setenv(name, value)
    with serve_in_process(tiny_bundle.path) as address, Client(address, access=Access()) as client:
        assert client.describe().digest == tiny_bundle.digest


def test_a_bundle_that_is_none_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(BundleNotFound), serve_in_process(tmp_path / "nothing"):
        pass


def test_a_server_that_does_not_start_is_one_sentence():
    with pytest.raises(ServerUnavailable, match="exit code 7"), own_process(fail):
        pass


def test_a_program_starts_soundly_beside_clients_and_a_server(tiny_bundle: Bundle):
    """With a fork of its own, as the encoder of a video does."""
    over = threading.Event()

    def call(address: str) -> None:
        with Client(address) as client:
            while not over.is_set():
                with contextlib.suppress(LimitReached):  # so many calls a second
                    client.describe()

    with serve_in_thread(tiny_bundle) as address, ThreadPoolExecutor(3) as callers:
        for _ in range(3):
            callers.submit(call, address)
        try:
            for _ in range(60):
                ran = subprocess.run(["cat"], input=bytes(100_000), capture_output=True, preexec_fn=os.setpgrp)
                assert len(ran.stdout) == 100_000
        finally:
            over.set()


def test_a_server_ends_with_a_parent_that_is_killed(tiny_bundle: Bundle):
    script = """
import sys
from pathlib import Path
from rpl_runtime.server.subprocess import serve_in_process
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
