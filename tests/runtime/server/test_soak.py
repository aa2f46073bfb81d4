"""A short form of benchmarks/runtime/soak.py: thousands of steps leave no lease and no memory behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rpl_runtime.policy.bundle import Bundle

ROOT = Path(__file__).parents[3]


@pytest.mark.usefixtures("transport")
def test_many_short_runs_leave_nothing_behind(tiny_bundle: Bundle) -> None:
    command = [sys.executable, "-m", "benchmarks.runtime.soak", str(tiny_bundle.path), "--steps", "8000", "--json"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    content = json.loads(finished.stdout)
    assert (content["runs"], content["steps"]) == (320, 8_000)
    assert content["leased"] == []
    assert content["growth_mb"] < content["limit_mb"]
