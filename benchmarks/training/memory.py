"""Peak memory and processor time of `rpl imitate`, of this code and of another checkout's.

    python -m benchmarks.training.memory runs/play --against ../before --output docs/data/memory.json

Both train in turns for a few optimiser steps, each in a process of its own that trains its levels one after the other.
Peak memory is the process's largest resident set; the second column leaves out what importing torch alone needs.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.common import Json, circumstances, show, table
from rpl_runtime.files import JsonDict, write_json

IMITATE = "import sys; from rpl_runtime.cli import main; sys.argv[0] = 'rpl'; main()"
IMPORT = "import torch, torch.utils.tensorboard, rpl_train.imitate"
HERE = Path(__file__).parents[2]


def main(
    demos: Annotated[Path, typer.Argument(help="Folder of demonstrations of the kitchen, such as of rpl demos play.")],
    against: Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="Another checkout.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of each level.")] = 200,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each checkout, of which the best counts.")] = 3,
    output: Annotated[Path | None, typer.Option(help="Also write the JSON here.")] = None,
    as_json: Json = False,
) -> None:
    """Measure what `rpl imitate` needs."""
    checkouts = {"this": HERE} | ({"other": against} if against else {})
    runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in checkouts}
    for _ in range(repeats):
        for name, code in checkouts.items():
            with tempfile.TemporaryDirectory() as folder:
                options = ("--demos", str(demos.absolute()), "--steps", str(steps), "--jobs", "1")
                peak, spent = measured(code, IMITATE, "imitate", f"{folder}/run", *options)
            runs[name].append((peak, peak - measured(code, IMPORT)[0], spent))
    rows = {name: [min(column) for column in zip(*each, strict=True)] for name, each in runs.items()}
    content: JsonDict = {
        "rows": {
            name: dict(zip(("peak_mb", "without_imports_mb", "cpu_seconds"), row, strict=True))
            for name, row in rows.items()
        },
        "settings": {"steps": steps, "repeats": repeats, "demonstrations": len(list(demos.glob("*.npz")))},
    } | circumstances(("torch", "numpy"))
    if output is not None:
        write_json(output, content)
    cells = [(name, *(f"{value:.1f}" for value in row)) for name, row in rows.items()]
    show(
        content,
        as_json,
        table("rpl imitate", ("checkout", "peak [MB]", "without imports [MB]", "processor time [s]"), cells),
    )


def measured(code: Path, program: str, *words: str) -> tuple[float, float]:
    """The largest resident set [MB] and the processor time [s] of a Python program with the packages of a checkout."""
    child = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        cwd=code,
        env=os.environ | {"PYTHONPATH": "."},
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise typer.Exit(child.returncode)
    return used.ru_maxrss / 1024, used.ru_utime + used.ru_stime


if __name__ == "__main__":
    typer.run(main)
