"""How long a first use takes: from `git clone` to a goal that is named in the browser and done by the arm.

    python -m benchmarks.runtime.first_use --output docs/data/cockpit/first_use.json
    python -m benchmarks.runtime.first_use --from docs/data/cockpit/first_use.json

It does what the README says to a newcomer: clones this checkout's commit into an empty folder, types `make view`, opens
the page in Debian's chromium, ticks an element, presses "Send goal", and waits until the page says that it is done.
Packages come from pip's registry, since pip uses no cache here. Reading, and the way of a hand to the mouse, take no
time. The browser stands open before; it draws in software. Exits with 1 if it takes too long.
"""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import typer
from rich.table import Table

from benchmarks.common import PROGRESS, Json, Output, Saved, circumstances, show, table, verdict
from rpl_runtime.files import JsonDict, write_json
from tests.browser import open_browser

ROOT = Path(__file__).parents[2]
ELEMENT = "kettle"  # the run was started with another, which the arm may be at
LIMIT_S = 180.0
PARTS = {
    "clone": "git clone, from this disk",
    "install": "make view: .venv and all packages",
    "start": "until it prints the page's address",
    "page": "until the page shows a robot",
    "goal": f"{ELEMENT}: from its tick to done",
}


def main(saved: Saved = None, output: Output = None, as_json: Json = False) -> None:
    """Measure a first use."""
    content = json.loads(saved.read_text()) if saved else measure()
    if output is not None:
        write_json(output, content)
    show(content, as_json, shown(content))
    raise typer.Exit(0 if content["met"] else 1)


def measure() -> JsonDict:
    with TemporaryDirectory() as folder, open_browser(800, 560) as browser, PROGRESS.status("a first use"):
        clone = Path(folder, "clone")
        times = [time.time()]
        subprocess.run(["git", "clone", "--quiet", ROOT.as_uri(), clone], check=True)
        times.append(time.time())
        with made_view(clone) as page:
            times += [(clone / ".venv" / ".view").stat().st_mtime, time.time()]
            browser.driver.get(page)
            browser.until_text("control step")
            times.append(time.time())
            browser.press(ELEMENT)
            browser.press("Send goal")
            browser.until_text(f"{ELEMENT} ✓")
            times.append(time.time())
    spent = [after - before for before, after in pairwise(times)]
    total = sum(spent)
    rows = [{"part": part, "seconds": seconds} for part, seconds in zip(PARTS, spent, strict=True)]
    return {"rows": rows, "total_s": total, "limit_s": LIMIT_S, "met": total <= LIMIT_S, **circumstances(())}


@contextmanager
def made_view(clone: Path) -> Iterator[str]:
    """`make view` in a new clone for the length of a block, by nothing but its own code; the address that it prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    with subprocess.Popen(
        ["make", "view"],
        cwd=clone,
        env=kept | {"PIP_NO_CACHE_DIR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as make:
        assert make.stdout is not None
        said = []
        try:
            for line in make.stdout:
                said.append(line)
                if found := re.search(r"http://127\.0\.0\.1\S+", line):
                    yield found[0]
                    break
            else:
                raise RuntimeError(f"`make view` ended without a page; it said:\n{''.join(said)}")
        finally:
            os.killpg(make.pid, signal.SIGINT)  # Ctrl-C
            make.communicate()


def shown(content: JsonDict) -> Table:
    rows = [[PARTS[row["part"]], f"{row['seconds']:.1f} s", ""] for row in content["rows"]]
    rows.append(["together", f"{content['total_s']:.1f} s", verdict(content["met"])])
    machine = content["machine"]
    caption = f"at most {content['limit_s']:g} s; {machine['cpus']} CPUs, load {machine['load']:.1f} at the end"
    return table("From a clone to a goal named in the browser and done", ("", "took", ""), rows, caption)


if __name__ == "__main__":
    typer.run(main)
