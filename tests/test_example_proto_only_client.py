"""A stranger's client, written from the proto alone, runs a whole episode."""

import ast
import subprocess
import sys
from pathlib import Path

from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.server.server import serve_in_thread

EXAMPLE = Path(__file__).parent.parent / "examples" / "proto_only_client.py"


def run_example(address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLE), "--address", address, *arguments]
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


def test_it_imports_nothing_of_this_project() -> None:
    for node in ast.walk(ast.parse(EXAMPLE.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        assert not any(name.startswith(("rpl_runtime", "rpl_train")) for name in [*names, module])
