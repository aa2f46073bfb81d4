"""Distillation on the drawers: one student that is close to teachers who differ."""

import copy
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import drawers
from demonstrations import drawer_demonstrations
from rpl_runtime.errors import InvalidGoal, InvalidInput, TrainingError
from rpl_train import distill as module
from rpl_train.augment import Pool
from rpl_train.distill import DistillConfig, distill, label, load_lessons
from rpl_train.networks import Gaussian, Mixture, NetworkConfig, RelayPolicy, divergence
from rpl_train.rl.experience import Explorer
from rpl_train.rl.rollout import TRAINING_SEEDS, Start, open_worlds, rollout
from rpl_train.runs import LEVELS, TrainedRun, load_modules, weights_digest

DEMONSTRATIONS = drawer_demonstrations(6)
SMALL = DistillConfig(rounds=2, episodes=4, steps=30, batch=64, worlds=2, seed=3, pool=drawers.POOL)
on_drawers = partial(distill, drawers.TASK)
FASTER = replace(SMALL, demonstrated=0.0, learning_rate=3e-3)
THOROUGH = replace(SMALL, episodes=12, steps=250, batch=256, demonstrated=0.02, learning_rate=6e-3)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return drawers.imitated(tmp_path_factory.mktemp("base"), steps=300)


def teacher(base: TrainedRun, by: float, levels=LEVELS) -> TrainedRun:
    """The base with the outputs of these levels moved by so many of its scales, and surer of them."""
    policy = RelayPolicy(copy.deepcopy(base.policy.high), copy.deepcopy(base.policy.low))
    with torch.no_grad():
        for level in levels:
            moved = getattr(policy, level)
            moved.body[-1].bias += by
            moved.log_std -= 0.5
    return TrainedRun(policy, base.record)


def sway(high, component: int) -> None:
    """Let a high level prefer one of its components; a Gaussian has one."""
    if high.components > 1:
        with torch.no_grad():
            high.body[-1].bias[component] += 3


@pytest.fixture
def teachers(base):
    return {"m": teacher(base, 1.0), "k": teacher(base, -1.0)}


def weights(run):
    return {f"{level}.{k}": v for level in LEVELS for k, v in load_file(run / f"{level}.safetensors").items()}


def equal(one, other):
    return one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)


@torch.no_grad()
def away(student: RelayPolicy, trained: TrainedRun, letters: str, levels=LEVELS) -> dict[str, float]:
    """How far a student is from a teacher at each level, in states that the teacher visits for these elements."""
    starts = [Start(drawers.TASK.parse_goal(letters).elements, seed) for seed in range(9000, 9008)]
    with open_worlds(drawers.TASK, 4) as four:
        episodes = rollout(trained.policy, trained.record.spec, drawers.TASK, starts, four)
    found = {}
    for level, lessons in label(trained.policy, episodes, trained.record.spec.horizon, levels).items():
        taught = Mixture(*(lessons.pop(name) for name in Mixture._fields))
        found[level] = divergence(taught, getattr(student, level).distribution(**lessons)).mean().item()
    return found


@pytest.mark.parametrize("components", [1, 3])
def test_one_student_comes_close_to_teachers_who_differ_by_goal(base, tmp_path, components):
    if components > 1:
        base = drawers.imitated(tmp_path / "base", 300, NetworkConfig((32,), (32,), high_components=components))
    teachers = {"m": teacher(base, 1.0), "k": teacher(base, -1.0)}
    for place, trained in enumerate(teachers.values()):
        sway(trained.policy.high, place)
    student = on_drawers(base, DEMONSTRATIONS, teachers, tmp_path / "run", THOROUGH).policy
    for letters, trained in teachers.items():
        before, after = away(base.policy, trained, letters), away(student, trained, letters)
        assert all(after[level] < 0.15 * before[level] for level in LEVELS), (letters, before, after)


class Break(Exception):
    """Stands for whatever ends a run early."""


@pytest.fixture
def interrupted(base, teachers, tmp_path):
    """The folder of a run of two rounds that ended before the second began to learn, so its lessons are there."""

    def progress(*now):
        if now == (1, "learning"):
            raise Break

    with pytest.raises(Break):
        on_drawers(base, DEMONSTRATIONS, teachers, tmp_path / "run", SMALL, progress)
    return tmp_path / "run"


def test_teachers_play_the_first_round_and_the_student_the_next_and_teachers_label_both(
    base, teachers, interrupted, tmp_path
):
    student = on_drawers(base, DEMONSTRATIONS, teachers, tmp_path / "once", replace(SMALL, rounds=1)).policy
    for round_ in (0, 1):
        expected = []
        for number, (letters, trained) in enumerate(teachers.items()):
            seeds = np.random.default_rng([SMALL.seed, round_, number]).choice(TRAINING_SEEDS, 4, replace=False)
            starts = [
                Start(drawers.TASK.parse_goal(letters).elements, int(seed), sampling=int(seed) if place % 2 else None)
                for place, seed in enumerate(seeds)
            ]
            with open_worlds(drawers.TASK, 2) as two:
                player = Explorer(student if round_ else trained.policy, ("low",))
                episodes = rollout(player, base.record.spec, drawers.TASK, starts, two)
            expected.append(label(trained.policy, episodes, base.record.spec.horizon))
        found = load_lessons(interrupted, round_)
        for level in LEVELS:
            for name, values in found[level].items():
                assert torch.equal(values, torch.cat([lessons[level][name] for lessons in expected])), (round_, name)


@torch.no_grad()
def test_a_teacher_labels_the_actions_of_every_step_and_a_plan_of_every_horizon(base, teachers):
    spec, trained = base.record.spec, teachers["k"].policy
    with open_worlds(drawers.TASK, 2) as two:
        starts = [Start(drawers.TASK.parse_goal("k").elements, seed, sampling=seed) for seed in (1, 2)]
        episodes = rollout(Explorer(base.policy, ("low",)), spec, drawers.TASK, starts, two, steps=10)
    lessons = label(trained, episodes, spec.horizon)
    told = [(each, step) for each in episodes for step in range(10)]
    planned = [(each, step) for each, step in told if step % spec.horizon == 0]
    given = {
        "low": [(each.states[step], each.subgoals[step]) for each, step in told],
        "high": [(each.states[step], each.goal.state, each.goal.mask) for each, step in planned],
    }
    for level in LEVELS:
        inputs = [torch.from_numpy(np.array(column)) for column in zip(*given[level], strict=True)]
        for name, values in zip(("state", "subgoal" if level == "low" else "goal", "mask"), inputs, strict=False):
            assert torch.equal(lessons[level][name], values)
        expected = getattr(trained, level).distribution(*inputs).mixture()
        assert torch.allclose(lessons[level]["mean"], expected.mean, atol=1e-6)
        assert torch.allclose(lessons[level]["log_std"], expected.log_std.expand(len(inputs[0]), -1))


def test_episodes_begin_at_the_start_that_is_asked_for(base, teachers, tmp_path):
    task = replace(drawers.TASK, starts={"far": 0.9, "beside": 0.2})

    def progress(round_, what):
        if what == "learning":
            raise Break

    farthest = []
    for start in ("far", "beside"):
        with pytest.raises(Break):
            distill(task, base, DEMONSTRATIONS, teachers, tmp_path / start, replace(SMALL, start=start), progress)
        farthest.append(float(load_lessons(tmp_path / start, 0)["low"]["state"][::24, 0].abs().max()))
    far, beside = farthest
    assert far > 0.25 > beside


def kl(taught: Mixture, student: Gaussian) -> torch.Tensor:
    """KL(teacher || student) (N,) of two Gaussians, by torch's own formula."""
    pair = (torch.distributions.Normal(g.mean.squeeze(1), g.log_std.exp()) for g in (taught, student.mixture()))
    return torch.distributions.kl_divergence(*pair).sum(-1)


@pytest.mark.parametrize("level", LEVELS)
def test_a_round_descends_the_divergence_from_the_teachers_over_all_lessons_so_far(base, teachers, interrupted, level):
    """Weights are those of a literal reading: mean of KL(teacher || student) less the demonstrations' likelihood."""
    rounds = [load_lessons(interrupted, round_)[level] for round_ in (0, 1)]
    lessons = {name: torch.cat([lesson[name] for lesson in rounds]) for name in rounds[0]}
    taught = Mixture(*(lessons.pop(name) for name in Mixture._fields))
    expected = copy.deepcopy(base.policy)
    load_modules(interrupted / "round.safetensors", {"high": expected.high, "low": expected.low})
    student = getattr(expected, level)
    pool = Pool(DEMONSTRATIONS.trajectories, base.record.spec, SMALL.pool)
    optimiser = torch.optim.Adam(student.parameters())
    for step in range(SMALL.steps):
        optimiser.param_groups[0]["lr"] = 3e-4 * (1 + math.cos(math.pi * step / SMALL.steps)) / 2
        rng = np.random.default_rng([SMALL.seed, 1, LEVELS.index(level), step])
        rows = torch.from_numpy(rng.integers(len(taught.mean), size=SMALL.batch))
        batch = pool.high_batch(rng, SMALL.batch) if level == "high" else pool.low_batch(rng, SMALL.batch)
        own = student.distribution(**{name: values[rows] for name, values in lessons.items()})
        away = kl(Mixture(*(values[rows] for values in taught)), own).mean()
        optimiser.zero_grad()
        (away - student.log_prob(*map(torch.from_numpy, batch)).mean()).backward()
        optimiser.step()
    found = getattr(on_drawers(base, DEMONSTRATIONS, teachers, interrupted, SMALL).policy, level).state_dict()
    assert all(torch.allclose(found[name], values, atol=1e-5) for name, values in student.state_dict().items())


def test_a_broken_run_ends_in_the_same_weights(base, teachers, tmp_path, monkeypatch):
    three, stages = replace(SMALL, rounds=3, steps=10), []
    on_drawers(base, DEMONSTRATIONS, teachers, tmp_path / "whole", three)

    def break_at(*stage):
        def progress(*now):
            stages.append(now)
            if now == stage:
                raise Break

        return progress

    for stage in ((0, "learning"), (1, "playing"), (1, "learning"), (2, "playing")):
        with pytest.raises(Break):
            on_drawers(base, DEMONSTRATIONS, teachers, tmp_path / "broken", three, break_at(*stage))
    on_drawers(base, DEMONSTRATIONS, teachers, tmp_path / "broken", three)
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    assert (0, "playing") not in stages[stages.index((1, "playing")) :]  # a whole round is not made again
    names = {".lock", "run.json", "high.safetensors", "low.safetensors"}
    assert {path.name for path in (tmp_path / "broken").iterdir()} == names


def test_goals_played_side_by_side_teach_what_they_teach_in_turn(base, teachers, tmp_path, monkeypatch):
    on_drawers(base, DEMONSTRATIONS, teachers, tmp_path / "one", SMALL)
    monkeypatch.setattr(module, "rollout", None)  # in this process; the goals' own play
    on_drawers(base, DEMONSTRATIONS, teachers, tmp_path / "two", replace(SMALL, jobs=2))
    assert equal(weights(tmp_path / "one"), weights(tmp_path / "two"))


def test_a_finished_run_is_loaded(base, teachers, tmp_path, monkeypatch):
    first = on_drawers(base, DEMONSTRATIONS, teachers, tmp_path, SMALL).policy
    monkeypatch.setattr(module, "rollout", None)
    again = on_drawers(base, DEMONSTRATIONS, teachers, tmp_path, SMALL).policy
    assert weights_digest(first) == weights_digest(again)


def test_a_level_in_which_no_teacher_differs_is_kept(base, tmp_path):
    before = copy.deepcopy(base.policy)
    trained = teacher(base, 1.0, ("low",))
    student = on_drawers(base, DEMONSTRATIONS, {"mk": trained}, tmp_path, FASTER).policy
    assert equal(student.high.state_dict(), before.high.state_dict())
    assert away(student, trained, "mk")["low"] < 0.8 * away(base.policy, trained, "mk")["low"]
    assert equal(base.policy.low.state_dict(), before.low.state_dict())  # the base stays as it was


def test_demonstrations_keep_what_no_teacher_knows(base, tmp_path):
    pool = Pool(DEMONSTRATIONS.trajectories, base.record.spec, drawers.POOL)
    batch = [torch.from_numpy(column) for column in pool.low_batch(np.random.default_rng(0), 1000)]
    likelihood = {}
    for weight in (0.0, 1.0):
        config = replace(SMALL, rounds=1, steps=200, learning_rate=3e-3, demonstrated=weight)
        trained = teacher(base, -1.0, ("low",))
        student = on_drawers(base, DEMONSTRATIONS, {"k": trained}, tmp_path / str(weight), config).policy
        likelihood[weight] = student.low.log_prob(*batch).mean().item()
    assert likelihood[1.0] > likelihood[0.0] + 0.5


def test_provenance_names_every_teacher(base, teachers, tmp_path):
    record = on_drawers(base, DEMONSTRATIONS, teachers, tmp_path, SMALL).record
    named = record.provenance.settings["specialists"]
    assert {goal: facts["weights"] for goal, facts in named.items()} == {
        goal: weights_digest(trained.policy) for goal, trained in teachers.items()
    }
    assert record.provenance.data == base.record.provenance.data
    assert record.provenance.seeds == (SMALL.seed,)
    assert {"relay-policy", "torch", "numpy"} <= record.provenance.packages.keys()
    assert record.spec == base.record.spec


def test_provenance_names_what_teachers_and_student_learned_from(base, tmp_path):
    played = {"name": "play", "digest": "1" * 64, "episodes": 2, "steps": 48, "licence": "made here"}
    trained = teacher(base, 1.0)
    provenance = base.record.provenance.model_copy(update={"data": (*base.record.provenance.data, played)})
    taught = trained._replace(record=trained.record.model_copy(update={"provenance": provenance}))
    record = on_drawers(base, DEMONSTRATIONS, {"mk": taught}, tmp_path / "taught", SMALL).record
    assert record.provenance.data == (*base.record.provenance.data, played)
    shown = DEMONSTRATIONS._replace(sources=[*DEMONSTRATIONS.sources, played])
    record = on_drawers(base, shown, {"mk": trained}, tmp_path / "shown", replace(SMALL, rounds=1, steps=1)).record
    assert record.provenance.data == (*base.record.provenance.data, played)


def test_a_folder_keeps_one_run(base, teachers, tmp_path):
    on_drawers(base, DEMONSTRATIONS, teachers, tmp_path, SMALL)
    with pytest.raises(TrainingError, match=r"other settings \(steps\)"):
        on_drawers(base, DEMONSTRATIONS, teachers, tmp_path, replace(SMALL, steps=31))
    with pytest.raises(TrainingError, match=r"other settings \(demonstrations\)"):
        distill(
            drawers.TASK,
            base,
            DEMONSTRATIONS._replace(trajectories=DEMONSTRATIONS.trajectories[:-1]),
            teachers,
            tmp_path,
            SMALL,
        )
    with pytest.raises(TrainingError, match=r"other settings \(specialists\)"):
        on_drawers(base, DEMONSTRATIONS, {"m": teachers["m"]}, tmp_path, SMALL)


def test_a_flat_policy_is_distilled_at_its_only_level(tmp_path):
    flat = drawers.imitated(tmp_path / "base", 2, NetworkConfig((8,), (8,), flat=True))
    trained = teacher(flat, 1.0, ("low",))
    student = on_drawers(flat, DEMONSTRATIONS, {"mk": trained}, tmp_path / "run", FASTER).policy
    after, before = (away(policy, trained, "mk", ("low",))["low"] for policy in (student, flat.policy))
    assert after < 0.8 * before


@pytest.mark.parametrize(
    ("given", "differ"),
    [
        ({"networks": NetworkConfig((8,), (8,))}, "networks"),
        ({"demonstrations": drawer_demonstrations(5)}, "targets, statistics"),  # the same outputs mean other targets
    ],
)
def test_a_specialist_of_another_base_is_refused(base, tmp_path, given, differ):
    other = drawers.imitated(tmp_path / "other", 2, **given)
    with pytest.raises(TrainingError, match=rf"the specialist of mk comes from another policy \({differ} differ\)"):
        on_drawers(base, DEMONSTRATIONS, {"mk": other}, tmp_path / "run", SMALL)
    assert not (tmp_path / "run").exists()


def test_a_goal_without_such_elements_is_refused(base, teachers, tmp_path):
    with pytest.raises(InvalidGoal, match="'mx' is not a goal"):
        on_drawers(base, DEMONSTRATIONS, {"mx": teachers["m"]}, tmp_path, SMALL)


def test_a_loss_that_is_not_finite_stops_the_run(base, teachers, tmp_path):
    with pytest.raises(TrainingError, match=r"the high level's loss is (nan|inf) in round 1, step"):
        on_drawers(base, DEMONSTRATIONS, teachers, tmp_path, replace(SMALL, learning_rate=1e30))


def test_a_device_that_is_not_there_leaves_no_folder(base, teachers, tmp_path):
    with pytest.raises(InvalidInput, match="the device is 'abacus'"):
        on_drawers(base, DEMONSTRATIONS, teachers, tmp_path / "run", replace(SMALL, device="abacus"))
    assert not (tmp_path / "run").exists()
