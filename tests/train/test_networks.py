"""What both levels promise, whatever they have learned."""

import warnings

import numpy as np
import pytest
import torch

from demonstrations import drawer_spec
from rpl_runtime.errors import InvalidInput
from rpl_runtime.policy.manifest import Statistics
from rpl_train.networks import (
    CommandedGoal,
    HighLevel,
    LowLevel,
    Mixture,
    NetworkConfig,
    RelayPolicy,
    TargetStatistics,
    divergence,
    tensors,
    torch_device,
)

SPEC = drawer_spec()
STATISTICS = Statistics(mean=(0.5, 0.2, 0.3), std=(0.4, 0.3, 1e-9), low=(0, 0, 0), high=(1, 1, 1))


@pytest.fixture
def high():
    torch.manual_seed(0)
    return HighLevel(SPEC, STATISTICS, (16,), 1)


@pytest.fixture
def low():
    torch.manual_seed(0)
    return LowLevel(SPEC, STATISTICS, TargetStatistics((0.5,), (0.4,)), (16,))


def batch(*sizes: int, rows: int = 6) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(rows, size, generator=generator) for size in sizes]


def test_zero_noise_is_the_most_likely_behaviour(high, low):
    state, goal, subgoal = batch(3, 3, 3)
    mask = torch.ones(6, 3)
    mode = high(state, goal, mask, torch.zeros(6, 3))
    assert (high.log_prob(state, goal, mask, mode) > high.log_prob(state, goal, mask, mode + 0.01)).all()
    action = low(state, subgoal, torch.zeros(6, 1))
    assert (low.log_prob(state, subgoal, action) > low.log_prob(state, subgoal, action + 0.01)).all()


def test_log_likelihood_is_that_of_a_normal_distribution(low):
    state, subgoal, target = batch(3, 3, 1)
    gaussian = low.distribution(state, subgoal)
    reference = torch.distributions.Normal(gaussian.mean, gaussian.log_std.exp())
    expected = reference.log_prob((target - low.target_mean) / low.scale).sum(-1)
    constant = 0.5 * np.log(2 * np.pi)
    assert torch.allclose(low.log_prob(state, subgoal, target), expected + constant, atol=1e-5)


def test_samples_have_the_standard_deviation_they_say(low):
    state, subgoal = (x[:1].repeat(4000, 1) for x in batch(3, 3))
    noise = torch.randn(4000, 1, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        low.log_std.fill_(-3.0)
        spread = low(state, subgoal, noise).std() / low.scale
    assert spread.item() == pytest.approx(np.exp(-3.0), rel=0.05)


def test_what_nobody_asked_for_does_not_matter(high):
    state, goal, other = batch(3, 3, 3)
    mask = torch.tensor([0.0, 1.0, 0.0]).repeat(6, 1)
    mixed = torch.where(mask > 0, goal, other)
    noise = torch.zeros(6, 3)
    assert torch.equal(high(state, goal, mask, noise), high(state, mixed, mask, noise))


def test_what_is_done_looks_like_what_nobody_asked_for(high):
    state, goal = batch(3, 3)
    done = torch.where(torch.tensor([False, True, False]), state, goal)
    noise = torch.zeros(6, 3)
    asked, unasked = torch.tensor([0.0, 1.0, 1.0]).repeat(6, 1), torch.tensor([0.0, 0.0, 1.0]).repeat(6, 1)
    assert torch.equal(high(state, done, asked, noise), high(state, done, unasked, noise))


@pytest.mark.parametrize("components", [1, 3])
def test_levels_compute_on_the_device_on_which_they_are(low, components):
    """On meta, which computes shapes only, and refuses tensors that are on the processor."""
    high = HighLevel(SPEC, STATISTICS, (16,), components).to("meta")
    low = low.to("meta")
    sizes = NetworkConfig(high_components=components).high_noise(3)
    state, goal, mask, noise, action = (values.numpy() for values in batch(3, 3, 3, sizes, 1))
    for answer in (
        high(*tensors(high, state, goal, mask, noise)),
        high.log_prob(*tensors(high, state, goal, mask, goal)),
        low(*tensors(low, state, goal, action)),
        low.log_prob(*tensors(low, state, goal, action)),
        divergence(*[high.distribution(*tensors(high, state, goal, mask))] * 2),
    ):
        assert answer.device.type == "meta"
        assert len(answer) == 6


@pytest.mark.parametrize("name", ["abacus", "meta", "cpu:x"])
def test_a_device_that_is_not_there_is_named_with_those_that_are(name):
    with pytest.raises(InvalidInput, match=f"the device is '{name}'; must be one of this machine's: cpu"):
        torch_device(name)


def test_targets_stay_inside_the_limits(low):
    state, subgoal = batch(3, 3)
    targets = low(state, subgoal, 1e6 * torch.ones(6, 1))
    assert (targets <= SPEC.action.high[0]).all()
    assert (low(state, subgoal, -1e6 * torch.ones(6, 1)) >= SPEC.action.low[0]).all()


def test_a_policy_is_its_levels(high, low):
    policy = RelayPolicy(high, low)
    state, goal, noise = (x.numpy() for x in batch(3, 3, 3))
    mask = np.ones((6, 3), np.float32)
    expected = high(*map(torch.from_numpy, (state, goal, mask, noise))).detach().numpy()
    assert np.array_equal(policy.plan(state, goal, mask, noise), expected)
    assert policy.act(state, goal, noise[:, :1]).shape == (6, 1)


def test_a_mixture_draws_its_components_as_often_as_it_says():
    logits = torch.tensor([[0.0, 1.0, -1.0]]).repeat(20_000, 1)
    means = torch.arange(3.0)[None, :, None].repeat(20_000, 1, 1)
    mixture = Mixture(logits, means, torch.zeros(1))
    noise = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(3))
    drawn = torch.bincount(mixture.choose(noise)[:, 0].long(), minlength=3) / 20_000
    assert torch.allclose(drawn, torch.softmax(logits[0], 0), atol=0.02)
    assert (mixture.choose(torch.zeros(20_000, 3)) == 1).all()  # zero noise: the likeliest


def test_a_mixture_keeps_apart_what_a_normal_distribution_would_average():
    torch.manual_seed(0)
    high = HighLevel(SPEC, STATISTICS, (16,), components=2)
    state, goal, mask = torch.zeros(256, 3), torch.zeros(256, 3), torch.ones(256, 3)
    sign = torch.where(torch.arange(256)[:, None] % 4 == 0, -1.0, 1.0)  # one in four goes the other way
    optimiser = torch.optim.Adam(high.parameters(), lr=0.03)
    for step in range(600):
        optimiser.param_groups[0]["lr"] = 0.03 * (1 - step / 600)  # or it ends somewhere about the optimum
        loss = -high.log_prob(state, goal, mask, 0.5 * sign * torch.ones(1, 3)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert NetworkConfig(high_components=2).high_noise(3) == 5
    with torch.no_grad():
        subgoal = high(state, goal, mask, torch.zeros(256, 5))
    assert torch.allclose(subgoal, torch.full((256, 3), 0.5), atol=0.1)  # the mean of both is 0.25


def test_a_mixture_is_exported_with_a_free_batch():
    high = HighLevel(SPEC, STATISTICS, (16,), components=3).eval()
    inputs = (torch.zeros(3, 3), torch.zeros(3, 3), torch.ones(3, 3), torch.zeros(3, 6))
    free = ({0: torch.export.Dim("batch")},) * 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, about its own trees
        program = torch.export.export(high, inputs, dynamic_shapes=free).module()
    more = [x.repeat(3, 1)[:7] for x in inputs]
    assert torch.allclose(program(*more), high(*more))


def flat_low():
    torch.manual_seed(0)
    return LowLevel(SPEC, STATISTICS, TargetStatistics((0.5,), (0.4,)), (16,), sees=SPEC.goal_dims)


def test_a_flat_policy_is_told_the_goal_itself():
    state, goal = batch(3, 3)
    mask = torch.tensor([0.0, 1.0, 0.0]).repeat(6, 1)
    subgoal = CommandedGoal()(state, goal, mask, torch.randn(6, 3))
    assert torch.equal(subgoal[:, 1], goal[:, 1])
    assert torch.equal(subgoal[:, [0, 2]], state[:, [0, 2]])  # as it is, where nothing is asked for


def test_a_flat_policy_sees_the_goal_dimensions_only():
    low = flat_low()
    state, goal = batch(3, 3)
    other = goal.clone()
    other[:, 0] += 1.0  # where the hand should be is not among them
    noise = torch.zeros(6, 1)
    assert torch.equal(low(state, goal, noise), low(state, other, noise))
    other[:, 1] += 1.0
    assert not torch.equal(low(state, goal, noise), low(state, other, noise))


def test_what_a_flat_policy_sees_is_its_architectures_and_not_its_weights():
    assert "sees" not in flat_low().state_dict()


def test_a_draw_is_the_target_before_it_is_clipped(low):
    state, subgoal, noise = batch(3, 3, 1)
    far = 100 * (noise - 0.5)
    drawn = low.draw(state, subgoal, far)
    assert (drawn > SPEC.action.high[0]).any()
    assert torch.equal(low(state, subgoal, far), low.clip(drawn))


def test_a_relative_low_level_predicts_from_where_the_robot_is(low):
    torch.manual_seed(0)
    relative = LowLevel(SPEC, STATISTICS, TargetStatistics((0.5,), (0.4,)), (16,), commanded=(2,))
    state, subgoal, target, noise = batch(3, 3, 1, 1)
    whole, here = low.draw(state, subgoal, noise), state[:, 2:]
    assert torch.allclose(relative.draw(state, subgoal, noise), whole + here)
    near = relative.log_prob(state, subgoal, target + here)
    assert torch.allclose(near, low.log_prob(state, subgoal, target), atol=1e-5)


def test_a_flat_policy_is_exported_with_a_free_batch():
    low, high = flat_low().eval(), CommandedGoal().eval()
    free = {0: torch.export.Dim("batch")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, about its own trees
        for module, inputs in ((low, batch(3, 3, 1)), (high, batch(3, 3, 3, 3))):
            program = torch.export.export(module, tuple(inputs), dynamic_shapes=(free,) * len(inputs)).module()
            more = [x.repeat(3, 1)[:7] for x in inputs]
            assert torch.allclose(program(*more), module(*more))
