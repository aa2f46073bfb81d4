"""The whole recipe on real parts, with small budgets: physics, fine-tuning in processes, distillation, export."""

import json
from dataclasses import replace

import numpy as np
import pytest

from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.tasks.kitchen.elements import ELEMENTS, ROBOT_DIM, STATE_DIM, compound_goal
from rpl_train.data.trajectory import Trajectory, save
from rpl_train.distill import DistillConfig
from rpl_train.export.parity import ParityConfig
from rpl_train.imitate import ImitateConfig
from rpl_train.networks import NetworkConfig
from rpl_train.play import PlayConfig
from rpl_train.recipe import RecipeConfig, train
from rpl_train.rl.finetune import FinetuneConfig
from rpl_train.runs import load_run, read_run, weights_digest
from rpl_train.shifts.aggregate import AggregateConfig
from rpl_train.specialists import load_specialists, save_specialists, unpack
from rpl_train.tasks.kitchen.play import KitchenPlay
from rpl_train.tasks.kitchen.shift import ShiftSettings
from rpl_train.tasks.kitchen.task import KITCHEN

IMITATION = ImitateConfig(steps=3, batch=16, jobs=1, networks=NetworkConfig((16,), (16,), high_components=2))
PARITY = ParityConfig(episodes=1, steps=2)


def goal(letters: str) -> FinetuneConfig:
    return FinetuneConfig(
        goal=compound_goal(letters), objective="iril", env_steps=1, episodes=2, worlds=1, likelihood_batch=16
    )


class Break(Exception):
    """Stands for whatever ends a recipe early."""


@pytest.fixture(scope="module")
def relay(tmp_path_factory):
    """The configuration of a relay recipe that was interrupted after imitation and then finished, and its reports."""
    folder = tmp_path_factory.mktemp("relay")
    states = np.zeros((40, STATE_DIM), np.float32)
    for element in ELEMENTS.values():
        states[-1, list(element.dims)] = element.goal
    save(Trajectory(states, np.zeros((40, ROBOT_DIM), np.float32), tuple(ELEMENTS), "made"), folder / "demos" / "0.npz")
    config = RecipeConfig(
        task=KITCHEN,
        run=folder / "run",
        bundle=folder / "bundle",
        name="kitchen-policy",
        demonstrations=(folder / "demos",),
        imitate=IMITATION,
        finetune={letters: goal(letters) for letters in ("mkbs", "kbts")},
        jobs=1,
        distill=DistillConfig(rounds=1, episodes=1, steps=2, batch=16, worlds=1),
        parity=PARITY,
    )
    reports: list[tuple[str, int, int, str]] = []

    def break_before_goals(*report):
        if report[0] == "goals":
            raise Break

    with pytest.raises(Break):
        train(config, break_before_goals)
    train(config, lambda *report: reports.append(report))
    return config, reports


def test_the_bundle_holds_the_policy_distilled_from_its_specialists(relay):
    config, _ = relay
    bundle = load_bundle(config.bundle)
    assert bundle.spec.name == "kitchen-policy"
    assert bundle.manifest.provenance == read_run(config.run / "distilled").provenance
    taught = bundle.manifest.provenance.settings["specialists"]
    specialists = {letters: load_run(config.run / "specialists" / letters) for letters in ("mkbs", "kbts")}
    assert {letters: facts["weights"] for letters, facts in taught.items()} == {
        letters: weights_digest(trained.policy) for letters, trained in specialists.items()
    }
    for letters, trained in specialists.items():
        assert trained.record.provenance.settings["goal"] == list(compound_goal(letters))


def test_every_stage_reports_how_far_it_is_and_finished_ones_are_not_run_again(relay):
    _, reports = relay
    last = {what: (finished, total, remark) for what, finished, total, remark in reports}
    assert last == {
        "high level": (3, 3, "trained before"),
        "low level": (3, 3, "trained before"),
        "goals": (2, 2, "kbts"),
        "rounds": (0, 1, "learning"),
        "compared batches": (18, 18, ""),  # each of 17 goals alone, and all at once
    }


def test_specialists_survive_packing(relay, tmp_path):
    config, _ = relay
    base = load_run(config.run)
    specialists = {letters: load_run(config.run / "specialists" / letters) for letters in config.finetune}
    save_specialists(base, specialists, tmp_path / "kept.safetensors")
    assert list(load_specialists(tmp_path / "kept.safetensors").specialists) == list(specialists)
    runs = unpack(tmp_path / "kept.safetensors", tmp_path / "runs")
    assert [path.name for path in runs] == ["base", *specialists]
    for path, trained in zip(runs, (base, *specialists.values()), strict=True):
        assert weights_digest(load_run(path).policy) == weights_digest(trained.policy)


def test_without_demonstrations_scripted_play_is_made_first(tmp_path):
    config = RecipeConfig(
        task=replace(KITCHEN, demonstrator=KitchenPlay(length=1, limit=40)),
        run=tmp_path / "run",
        bundle=tmp_path / "bundle",
        name="played",
        play=PlayConfig(sequences=1),
        imitate=IMITATION,
        parity=PARITY,
    )
    result = train(config, lambda *report: None)
    [source] = result.bundle.manifest.provenance.data
    assert (source["name"], source["episodes"]) == ("play", 1)
    assert result.bundle.manifest.provenance == read_run(tmp_path / "run").provenance


def test_the_kitchens_recipe_exports_what_learned_in_the_last_round(tmp_path):
    shift = ShiftSettings(goals=1, largest=1, far=0.0, begun=0.0, disturbed=0.0, slow_hand=0.0)
    config = RecipeConfig(
        task=replace(KITCHEN, demonstrator=KitchenPlay(length=1, limit=40, shift=shift)),
        run=tmp_path / "run",
        bundle=tmp_path / "bundle",
        name="shifts",
        play=PlayConfig(sequences=1),
        imitate=IMITATION,
        aggregate=AggregateConfig(rounds=1, first=1, shifts=1, last=4, imitate=IMITATION),
        parity=PARITY,
    )
    result = train(config, lambda *report: None)
    reports: list[tuple[str, int, int, str]] = []
    assert train(config, lambda *report: reports.append(report)).bundle.digest == result.bundle.digest
    assert ("round 1, shifts", 1, 1, "") in reports  # the second call works no more
    record = read_run(tmp_path / "run" / "round-1")
    assert result.bundle.manifest.provenance == record.provenance
    assert [source["name"] for source in record.provenance.data] == ["play", "shifts-0", "shifts-1"]
    for before, after in (("", "round-0"), ("round-0", "round-1")):  # each goes on from the weights before it
        initial = read_run(tmp_path / "run" / after).provenance.settings["initial"]
        assert initial == weights_digest(load_run(tmp_path / "run" / before).policy)
    steps = [read_run(tmp_path / "run" / f"round-{n}").provenance.settings["steps"] for n in (0, 1)]
    assert steps == [IMITATION.steps, 4]  # the last one learns for longer
    driver = json.loads((tmp_path / "run" / "shifts-1" / "play.json").read_text())["driver"]
    assert driver == weights_digest(load_run(tmp_path / "run" / "round-0").policy)
    first, second = json.loads((tmp_path / "run" / "curve.json").read_text())
    assert first["reached alone"] is None
    assert second["round"] == 1
