"""Clients in other languages, built from the proto alone, get the actions that the Python client gets."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from certificates import pems
from faults import Inside, Mortal
from rpl_runtime.auth.client import Access
from rpl_runtime.auth.server import SecurityConfig
from rpl_runtime.auth.tokens import Right, add_grant, grant
from rpl_runtime.client.client import Client
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.server.server import ServerConfig, serve_in_thread

ROOT = Path(__file__).parent.parent
GRPC = Path("/usr/include/grpcpp/grpcpp.h")


@pytest.fixture(scope="module", params=["node", "cpp"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of a client, made by what its first lines say."""
    copy = tmp_path_factory.mktemp("examples")  # where a build may write
    (copy / "proto").symlink_to(ROOT / "proto")
    folder = copy / "examples" / request.param
    shutil.copytree(ROOT / "examples" / request.param, folder, ignore=shutil.ignore_patterns("node_modules"))
    if request.param == "node":
        if not (shutil.which("node") and shutil.which("npm")):
            pytest.skip("node and npm are not installed")
        install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        if subprocess.run(install, cwd=folder).returncode:
            pytest.skip("npm cannot install the client's packages, as without a network")
        return ["node", str(folder / "client.js")]
    if not (GRPC.exists() and shutil.which("cmake") and shutil.which("grpc_cpp_plugin")):
        pytest.skip("gRPC for C++ is not installed; apt-get install cmake g++ libgrpc++-dev protobuf-compiler-grpc")
    once = "-DCMAKE_UNITY_BUILD=ON"  # gRPC's headers are read once, which takes most of the time
    for stage in (["-S", folder, "-B", copy / "build", once], ["--build", copy / "build", "--parallel", "2"]):
        subprocess.run(["cmake", *stage], check=True, stdout=subprocess.DEVNULL)
    return [str(copy / "build" / "client")]


def run(client: list[str], *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*client, *arguments], env=os.environ | environment, capture_output=True, text=True, timeout=120
    )


def steps_of(ran: subprocess.CompletedProcess[str]) -> list[dict[str, list[float]]]:
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_its_actions_are_those_of_the_python_client_though_its_server_dies(client: list[str], tiny_bundle: Bundle):
    with Mortal(tiny_bundle.path, [Inside("act", 7, computed=True)]) as mortal:
        ran = run(client, mortal.address, "door,lamp", "20")
    steps = steps_of(ran)
    assert mortal.died == 1
    assert f"goes on at {mortal.address} with step 6" in ran.stderr
    assert ran.stderr.endswith("20 steps\n")
    assert [step["step"] for step in steps] == list(range(20))
    with serve_in_thread(tiny_bundle) as address, Client(address) as python, python.control() as control:
        states = [np.array(step["state"], dtype=np.float32) for step in steps]
        control.start("python", ["door", "lamp"], states[0])
        actions = [control.step("python", number, state) for number, state in enumerate(states)]
    np.testing.assert_array_equal([np.float32(step["target"]) for step in steps], [one.target for one in actions])
    assert [step["age"] for step in steps] == [action.age for action in actions]
    assert len({tuple(state) for state in states}) > 10  # the robot moved


def test_a_refusal_is_one_sentence(client: list[str], tiny_address: str) -> None:
    ran = run(client, tiny_address, "door,windw")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.splitlines()[-1].startswith("InvalidGoal: unknown element 'windw'")


def test_it_speaks_tls_and_shows_its_token(client: list[str], tiny_bundle: Bundle, tmp_path: Path) -> None:
    cert, key, ca = pems(tmp_path)
    add_grant(tmp_path / "tokens", grant("secret-of-arm", "arm", [Right.ACT]))
    (tmp_path / "arm.token").write_text("secret-of-arm\n")
    security = SecurityConfig(tls_cert=cert, tls_key=key, tokens=tmp_path / "tokens")
    with serve_in_thread(tiny_bundle, ServerConfig("127.0.0.1:0", security=security)) as address:
        with Client(address, access=Access(ca=ca, token="secret-of-arm")) as python:
            assert python.describe().digest == tiny_bundle.digest
        shown = run(client, address, "door", "3", RPL_CA=str(ca), RPL_TOKEN_FILE=str(tmp_path / "arm.token"))
        hidden = run(client, address, "door", "3", RPL_CA=str(ca))
    assert len(steps_of(shown)) == 3
    assert (hidden.returncode, hidden.stderr.splitlines()[-1].split(":")[0]) == (1, "Unauthenticated")
