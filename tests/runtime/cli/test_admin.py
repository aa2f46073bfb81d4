"""The operator's commands as a person types them, against a real server of the same command."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import policies
from certificates import pems
from processes import RPL, rpl, started
from rpl_runtime.client.client import Client
from rpl_runtime.errors import ServerStopping
from rpl_runtime.policy.bundle import Bundle

STATE = np.zeros(5, dtype=np.float32)


@contextmanager
def serving(*arguments: str | Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server's process, and its port."""
    command = [*RPL, "serve", *arguments]
    with started(command, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        block = ""
        while "stop" not in block:
            line = process.stdout.readline()
            assert line, process.communicate()
            block += line
        found = re.search(r"^address +\S+:(\d+)", block, re.MULTILINE)
        assert found, block
        try:
            yield found.group(1), process
        finally:
            process.terminate()
            process.communicate(timeout=30)


def test_a_server_for_other_machines_with_everything_on(own_bundle: Bundle, tmp_path: Path) -> None:
    """TLS, tokens, two versions of a model; what is refused is one sentence and an exit code."""
    cert, key, ca = pems(tmp_path)
    tokens, secret = tmp_path / "tokens", tmp_path / "operator.token"
    newer = policies.tiny_bundle(tmp_path / "newer", seed=1)
    robot = rpl("tokens", "new", tokens, "arm", "--right", "act").stdout.strip()
    assert rpl("tokens", "new", tokens, "operator", "--right", "administer", "--output", secret).returncode == 0
    listed = rpl("tokens", "list", tokens).stdout
    assert "arm" in listed
    assert "administer" in listed
    options = "--address", "0.0.0.0:0", "--tls-cert", cert, "--tls-key", key, "--tokens", tokens
    with serving(own_bundle.path, *options) as (port, _):
        address = f"127.0.0.1:{port}"
        at = "--address", address
        operator = {"RPL_CA": str(ca), "RPL_TOKEN_FILE": str(secret)}

        assert rpl("--ca", ca, "health", *at).stdout == "SERVING\n"
        assert rpl("--ca", ca, "health", *at, "--service", "tiny").returncode == 0
        assert rpl("--ca", ca, "health", *at, "--service", "other").returncode == 1
        [model] = json.loads(rpl("models", "list", *at, "--json", **operator).stdout)
        assert model["digest"] == own_bundle.digest
        loaded = rpl("models", "load", newer.path, *at, **operator)
        assert loaded.stdout == f"tiny is {newer.digest[:12]}, replacing {own_bundle.digest[:12]}\n"
        table = rpl("--ca", ca, "--token-file", secret, "models", "list", *at).stdout
        assert newer.digest[:12] in table
        assert "retired" in table

        (newer.path / "low.onnx").write_bytes(b"other")
        refused = [
            (rpl("models", "load", newer.path, *at, **operator), 3, "has digest"),
            (rpl("models", "unload", "tiny", *at, **operator), 1, "tiny is the last model"),
            (rpl("models", "list", *at, RPL_CA=str(ca)), 5, "this server asks for a token; RPL_TOKEN_FILE"),
            (rpl("models", "list", *at, RPL_CA=str(ca), RPL_TOKEN=robot), 5, "token arm has no right to administer"),
            (rpl("models", "list", *at, RPL_CA=str(ca), RPL_TOKEN="rpl_wrong"), 5, "not one that this server knows"),
            (rpl("health", *at), 4, "in plain text; if it speaks TLS, RPL_CA"),
            (rpl("health", "--address", "127.0.0.1:1"), 4, "no server answers at 127.0.0.1:1"),
        ]
        for finished, code, sentence in refused:
            assert (finished.returncode, finished.stdout) == (code, "")
            assert finished.stderr.startswith("error: ")
            assert finished.stderr.count("\n") == 1
            assert sentence in finished.stderr


def test_other_machines_are_not_served_in_plain_text_by_accident(own_bundle: Bundle) -> None:
    command = [*RPL, "serve", own_bundle.path, "--address", "0.0.0.0:0"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 2
    assert "can be reached from other machines, in plain text" in finished.stderr
    options = "--address", "0.0.0.0:0", "--insecure"
    with serving(own_bundle.path, *options) as (port, _), Client(f"127.0.0.1:{port}") as client:
        assert client.describe().digest == own_bundle.digest


def test_a_second_signal_ends_the_runs(own_bundle: Bundle) -> None:
    options = "--address", "127.0.0.1:0", "--drain", "600"
    with (
        serving(own_bundle.path, *options) as (port, process),
        Client(f"127.0.0.1:{port}") as client,
        client.control() as control,
    ):
        control.start("a", ["door"], STATE)
        process.send_signal(signal.SIGINT)
        while rpl("health", "--address", f"127.0.0.1:{port}").returncode != 1:
            pass
        assert control.step("a", 0, STATE).replanned
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        with pytest.raises(ServerStopping):
            control.step("a", 1, STATE)


def test_a_token_is_shown_once(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    shown = rpl("tokens", "new", tokens, "arm", "--right", "act", "--right", "fetch", "--days", "30").stdout.strip()
    assert shown.startswith("rpl_")
    assert shown not in tokens.read_text()
    assert rpl("tokens", "new", tokens, "arm", "--right", "act").returncode == 2
    assert rpl("tokens", "new", tokens, "b", "--right", "act", "--output", tokens).returncode == 2


def test_the_hierarchy_of_a_running_robot_is_seen_and_held(own_bundle: Bundle) -> None:
    with serving(own_bundle.path, "--address", "127.0.0.1:0") as (port, _):
        where = ("--address", f"127.0.0.1:{port}")
        assert "0 robots at" in rpl("top", *where).stdout
        with Client(where[1]) as client, client.control() as control:
            control.start("arm", ["door"], STATE, seed=1)
            early = rpl("subgoal", "pin", "arm", *where)
            assert (early.returncode, "follows no subgoal yet" in early.stderr) == (2, True)
            first = control.step("arm", 0, STATE)
            [row] = json.loads(rpl("top", "--json", *where).stdout)
            assert (row["robot"], row["step"], row["pinned"], row["vetoes"]) == ("arm", 1, False, 0)

            wrong = rpl("subgoal", "pin", "arm", "elbow=1", *where)
            assert (wrong.returncode, "must be one of x, y, heading, door, lamp" in wrong.stderr) == (2, True)
            assert rpl("subgoal", "pin", "arm", "door=1.25", *where).returncode == 0
            pinned = control.step("arm", 1, STATE)
            np.testing.assert_array_equal(pinned.subgoal, [*first.subgoal[:3], 1.25, first.subgoal[4]])
            shown = json.loads(rpl("subgoal", "show", "arm", "--json", *where).stdout)
            assert (shown["pinned"], shown["subgoal"]["door"]) == (True, 1.25)
            assert "pinned" in rpl("top", *where).stdout
            assert "pinned; release it instead" in rpl("subgoal", "veto", "arm", *where).stderr

            assert rpl("subgoal", "release", "arm", *where).returncode == 0
            assert control.step("arm", 2, STATE).replanned
            assert rpl("subgoal", "veto", "arm", *where).returncode == 0
            assert control.step("arm", 3, STATE).replanned
        gone = rpl("subgoal", "show", "arm", *where)
        assert "no robot 'arm' runs here" in gone.stderr
        assert gone.returncode != 0


def test_the_log_is_json_on_standard_error(own_bundle: Bundle) -> None:
    with serving(own_bundle.path, "--address", "127.0.0.1:0", "--log-format", "json") as (port, process):
        with Client(f"127.0.0.1:{port}") as client, client.control() as control:
            control.start("a", ["door"], STATE)
            control.finish("a")
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        lines = [json.loads(line) for line in process.stderr]
    assert [line["message"] for line in lines] == ["robot 'a' begins", "robot 'a' finished after 0 control steps"]
