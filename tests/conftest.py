"""Fixtures shared by the tests: small policies, and bundles made of them."""

import gc
import importlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import grpc.aio
import pytest
from hypothesis import HealthCheck, Phase, settings

import policies
from leftovers import nothing_left_behind, own_temporary_folder, source_tree_untouched  # noqa: F401
from processes import started
from rpl_runtime.client.client import Client
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.server.server import serve_in_thread
from rpl_runtime.server.transport import way_to_serve
from rpl_runtime.wire.control import PUBLIC_TRANSPORT

# A process that was started in the background ignores Ctrl-C, and so would all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How fast a machine is today is no property of the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
# For mutants.py, which asks only whether a test fails, not how simply.
settings.register_profile("unshrunk", settings.get_profile("untimed"), phases=[Phase.explicit, Phase.generate])


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what the modules hold: a whole collection would take a third of a second."""
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the end of the process collect it after all: compiled modules complain of what is left of them."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def grpc_aio() -> Iterator[None]:
    """Keep grpc.aio's thread, which ends only once every error of its servers is forgotten."""
    grpc.aio.init_grpc_aio()
    yield
    grpc.aio.shutdown_grpc_aio()


@pytest.fixture(params=["fastest", "public"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, grpc_aio: None) -> str:
    """The way that the bytes of Control streams take: what is found to be the fastest, or gRPC's public API."""
    monkeypatch.setenv(PUBLIC_TRANSPORT, "1" if request.param == "public" else "")
    return request.param


@pytest.fixture(scope="session")
def one_table_of_operators() -> Iterator[None]:
    """torch makes its tables of operators anew for each graph, which takes about a second; here once."""
    registration = pytest.importorskip("torch.onnx._internal.exporter._registration", reason="needs the train extra")
    utils = importlib.import_module("torch._export.utils")
    with pytest.MonkeyPatch.context() as patch:
        made = staticmethod(cache(registration.ONNXRegistry.from_torchlib))
        patch.setattr(registration.ONNXRegistry, "from_torchlib", made)
        composite = cache(utils._collect_all_valid_cia_ops_for_namespace)
        patch.setattr(utils, "_collect_all_valid_cia_ops_for_namespace", composite)
        yield


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of 5 states and 2 actions, to be read only."""
    return policies.tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(scope="session")
def kitchen_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of the kitchen's sizes, untrained, to be read only."""
    return policies.kitchen_bundle(tmp_path_factory.mktemp("kitchen") / "bundle")


@pytest.fixture
def own_bundle(tmp_path: Path) -> Bundle:
    """A tiny bundle that the test may damage."""
    return policies.tiny_bundle(tmp_path / "bundle")


@pytest.fixture(scope="session")
def tiny_addresses(tiny_bundle: Bundle, grpc_aio: None) -> Iterator[dict[str, str]]:
    """The address of a server of the tiny bundle in this process, by the way that its bytes take."""
    with ExitStack() as servers:
        addresses = {}
        for public in ("", "1"):
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(PUBLIC_TRANSPORT, public)
                addresses[way_to_serve()] = servers.enter_context(serve_in_thread(tiny_bundle))
        yield addresses


@pytest.fixture
def tiny_address(tiny_addresses: dict[str, str]) -> str:
    """Of the way that a server takes now."""
    return tiny_addresses[way_to_serve()]


@pytest.fixture
def tiny_client(tiny_address: str) -> Iterator[Client]:
    with Client(tiny_address) as client:
        yield client


@pytest.fixture
def occupy() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Let another process work in a folder, as a command does, until it is killed."""
    script = """
import sys
from pathlib import Path
from rpl_runtime.files import alone_in
with alone_in(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.read()
"""
    with ExitStack() as stack:

        def start(folder: Path) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", script, folder]
            process = stack.enter_context(started(command, stdin=subprocess.PIPE))
            assert process.stdout is not None
            assert process.stdout.readline() == "in\n"
            return process

        yield start
