"""The value baseline of a policy gradient, and generalised advantage estimation with it.

In: features of what a level saw, and its rewards. Out: values and advantages. It does not know policies.
"""

import numpy as np
import torch
from torch import Tensor, nn

_HIDDEN = 128
_EPOCHS = 5
_BATCH = 512
_LEARNING_RATE = 1e-3
_ROUNDING = 1e-6  # of the largest reward: some eight times the rounding of float32


class Baseline(nn.Module):
    """A value function over features (N, f), on the scale of the returns it was fitted to last."""

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
        return self(torch.from_numpy(features)).numpy()

    def fit(self, features: np.ndarray, returns: np.ndarray, seed: int) -> None:
        """Regress the returns (N,) on features (N, f), from where the last fit ended."""
        self.mean.fill_(float(returns.mean()))
        self.std.fill_(max(float(returns.std()), 1e-6))
        inputs = torch.from_numpy(features)
        targets = (torch.from_numpy(returns.astype(np.float32)) - self.mean) / self.std
        optimiser = torch.optim.Adam(self.body.parameters(), lr=_LEARNING_RATE)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(_EPOCHS):
            for rows in torch.randperm(len(inputs), generator=generator).split(_BATCH):
                optimiser.zero_grad()
                (self.body(inputs[rows]).squeeze(1) - targets[rows]).square().mean().backward()
                optimiser.step()


def informative(rewards: np.ndarray) -> bool:
    """Whether, at some step, episodes earned differently; rewards (E, T).

    Where they did not, returns are the same whatever a level did, and advantages are the baseline's own error. That
    error may be as small as rounding: whitening gives it the same size as a real difference.
    """
    return not (np.ptp(rewards, axis=0) <= _ROUNDING * np.abs(rewards).max()).all()  # so that nan is seen later


def advantages(rewards: np.ndarray, values: np.ndarray, last: np.ndarray, gamma: float, smoothing: float) -> np.ndarray:
    """Generalised advantage estimates (E, T) of E episodes (Schulman et al., ICLR 2016).

    Args:
        rewards: (E, T) for each step.
        values: (E, T) of what was seen before each step.
        last: (T,) bool, whether a return ends with the step.
        gamma: discount a step.
        smoothing: lambda of the estimator.
    """
    estimates = np.zeros_like(rewards, dtype=np.float64)
    nothing = np.zeros(len(rewards))
    following, value = nothing, nothing  # the estimate of the step after, the value of the state after
    for step in reversed(range(rewards.shape[1])):
        if last[step]:
            following, value = nothing, nothing
        following = rewards[:, step] + gamma * value - values[:, step] + gamma * smoothing * following
        value = values[:, step]
        estimates[:, step] = following
    return estimates
