"""A policy of your own: two hand-written levels that fly a quadrotor, modelled as a point mass.

    rpl export --from examples.my_policy:make models/quadrotor
    rpl inspect models/quadrotor
    rpl serve models/quadrotor

A factory returns two torch modules and a spec; nothing here is learned or specific to the kitchen. The high level sets
waypoints on the way to the goal, the low level turns a waypoint into thrust and attitude.
"""

import torch
from torch import Tensor, nn

from rpl_runtime.policy.spec import ElementSpec, PolicySpec, VectorSpec

GRAVITY = 9.81  # [m/s^2]

SPEC = PolicySpec(
    name="quadrotor",
    description="Flies a quadrotor, modelled as a point mass, to named places.",
    state=VectorSpec(
        names=("x", "y", "z", "vx", "vy", "vz"),
        units=("m", "m", "m", "m/s", "m/s", "m/s"),
        low=(-20.0, -20.0, -1.0, -10.0, -10.0, -10.0),
        high=(20.0, 20.0, 20.0, 10.0, 10.0, 10.0),
    ),
    action=VectorSpec(
        names=("thrust", "roll", "pitch", "yaw_rate"),
        units=("m/s^2", "rad", "rad", "rad/s"),  # thrust for each unit of mass
        low=(0.0, -0.6, -0.6, -1.0),
        high=(20.0, 0.6, 0.6, 1.0),
    ),
    horizon=25,  # half a second for each waypoint
    period_s=0.02,
    high_noise=3,  # sampled waypoints vary in x, y, z
    low_noise=0,  # the low level is deterministic
    elements={
        "over the pad": ElementSpec(dims=(0, 1), goal=(3.0, -2.0), tolerance=0.1),
        "at hover height": ElementSpec(dims=(2,), goal=(1.5,), tolerance=0.1),
        "at rest": ElementSpec(dims=(3, 4, 5), goal=(0.0, 0.0, 0.0), tolerance=0.1),
    },
    library={"hover": ("over the pad", "at hover height", "at rest"), "climb": ("at hover height", "at rest")},
    goal_dims=(0, 1, 2),
)


class Waypoints(nn.Module):
    """high(state, goal, mask, noise) -> subgoal: at most `reach` metres toward the goal, arriving at rest."""

    def __init__(self, reach: float = 1.0, spread: float = 0.05) -> None:
        super().__init__()
        self.reach, self.spread = reach, spread  # [m] both

    def forward(self, state: Tensor, goal: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        """(B, 6) each and noise (B, 3) -> (B, 6)."""
        left = (mask * (goal - state))[:, :3]
        distance = left.norm(dim=1, keepdim=True).clamp(min=1e-6)
        position = state[:, :3] + left * (self.reach / distance).clamp(max=1.0) + self.spread * noise
        return torch.cat([position, torch.zeros_like(position)], dim=1)


class Pilot(nn.Module):
    """low(state, subgoal, noise) -> action: a PD law on the position, turned into thrust and tilt at zero yaw."""

    low: Tensor
    high: Tensor

    def __init__(self, stiffness: float = 4.0, damping: float = 3.5) -> None:
        super().__init__()
        self.stiffness, self.damping = stiffness, damping  # [1/s^2], [1/s]
        self.register_buffer("low", torch.tensor(SPEC.action.low))
        self.register_buffer("high", torch.tensor(SPEC.action.high))

    def forward(self, state: Tensor, subgoal: Tensor, noise: Tensor) -> Tensor:
        """(B, 6) each and noise (B, 0) -> (B, 4)."""
        error = subgoal - state
        ax, ay, az = (self.stiffness * error[:, :3] + self.damping * error[:, 3:]).unbind(dim=1)
        lift = (az + GRAVITY).clamp(min=1.0)  # never upside down
        thrust = torch.sqrt(ax**2 + ay**2 + lift**2)
        roll = torch.asin((-ay / thrust).clamp(-1.0, 1.0))
        pitch = torch.atan2(ax, lift)
        action = torch.stack([thrust, roll, pitch, torch.zeros_like(thrust)], dim=1)
        return torch.clamp(action, self.low, self.high)


def make() -> tuple[nn.Module, nn.Module, PolicySpec]:
    """The factory for `rpl export --from`."""
    return Waypoints(), Pilot(), SPEC
