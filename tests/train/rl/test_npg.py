"""The natural step against closed forms, and its pieces against independent definitions of them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from demonstrations import drawer_spec
from rpl_runtime.errors import TrainingError
from rpl_runtime.policy.manifest import Statistics
from rpl_train.networks import Gaussian, HighLevel, LowLevel, Mixture, TargetStatistics
from rpl_train.rl.npg import (
    Head,
    NpgConfig,
    Samples,
    conjugate_gradient,
    divergence,
    fisher_product,
    natural_step,
    norm,
    require_learnable,
)

SPEC = drawer_spec()
STATISTICS = Statistics(mean=(0.5, 0.2, 0.3), std=(0.4, 0.3, 0.3), low=(0, 0, 0), high=(1, 1, 1))
EXACT = NpgConfig(normalised_step=0.01, iterations=60, damping=0.0)


def low_level(*hidden: int) -> LowLevel:
    """With no hidden layer, a linear-Gaussian level."""
    torch.manual_seed(0)
    return LowLevel(SPEC, STATISTICS, TargetStatistics((0.5,), (0.4,)), hidden)


def drawn(level: LowLevel, count: int = 400) -> Samples:
    """What the level does in random states, with advantages that favour high targets."""
    generator = torch.Generator().manual_seed(1)
    state, subgoal = (torch.rand(count, 3, generator=generator) for _ in range(2))
    with torch.no_grad():
        target = level.draw(state, subgoal, torch.randn(count, 1, generator=generator))
    advantages = target[:, 0] + 0.1 * torch.randn(count, generator=generator)
    return Samples((state, subgoal), target, (advantages - advantages.mean()) / advantages.std())


def flat(vector: dict[str, torch.Tensor]) -> np.ndarray:
    return torch.cat([value.detach().flatten() for value in vector.values()]).double().numpy()


def parameters(level: HighLevel | LowLevel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in Head(level).named_parameters()}


def test_the_step_is_the_closed_form_on_a_linear_gaussian_problem():
    level = low_level()
    samples = drawn(level)
    names = list(parameters(level))
    assert names == ["level.log_std", "level.body.0.weight", "level.body.0.bias"]
    before = flat(parameters(level))

    # Mean w . x with x = (features, 1), log-std s: the scores are e / sigma x and e^2 - 1, e the standardised residual.
    with torch.no_grad():
        x = np.column_stack([level.features(*samples.inputs).double().numpy(), np.ones(len(samples.outputs))])
        gaussian = level.distribution(*samples.inputs)
        sigma = np.exp(level.log_std.item())
        e = ((samples.outputs - level.target_mean) / level.scale - gaussian.mean).double().numpy()[:, 0] / sigma
    scores = np.column_stack([e**2 - 1, x * e[:, None] / sigma])
    gradient = (scores * samples.advantages.double().numpy()[:, None]).mean(0)
    fisher = np.zeros((len(before), len(before)))
    fisher[0, 0] = 2
    fisher[1:, 1:] = x.T @ x / len(x) / sigma**2
    direction = np.linalg.solve(fisher, gradient)
    expected = np.sqrt(EXACT.normalised_step / (gradient @ direction)) * direction

    step = natural_step(level, samples, EXACT)
    assert flat(parameters(level)) - before == pytest.approx(expected, rel=2e-3, abs=1e-4)
    assert step.gradient == pytest.approx(np.linalg.norm(gradient), rel=1e-4)
    assert step.expected == pytest.approx(np.sqrt(EXACT.normalised_step * (gradient @ direction)), rel=1e-3)


def high_level(components: int, *hidden: int) -> HighLevel:
    """One whose components differ in what they do and in how likely they are."""
    torch.manual_seed(0)
    level = HighLevel(SPEC, STATISTICS, hidden, components)
    with torch.no_grad():
        [*_, bias] = level.body.parameters()
        bias += torch.randn(bias.shape)
    return level


def planned(level: HighLevel, count: int = 400) -> Samples:
    """What a high level sets in random states, with advantages that favour subgoals far off in the first dimension."""
    generator = torch.Generator().manual_seed(1)
    state, goal = (torch.rand(count, 3, generator=generator) for _ in range(2))
    mask = torch.ones(count, 3)
    with torch.no_grad():
        subgoal = level(state, goal, mask, torch.randn(count, 3 + level.components, generator=generator))
    advantages = subgoal[:, 0] + 0.1 * torch.randn(count, generator=generator)
    return Samples((state, goal, mask), subgoal, (advantages - advantages.mean()) / advantages.std())


@pytest.mark.parametrize("components", [0, 1, 3])
def test_fisher_products_are_those_of_the_curvature_of_the_divergence(components: int):
    """F is the Hessian of KL(old || new) at new = old: another definition than the one that is computed."""
    level = high_level(components, 4) if components else low_level(4)
    head = Head(level)
    inputs = (planned(level, 30) if isinstance(level, HighLevel) else drawn(level, 30)).inputs
    start = parameters(level)
    with torch.no_grad():
        old = head(*inputs)

    def from_old(vector: torch.Tensor) -> torch.Tensor:
        pieces = vector.split([value.numel() for value in start.values()])
        values = {name: piece.view_as(start[name]) for name, piece in zip(start, pieces, strict=True)}
        return reference(old, torch.func.functional_call(head, values, inputs)).mean()

    at = torch.cat([value.flatten() for value in start.values()])
    hessian = torch.autograd.functional.hessian(from_old, at)
    assert isinstance(hessian, torch.Tensor)
    product = fisher_product(head, inputs, damping=0.1)
    generator = torch.Generator().manual_seed(2)
    for _ in range(3):
        vector = {name: torch.randn(value.shape, generator=generator) for name, value in start.items()}
        expected = hessian.double().numpy() @ flat(vector) + 0.1 * flat(vector)
        assert flat(product(vector)) == pytest.approx(expected, rel=1e-3, abs=1e-3)


def reference(old: Mixture, new: Mixture) -> torch.Tensor:
    """KL(old || new) (N,) of the component and the value, by torch's own divergences."""
    pairs = torch.distributions.kl_divergence(
        *(torch.distributions.Normal(mixture.mean, mixture.log_std.exp()) for mixture in (old, new))
    ).sum(-1)
    weights = torch.distributions.kl_divergence(
        *(torch.distributions.Categorical(logits=mixture.logits) for mixture in (old, new))
    )
    return weights + (torch.softmax(old.logits, 1) * pairs).sum(1)


def test_fisher_products_are_those_of_the_scores_of_components_and_values():
    """v F v is the mean square of v . grad log(p_k N(value; m_k)): by samples and finite differences."""
    level = high_level(3, 4).double()
    head = Head(level)
    inputs = tuple(column[:1].double() for column in planned(high_level(3, 4), 30).inputs)
    start = parameters(level)
    generator = torch.Generator().manual_seed(2)
    vector = {name: torch.randn(value.shape, generator=generator).double() for name, value in start.items()}
    product = fisher_product(head, inputs, damping=0.0)(vector)
    torch.manual_seed(3)
    with torch.no_grad():
        at = head(*inputs)
        component = torch.distributions.Categorical(logits=at.logits[0]).sample((200_000,))
        value = torch.distributions.Normal(at.mean[0][component], at.log_std.exp()).sample()

        def likelihood(by: float) -> torch.Tensor:
            values = {name: start[name] + by * vector[name] for name in start}
            moved = torch.func.functional_call(head, values, inputs)
            each = torch.distributions.Normal(moved.mean[0][component], moved.log_std.exp()).log_prob(value).sum(1)
            return torch.log_softmax(moved.logits[0], 0)[component] + each

        scores = (likelihood(1e-5) - likelihood(-1e-5)) / 2e-5
    assert float(flat(vector) @ flat(product)) == pytest.approx(scores.square().mean().item(), rel=0.03)


@given(st.integers(1, 8), st.integers(0, 1000))
def test_conjugate_gradient_solves_what_a_direct_solver_solves(size: int, seed: int):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(size, size))
    matrix, target = factor @ factor.T + np.eye(size), rng.normal(size=size)

    def product(vector):
        return {"x": torch.from_numpy(matrix) @ vector["x"]}

    found = conjugate_gradient(product, {"x": torch.from_numpy(target)}, iterations=3 * size, tolerance=1e-20)
    assert found["x"].numpy() == pytest.approx(np.linalg.solve(matrix, target), rel=1e-6, abs=1e-8)


def test_conjugate_gradient_gets_closer_with_every_iteration():
    """In the norm of the matrix, which is what it promises."""
    matrix = torch.diag(torch.logspace(0, 3, 12, dtype=torch.float64))
    target = torch.ones(12, dtype=torch.float64)
    exact = target / matrix.diag()

    def away(iterations: int) -> float:
        found = conjugate_gradient(lambda v: {"x": matrix @ v["x"]}, {"x": target}, iterations)["x"]
        return float((found - exact) @ matrix @ (found - exact))

    errors = [away(iterations) for iterations in range(8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > errors[-1]


@pytest.mark.parametrize("normalised_step", [1e-3, 1e-2, 5e-2])
def test_a_step_moves_the_distribution_by_half_of_what_is_asked(normalised_step: float):
    level = low_level(32, 32)
    step = natural_step(level, drawn(level, 2000), NpgConfig(normalised_step))
    assert step.kl == pytest.approx(normalised_step / 2, rel=0.15)


@pytest.mark.parametrize("normalised_step", [1e-3, 1e-2, 5e-2])
def test_a_step_moves_a_mixture_by_half_of_what_is_asked_and_its_value_by_no_more(normalised_step: float):
    level = high_level(3, 32)
    samples = planned(level, 2000)
    noise = torch.randn(2000, 6, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        again = level(*samples.inputs, noise)
        before = level.log_prob(*samples.inputs, again)
    step = natural_step(level, samples, NpgConfig(normalised_step))
    assert step.kl == pytest.approx(normalised_step / 2, rel=0.15)
    with torch.no_grad():
        ratio = level.log_prob(*samples.inputs, again) - before
    divergence_of_value = (ratio.exp() - 1 - ratio).mean().item()  # Schulman's estimator of KL(old || new)
    assert 0.1 * step.kl < divergence_of_value < 1.2 * step.kl


def test_steps_of_a_mixture_go_where_the_advantages_are():
    """By moving its components and by choosing among them."""
    level = high_level(3, 32)
    inputs = planned(level).inputs

    def mean() -> float:
        with torch.no_grad():
            behaviour = Head(level)(*inputs)
            return (torch.softmax(behaviour.logits, 1) * behaviour.mean[:, :, 0]).sum(1).mean().item()

    before, likeliest = mean(), Head(level)(*inputs).logits.detach().softmax(1)
    for _ in range(5):
        natural_step(level, planned(level), NpgConfig(0.05))
    assert mean() > before + 0.1
    assert not torch.allclose(likeliest, Head(level)(*inputs).logits.detach().softmax(1), atol=0.02)


def test_steps_go_where_the_advantages_are():
    level = low_level(32)
    state, subgoal = drawn(level).inputs

    def mode() -> float:
        with torch.no_grad():
            return level(state, subgoal, torch.zeros(len(state), 1)).mean().item()

    before = mode()
    for _ in range(5):
        natural_step(level, drawn(level), NpgConfig(0.05))
    assert mode() > before + 0.05


def test_a_high_level_takes_steps_too():
    torch.manual_seed(0)
    level = HighLevel(SPEC, STATISTICS, (16,), 1)
    generator = torch.Generator().manual_seed(3)
    state, goal, noise = (torch.rand(300, 3, generator=generator) for _ in range(3))
    mask = torch.ones(300, 3)
    with torch.no_grad():
        subgoal = level(state, goal, mask, noise)
    before = level.log_prob(state, goal, mask, subgoal).detach()
    advantages = torch.where(torch.arange(300) % 2 == 0, 1.0, -1.0)
    step = natural_step(level, Samples((state, goal, mask), subgoal, advantages), NpgConfig(0.02))
    change = level.log_prob(state, goal, mask, subgoal).detach() - before
    assert (change * advantages).mean() == pytest.approx(step.expected, rel=0.3)


def test_what_earns_nothing_changes_nothing():
    level = low_level(8)
    before = parameters(level)
    samples = drawn(level)._replace(advantages=torch.zeros(400))
    assert natural_step(level, samples, NpgConfig()).kl == 0
    assert all(value.equal(before[name]) for name, value in parameters(level).items())


def test_a_bonus_is_climbed_beside_the_advantages():
    level = low_level(8)
    samples = drawn(level)._replace(advantages=torch.zeros(400))
    wanted = torch.full((400, 1), 0.9)

    def likelihood() -> torch.Tensor:
        return level.log_prob(*samples.inputs, wanted).mean()

    before = likelihood().item()
    step = natural_step(level, samples, NpgConfig(1e-3), likelihood)
    assert likelihood().item() - before == pytest.approx(step.expected, rel=0.2)


def test_a_bonus_and_the_advantages_are_each_followed_as_well_as_alone():
    """Five iterations on the sum of both would follow the larger one first."""
    few, moves, share = NpgConfig(normalised_step=1e-4, iterations=5), [], None
    for earns, wants in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0)):
        level = low_level(16)
        samples = drawn(level)
        wanted, before = torch.full((400, 1), 0.9), flat(parameters(level))

        def likelihood(level=level, samples=samples, wanted=wanted, wants=wants) -> torch.Tensor:
            return wants * level.log_prob(*samples.inputs, wanted).mean()

        share = natural_step(level, samples._replace(advantages=earns * samples.advantages), few, likelihood).share
        moves.append(flat(parameters(level)) - before)
    *alone, together = moves
    parts = np.linalg.lstsq(np.array(alone).T, together, rcond=None)[0]  # of steps that have the same length
    assert np.linalg.norm(together - parts @ alone) < 1e-3 * np.linalg.norm(together)
    assert parts[1] / parts[0] == pytest.approx(share, rel=0.01)


def test_the_share_of_a_bonus_and_the_cosine_of_the_steps_are_closed_forms_on_a_linear_gaussian_problem():
    """F by hand, as above, from scores: what is reported is what a dense inverse gives."""
    level = low_level()
    samples = drawn(level)
    wanted = torch.full((400, 1), 0.9)

    def likelihood() -> torch.Tensor:
        return 0.4 * level.log_prob(*samples.inputs, wanted).mean()  # type: ignore[call-arg]

    with torch.no_grad():
        x = np.column_stack([level.features(*samples.inputs).double().numpy(), np.ones(len(samples.outputs))])
        mean = level.distribution(*samples.inputs).mean.double().numpy()[:, 0]
        sigma = np.exp(level.log_std.item())
        e, d = (
            (((values - level.target_mean) / level.scale).double().numpy()[:, 0] - mean) / sigma
            for values in (samples.outputs, wanted)
        )
    earned = (np.column_stack([e**2 - 1, x * e[:, None] / sigma]) * samples.advantages.double().numpy()[:, None]).mean(
        0
    )
    added = 0.4 * np.column_stack([d**2 - 1, x * d[:, None] / sigma]).mean(0)
    fisher = np.zeros((len(earned), len(earned)))
    fisher[0, 0] = 2
    fisher[1:, 1:] = x.T @ x / len(x) / sigma**2

    def product(one, other):
        return one @ np.linalg.solve(fisher, other)

    both = earned + added
    step = natural_step(level, samples, EXACT, likelihood)
    assert step.share == pytest.approx(np.sqrt(product(added, added) / product(earned, earned)), rel=1e-2)
    expected = product(earned, both) / np.sqrt(product(earned, earned) * product(both, both))
    assert step.cosine == pytest.approx(expected, abs=1e-2)
    assert abs(expected) < 0.95


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_leaves_the_level_as_it_was(broken: float):
    level = low_level(8)
    before = parameters(level)
    samples = drawn(level)
    samples.advantages[7] = broken
    with pytest.raises(TrainingError, match="not finite"):
        natural_step(level, samples, NpgConfig())
    assert all(value.equal(before[name]) for name, value in parameters(level).items())


@pytest.mark.parametrize(("damping", "curvature"), [(-1e3, "-"), (float("nan"), "nan")])
def test_a_curvature_that_is_negative_or_not_finite_leaves_the_level_as_it_was(damping: float, curvature: str):
    level = low_level(8)
    before = parameters(level)
    with pytest.raises(TrainingError, match=rf"curvature {curvature}.* must be finite and not negative"):
        natural_step(level, drawn(level), NpgConfig(damping=damping))
    assert all(value.equal(before[name]) for name, value in parameters(level).items())


def test_the_divergence_of_a_step_is_measured_on_samples_taken_evenly():
    old, level = low_level(8), low_level(8)
    samples = drawn(level)
    step = natural_step(level, samples, NpgConfig(fisher_samples=100))
    inputs = [column[::4] for column in samples.inputs]
    with torch.no_grad():
        measured = divergence(Head(old)(*inputs), Head(level)(*inputs)).mean().item()
    assert step.kl == pytest.approx(measured, rel=1e-6)


def test_a_level_without_weights_is_refused():
    level = low_level(8)
    assert require_learnable("low", level) is level
    with pytest.raises(TrainingError, match="the high level of a flat policy has no weights"):
        require_learnable("high", torch.nn.Identity())


def test_divergence_is_that_of_normal_distributions():
    generator = torch.Generator().manual_seed(4)
    old, new = (Gaussian(torch.randn(5, 3, generator=generator), torch.randn(3, generator=generator)) for _ in range(2))
    expected = torch.distributions.kl_divergence(
        *(torch.distributions.Normal(gaussian.mean, gaussian.log_std.exp()) for gaussian in (old, new))
    ).sum(-1)
    assert torch.allclose(divergence(old, new), expected, atol=1e-5)
    assert torch.allclose(divergence(old, old), torch.zeros(5))


def test_divergence_of_mixtures_is_that_of_components_and_values():
    generator = torch.Generator().manual_seed(5)
    old, new = (
        Mixture(*(torch.randn(shape, generator=generator) for shape in ((5, 4), (5, 4, 3), (3,)))) for _ in range(2)
    )
    assert torch.allclose(divergence(old, new), reference(old, new), rtol=1e-4)
    assert torch.allclose(divergence(old, old), torch.zeros(5))
    rows = old._replace(log_std=old.log_std.expand(5, -1))  # a log-std for each row
    assert torch.allclose(divergence(rows, new), reference(old, new), rtol=1e-4)


def test_a_norm_is_taken_over_all_parameters():
    assert norm({"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])}).item() == 5
