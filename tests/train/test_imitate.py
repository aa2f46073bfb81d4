"""Relay imitation learning: what it learns, and that a broken run ends as an unbroken one."""

import math
import os
import signal
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import drawers
from demonstrations import STEPS, drawer_demonstrations, drawer_spec
from processes import started
from rpl_runtime.errors import InvalidInput, TrainingError
from rpl_runtime.relay.loop import RelayLoop
from rpl_train import imitate as module
from rpl_train.augment import Pool, PoolConfig
from rpl_train.imitate import ImitateConfig, imitate
from rpl_train.networks import NetworkConfig
from rpl_train.runs import LEVELS, build_level, load_run, load_tensors, save_tensors, weights_digest

POOL = PoolConfig(low_window=4, high_window=STEPS, hold=30)
SMALL = ImitateConfig(steps=40, batch=32, checkpoint_every=10, jobs=1, networks=NetworkConfig((16,), (16,)), pool=POOL)


def quiet(level, step, loss):
    pass


def weights(run):
    return {f"{level}.{k}": v for level in ("high", "low") for k, v in load_file(run / f"{level}.safetensors").items()}


def equal(one, other):
    return one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)


class Break(Exception):
    """Stands for whatever ends a run early."""


def test_a_broken_run_ends_in_the_same_weights(tmp_path):
    demonstrations, task = drawer_demonstrations(), drawers.task_of(drawer_spec())
    imitate(demonstrations, task, tmp_path / "whole", SMALL, quiet)
    often = replace(SMALL, report_every=5)
    for level, step in (("high", 25), ("low", 15), ("low", 35)):
        with pytest.raises(Break):
            imitate(demonstrations, task, tmp_path / "broken", often, break_at(level, step))
    imitate(demonstrations, task, tmp_path / "broken", often, quiet)
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    assert not list((tmp_path / "broken").glob("*.resume.safetensors"))


def test_relative_networks_learn_how_far_targets_are_from_the_robot(tmp_path):
    demonstrations, spec = drawer_demonstrations(), drawer_spec()
    relative = replace(SMALL, networks=replace(SMALL.networks, relative=True))
    record = imitate(demonstrations, drawers.task_of(spec), tmp_path / "near", relative, quiet).record
    pool = Pool(demonstrations.trajectories, spec, POOL)
    apart = pool.timeline.targets - pool.timeline.states[:, list(spec.commanded)]
    np.testing.assert_allclose(record.targets.mean, apart.mean(0), rtol=1e-5)
    np.testing.assert_allclose(record.targets.std, apart.std(0), rtol=1e-6)
    plain = imitate(demonstrations, drawers.task_of(spec), tmp_path / "whole", SMALL, quiet).record.targets
    np.testing.assert_allclose(plain.mean, pool.timeline.targets.mean(0), rtol=1e-5)
    np.testing.assert_allclose(plain.std, pool.timeline.targets.std(0), rtol=1e-6)
    pulls = spec.model_copy(update={"action": spec.action.model_copy(update={"names": ("pull",)})})
    without = replace(relative, pool=replace(POOL, hold=0))
    with pytest.raises(InvalidInput, match=r"networks\.relative is true for actions that are not position targets"):
        imitate(demonstrations, drawers.task_of(pulls), tmp_path / "pulls", without, quiet)


def say_and_train(demonstrations, record, run, config, initial, level, progress) -> None:
    """Takes the place of a level's training in its process, which imports this module."""
    progress(level, 0, None)
    until = time.monotonic() + 60
    while not (run / f"{level} was heard").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    module._imitate_level(demonstrations, record, run, config, initial, level, progress)


def test_levels_trained_side_by_side_are_heard_meanwhile_and_are_those_trained_in_turn(tmp_path, monkeypatch):
    demonstrations, task = drawer_demonstrations(), drawers.task_of(drawer_spec())
    reports = {"one": [], "two": []}

    def hear(level, step, loss):
        (tmp_path / "two" / f"{level} was heard").touch()
        reports["two"].append((level, step, loss))

    imitate(demonstrations, task, tmp_path / "one", SMALL, lambda *report: reports["one"].append(report))
    monkeypatch.setattr(module, "_imitate_level", say_and_train)
    imitate(demonstrations, task, tmp_path / "two", replace(SMALL, jobs=2), hear)
    assert equal(weights(tmp_path / "one"), weights(tmp_path / "two"))
    assert sorted(reports["two"][:2]) == [("high", 0, None), ("low", 0, None)]
    assert sorted(reports["two"][2:]) == reports["one"]


def test_a_folder_keeps_one_run(tmp_path):
    demonstrations, task = drawer_demonstrations(), drawers.task_of(drawer_spec())
    imitate(demonstrations, task, tmp_path, SMALL, quiet)
    with pytest.raises(TrainingError, match=r"other settings \(.*seed"):
        imitate(demonstrations, task, tmp_path, replace(SMALL, seed=1), quiet)
    wider = replace(SMALL, networks=replace(SMALL.networks, low_hidden=(8,)))
    with pytest.raises(TrainingError, match=r"other settings \(networks\)"):
        imitate(demonstrations, task, tmp_path, wider, quiet)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(TrainingError, match=r"level's loss is (nan|inf) at step \d; there is no checkpoint yet"):
        imitate(
            drawer_demonstrations(), drawers.task_of(drawer_spec()), tmp_path, replace(SMALL, learning_rate=1e30), quiet
        )


def break_at(broken_level, broken_step):
    def progress(level, step, loss):
        if (level, step) == (broken_level, broken_step):
            raise Break

    return progress


def test_a_loss_that_is_not_finite_names_the_last_good_checkpoint(tmp_path):
    """An infinite momentum in the checkpoint of step 10 spoils the weights in that step, and the loss of the next."""
    demonstrations, task = drawer_demonstrations(), drawers.task_of(drawer_spec())
    often = replace(SMALL, report_every=5)
    with pytest.raises(Break):
        imitate(demonstrations, task, tmp_path, often, break_at("high", 15))
    checkpoint = tmp_path / "high.resume.safetensors"
    tensors = load_tensors(checkpoint)
    tensors["optimiser.0.exp_avg"].fill_(float("inf"))
    save_tensors(checkpoint, tensors)
    with pytest.raises(TrainingError, match="is nan at step 11; the checkpoint of step 10 is the last good one"):
        imitate(demonstrations, task, tmp_path, often, quiet)


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_climbs_the_likelihood_by_adam_with_a_warm_up_and_a_cosine_to_zero(tmp_path, level):
    """Weights are those of a literal reading: rate x min(1, (t + 1) / 200) x (1 + cos(pi t / T)) / 2 at step t.

    What is reported, and drawn on the board, is the mean loss since the last report.
    """
    steps, seed, demonstrations, reports, losses = 260, 7, drawer_demonstrations(), [], []
    trained = imitate(
        *(demonstrations, drawers.task_of(drawer_spec()), tmp_path, replace(SMALL, steps=steps, seed=seed)),
        lambda of, step, loss: reports.append((step, loss)) if of == level else None,
    )
    pool = Pool(demonstrations.trajectories, drawer_spec(), POOL)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        expected = build_level(level, trained.record)
    optimiser = torch.optim.Adam(expected.parameters())
    for t in range(steps):
        optimiser.param_groups[0]["lr"] = 1e-3 * min(1, (t + 1) / 200) * (1 + math.cos(math.pi * t / steps)) / 2
        draw = pool.high_batch if level == "high" else pool.low_batch
        batch = draw(np.random.default_rng([seed, LEVELS.index(level), t]), SMALL.batch)
        optimiser.zero_grad()
        loss = -expected.log_prob(*map(torch.from_numpy, batch)).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    found = getattr(trained.policy, level).state_dict()
    assert all(torch.allclose(found[name], values, atol=1e-5) for name, values in expected.state_dict().items())
    means = [np.mean(losses[first:last]) for first, last in ((0, 100), (100, 200), (200, steps))]
    assert [step for step, _ in reports] == [100, 200, steps]
    assert [loss for _, loss in reports] == pytest.approx(means, abs=1e-4)
    board = EventAccumulator(str(tmp_path / "tensorboard" / level))
    board.Reload()
    drawn = board.Scalars("negative log-likelihood without constant")
    assert [point.step for point in drawn] == [100, 200, steps]
    assert [point.value for point in drawn] == pytest.approx(means, abs=1e-4)


def test_a_finished_level_says_that_it_was_trained_before(tmp_path):
    """A flat policy's high level has nothing to learn, and says so the first time."""
    flat, reports = replace(SMALL, networks=NetworkConfig((8,), (8,), flat=True)), []
    for _ in range(2):
        imitate(
            *(drawer_demonstrations(), drawers.task_of(drawer_spec()), tmp_path, flat),
            lambda *report: reports.append(report),
        )
    (*first, (level, step, loss)), again = reports[:2], reports[2:]
    assert first == [("high", 40, None)]
    assert (level, step, math.isfinite(loss)) == ("low", 40, True)
    assert again == [("high", 40, None), ("low", 40, None)]


def test_a_run_says_where_its_policy_comes_from(tmp_path):
    demonstrations = drawer_demonstrations()
    record = imitate(demonstrations, drawers.TASK, tmp_path, replace(SMALL, steps=1, seed=7), quiet).record
    assert record.task == record.provenance.settings["task"] == "drawers:make"
    assert record.networks == SMALL.networks
    assert record.provenance.seeds == (7,)
    assert record.provenance.data == tuple(demonstrations.sources)
    assert {"relay-policy", "torch", "numpy"} <= record.provenance.packages.keys()


# What takes the place of a level's training: its process imports this module.


def kill(*_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def say_and_wait(demonstrations, record, run, config, initial, level, progress) -> None:
    (run / level).touch()
    progress(level, 0, None)
    threading.Event().wait()


def test_a_killed_level_is_one_sentence_and_the_run_goes_on(tmp_path, monkeypatch):
    demonstrations, task = drawer_demonstrations(), drawers.task_of(drawer_spec())
    with monkeypatch.context() as killing:
        killing.setattr(module, "_imitate_level", kill)
        with pytest.raises(TrainingError, match="process was killed; run the same command again to go on"):
            imitate(demonstrations, task, tmp_path, replace(SMALL, jobs=2), quiet)
    assert imitate(demonstrations, task, tmp_path, SMALL, quiet)


def test_every_process_ends_with_a_parent_that_is_killed(tmp_path):
    script = """
import sys
from dataclasses import replace
from pathlib import Path
import drawers
from demonstrations import drawer_demonstrations, drawer_spec
from rpl_train import imitate
from test_imitate import SMALL, quiet, say_and_wait
if __name__ == "__main__":
    imitate._imitate_level = say_and_wait
    task = drawers.task_of(drawer_spec())
    imitate.imitate(drawer_demonstrations(), task, Path(sys.argv[1]), replace(SMALL, jobs=2), quiet)
"""
    # What is killed leaves its temporary files.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", script, str(tmp_path)]
    with started(command, env=environment) as parent:
        while not all((tmp_path / level).exists() for level in ("high", "low")):
            assert parent.poll() is None
        parent.kill()
        parent.communicate(timeout=60)  # its output ends when all that inherited it have ended


def test_it_learns_to_open_what_is_named(tmp_path):
    spec = drawer_spec()
    config = replace(SMALL, steps=500, batch=128, networks=NetworkConfig((64,), (64,)))
    policy, _ = imitate(drawer_demonstrations(24), drawers.task_of(spec), tmp_path, config, quiet)
    for goal in (("first drawer",), ("first drawer", "second drawer")):
        state = np.zeros(3, dtype=np.float32)
        loop = RelayLoop(policy, spec)
        loop.start("hand", spec.resolve(goal, state))
        for step in range(40):
            wanted = loop.step(["hand"], [step], state[None]).subgoal[0] - state
            wanted[np.abs(wanted) < 0.1] = 0  # a world in which subgoals come true, with a little friction
            state = np.clip(state + np.clip(wanted, -0.25, 0.25), 0, (2, 1, 1))
        assert spec.done(state) == set(goal)


def test_training_goes_on_from_the_weights_of_another_run(tmp_path):
    demonstrations, task = drawer_demonstrations(), drawers.task_of(drawer_spec())
    imitate(demonstrations, task, tmp_path / "first", SMALL, quiet)
    still = replace(SMALL, learning_rate=0.0, steps=1)
    policy, record = imitate(demonstrations, task, tmp_path / "second", still, quiet, tmp_path / "first")
    assert equal(weights(tmp_path / "first"), weights(tmp_path / "second"))
    assert record.provenance.settings["initial"] == weights_digest(policy)
    assert load_run(tmp_path / "first").record.provenance.settings["initial"] is None
    with pytest.raises(TrainingError, match="initial"):
        imitate(demonstrations, task, tmp_path / "second", still, quiet)
    wide = replace(still, networks=NetworkConfig())
    with pytest.raises(TrainingError, match="another architecture"):
        imitate(demonstrations, task, tmp_path / "third", wide, quiet, tmp_path / "first")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *((name, 0) for name in ("steps", "batch", "checkpoint_every", "report_every", "jobs")),
        *(("seed", -1), ("seed", 2**31), ("batch", 2**20 + 1), ("jobs", 1025)),
        *(("learning_rate", value) for value in (-1e-9, math.inf, math.nan)),
    ],
)
def test_a_setting_out_of_its_range_is_named(setting, value):
    with pytest.raises(InvalidInput, match=f"{setting} of the training is {value}; must be"):
        replace(SMALL, **{setting: value})
