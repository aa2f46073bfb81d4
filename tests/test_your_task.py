"""The tutorial of docs/your-task.md, followed literally in an empty folder."""

import json
import re
import shlex

import pytest

from benchmarks.training import tasks
from processes import rpl
from rpl_runtime.policy.bundle import load_bundle
from source import ROOT

PAGE = (ROOT / "docs" / "your-task.md").read_text()


@pytest.mark.usefixtures("one_table_of_operators")
def test_the_tutorial_ends_with_an_evaluated_policy(tmp_path, monkeypatch):
    [module] = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (tmp_path / "my_task.py").write_text(module)
    monkeypatch.chdir(tmp_path)
    for line in re.findall(r"^    (rpl .*)$", PAGE, re.MULTILINE):
        # One process for the work of several: each would load torch.
        alone = ("--jobs", "1") if re.match("rpl (demos play|train|evaluate)", line) else ()
        ran = rpl(*shlex.split(line)[1:], *alone)
        assert ran.returncode == 0, f"{line}\n{ran.stdout}\n{ran.stderr}"
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
