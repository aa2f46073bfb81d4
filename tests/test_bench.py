"""What a bench reports; how fast anything is depends on the machine and is no test."""

import json

import pytest
from rich.console import Console

from rpl_runtime.bench import BenchConfig, bench, bench_table
from rpl_runtime.bundle import Bundle
from rpl_runtime.errors import InvalidInput


def test_a_bench_reports_every_percentile_with_its_n_and_every_requirement(tiny_bundle: Bundle):
    result = bench(tiny_bundle.path, BenchConfig(steps=40, paced_steps=5, warm_up=3))
    content = json.loads(json.dumps(result.content))
    measured = [found for part in ("in_process", "loopback", "paced") for found in content[part].values()]
    assert [found["n"] for found in measured] == [40, 40, 40, 40, 40, 5]
    for found in measured:
        assert 0 < found["p50_us"] <= found["p90_us"] <= found["p99_us"] <= found["p99.9_us"]
    relay = content["in_process"]["relay"]["p50_us"] / content["in_process"]["bare"]["p50_us"]
    assert [r["value"] for r in content["requirements"]] == [
        pytest.approx(relay),
        pytest.approx(content["loopback"]["control"]["p50_us"] - content["loopback"]["echo"]["p50_us"]),
        pytest.approx(content["paced"]["control"]["p99_us"]),
    ]
    assert result.met == all(r["value"] <= r["limit"] for r in content["requirements"])
    assert content["bundle"]["digest"] == tiny_bundle.digest

    console = Console(record=True, width=100)
    console.print(bench_table(content))
    assert "bare gRPC echo" in console.export_text()


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"paced_steps": 0}, {"warm_up": 0}])
def test_settings_out_of_range_are_refused(tiny_bundle: Bundle, wrong: dict[str, int]):
    with pytest.raises(InvalidInput, match="allowed is 1 or more"):
        bench(tiny_bundle.path, BenchConfig(**wrong))
