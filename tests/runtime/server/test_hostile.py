"""A short form of benchmarks/runtime/hostile.py: hostile clients neither stop the server nor affect other robots."""

import sys
from pathlib import Path

import pytest

from rpl_runtime.policy.bundle import Bundle

sys.path.insert(0, str(Path(__file__).parents[3]))

from benchmarks.runtime import hostile


@pytest.mark.parametrize("seed", range(2))
def test_hostile_messages_get_the_right_status_and_a_robot_beside_them_is_the_same(
    seed: int, tiny_bundle: Bundle
) -> None:
    result = hostile.attack(tiny_bundle.path, messages=2000, seed=seed)
    assert result["wrong"] == []
    assert result["robot_runs_different"] == 0
    assert result["met"]
    assert result["messages"] >= 2000
