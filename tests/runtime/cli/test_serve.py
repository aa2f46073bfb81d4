"""`rpl serve` as a process: what it prints, how it ends, and what it says when it cannot begin."""

import json
import re
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faults import free_port
from processes import RPL, started
from rpl_runtime.auth.server import SecurityConfig
from rpl_runtime.cli.serve import print_serving
from rpl_runtime.client.client import Client
from rpl_runtime.policy.bundle import Bundle

STATE = np.zeros(5, dtype=np.float32)


def rpl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RPL, *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_serves_until_it_is_told_to_stop(own_bundle: Bundle, number: signal.Signals) -> None:
    command = [*RPL, "serve", own_bundle.path, "--address", "127.0.0.1:0"]
    with started(command, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        block = ""
        while "stop" not in block:
            line = process.stdout.readline()
            assert line, process.communicate()
            block += line
        assert own_bundle.digest[:12] in block
        assert "rpl run" not in block  # the policy is not the kitchen's
        assert "tiny" in block
        assert "state 5, action 2, a subgoal every 4 control steps of 0.05 s" in block
        found = re.search(r"127\.0\.0\.1:[1-9]\d*", block)
        assert found
        address = found.group()
        with Client(address) as client, client.control() as control:
            control.start("a", ["door"], STATE)
            assert control.step("a", 0, STATE).replanned
            assert rpl("serve", str(own_bundle.path), "--address", address).returncode == 4
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0
        began, over = errors.splitlines()
        assert "robot 'a' begins" in began
        assert "robot 'a' is over" in over


def test_the_hint_for_a_kitchen_shows_how_to_get_in(kitchen_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    secret = SecurityConfig(Path("cert.pem"), Path("key.pem"), Path("ca.pem"), Path("tokens"))
    print_serving([kitchen_bundle], "robots:50051", secret)
    shown = capsys.readouterr().out
    hint = 'rpl run --address robots:50051 --goal "microwave,kettle" --ca CA.pem --token-file TOKEN'
    hint += " --cert CERT.pem --key KEY.pem"
    read = " ".join(shown.replace("\\\n", " ").split())  # as a shell reads it
    assert hint in read
    assert 'Client("robots:50051", access=rpl_runtime.client.Access.from_environment())' in read
    assert max(map(len, shown.splitlines())) <= 80
    assert "over TLS; callers need a token" in shown
    assert "grpcurl -plaintext" not in shown


@pytest.mark.parametrize(
    ("damage", "code", "sentence"),
    [
        (lambda path: (path / "low.onnx").write_bytes(b"other"), 3, "has digest"),
        (lambda path: (path / "manifest.json").unlink(), 3, "holds no manifest.json"),
    ],
)
def test_a_bundle_that_cannot_be_served_is_one_sentence_and_an_exit_code(
    own_bundle: Bundle, damage: Any, code: int, sentence: str
) -> None:
    damage(own_bundle.path)
    finished = rpl("serve", str(own_bundle.path), "--address", "127.0.0.1:0")
    assert finished.returncode == code
    assert finished.stdout == ""
    assert finished.stderr.startswith("error: ")
    assert finished.stderr.count("\n") == 1
    assert sentence in finished.stderr


def test_a_port_in_use_is_one_sentence_and_an_exit_code(own_bundle: Bundle) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        finished = rpl("serve", str(own_bundle.path), "--address", address)
    assert finished.returncode == 4
    assert finished.stderr.startswith(f"error: {address} is taken")
    assert finished.stderr.count("\n") == 1


def test_json_lines_stay_json_without_a_collector_of_traces_and_the_server_stops_soon(own_bundle: Bundle) -> None:
    pytest.importorskip("opentelemetry.sdk")
    command = [*RPL, "serve", own_bundle.path, "--address", "127.0.0.1:0", "--log-format", "json"]
    nobody = f"http://127.0.0.1:{free_port()}"
    with started([*command, "--traces", nobody, "--drain", "0"], stderr=subprocess.PIPE) as process:
        with Client(address_in(process)) as client, client.control() as control:
            control.start("a", ["door"], STATE)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 0
    lines = [json.loads(line) for line in errors.splitlines()]
    assert any(line["logger"].startswith("opentelemetry") for line in lines)


def address_in(process: subprocess.Popen[str]) -> str:
    """Where a server listens, by what it prints."""
    assert process.stdout is not None
    block = ""
    while "stop" not in block:
        line = process.stdout.readline()
        assert line, process.communicate()
        block += line
    found = re.search(r"127\.0\.0\.1:[1-9]\d*", block)
    assert found
    return found.group()
