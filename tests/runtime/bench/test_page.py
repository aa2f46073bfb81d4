"""The page of the benchmarks is filled in from their JSON files alone."""

import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from benchmarks import page

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_has_the_figures_of_the_files(tmp_path: Path) -> None:
    folder, filled = tmp_path / "data", tmp_path / "benchmarks.md"
    shutil.copytree(DOCS / "data" / "benchmarks", folder)
    shutil.copyfile(DOCS / "benchmarks.md", filled)
    content = json.loads((folder / "server.json").read_text())
    [row] = [row for row in content["alone"] if row["peer"] == "control"]
    row["p50_us"] = 4321.0
    content["requirements"][0]["value"] = 54.321
    (folder / "server.json").write_text(json.dumps(content))
    (folder / "server.png").unlink()
    page.main(folder, filled)
    assert f"| {row['what']} | {row['n']:,} | 4,321 |" in filled.read_text()
    assert "| 54.32 |" in filled.read_text().partition("\n## ")[0]  # the page opens with what is asked
    assert filled.read_text().startswith("# ")  # the text around the tables stays
    assert (folder / "server.png").read_bytes().startswith(b"\x89PNG")
