"""The two levels of a relay policy as torch modules: an MLP with a Gaussian or, at the high level, a mixture.

Both take raw states and return raw subgoals or position targets; normalisation is inside.

The high level sees mask * (goal - state), the work that is left. Elements that are done and elements that the goal does
not name look the same to it, so what it learns for one compound goal transfers to others.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rpl_runtime.errors import InvalidInput
from rpl_runtime.policy.manifest import Statistics
from rpl_runtime.policy.spec import PolicySpec
from rpl_train.statistics import STD_FLOOR

CPU = "cpu"
_MIN_LOG_STD = -5.0
_MOST_LAYERS, _WIDEST, _MOST_COMPONENTS = 32, 16_384, 1_024  # beyond any use; a slip of the finger fills the memory


@dataclass(frozen=True)
class NetworkConfig:
    """The shape of both levels.

    Raises:
        InvalidInput: a number is out of its range.
    """

    high_hidden: tuple[int, ...] = (512, 512)
    low_hidden: tuple[int, ...] = (512, 512)
    high_components: int = 1  # of the high level's mixture; several if demonstrators differ in what they do next
    flat: bool = False  # no high level: the low level gets the goal itself and sees its goal dimensions
    relative: bool = False  # the low level predicts a target's distance from where its dimensions are now

    def __post_init__(self) -> None:
        for name in ("high_hidden", "low_hidden"):
            widths = getattr(self, name)
            if len(widths) > _MOST_LAYERS or not all(1 <= width <= _WIDEST for width in widths):
                got = f"{name} of the networks is {widths[:9]}"
                raise InvalidInput(f"{got}; must be {_MOST_LAYERS} layers or fewer, each of 1 to {_WIDEST} units")
        if not 1 <= self.high_components <= _MOST_COMPONENTS:
            got = f"high_components of the networks is {self.high_components}"
            raise InvalidInput(f"{got}; must be 1 to {_MOST_COMPONENTS}")

    def sized(self, spec: PolicySpec) -> PolicySpec:
        """The spec with the noise inputs of these networks."""
        noise = {"high_noise": self.high_noise(spec.state.dim), "low_noise": spec.action.dim}
        return spec.model_copy(update=noise)

    def high_noise(self, state_dim: int) -> int:
        """Dimension of the high level's noise, for states of `state_dim` dimensions."""
        return state_dim + (self.high_components if self.high_components > 1 else 0)


def torch_device(name: str) -> torch.device:
    """The device of torch with a name, such as cpu, cuda or cuda:1.

    Raises:
        InvalidInput: it is not there.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch has no one error for it
        there = torch.accelerator.current_accelerator(check_available=True)
        others = [f"{there.type}:{n}" for n in range(torch.accelerator.device_count())] if there else []
        raise InvalidInput(
            f"the device is {name!r}; must be one of this machine's: {', '.join([CPU, *others])}"
        ) from error
    return device


def tensors(module: nn.Module, *arrays: np.ndarray) -> list[Tensor]:
    """Arrays as tensors on the device where a module is."""
    device = next(module.parameters(), torch.empty(0)).device
    return [torch.from_numpy(array).to(device) for array in arrays]


class TargetStatistics(NamedTuple):
    """Mean and standard deviation of what the low level predicts in the demonstrations, for each action dimension."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Gaussian(NamedTuple):
    """A diagonal normal distribution over a level's normalised output."""

    mean: Tensor  # (B, d)
    log_std: Tensor  # (d,)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-likelihood (B,) of normalised values (B, d), without the constant -d/2 log(2 pi)."""
        return -(((value - self.mean) * torch.exp(-self.log_std)) ** 2 / 2 + self.log_std).sum(-1)

    def mixture(self) -> "Mixture":
        """This distribution as a mixture of one component."""
        return Mixture(self.mean.new_zeros(len(self.mean), 1), self.mean[:, None], self.log_std)


class Mixture(NamedTuple):
    """A mixture of diagonal normal distributions over a level's normalised output."""

    logits: Tensor  # (B, K)
    mean: Tensor  # (B, K, d)
    log_std: Tensor  # (d,) of each of them

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-likelihood (B,) of normalised values (B, d), without the constant -d/2 log(2 pi)."""
        each = Gaussian(self.mean, self.log_std).log_prob(value[:, None])
        return torch.logsumexp(torch.log_softmax(self.logits, 1) + each, 1)

    def mixture(self) -> "Mixture":
        """Itself."""
        return self

    def choose(self, noise: Tensor) -> Tensor:
        """The mean (B, d) of the component that standard normal noise (B, K) draws; zero noise draws the likeliest.

        By the Gumbel-max trick (Maddison, Tarlow, Minka, NIPS 2014), on Gumbel variables computed from normal ones.
        """
        uniform = (0.5 * (1 + torch.erf(noise / math.sqrt(2)))).clamp(1e-6, 1 - 1e-6)
        chosen = (self.logits - torch.log(-torch.log(uniform))).argmax(1, keepdim=True)
        # A sum instead of indexing, which torch cannot export with a free batch.
        holds = torch.arange(self.logits.shape[1], device=self.logits.device) == chosen  # (B, K)
        return (self.mean * holds[:, :, None]).sum(1)


def divergence(old: Gaussian | Mixture, new: Gaussian | Mixture) -> Tensor:
    """KL(old || new) (N,) [nat] of the pair (component, value); for Gaussians that of the value (formula: rl/npg.py).

    Components are compared one to one; log-stds are (d,) or (N, d).
    """
    old, new = old.mixture(), new.mixture()
    before, after = old.log_std.unsqueeze(-2), new.log_std.unsqueeze(-2)
    ratio = torch.exp(2 * (before - after))
    moved = ((old.mean - new.mean) * torch.exp(-after)) ** 2
    each = (after - before + (ratio + moved - 1) / 2).sum(-1)  # (N, K)
    shares, others = torch.log_softmax(old.logits, 1), torch.log_softmax(new.logits, 1)
    return (shares.exp() * (shares - others + each)).sum(1)


class Level(nn.Module):
    """Common to both levels: an MLP for the mean, a state-independent standard deviation, a scale of the output."""

    log_std: nn.Parameter
    scale: Tensor

    def __init__(self, inputs: int, hidden: tuple[int, ...], scale: np.ndarray, components: int = 1) -> None:
        super().__init__()
        widths = (inputs, *hidden)
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(widths):
            layers += [nn.Linear(width_in, width_out), nn.ReLU()]
        outputs = len(scale) if components == 1 else components * (len(scale) + 1)
        self.body = nn.Sequential(*layers, nn.Linear(widths[-1], outputs))
        self.log_std = nn.Parameter(torch.full((len(scale),), -1.0))
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float32))

    def _gaussian(self, features: Tensor) -> Gaussian:
        return Gaussian(self.body(features), self.log_std.clamp(min=_MIN_LOG_STD))


class HighLevel(Level):
    """high(state, goal, mask, noise) -> subgoal, a whole state; the MLP predicts its difference from the state.

    With K > 1 components the head is a mixture, and the last K dimensions of the noise draw the component.
    """

    state_mean: Tensor
    goal_dims: Tensor

    def __init__(self, spec: PolicySpec, statistics: Statistics, hidden: tuple[int, ...], components: int) -> None:
        std = np.maximum(statistics.std, STD_FLOOR)
        super().__init__(spec.state.dim + len(spec.goal_dims), hidden, std, components)
        self.components = components
        self.register_buffer("state_mean", torch.tensor(statistics.mean))
        self.register_buffer("goal_dims", torch.tensor(spec.goal_dims))

    def features(self, state: Tensor, goal: Tensor, mask: Tensor) -> Tensor:
        """(B, n) each -> (B, n + goal dimensions)."""
        left = (mask * (goal - state) / self.scale)[:, self.goal_dims]
        return torch.cat([(state - self.state_mean) / self.scale, left], dim=1)

    def distribution(self, state: Tensor, goal: Tensor, mask: Tensor) -> Gaussian | Mixture:
        """Over (subgoal - state) / scale."""
        gaussian = self._gaussian(self.features(state, goal, mask))
        if self.components == 1:
            return gaussian
        logits, means = gaussian.mean.split([self.components, self.components * len(self.scale)], dim=1)
        return Mixture(logits, means.unflatten(1, (self.components, len(self.scale))), gaussian.log_std)

    def log_prob(self, state: Tensor, goal: Tensor, mask: Tensor, subgoal: Tensor) -> Tensor:
        """Log-likelihood (B,) of subgoals (B, n)."""
        return self.distribution(state, goal, mask).log_prob((subgoal - state) / self.scale)

    def forward(self, state: Tensor, goal: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        """state, goal, mask (B, n) and noise (B, n), or (B, n + K) for K > 1 components -> subgoal (B, n)."""
        behaviour = self.distribution(state, goal, mask)
        n = len(self.scale)
        mean = behaviour.mean if isinstance(behaviour, Gaussian) else behaviour.choose(noise[:, n:])
        return state + (mean + torch.exp(behaviour.log_std) * noise[:, :n]) * self.scale


class CommandedGoal(nn.Module):
    """The high level of a flat policy: the subgoal is the commanded goal itself."""

    def forward(self, state: Tensor, goal: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        """state, goal, mask (B, n) and noise, not used -> subgoal (B, n)."""
        return torch.where(mask > 0, goal, state)


class LowLevel(Level):
    """low(state, subgoal, noise) -> action, a position target inside the action's limits.

    Args:
        targets: of the demonstrations' actions, less the commanded dimensions of the states where there are any.
        sees: the dimensions of the subgoal that are inputs; None: all.
        commanded: the dimensions of the state from which targets are predicted; None: the MLP predicts them whole.
    """

    sees: Tensor | None
    commanded: Tensor | None
    state_mean: Tensor
    state_scale: Tensor
    target_mean: Tensor
    target_low: Tensor
    target_high: Tensor

    def __init__(
        self,
        spec: PolicySpec,
        statistics: Statistics,
        targets: TargetStatistics,
        hidden: tuple[int, ...],
        sees: tuple[int, ...] | None = None,
        commanded: tuple[int, ...] | None = None,
    ) -> None:
        goals = spec.state.dim if sees is None else len(sees)
        super().__init__(spec.state.dim + goals, hidden, np.maximum(targets.std, STD_FLOOR))
        for name, dims in (("sees", sees), ("commanded", commanded)):
            self.register_buffer(name, None if dims is None else torch.tensor(dims), persistent=False)
        self.register_buffer("state_mean", torch.tensor(statistics.mean))
        self.register_buffer("state_scale", torch.as_tensor(np.maximum(statistics.std, STD_FLOOR), dtype=torch.float32))
        self.register_buffer("target_mean", torch.tensor(targets.mean))
        self.register_buffer("target_low", torch.tensor(spec.action.low))
        self.register_buffer("target_high", torch.tensor(spec.action.high))

    def features(self, state: Tensor, subgoal: Tensor) -> Tensor:
        """(B, n) each -> (B, n + dimensions seen of the subgoal)."""
        left = (subgoal - state) / self.state_scale
        left = left if self.sees is None else left[:, self.sees]
        return torch.cat([(state - self.state_mean) / self.state_scale, left], dim=1)

    def distribution(self, state: Tensor, subgoal: Tensor) -> Gaussian:
        """Over (target - its centre) / scale."""
        return self._gaussian(self.features(state, subgoal))

    def centre(self, state: Tensor) -> Tensor:
        """The target (B, m), or (m,) for all, that the MLP's zero stands for."""
        if self.commanded is None:
            return self.target_mean
        return self.target_mean + state.index_select(1, self.commanded)

    def log_prob(self, state: Tensor, subgoal: Tensor, target: Tensor) -> Tensor:
        """Log-likelihood (B,) of position targets (B, m)."""
        return self.distribution(state, subgoal).log_prob((target - self.centre(state)) / self.scale)

    def forward(self, state: Tensor, subgoal: Tensor, noise: Tensor) -> Tensor:
        """state, subgoal (B, n) and noise (B, m) -> target (B, m)."""
        return self.clip(self.draw(state, subgoal, noise))

    def draw(self, state: Tensor, subgoal: Tensor, noise: Tensor) -> Tensor:
        """The target (B, m) before it is clipped to the action's limits."""
        gaussian = self.distribution(state, subgoal)
        return self.centre(state) + (gaussian.mean + torch.exp(gaussian.log_std) * noise) * self.scale

    def clip(self, target: Tensor) -> Tensor:
        """Targets (B, m) clipped to the action's limits."""
        return torch.clamp(target, self.target_low, self.target_high)


class RelayPolicy:
    """Both levels, with the methods `plan` and `act` that the relay loop calls."""

    def __init__(self, high: nn.Module, low: nn.Module) -> None:
        self.high, self.low = high.eval(), low.eval()

    @torch.inference_mode()
    def plan(self, state: np.ndarray, goal: np.ndarray, mask: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """state, goal, mask (B, n) and noise (B, high_noise), float32 -> subgoal (B, n)."""
        return self.high(*tensors(self.high, state, goal, mask, noise)).cpu().numpy()

    @torch.inference_mode()
    def act(self, state: np.ndarray, subgoal: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """state, subgoal (B, n) and noise (B, low_noise), float32 -> action (B, m)."""
        return self.low(*tensors(self.low, state, subgoal, noise)).cpu().numpy()
