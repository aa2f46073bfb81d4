"""The value baseline of a policy gradient, and generalised advantage estimation with it."""

import numpy as np
import torch
from torch import Tensor, nn

from rpl_train.networks import tensors

_HIDDEN = 128
_EPOCHS = 5
_BATCH = 512
_LEARNING_RATE = 1e-3
_ROUNDING = 1e-6  # of the largest reward: about eight times the rounding of float32


class Baseline(nn.Module):
    """A value function over features (N, f), scaled to the returns of its last fit."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(features, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, 1)
        )
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.zeros(()))  # an unfitted baseline is zero everywhere

    def forward(self, features: Tensor) -> Tensor:
        """(N, f) -> (N,) values."""
        return self.mean + self.std * self.body(features).squeeze(1)

    @torch.no_grad()
    def values(self, features: np.ndarray) -> np.ndarray:
        """(N, f) -> (N,) values."""
        return self(*tensors(self, features)).cpu().numpy()

    def fit(self, features: np.ndarray, returns: np.ndarray, seed: int) -> None:
        """Regress the returns (N,) on features (N, f), from where the last fit ended."""
        self.mean.fill_(float(returns.mean()))
        self.std.fill_(max(float(returns.std()), 1e-6))
        inputs, targets = tensors(self, features, returns.astype(np.float32))
        targets = (targets - self.mean) / self.std
        optimiser = torch.optim.Adam(self.body.parameters(), lr=_LEARNING_RATE)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(_EPOCHS):
            for rows in torch.randperm(len(inputs), generator=generator).split(_BATCH):
                optimiser.zero_grad()
                (self.body(inputs[rows]).squeeze(1) - targets[rows]).square().mean().backward()
                optimiser.step()


def informative(rewards: np.ndarray) -> bool:
    """Whether the episodes' rewards (E, T) differ at some step.

    If they do not, all returns are equal and the advantages are the baseline's own error. Whitening would scale that
    error, even if it is only rounding, to the size of a real difference.
    """
    # With a nan the comparison is False: it counts as informative, and the step reports it.
    return not (np.ptp(rewards, axis=0) <= _ROUNDING * np.abs(rewards).max()).all()


def advantages(rewards: np.ndarray, values: np.ndarray, last: np.ndarray, gamma: float, smoothing: float) -> np.ndarray:
    """Generalised advantage estimates (E, T) of E episodes (Schulman et al., ICLR 2016).

    Args:
        rewards: (E, T) of each step.
        values: (E, T) of the features before each step.
        last: (T,) bool, whether a return ends with the step.
        gamma: discount of a step.
        smoothing: lambda of the estimator.
    """
    estimates = np.zeros_like(rewards, dtype=np.float64)
    nothing = np.zeros(len(rewards))
    following, value = nothing, nothing  # the next step's estimate, the next state's value
    for step in reversed(range(rewards.shape[1])):
        if last[step]:
            following, value = nothing, nothing
        following = rewards[:, step] + gamma * value - values[:, step] + gamma * smoothing * following
        value = values[:, step]
        estimates[:, step] = following
    return estimates
