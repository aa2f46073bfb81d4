"""The tutorial of docs/your-task.md, followed literally in an empty folder."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from benchmarks.training import tasks
from rpl_runtime.policy.bundle import load_bundle
from source import ROOT

PAGE = (ROOT / "docs" / "your-task.md").read_text()


def run(words: list[str], folder: Path) -> str:
    program = "import sys; from rpl_runtime.cli import main; sys.argv[0] = 'rpl'; main()"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, *words[1:]]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{shlex.join(words)}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


def test_the_tutorial_ends_with_an_evaluated_policy(tmp_path):
    [module] = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (tmp_path / "my_task.py").write_text(module)
    for line in re.findall(r"^    (rpl .*)$", PAGE, re.MULTILINE):
        run(shlex.split(line), tmp_path)
    evaluation = load_bundle(tmp_path / "models" / "lamps").evaluation
    assert evaluation is not None
    assert evaluation["starts"]["far"]["success_ever"] >= 0.95
    curve = json.loads((tmp_path / "runs" / "both" / "curve.json").read_text())
    assert len(curve) == 5
    assert load_bundle(tmp_path / "models" / "both").spec.elements.keys() == {"left lamp", "right lamp"}


def test_the_table_of_the_page_is_that_of_its_file():
    content = json.loads((ROOT / "docs" / "data" / "tasks.json").read_text())
    [table] = re.findall(r"<!-- table -->\n(.*?)\n<!-- /table -->", PAGE, re.DOTALL)
    assert table == tasks.table(content)
    assert content["rows"]["PointMaze_Large-v3 relay"]["ever"][0] >= 0.95
    assert content["rows"]["FetchPickAndPlace-v4 relay"]["ever"][0] >= 0.90
