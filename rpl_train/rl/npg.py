"""Natural policy gradient: one step of a chosen size for one level, a Gaussian or a mixture.

The step is that of Rajeswaran et al., Towards Generalization and Simplicity in Continuous Control (NIPS 2017):
theta + sqrt(delta / (x . F x)) x with x = F^-1 g, by conjugate gradient on Fisher-vector products. A KL divergence of
delta / 2 follows, to second order.

A mixture's own divergence has no closed form. The metric is that of the pair (component, value) which the policy draws:
with weights p_k, means m_k and one log-std s for all components,

    KL(old || new) = KL(p || p') + sum_k p_k KL(N(m_k, s) || N(m'_k, s'))

It is never less than the divergence of the value alone (chain rule; Cover and Thomas, Elements of Information Theory,
Theorem 2.5.3), so a step bounded by it is bounded for the mixture. Its curvature at old is the Fisher information of
the pair: diag(p) - p p^T for the logits, p_k diag(exp(-2s)) for m_k, 2 for each entry of s. A Gaussian is a mixture of
one. The gradient needs no pair: log-likelihoods are the mixture's own, summed over components.

All steps have the same length, so a bonus changes only their direction. The change is measured in the metric of the
step: for directions x = F^-1 g and y, the Fisher norm is |x| = sqrt(x . F x) and the cosine is x . F y / (|x| |y|).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp

from rpl_runtime.errors import TrainingError
from rpl_train.networks import HighLevel, LowLevel, Mixture, divergence


@dataclass(frozen=True)
class NpgConfig:
    """The size of a step, and the accuracy of its direction."""

    normalised_step: float = 0.02  # delta
    iterations: int = 10  # of conjugate gradient, from zero
    damping: float = 1e-4
    fisher_samples: int = 2048  # taken evenly from the batch for Fisher-vector products


class Samples(NamedTuple):
    """The inputs, samples and advantages of a level."""

    inputs: tuple[Tensor, ...]  # (N, .) each, as its `distribution` takes them
    outputs: Tensor  # (N, d) drawn from it
    advantages: Tensor  # (N,)


class NpgStep(NamedTuple):
    """The size and effect of one step."""

    kl: float  # [nat] of the new distribution from the old, on the Fisher samples
    expected: float  # first-order gain in mean advantage
    gradient: float  # norm
    share: float | None = None  # of the bonus: the Fisher norm of its direction over that of the advantages'
    cosine: float | None = None  # of this step and the one without the bonus, in the Fisher metric


Parameters = dict[str, Tensor]


class Head(nn.Module):
    """A level whose forward pass returns its distribution, as `functional_call` requires."""

    def __init__(self, level: HighLevel | LowLevel) -> None:
        super().__init__()
        self.level = level

    def forward(self, *inputs: Tensor) -> Mixture:
        return self.level.distribution(*inputs).mixture()  # type: ignore[operator]


def require_learnable(name: str, level: nn.Module) -> HighLevel | LowLevel:
    """Check that a level has weights, and return it; `name` is for the message.

    Raises:
        TrainingError: the level has no weights.
    """
    if not isinstance(level, (HighLevel, LowLevel)):
        raise TrainingError(f"the {name} level of a flat policy has no weights; only its low level can be fine-tuned")
    return level


def natural_step(
    level: HighLevel | LowLevel,
    samples: Samples,
    config: NpgConfig,
    bonus: Callable[[], Tensor] | None = None,
) -> NpgStep:
    """Move a level one natural step up the mean of log-likelihood times advantage, plus `bonus()` if it is given.

    Raises:
        TrainingError: the gradient or the step is not finite; the level is left as it was.
    """
    head = Head(level)
    parameters = dict(head.named_parameters())
    likelihood: Tensor = level.log_prob(*samples.inputs, samples.outputs)  # type: ignore[call-arg]
    gains = [(likelihood * samples.advantages).mean(), *([bonus()] if bonus else [])]
    gradients = [_gradient(gain, parameters) for gain in gains]
    gradient = _sum(gradients)
    size = norm(gradient)
    if not torch.isfinite(size):
        raise TrainingError("the policy gradient is not finite")

    every = max(1, len(samples.outputs) // config.fisher_samples)
    inputs = tuple(column[::every] for column in samples.inputs)
    fisher = fisher_product(head, inputs, config.damping)
    # Solved separately: ten iterations on the sum would follow the larger gradient and neglect the other.
    directions = [conjugate_gradient(fisher, each, config.iterations) for each in gradients]
    direction = _sum(directions)
    bent = fisher(direction)
    curvature = _dot(direction, bent)
    if not torch.isfinite(curvature) or curvature < 0:
        raise TrainingError(
            f"the natural gradient has curvature {float(curvature)}; it must be finite and not negative"
        )
    step = torch.sqrt(config.normalised_step / (curvature + 1e-20))
    share = cosine = None
    if bonus:
        length, other = (torch.sqrt(_dot(each, fisher(each))) for each in directions)
        share, cosine = float(other / length), float(_dot(directions[0], bent) / (length * torch.sqrt(curvature)))

    with torch.no_grad():
        before = Mixture(*(values.clone() for values in head(*inputs)))
        for name, parameter in parameters.items():
            parameter += step * direction[name]
        kl = divergence(before, head(*inputs)).mean()
    return NpgStep(float(kl), float(step * _dot(gradient, direction)), float(size), share, cosine)


def _gradient(value: Tensor, parameters: Mapping[str, Tensor]) -> Parameters:
    gradients = torch.autograd.grad(value, list(parameters.values()))
    return {name: gradient.detach() for name, gradient in zip(parameters, gradients, strict=True)}


def fisher_product(head: Head, inputs: tuple[Tensor, ...], damping: float) -> Callable[[Parameters], Parameters]:
    """The map v -> (F + damping) v, F the Fisher information of a level's (component, value), averaged over inputs.

    F is J^T H J, J the derivative of the head's output and H the curvature of the divergence in it (see above).
    """
    parameters = {name: parameter.detach() for name, parameter in head.named_parameters()}

    def distribution(values: Parameters) -> Mixture:
        return functional_call(head, values, inputs)

    at, pull = vjp(distribution, parameters)[:2]
    share = torch.softmax(at.logits, 1) / len(at.logits)  # (N, K) of an input and its component in the mean
    precision = torch.exp(-2 * at.log_std)

    def product(vector: Parameters) -> Parameters:
        logits, mean, log_std = jvp(distribution, (parameters,), (vector,))[1]
        level = (share * logits).sum(1, keepdim=True) / share.sum(1, keepdim=True)
        [pulled] = pull(Mixture(share * (logits - level), share[:, :, None] * mean * precision, 2 * log_std))
        return {name: value + damping * vector[name] for name, value in pulled.items()}

    return product


def conjugate_gradient(
    product: Callable[[Parameters], Parameters], target: Parameters, iterations: int, tolerance: float = 1e-10
) -> Parameters:
    """An approximate solution x of product(x) = target for a positive definite product, starting from zero."""
    solution = {name: torch.zeros_like(value) for name, value in target.items()}
    residual = {name: value.clone() for name, value in target.items()}
    search = dict(residual)
    squared = _dot(residual, residual)
    for _ in range(iterations):
        if squared < tolerance:
            break
        image = product(search)
        length = squared / _dot(search, image)
        solution = {name: solution[name] + length * search[name] for name in search}
        residual = {name: residual[name] - length * image[name] for name in search}
        squared, before = _dot(residual, residual), squared
        search = {name: residual[name] + squared / before * search[name] for name in search}
    return solution


def norm(vector: Parameters) -> Tensor:
    """The Euclidean length of a vector in parameter space."""
    return torch.sqrt(_dot(vector, vector))


def _sum(vectors: Sequence[Parameters]) -> Parameters:
    return {name: torch.stack([vector[name] for vector in vectors]).sum(0) for name in vectors[0]}


def _dot(left: Parameters, right: Parameters) -> Tensor:
    return torch.stack([(left[name] * right[name]).sum() for name in left]).sum()
