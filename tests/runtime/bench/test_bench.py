"""What a bench reports; how fast anything is depends on the machine and is no test."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from processes import rpl
from rpl_runtime.bench.bench import Bench, BenchConfig, bench, bench_table
from rpl_runtime.errors import InvalidInput
from rpl_runtime.policy.bundle import Bundle

QUICK = BenchConfig(steps=40, paced_s=0.15, warm_up=3, streams=(1, 32), batches=(1, 64))


@pytest.fixture(scope="module")
def content(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    result = bench(tiny_bundle.path, QUICK)
    assert result.met == all(found["met"] for found in result.content["requirements"])
    return json.loads(json.dumps(result.content))


def test_every_percentile_comes_with_its_n(content: dict[str, Any]):
    measured = [*content["in_process"].values(), *content["alone"]]
    assert [found["n"] for found in measured] == [40] * 7
    assert {(row["peer"], row["streams"]): row["n"] for row in content["paced"]} == {
        (peer, streams): 3 * streams
        for peer in ("echo", "control", "control_unix", "control_secure")
        for streams in (1, 32)
    }
    for found in [*measured, *content["streams"], *content["batches"], *content["paced"]]:
        assert 0 < found["p50_us"] <= found["p90_us"] <= found["p99_us"] <= found["p99.9_us"]


def test_throughput_counts_robots(content: dict[str, Any]):
    for row in content["streams"] + content["batches"]:
        assert row["steps_per_s"] <= 1.01e6 * row["streams"] * row["batch"] / row["p50_us"] * row["n"]
        assert row["steps_per_s"] > 0
    assert {(row["streams"], row["batch"]) for row in content["streams"] + content["batches"]} == {
        (1, 1),
        (32, 1),
        (1, 64),
    }


def test_every_requirement_is_held_against_what_was_measured(content: dict[str, Any], tiny_bundle: Bundle):
    inside = content["in_process"]
    ratios = {(row["load"], row["figure"], row["peer"]): row["ratio"] for row in content["ratios"]}
    paced = {row["streams"]: row for row in content["paced"] if row["peer"] == "control"}
    [batched] = [row for row in content["batches"] if (row["peer"], row["batch"]) == ("control", 64)]
    assert [r["value"] for r in content["requirements"]] == [
        pytest.approx(inside["relay"]["p50_us"] / inside["bare"]["p50_us"]),
        ratios["alone", "p50_us", "echo"],
        pytest.approx(1 / ratios["alone", "p50_us", "control_secure"]),
        pytest.approx(paced[1]["p99_us"]),
        pytest.approx(paced[32]["p99.9_us"]),
        paced[32]["missed"],
        pytest.approx(batched["steps_per_s"]),
    ]
    for found in content["requirements"]:
        enough = found["value"] >= found["limit"] if found["sense"] == "at least" else found["value"] <= found["limit"]
        assert found["met"] == enough
    assert content["bundle"]["digest"] == tiny_bundle.digest


def test_a_ratio_is_the_median_of_runs_of_both(content: dict[str, Any]):
    assert {(row["load"], row["peer"]) for row in content["ratios"]} == {
        (load, peer)
        for load in ("alone", "streams 1", "streams 32", "batch 64")
        for peer in ("echo", "control_unix", "control_secure")
    }
    for row in content["ratios"]:
        assert 0 < row["low"] <= row["ratio"] <= row["high"]
        assert row["runs"] == (1 if row["load"] == "alone" else 5)  # of 40 steps in blocks of 100


def test_the_tables_name_every_peer_and_load(content: dict[str, Any]):
    console = Console(record=True, width=140)
    console.print(bench_table(content))
    printed = console.export_text()
    for part in ("bare gRPC echo", "Control, Unix socket", "steps/s", "missed", "resident [MB]"):
        assert part in printed


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"paced_s": 0.0}, {"paced_s": float("nan")}, {"warm_up": 0}, {"streams": (0,)}]
)
def test_settings_out_of_range_are_refused(tiny_bundle: Bundle, wrong: dict[str, Any]):
    with pytest.raises(InvalidInput, match="must be a finite number above 0"):
        bench(tiny_bundle.path, BenchConfig(**wrong))


def test_a_folder_without_peers_is_refused(tiny_bundle: Bundle, tmp_path: Path):
    with pytest.raises(InvalidInput, match="has no peers"):
        bench(tiny_bundle.path, BenchConfig(peers=tmp_path))


def test_a_table_is_printed_before_a_file_is_written_that_may_fail(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = tmp_path / "bench.json"

    def measured(*_: object) -> Bench:
        taken.mkdir()  # where the file should go, which was free when the work began
        return Bench({"took": "minutes"}, met=True)

    monkeypatch.setattr("rpl_runtime.bench.bench.bench", measured)
    finished = rpl("bench", tiny_bundle.path, "--json", "--output", taken)
    assert (finished.returncode, json.loads(finished.stdout)) == (1, {"took": "minutes"})
    assert f"{taken} was not written" in finished.stderr.replace("\n", "")
