"""Improvement by what robots did: who decided a step, what is drawn from whom, and a training that goes on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import drawers
from demonstrations import STEPS, drawer_demonstrations
from rpl_runtime.errors import DemonstrationError, InvalidInput, TrainingError
from rpl_runtime.relay.run_state import POLICY
from rpl_train.augment import Pool, PoolConfig
from rpl_train.data.sources import Demonstrations
from rpl_train.data.trajectory import Trajectory, digest
from rpl_train.improve import ImproveConfig, as_learned, improve, split
from rpl_train.networks import NetworkConfig
from rpl_train.play import settings_of, with_settings
from rpl_train.runs import weights_digest
from rpl_train.tasks.kitchen.play import KitchenPlay

TASK, SMALL = drawers.TASK, NetworkConfig((8,), (8,))
BOTH = tuple(TASK.spec.elements)
CONFIG = ImproveConfig(steps=6, batch=20, jobs=1, checkpoint_every=2, report_every=1, pool=drawers.POOL)


def runs(*authors: str, elements: tuple[str, ...] = ()) -> Demonstrations:
    """Runs with these authors, a letter for each step: p for the policy, h for a hand. The first one opens both."""
    made = []
    for each, whole in zip(authors, drawer_demonstrations(len(authors), 1).trajectories, strict=True):
        by = tuple({"p": POLICY, "h": "gamepad"}[letter] for letter in each)
        steps = slice(len(by))
        made.append(
            replace(whole, states=whole.states[steps], targets=whole.targets[steps], elements=elements, authors=by)
        )
    return Demonstrations(made, [{"name": "logs", "digest": digest(made), "episodes": len(made), "steps": 0}])


def quiet(level: str, step: int, loss: float | None) -> None:
    pass


def test_a_run_is_split_where_its_author_changes() -> None:
    [demonstration] = drawer_demonstrations(1).trajectories
    logs = runs("pppphhhhpph", "hhpp").trajectories
    parts = split([demonstration, *logs], TASK.spec)
    assert parts.demonstrations == [demonstration]
    assert [set(part.authors) for part in parts.hand] == [{"gamepad"}] * 2
    assert [len(part) for part in parts.hand] == [4, 2]  # the last step by hand stands alone
    assert np.array_equal(parts.hand[0].states, logs[0].states[4:8])
    [own] = parts.own  # not what a hand had to end
    assert np.array_equal(own.targets, logs[1].targets[2:4])


def test_what_goes_on_in_another_piece_is_no_teacher_at_rest() -> None:
    """A hand may have stepped in where the log lacks steps."""
    [run] = runs("hhhhpppp", elements=BOTH).trajectories
    parts = split([replace(run, cut=True)], TASK.spec)
    assert (len(parts.hand), parts.own) == (1, [])


def test_advice_to_a_policy_that_drove_is_no_part(tmp_path) -> None:
    """What was advised has no tuples of its own; hands come after demonstrations, wherever such advice stands."""
    base, taught, logs = (
        drawers.imitated(tmp_path / "base", 2, SMALL),
        drawer_demonstrations(4),
        runs("p" * 12 + "h" * 12),
    )
    advice = [replace(each, subgoals=each.states.copy()) for each in drawer_demonstrations(3).trajectories]
    assert split([*advice, *taught.trajectories, *logs.trajectories], TASK.spec).demonstrations == taught.trajectories
    driven = Demonstrations([*advice, *taught.trajectories], [])
    first, second = (
        improve(TASK, base, "b" * 64, demonstrations, logs, tmp_path / name, CONFIG, quiet)
        for name, demonstrations in (("taught", taught), ("driven", driven))
    )
    assert weights_digest(first.policy) == weights_digest(second.policy)


def test_only_what_ends_with_the_goal_reached_comes_to_rest() -> None:
    """Where an author changes the robot is in the middle of something: no steps in which it rests may follow."""
    for last, done in ((STEPS, True), (14, False)):
        [run] = runs("p" * 10 + "h" * (last - 10), elements=BOTH).trajectories
        assert (set(BOTH) <= TASK.spec.done(run.states[-1])) is done
        parts = split([run], TASK.spec)
        assert [part.cut for part in parts.hand] == [not done]


def test_a_hand_went_to_what_was_asked_for_and_the_policy_to_where_it_came() -> None:
    [run] = runs("hhhhhppppp", elements=BOTH).trajectories
    parts = split([run], TASK.spec)
    assert np.array_equal(parts.hand[0].goal, TASK.spec.resolve(BOTH, run.states[0]).state)
    assert parts.own[0].goal is None


def test_hands_too_short_for_the_high_level_teach_the_low_one_alone(tmp_path) -> None:
    base = drawers.imitated(tmp_path / "base", 2, SMALL)
    pool = Pool(split(runs("pph" + "h").trajectories, TASK.spec).hand, TASK.spec, drawers.POOL)
    assert pool.count("high", slice(None)) == 0 < pool.count("low", slice(None))
    taught = drawer_demonstrations(4)
    better = improve(TASK, base, "b" * 64, taught, runs("pph" + "h"), tmp_path / "run", CONFIG, quiet)
    old, new = ([each.policy.high.state_dict(), each.policy.low.state_dict()] for each in (base, better))
    assert [all(torch.equal(o[key], n[key]) for key in o) for o, n in zip(old, new, strict=True)] == [True, False]


@pytest.mark.parametrize("level", ["low", "high"])
def test_tuples_are_drawn_among_the_demonstrations_that_are_asked_for(level: str) -> None:
    whole = drawer_demonstrations(4).trajectories
    pool = Pool(whole, TASK.spec, replace(drawers.POOL, hold=0, low_noise=0, object_noise=0, high_noise=0))
    draw = pool.low_batch if level == "low" else pool.high_batch
    states = draw(np.random.default_rng(0), 500, slice(1, 3)).state[:, 0]
    assert set(states.tolist()) == set(np.concatenate([whole[1].states, whole[2].states])[:, 0].tolist()) & set(
        states.tolist()
    )
    assert not set(states.tolist()) & set(whole[0].states[:, 0].tolist())


def test_an_improvement_goes_on_where_it_was_interrupted(tmp_path) -> None:
    base = drawers.imitated(tmp_path / "base", 5, SMALL)
    taught, logs = drawer_demonstrations(4), runs("p" * 10 + "h" * 8, "p" * 12)
    before = weights_digest(base.policy)
    whole = improve(TASK, base, "b" * 64, taught, logs, tmp_path / "whole", CONFIG, quiet)

    class Break(Exception):
        pass

    def break_at_three(level: str, step: int, loss: float | None) -> None:
        if step == 3:
            raise Break

    for _ in range(2):  # at each level
        with pytest.raises(Break):
            improve(TASK, base, "b" * 64, taught, logs, tmp_path / "broken", CONFIG, break_at_three)
    again = improve(TASK, base, "b" * 64, taught, logs, tmp_path / "broken", CONFIG, quiet)
    assert weights_digest(again.policy) == weights_digest(whole.policy) != before == weights_digest(base.policy)
    assert not list((tmp_path / "broken").glob("*.start.safetensors"))
    assert whole.record.provenance.parents == ("b" * 64,)
    assert [source["name"] for source in whole.record.provenance.data] == ["drawers", "logs"]
    with pytest.raises(TrainingError, match="holds a run with other settings"):
        improve(TASK, base, "b" * 64, taught, runs("p" * 12, "h" * 12), tmp_path / "broken", CONFIG, quiet)


def test_what_a_hand_did_where_the_policy_failed_is_learned(tmp_path) -> None:
    """A policy that knows the first drawer alone is shown the second one."""
    opens_first = Demonstrations(drawer_demonstrations(9).trajectories[1::3], [])
    base = drawers.imitated(tmp_path / "base", 300, NetworkConfig((32,), (32,)), opens_first)
    shown = runs("p" * 12 + "h" * 12, "p" * 12 + "h" * 12)
    config = replace(CONFIG, steps=300, batch=64, learning_rate=1e-3, checkpoint_every=1000)
    better = improve(TASK, base, "b" * 64, opens_first, shown, tmp_path / "run", config, quiet)
    by_hand = split(shown.trajectories, TASK.spec).hand[0]
    states, goals = by_hand.states[:-4], by_hand.states[4:]
    noise = np.zeros((len(states), 1), np.float32)
    old, new = (abs(each.policy.act(states, goals, noise) - by_hand.targets[:-4]).mean() for each in (base, better))
    assert new < old / 2


def test_the_smallest_share_of_a_batch_is_one_tuple(tmp_path) -> None:
    base = drawers.imitated(tmp_path / "base", 2, SMALL)
    config = replace(CONFIG, batch=3, hand=0.01)
    better = improve(TASK, base, "b" * 64, drawer_demonstrations(4), runs("h" * 12), tmp_path / "run", config, quiet)
    assert weights_digest(better.policy) != weights_digest(base.policy)


def test_an_accident_in_a_run_does_not_outweigh_all_else(tmp_path) -> None:
    """The policy is sure that the second drawer stands still, and in one run it flies open and shut."""
    base = drawers.imitated(tmp_path / "base", 2, SMALL)
    with torch.no_grad():
        base.policy.high.get_parameter("log_std")[2] = -5.0
    shown, losses = runs("p" * 12 + "h" * 12), dict[tuple[str, int], float | None]()
    shown.trajectories[0].states[:, 2] = np.where(np.arange(24) % 8 < 4, 0.0, 5.0)

    def keep(level: str, step: int, loss: float | None) -> None:
        losses[level, step] = loss

    improve(TASK, base, "b" * 64, drawer_demonstrations(9), shown, tmp_path / "run", CONFIG, keep)
    first = losses["high", 1]
    assert first is not None
    assert first < 100  # without a wider spread 555,000


def test_where_no_hand_stepped_in_the_policy_stays_as_it_is(tmp_path) -> None:
    """Its demonstrations are of another style now: it goes where it went, and explores as far."""
    taught = drawer_demonstrations(9)
    base = drawers.imitated(tmp_path / "base", 300, NetworkConfig((32,), (32,)), taught)
    style = [replace(each, targets=np.ascontiguousarray(each.targets[::-1])) for each in taught.trajectories]
    shown = runs("p" * 12 + "h" * 12)
    config = replace(CONFIG, steps=300, batch=64, learning_rate=1e-3, checkpoint_every=1000)
    better = improve(TASK, base, "b" * 64, Demonstrations(style, []), shown, tmp_path / "run", config, quiet)
    each = taught.trajectories[1]
    states, goals = each.states[:-4], each.states[4:]
    noise = np.zeros((len(states), 1), np.float32)
    old, new = (one.policy.act(states, goals, noise) for one in (base, better))
    away = abs(style[1].targets[:-4] - old).mean()
    assert abs(new - old).mean() < away / 10
    for level in ("high", "low"):
        spreads = [getattr(one.policy, level).log_std for one in (base, better)]
        assert torch.equal(*spreads)


def test_improvement_needs_hands_and_what_keeps_the_rest(tmp_path) -> None:
    base, nothing = drawers.imitated(tmp_path / "base", 2, SMALL), Demonstrations([], [])
    with pytest.raises(DemonstrationError, match="the policy decided every step of the logs; needs two steps on end"):
        improve(TASK, base, "b" * 64, drawer_demonstrations(4), runs("pppph"), tmp_path / "run", CONFIG, quiet)
    for logs in (runs("p" * 12 + "hh"), runs("hhpp")):
        with pytest.raises(DemonstrationError, match="are too short to keep what it can do"):
            improve(TASK, base, "b" * 64, nothing, logs, tmp_path / "run", CONFIG, quiet)
    assert not (tmp_path / "run").exists()


def test_tuples_are_drawn_as_those_of_the_bundle_unless_others_are_asked_for(tmp_path) -> None:
    provenance = drawers.imitated(tmp_path / "base", 2, SMALL).record.provenance
    kept, asked = ImproveConfig(), ImproveConfig(pool=PoolConfig(named_goals=0.25))
    other = provenance.model_copy(update={"settings": {"pool": {"relabelling": "goal", "of an older version": 1}}})
    assert as_learned(kept, provenance).pool.of(TASK.spec) == drawers.POOL.of(TASK.spec)
    assert as_learned(kept, other).pool == PoolConfig(relabelling="goal")
    assert as_learned(kept, provenance.model_copy(update={"settings": {}})) == kept
    assert as_learned(asked, other) == asked


@pytest.mark.parametrize("hand", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_is_one(hand: float) -> None:
    with pytest.raises(InvalidInput, match="must be a share between 0 and 1"):
        ImproveConfig(hand=hand)


def test_authors_are_one_for_each_step() -> None:
    with pytest.raises(DemonstrationError, match="names 2 authors; must be one for each of its 3 steps"):
        Trajectory(np.zeros((3, 3), np.float32), np.zeros((3, 1), np.float32), authors=("a", "b"))


def test_a_demonstrator_gets_back_the_settings_with_which_it_played() -> None:
    played = KitchenPlay(length=2, order="random", start="nominal")
    assert with_settings(KitchenPlay(), settings_of(played) | {"seed": 3}) == played
    with pytest.raises(InvalidInput, match="a setting of KitchenPlay does not fit"):
        with_settings(KitchenPlay(), {"length": "long"})
