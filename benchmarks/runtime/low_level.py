"""The low levels of bundles beside each other, in process and by turns: what `rpl export --quantize int8` saves.

python -m benchmarks.runtime.low_level models/relay models/relay-int8
"""

from pathlib import Path
from time import perf_counter_ns
from typing import Annotated

import numpy as np
import typer

from benchmarks.common import Json, circumstances, show, table, tracked
from rpl_runtime.errors import InvalidInput
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.policy.graphs import OnnxPolicy

ROWS = (1, 64, 256)
PERCENTILES = (50, 90, 99)


def main(
    bundles: Annotated[list[Path], typer.Argument(help="Bundles of one policy; the others are compared to the first.")],
    turns: Annotated[int, typer.Option(min=1, help="Calls of each low level with each number of rows.")] = 2000,
    as_json: Json = False,
) -> None:
    """Measure the time of an action of B rows."""
    loaded = [load_bundle(path) for path in bundles]
    policies, spec, statistics = [OnnxPolicy(each) for each in loaded], loaded[0].spec, loaded[0].manifest.statistics
    if statistics is None:
        raise InvalidInput(f"{bundles[0]} holds no statistics of its training states; must have them")
    rng, rows = np.random.default_rng(0), []
    for size in ROWS:
        drawn = rng.normal(statistics.mean, statistics.std, (2, size, spec.state.dim))
        state, subgoal = np.clip(drawn, *spec.state.bounds).astype(np.float32)  # (B, n) each
        noise = np.zeros((size, spec.low_noise), np.float32)
        spent_us = np.empty((turns, len(policies)))
        for turn in tracked(range(turns), f"{size} rows"):
            for at, policy in enumerate(policies):
                began = perf_counter_ns()
                policy.act(state, subgoal, noise)
                spent_us[turn, at] = (perf_counter_ns() - began) / 1e3
        first = np.median(spent_us[:, 0])
        for path, spent in zip(bundles, spent_us.T, strict=True):
            found = np.percentile(spent, PERCENTILES).tolist()
            rows.append({"bundle": path.name, "rows": size, "us": found, "ratio": found[0] / first})
    content = {"rows": rows, "turns": turns, **circumstances(("numpy", "onnxruntime"))}
    shown = [
        (each["bundle"], each["rows"], *(f"{value:.1f}" for value in each["us"]), f"{each['ratio']:.2f}")
        for each in rows
    ]
    headings = ("low level", "rows", *(f"p{each} [us]" for each in PERCENTILES), "p50 over the first's")
    show(content, as_json, table(f"{turns} calls of each by turns", headings, shown))


if __name__ == "__main__":
    typer.run(main)
