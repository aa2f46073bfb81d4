"""The limit from which a policy asks for help: its rate of false alarms holds for other episodes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import drawers
from rpl_runtime.errors import InvalidInput
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.policy.stall import StallDetector
from rpl_train.export.export import export
from rpl_train.export.parity import ParityConfig
from rpl_train.export.stall import StallConfig, add_stall, calibrate, counted
from rpl_train.networks import NetworkConfig
from rpl_train.rl.rollout import Episode, Start

SPEC = drawers.spec()
CONFIG = StallConfig(rate=0.1, episodes=9)


def episode(seed: int, stuck: int = 0) -> Episode:
    """Both drawers open after a wait drawn with the seed; or after `stuck` steps more."""
    rng = np.random.default_rng(seed)
    wait, steps = int(rng.integers(0, 30)) + stuck, 45
    opened = np.clip((np.arange(steps) - wait) / 10, 0, 1)
    states = np.stack([opened, opened, opened], axis=1).astype(np.float32)
    goal = SPEC.resolve(drawers.GOAL, states[0])
    done = tuple(SPEC.done(state) for state in states)
    return Episode(Start(drawers.GOAL, seed), goal, states, states, states[:, :1], done, states[-1])


def test_as_many_ask_in_vain_as_the_rate_says_and_who_is_stuck_asks() -> None:
    """Over many calibrations, of the next episode like the held-out ones: the promise of a conformal quantile."""
    alarms = 0
    for first in range(0, 4000, 20):
        stall = calibrate([episode(first + at) for at in range(19)], SPEC, None, replace(CONFIG, episodes=19))
        detector = StallDetector(SPEC, None, stall)
        alarms += max(counted(episode(first + 19), detector, None)) > stall.limit
    assert 0.01 <= alarms / 200 <= 0.14
    assert max(counted(episode(1, stuck=40), detector, None)) > stall.limit


def test_episodes_that_fail_teach_nothing_and_too_few_are_refused() -> None:
    good, bad = [episode(seed) for seed in range(9)], [episode(seed, stuck=200) for seed in range(9)]
    assert calibrate(good + bad, SPEC, None, CONFIG) == calibrate(good, SPEC, None, CONFIG)
    with pytest.raises(InvalidInput, match=r"8 of 17 episodes reach their goal; a rate of 0.1 needs 9"):
        calibrate(good[1:] + bad, SPEC, None, CONFIG)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [({"rate": 0.0}, "is 0; must be between 0 and 1"), ({"episodes": 48}, "48 episodes are too few; .* needs 49")],
)
def test_settings_that_cannot_hold_a_rate_are_refused(settings: dict, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        StallConfig(**settings)


def test_a_bundle_gets_the_limit_and_keeps_its_graphs(tmp_path: Path) -> None:
    policy, record = drawers.imitated(tmp_path / "run", 300, NetworkConfig((32,), (32,)))
    short = ParityConfig(episodes=1, steps=3)
    old = export(policy, record.spec, record.provenance, tmp_path / "bundle", record.statistics, short).bundle
    task = replace(drawers.TASK, groups={"first": (drawers.FIRST,)})
    new = add_stall(old, task, StallConfig(rate=0.2, episodes=6, worlds=3))
    assert new.manifest.stall is not None
    assert (new.manifest.stall.rate, new.manifest.stall.episodes <= 6) == (0.2, True)
    assert {name: new.files[name] for name in ("high.onnx", "low.onnx")} == {
        name: old.files[name] for name in ("high.onnx", "low.onnx")
    }
    assert new.digest != old.digest
    assert load_bundle(tmp_path / "bundle").digest == new.digest
