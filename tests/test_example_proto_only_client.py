"""A stranger's client, written from the proto alone, runs a whole episode."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

from rpl_runtime.policy.bundle import Bundle, load_bundle
from rpl_runtime.server.server import serve_in_thread

EXAMPLE = Path(__file__).parent.parent / "examples" / "proto_only_client.py"


def run_example(address: str, *arguments: str | Path, file: Path = EXAMPLE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, file, "--address", address, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_it_runs_an_episode(kitchen_bundle: Bundle) -> None:
    with serve_in_thread(kitchen_bundle) as address:
        finished = run_example(address, "--goal", "microwave", "--goal", "kettle")
        assert finished.returncode == 0, finished.stderr
        assert finished.stdout.splitlines() == ["microwave: not done", "kettle: not done"]
        taken = run_example(address, "--goal", "microwave", "--steps", "12", "--by-hand", "3", "9")
        assert (taken.returncode, taken.stdout) == (0, "microwave: not done\n"), taken.stderr
        refused = run_example(address, "--goal", "toaster")
        assert refused.returncode == 1
        assert "InvalidGoal: unknown element 'toaster'; must be one of microwave" in refused.stderr


def test_what_it_needs_is_one_sentence() -> None:
    hide = "import runpy, sys; sys.modules['grpc_tools'] = None; "
    run = "runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    command = [sys.executable, "-c", hide + run, str(EXAMPLE), "--goal", "microwave"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1), ran.stderr
    assert "pip install grpcio-tools" in ran.stderr


def test_a_copy_of_it_asks_for_the_proto_and_for_a_server(tmp_path: Path) -> None:
    copy = shutil.copy(EXAMPLE, tmp_path / "client.py")
    lost = run_example("127.0.0.1:1", "--goal", "microwave", file=copy)
    assert (lost.returncode, lost.stderr.count("\n")) == (1, 1), lost.stderr
    assert "has no rpl/v1/relay.proto; --proto must name the project's folder proto" in lost.stderr
    alone = run_example("127.0.0.1:1", "--goal", "microwave", "--proto", EXAMPLE.parents[1] / "proto", file=copy)
    assert (alone.returncode, alone.stderr.count("\n")) == (1, 1), alone.stderr
    assert alone.stderr.startswith("127.0.0.1:1: UNAVAILABLE: ")


def test_the_command_of_the_page_takes_the_shipped_policy_over() -> None:
    with serve_in_thread(load_bundle(EXAMPLE.parents[1] / "models" / "kitchen")) as address:
        ran = run_example(address, "--goal", "microwave", "--by-hand", "20", "60")
    assert (ran.returncode, ran.stdout) == (0, "microwave: done\n"), ran.stderr


def test_it_imports_nothing_of_this_project() -> None:
    for node in ast.walk(ast.parse(EXAMPLE.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        assert not any(name.startswith(("rpl_runtime", "rpl_train")) for name in [*names, module])
