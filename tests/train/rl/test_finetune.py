"""Fine-tuning: that it learns, that a broken run ends as an unbroken one, and what it refuses.

Most of it happens on the drawers, through the same relay loop; the kitchen has one short run.
"""

import copy
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import drawers
from demonstrations import STEPS, drawer_demonstrations
from rpl_runtime.errors import DemonstrationError, InvalidGoal, InvalidInput, TrainingError
from rpl_runtime.tasks.kitchen.elements import (
    ROBOT_DIM,
    STATE_DIM,
    TARGET_HIGH,
    TARGET_LOW,
)
from rpl_train.augment import Pool, PoolConfig
from rpl_train.data.sources import Demonstrations
from rpl_train.data.trajectory import Trajectory, load_folder
from rpl_train.imitate import ImitateConfig, imitate
from rpl_train.networks import NetworkConfig
from rpl_train.rl import finetune as module
from rpl_train.rl.baseline import Baseline, advantages
from rpl_train.rl.experience import experience
from rpl_train.rl.finetune import FinetuneConfig, finetune, read_curve
from rpl_train.rl.npg import NpgConfig, natural_step
from rpl_train.rl.rewards import REWARDS, Reward
from rpl_train.rl.rollout import TRAINING_SEEDS, Episode, Start, rollout
from rpl_train.runs import LEVELS, build_level, load_run, round_to_half
from rpl_train.tasks.kitchen.task import KITCHEN

DEMONSTRATIONS = drawer_demonstrations(6)
NONE = Demonstrations([], [])
on_drawers = partial(finetune, drawers.TASK)


def config(iterations: int = 3, episodes: int = 6, **settings) -> FinetuneConfig:
    return FinetuneConfig(
        goal=drawers.GOAL,
        env_steps=iterations * episodes * STEPS,
        episodes=episodes,
        worlds=4,
        likelihood_batch=64,
        pool=drawers.POOL,
        **{"objective": "npg", **settings},
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A policy that opens one drawer of two."""
    return drawers.imitated(tmp_path_factory.mktemp("base"), steps=600)


def weights(run):
    return {f"{level}.{k}": v for level in LEVELS for k, v in load_file(run / f"{level}.safetensors").items()}


def of(policy):
    return {
        f"{level}.{k}": v.clone()
        for level, m in (("high", policy.high), ("low", policy.low))
        for k, v in m.state_dict().items()
    }


def equal(one, other):
    return one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)


class Break(Exception):
    """Stands for whatever ends a run early."""


@pytest.mark.parametrize(
    ("levels", "components"),
    [(("low",), 1), (("high",), 1), (("high", "low"), 1), (("high",), 4)],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else str(value),
)
def test_it_learns_to_reach_the_goal(base, tmp_path, levels, components):
    if components > 1:
        networks = NetworkConfig((32,), (32,), high_components=components)
        base = drawers.imitated(tmp_path / "base", 600, networks)
    learning = config(10, 32, levels=levels, npg=NpgConfig(normalised_step=0.05))
    _, curve = on_drawers(base, NONE, tmp_path / "run", learning)
    assert curve[0].steps_done < 1.4
    assert curve[0].success < 0.45
    assert np.mean([point.steps_done for point in curve[-3:]]) > 1.8
    assert np.mean([point.success for point in curve[-3:]]) > 0.8
    assert curve[-1].returns[levels[0]] > curve[0].returns[levels[0]] + 0.5


def test_rewards_toward_the_subgoal_are_climbed_too(base, tmp_path):
    _, curve = on_drawers(base, NONE, tmp_path, config(8, 16, reward="euclidean", npg=NpgConfig(normalised_step=0.05)))
    returns = [point.returns["low"] for point in curve]
    assert np.mean(returns[-2:]) > 0.85 * np.mean(returns[:2])  # a distance, so below zero


@pytest.mark.parametrize(
    "settings",
    [
        {"levels": LEVELS},
        {"objective": "dapg"},
        {"objective": "iril", "levels": LEVELS},
        {"scratch": ("high",), "levels": ("high",)},
        {"objective": "iril", "levels": LEVELS, "reward": "euclidean"},
    ],
    ids=["npg", "dapg", "iril", "scratch", "mixture"],
)
def test_a_broken_run_ends_in_the_same_weights_and_curve(base, tmp_path, monkeypatch, settings, request):
    if "mixture" in request.node.name:
        base = drawers.imitated(tmp_path / "base", 100, NetworkConfig((32,), (32,), high_components=3))
    whole = on_drawers(base, DEMONSTRATIONS, tmp_path / "whole", config(**settings))

    def break_after(iteration):
        def progress(point):
            if point.iteration == iteration:
                raise Break

        return progress

    with pytest.raises(Break):
        on_drawers(base, DEMONSTRATIONS, tmp_path / "broken", config(**settings), break_after(1))
    with monkeypatch.context() as midway:
        midway.setattr(module, "save_modules", raising(Break))  # the curve is ahead of the weights
        with pytest.raises(Break):
            on_drawers(base, DEMONSTRATIONS, tmp_path / "broken", config(**settings))
    broken = on_drawers(base, DEMONSTRATIONS, tmp_path / "broken", config(**settings))
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    assert whole.curve == broken.curve == tuple(read_curve(tmp_path / "broken"))
    names = {".lock", "run.json", "curve.json", "high.safetensors", "low.safetensors", "tensorboard"}
    assert {path.name for path in (tmp_path / "broken").iterdir()} == names


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


def test_a_finished_run_is_loaded_and_not_played_again(base, tmp_path, monkeypatch):
    first = on_drawers(base, NONE, tmp_path, config())
    monkeypatch.setattr(module, "rollout", raising(AssertionError))
    again = on_drawers(base, NONE, tmp_path, config())
    assert again.curve == first.curve
    assert equal(of(first.trained.policy), of(again.trained.policy))


def test_the_base_stays_as_it_was(base, tmp_path):
    before = of(base.policy)
    tuned = on_drawers(base, NONE, tmp_path, config(1))
    assert equal(of(base.policy), before)
    moved = of(tuned.trained.policy)
    assert not any(moved[name].equal(before[name]) for name in before if name.startswith("low.body"))
    assert all(moved[name].equal(before[name]) for name in before if name.startswith("high."))


def test_what_was_learned_is_exact_in_half_precision_and_nothing_else_is_rounded(base, tmp_path):
    before = of(base.policy)
    learned = dict(on_drawers(base, NONE, tmp_path, config(1)).trained.policy.low.named_parameters())
    assert all(values.equal(values.half().float()) for values in learned.values())
    kept = {name: values for name, values in weights(tmp_path).items() if name.removeprefix("low.") not in learned}
    assert kept
    assert all(values.equal(before[name]) for name, values in kept.items())


def test_the_curve_counts_what_was_played(base, tmp_path):
    seen = []
    on_drawers(base, NONE, tmp_path, config(2, levels=LEVELS), seen.append)
    curve = json.loads((tmp_path / "curve.json").read_text())
    assert [point["env_steps"] for point in curve] == [6 * STEPS, 12 * STEPS]
    assert [point._asdict() for point in seen] == curve
    for point in curve:
        assert 0 <= point["success_at_end"] <= point["success"] <= 1
        assert 0 <= point["steps_done"] <= 2
        assert set(point["returns"]) == set(point["kl"]) == set(LEVELS)
        assert all(0 < kl < 0.1 for kl in point["kl"].values())
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_each_level_earns_by_its_own_reward(base, tmp_path):
    [point] = on_drawers(
        base, NONE, tmp_path, config(1, levels=LEVELS, reward="euclidean", high_reward="completion")
    ).curve
    assert point.returns["low"] < 0 <= point.returns["high"]


@pytest.mark.parametrize("level", LEVELS)
def test_a_baseline_is_fitted_to_returns(base, tmp_path, monkeypatch, level):
    """Without discount the return of an episode's first decision is all that the episode earned."""
    fitted = []

    class Watched(Baseline):
        def fit(self, features, returns, seed):
            fitted.append(returns.reshape(6, -1)[:, 0].mean())
            super().fit(features, returns, seed)

    monkeypatch.setattr(module, "Baseline", Watched)
    _, curve = on_drawers(base, NONE, tmp_path, config(3, levels=(level,), gamma=1.0, smoothing=1.0))
    assert fitted == pytest.approx([point.returns[level] for point in curve], abs=1e-5)


def test_a_step_climbs_whitened_advantages_over_the_baseline_of_the_iterations_before(base, tmp_path, monkeypatch):
    """A baseline that was fitted to the same episodes would explain away what is to be learned from them."""
    seen, valued, climbed = [], [], []

    class Watched(Baseline):
        def values(self, features):
            valued.append(super().values(features))
            return valued[-1]

    def watch(*arguments):
        seen.append(experience(*arguments))
        return seen[-1]

    def step(level, samples, *others):
        climbed.append(samples.advantages.numpy().copy())
        return natural_step(level, samples, *others)

    monkeypatch.setattr(module, "Baseline", Watched)
    monkeypatch.setattr(module, "experience", watch)
    monkeypatch.setattr(module, "natural_step", step)
    on_drawers(base, NONE, tmp_path, config(2, gamma=0.9, smoothing=0.7))
    assert not valued[0].any()
    assert valued[1].any()
    for earned, values, gains in zip(seen, valued, climbed, strict=True):
        estimates = advantages(earned.rewards, values.reshape(earned.rewards.shape), earned.last, 0.9, 0.7)
        assert gains == pytest.approx(((estimates - estimates.mean()) / estimates.std()).ravel(), abs=1e-4)


def test_each_iteration_explores_from_starts_of_its_own_of_the_kind_that_is_asked_for(base, tmp_path, monkeypatch):
    task = replace(drawers.TASK, starts={"far": 0.9, "beside": 0.2})
    episodes = []

    def watch(*arguments, **options):
        episodes.extend(rollout(*arguments, **options))
        return episodes[-6:]

    monkeypatch.setattr(module, "rollout", watch)
    finetune(task, base, NONE, tmp_path, config(2, start="far"))
    starts = [episode.start for episode in episodes]
    assert len({start.seed for start in starts}) == 12
    assert all(0 <= start.seed < TRAINING_SEEDS and start.sampling is not None for start in starts)
    assert max(abs(episode.states[0, 0]) for episode in episodes) > 0.2


def test_a_point_of_the_curve_counts_elements_that_were_ever_done_and_those_done_at_the_end():
    goal, nothing = drawers.spec().resolve(drawers.GOAL, np.zeros(3, np.float32)), frozenset()
    first, second, both = frozenset({drawers.FIRST}), frozenset({drawers.SECOND}), frozenset(drawers.GOAL)
    rows, end = np.zeros((3, 3), np.float32), np.zeros(3, np.float32)
    episodes = [
        Episode(Start(drawers.GOAL, seed), goal, rows, rows, rows[:, :1], done, end)
        for seed, done in enumerate(
            [(first, both, second), (first, nothing, nothing), (nothing, first, both), (nothing, nothing, nothing)]
        )
    ]
    point = module._point(7, episodes, {"low": 1.0}, {"low": None})
    assert (point.steps_done, point.success, point.success_at_end) == (5 / 4, 1 / 2, 1 / 4)
    assert (point.iteration, point.env_steps) == (7, 7 * 4 * 3)


def test_demonstrations_turn_the_step_as_the_curve_says(base, tmp_path):
    """DAPG and IRIL by their defaults are other methods than NPG: the first step of each, from the same episodes."""
    before = of(base.policy)
    moved, points = {}, {}
    for objective in ("npg", "dapg", "iril"):
        trained, (points[objective],) = on_drawers(
            base, DEMONSTRATIONS, tmp_path / objective, config(1, 24, objective=objective)
        )
        after = of(trained.policy)
        moved[objective] = torch.cat([(after[name] - before[name]).flatten() for name in before if "low.body" in name])
    assert points["npg"].share is points["npg"].cosine is None
    for objective in ("dapg", "iril"):
        assert (points[objective].cosine or {})["low"] < 0.9
        assert (points[objective].share or {})["low"] > 0.5
        assert torch.cosine_similarity(moved["npg"], moved[objective], dim=0) < 0.9


def test_the_weight_of_demonstrations_decays_by_lambda_1_an_iteration(base, tmp_path):
    """Both runs have the same first iteration, and so the same episodes and tuples in the second."""
    curves = [
        on_drawers(
            base, DEMONSTRATIONS, tmp_path / str(decay), config(2, 24, objective="dapg", likelihood_decay=decay)
        ).curve
        for decay in (1.0, 0.1)
    ]
    (first, kept), (same, decayed) = ([(point.share or {})["low"] for point in curve] for curve in curves)
    assert first == same
    assert decayed == pytest.approx(0.1 * kept, rel=1e-3)


def test_demonstrations_teach_a_level_beside_what_it_earns(tmp_path):
    base = drawers.imitated(tmp_path / "base", steps=100)
    batch = Pool(DEMONSTRATIONS.trajectories, drawers.spec(), drawers.POOL).low_batch(np.random.default_rng(0), 2000)

    def likelihood(trained):
        return trained.policy.low.log_prob(*map(torch.from_numpy, batch)).mean().item()

    runs = {
        objective: on_drawers(
            base, DEMONSTRATIONS, tmp_path / objective, config(4, objective=objective, likelihood=1e-2)
        ).trained
        for objective in ("npg", "dapg")
    }
    assert likelihood(runs["dapg"]) > max(likelihood(base), likelihood(runs["npg"])) + 0.5


def test_iril_learns_at_both_levels_from_every_episode_so_far_as_it_was_drawn(base, tmp_path, monkeypatch):
    """A share of its tuples are its own, however many episodes there are; each iteration draws others."""
    noisy = copy.deepcopy(base.policy)
    with torch.no_grad():
        noisy.low.log_std.fill_(2.0)  # so that many targets are clipped
    drawn, commanded, pools, batches, first = [], [], [], [], set()

    class Explorer(module.Explorer):
        def targets(self, episodes):
            drawn.append(super().targets(episodes).reshape(-1, 1))
            commanded.append(np.concatenate([episode.targets for episode in episodes]))
            return super().targets(episodes)

    class Watched(Pool):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            pools.append(self)

        def low_batch(self, rng, size):
            batches.append(("low", pools.index(self), size))
            batch = super().low_batch(rng, size)
            first.add(float(batch.state[0, 0]) if self is pools[0] else None)
            return batch

        def high_batch(self, rng, size):
            batches.append(("high", pools.index(self), size))
            return super().high_batch(rng, size)

    monkeypatch.setattr(module, "Explorer", Explorer)
    monkeypatch.setattr(module, "Pool", Watched)
    settings = config(3, 12, objective="iril", levels=LEVELS, reward="euclidean", own=0.25)
    _, curve = on_drawers(base._replace(policy=noisy), DEMONSTRATIONS, tmp_path, settings)
    assert not any(point.skipped for point in curve)
    shown, *own = pools
    assert np.array_equal(shown.timeline.targets[: STEPS - 1], DEMONSTRATIONS.trajectories[0].targets[:-1])
    for iteration, pool in enumerate(own):
        assert np.array_equal(pool.timeline.targets, np.concatenate(drawn[: iteration + 1]))
        assert not np.array_equal(pool.timeline.targets, np.concatenate(commanded[: iteration + 1]))
    assert batches == [
        (level, place, size)
        for iteration in range(3)
        for level in LEVELS
        for place, size in ((0, 48), (iteration + 1, 16))
    ]
    assert len(first - {None}) == 3


@pytest.mark.parametrize("level", LEVELS)
def test_own_tuples_less_likely_than_most_that_were_demonstrated_get_no_gradient(base, tmp_path, level):
    """The gradient is that of a literal reading, with lambda_0 lambda_1^k = 0.2 x 0.5^2, of 48 tuples and 16 own."""
    settings = config(objective="iril", levels=LEVELS, own=0.25, likelihood=0.2, likelihood_decay=0.5, seed=3)
    learner = module._Learner(drawers.TASK, base, DEMONSTRATIONS.trajectories, tmp_path, settings)
    learner.iteration = 2
    far = [replace(each, states=each.states.copy()) for each in DEMONSTRATIONS.trajectories]
    for each in far[::2]:
        each.states[12:, 1] += 5
    shown, own = (Pool(each, drawers.spec(), drawers.POOL) for each in (DEMONSTRATIONS.trajectories, far))
    network, rng = learner._levels[level], np.random.default_rng([3, 2, LEVELS.index(level)])
    batches = [
        pool.high_batch(rng, size) if level == "high" else pool.low_batch(rng, size)
        for pool, size in ((shown, 48), (own, 16))
    ]
    demonstrated, tried = (network.log_prob(*map(torch.from_numpy, batch)) for batch in batches)
    plausible = tried[tried > float(np.quantile(demonstrated.detach().numpy(), 0.05))]
    assert 0 < len(plausible) < 16
    expected = 0.2 * 0.5**2 * (demonstrated.sum() + plausible.sum()) / 64
    bonus = learner._likelihood(level, shown, own)
    weights = list(network.body.parameters())
    for found, wanted in zip(torch.autograd.grad(bonus, weights), torch.autograd.grad(expected, weights), strict=True):
        assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("level", LEVELS)
def test_an_episode_in_which_an_object_flew_away_does_not_take_over_the_step(base, tmp_path, monkeypatch, level):
    """A few tuples of iril's own, hundreds of standard deviations off, would be all of the gradient."""
    points = []
    for far in (0.0, 300.0):

        def load(folder, far=far):
            first, *rest = load_folder(folder)
            first.states[12:, 1] += far
            return [first, *rest]

        monkeypatch.setattr(module, "load_folder", load)
        settings = config(1, 24, objective="iril", levels=(level,), reward="euclidean")
        points += on_drawers(base, DEMONSTRATIONS, tmp_path / str(far), settings).curve
    near, off = ((point.share or {})[level] for point in points)
    assert off < 3 * near


@pytest.mark.parametrize("level", LEVELS)
def test_what_iril_did_itself_turns_the_step_of_each_level(base, tmp_path, level):
    """Both learn from the same episodes and demonstrations; one also from its own, relabelled for its level."""
    moved = {}
    for objective in ("dapg", "iril"):
        tuned = on_drawers(
            base, DEMONSTRATIONS, tmp_path / objective, config(1, 24, objective=objective, levels=(level,))
        ).trained
        after, before = of(tuned.policy), of(base.policy)
        moved[objective] = torch.cat([(after[name] - before[name]).flatten() for name in before if "body" in name])
    assert torch.cosine_similarity(moved["dapg"], moved["iril"], dim=0) < 0.95


@pytest.mark.parametrize("objective", ["dapg", "iril"])
def test_objectives_that_imitate_need_demonstrations(base, tmp_path, objective):
    with pytest.raises(DemonstrationError, match="no demonstrations"):
        on_drawers(base, NONE, tmp_path, config(objective=objective))


def test_a_folder_keeps_one_run(base, tmp_path):
    on_drawers(base, NONE, tmp_path, config(1))
    with pytest.raises(TrainingError, match=r"other settings \(.*reward"):
        on_drawers(base, NONE, tmp_path, config(1, reward="sparse"))
    with pytest.raises(TrainingError, match=r"other settings \(goal"):
        on_drawers(base, NONE, tmp_path, replace(config(1), goal=(drawers.FIRST,)))
    with pytest.raises(TrainingError, match=r"other settings \(worlds"):  # another batch, other last bits
        on_drawers(base, NONE, tmp_path, replace(config(1), worlds=5))


def test_what_is_shown_is_noted_and_a_run_goes_on_with_no_other(base, tmp_path):
    played = {"name": "play", "digest": "1" * 64, "episodes": 2, "steps": 48, "licence": "made here"}
    other = Demonstrations(drawer_demonstrations(6, seed=1).trajectories, [*DEMONSTRATIONS.sources, played])
    shown = config(1, objective="dapg")
    found = on_drawers(base, other, tmp_path / "run", shown).trained.record.provenance
    assert found.data == (*base.record.provenance.data, played)
    assert found.seeds == (shown.seed,)
    assert {"relay-policy", "torch", "numpy"} <= found.packages.keys()
    with pytest.raises(TrainingError, match=r"other settings \(demonstrations\)"):
        on_drawers(base, DEMONSTRATIONS, tmp_path / "run", shown)
    alone = on_drawers(base, other, tmp_path / "npg", config(1)).trained.record.provenance
    assert alone.data == base.record.provenance.data
    assert on_drawers(base, NONE, tmp_path / "npg", config(1))


def test_a_run_that_does_not_say_what_it_was_shown_goes_on(base, tmp_path):
    shown = config(1, objective="dapg")
    on_drawers(base, DEMONSTRATIONS, tmp_path, shown)
    content = json.loads((tmp_path / "run.json").read_text())
    del content["provenance"]["settings"]["demonstrations"]
    (tmp_path / "run.json").write_text(json.dumps(content))
    assert on_drawers(base, DEMONSTRATIONS, tmp_path, shown)


def test_a_gradient_that_is_not_finite_stops_at_the_last_good_iteration_and_names_it(base, tmp_path, monkeypatch):
    whole = on_drawers(base, NONE, tmp_path / "whole", config())
    good = REWARDS["completion"]

    def broken_in_the_second(seen):
        iteration = len(read_curve(tmp_path / "run"))
        return good.low(seen) * (np.nan if iteration == 1 else 1)

    with monkeypatch.context() as faulty:
        faulty.setitem(REWARDS, "completion", Reward(broken_in_the_second, good.high, good.until_subgoal))
        with pytest.raises(TrainingError, match=r"iteration 2 of .*run, low level: .*not finite.* iteration 1 are"):
            on_drawers(base, NONE, tmp_path / "run", config())
    assert [point.iteration for point in read_curve(tmp_path / "run")] == [1]
    assert not (tmp_path / "run" / "low.safetensors").exists()
    assert on_drawers(base, NONE, tmp_path / "run", config()).curve == whole.curve
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def test_levels_from_scratch_begin_at_their_mean_output(base, tmp_path, monkeypatch):
    seen = []

    def watch(explorer, *others, **options):
        seen.append(explorer)
        return rollout(explorer, *others, **options)

    monkeypatch.setattr(module, "rollout", watch)
    tuned = on_drawers(base, NONE, tmp_path, config(1, levels=("high",), scratch=LEVELS)).trained
    state = np.array([[0.5, 0.0, 0.0]], dtype=np.float32)
    target = seen[0].act(state, state, np.zeros((1, 1), np.float32))
    assert target[0, 0] == pytest.approx(float(base.policy.low.target_mean), abs=0.05)
    assert not equal(of(tuned.policy), of(base.policy))


def test_a_level_from_scratch_has_a_hundredth_of_its_usual_output(tmp_path):
    """And another level that does not start from scratch stays a mixture."""
    base = drawers.imitated(tmp_path / "base", 2, NetworkConfig((8,), (8,), high_components=3))
    policy, record = module._prepared(base, config(scratch=("low",), seed=4))
    with torch.random.fork_rng():
        torch.manual_seed(4)
        usual = build_level("low", base.record)
    features = torch.randn(20, usual.body[0].in_features)
    assert torch.allclose(policy.low.body(features), usual.body(features) / 100, rtol=1e-4, atol=1e-7)
    assert policy.high is base.policy.high
    assert record == base.record


def test_a_high_level_from_scratch_is_one_gaussian_whatever_the_base_was(tmp_path):
    base = drawers.imitated(tmp_path / "base", 2, NetworkConfig((8,), (8,), high_components=3))
    policy, record = on_drawers(base, NONE, tmp_path / "run", config(1, levels=("high",), scratch=("high",))).trained
    assert policy.high.components == record.networks.high_components == 1
    assert record.spec.high_noise == base.record.spec.state.dim


def test_seeds_give_runs_of_their_own(base, tmp_path):
    one, other = (on_drawers(base, NONE, tmp_path / str(seed), config(1, seed=seed)).trained for seed in (0, 1))
    assert not equal(of(one.policy), of(other.policy))


def test_a_flat_policy_moves_at_its_only_level(tmp_path):
    flat = drawers.imitated(tmp_path / "flat", 2, NetworkConfig((8,), (8,), flat=True))
    with pytest.raises(TrainingError, match="the high level of a flat policy has no weights; only its low level"):
        on_drawers(flat, NONE, tmp_path / "high", config(1, levels=("high",)))
    assert not (tmp_path / "high").exists()
    assert on_drawers(flat, NONE, tmp_path / "low", config(1)).curve


def test_a_level_stays_to_the_bit_while_all_episodes_earn_the_same(base, tmp_path, monkeypatch):
    """Whitened, the baseline's rounding would be a gradient of full length."""
    sparse = REWARDS["sparse"]
    monkeypatch.setitem(
        REWARDS,
        "sparse",
        replace(
            sparse,
            low=lambda seen: np.zeros(len(seen.reached), np.float32),
            high=lambda seen, ends: np.full(len(ends), 0.1, np.float32),
        ),
    )
    hiro = {"levels": LEVELS, "scratch": LEVELS, "reward": "sparse"}
    settings = config(4, **hiro)
    _, curve = on_drawers(base, NONE, tmp_path, settings)
    start = module._prepared(base, settings).policy
    for level in (start.high, start.low):
        round_to_half(level)
    assert equal(weights(tmp_path), of(start))
    for point in curve:
        assert point.kl == {"high": 0.0, "low": 0.0}
        assert point.skipped == dict.fromkeys(LEVELS, "all episodes earned the same")


def test_a_level_that_earns_stays_no_longer_and_the_other_stays(base, tmp_path, monkeypatch):
    monkeypatch.setitem(
        REWARDS, "completion", replace(REWARDS["completion"], high=lambda seen, ends: np.zeros(len(ends), np.float32))
    )
    for objective in ("npg", "dapg"):
        run = tmp_path / objective
        tuned, curve = on_drawers(base, DEMONSTRATIONS, run, config(3, levels=LEVELS, objective=objective))
        assert [set(point.skipped or ()) for point in curve] == [{"high"}] * 3
        assert all(point.kl["low"] > 1e-3 and point.kl["high"] == 0 for point in curve)
        kept = copy.deepcopy(base.policy.high)
        round_to_half(kept)
        assert equal(tuned.policy.high.state_dict(), kept.state_dict())


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"goal": ()}, "fine-tuning needs"),
        ({"levels": ()}, "fine-tuning needs"),
        ({"episodes": 1}, "episodes of fine-tuning is 1; must be 2 to 10000"),
        ({"episodes": 10**14}, "episodes of fine-tuning is"),
        ({"env_steps": 0}, "env_steps of fine-tuning is"),
        ({"worlds": 0}, "worlds of fine-tuning is"),
        ({"seed": -1}, "seed of fine-tuning is"),
        ({"gamma": float("nan")}, "gamma of fine-tuning is nan; must be 0 to 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, why):
    with pytest.raises(InvalidInput, match=why):
        replace(config(), **settings)
    assert replace(config(), env_steps=1, worlds=1, episodes=2).iterations(drawers.TASK) == 1


def test_a_goal_of_unknown_elements_is_refused(base, tmp_path):
    with pytest.raises(InvalidGoal, match="unknown element 'window'"):
        on_drawers(base, NONE, tmp_path, replace(config(1), goal=("window",)))


def test_a_goal_that_no_demonstration_reaches_is_refused(base, tmp_path):
    shut = Demonstrations([replace(d, states=d.states * [1, 1, 0]) for d in drawer_demonstrations().trajectories], [])
    with pytest.raises(DemonstrationError, match=r"none of \d+ demonstrations reaches 'kettle'"):
        on_drawers(base, shut, tmp_path / "run", replace(config(1), objective="dapg"))
    assert not (tmp_path / "run").exists()


def test_the_kitchen_is_fine_tuned_and_goes_on_after_a_break(tmp_path):
    task = replace(KITCHEN, episode_steps=40)  # of two subgoals
    rng = np.random.default_rng(0)
    states = rng.uniform(-0.01, 0, (60, STATE_DIM)).astype(np.float32)
    targets = rng.uniform(TARGET_LOW, TARGET_HIGH, (60, ROBOT_DIM)).astype(np.float32)
    made = Demonstrations([Trajectory(states, targets, ("microwave",), "made")], [])
    small = ImitateConfig(steps=5, jobs=1, networks=NetworkConfig((16,), (16,)), pool=PoolConfig())
    base = imitate(made, task, tmp_path / "base", small, lambda level, step, loss: None)
    tuning = FinetuneConfig(
        goal=("microwave", "kettle"), objective="npg", episodes=2, env_steps=2 * 2 * 40, levels=LEVELS
    )

    def break_after_first(point):
        if point.iteration == 1:
            raise Break

    whole = finetune(task, base, NONE, tmp_path / "whole", tuning)
    with pytest.raises(Break):
        finetune(task, base, NONE, tmp_path / "broken", tuning, break_after_first)
    broken = finetune(task, base, NONE, tmp_path / "broken", replace(tuning, threads=2))
    assert [point.env_steps for point in whole.curve] == [80, 160]
    assert whole.curve == broken.curve
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    assert load_run(tmp_path / "whole").record.provenance.settings["goal"] == ["microwave", "kettle"]


def test_a_device_that_is_not_there_leaves_no_folder(base, tmp_path):
    with pytest.raises(InvalidInput, match="the device is 'abacus'"):
        on_drawers(base, NONE, tmp_path / "run", config(device="abacus"))
    assert not (tmp_path / "run").exists()


def test_the_usual_device_is_not_noted(base, tmp_path):
    """So that runs from before there was a choice go on."""
    assert "device" not in on_drawers(base, NONE, tmp_path / "run", config(1)).trained.record.provenance.settings
    assert "device" not in base.record.provenance.settings
