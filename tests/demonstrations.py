"""A small domain whose demonstrations are made on the spot: a point that opens two drawers in a fixed order."""

import numpy as np

from rpl_runtime.policy.spec import ElementSpec, PolicySpec, VectorSpec
from rpl_train.data.sources import Demonstrations
from rpl_train.data.trajectory import Trajectory

NAMES = ("hand", "first_drawer", "second_drawer")
STEPS = 24


def drawer_spec() -> PolicySpec:
    return PolicySpec(
        name="drawers",
        state=VectorSpec(names=NAMES, units=("m",) * 3, low=(-1.0,) * 3, high=(3.0,) * 3),
        action=VectorSpec(names=NAMES[:1], units=("m",), low=(-1.0,), high=(3.0,)),
        horizon=4,
        period_s=0.1,
        high_noise=3,
        low_noise=1,
        elements={
            "first drawer": ElementSpec(dims=(1,), goal=(1.0,), tolerance=0.2),
            "second drawer": ElementSpec(dims=(2,), goal=(1.0,), tolerance=0.2),
        },
        library={"both": ("first drawer", "second drawer")},
        goal_dims=(1, 2),
    )


def drawer_demonstration(rng: np.random.Generator, opens: tuple[int, ...] = (0, 1)) -> Trajectory:
    """The hand goes to 1 and opens the first drawer, then to 2 and opens the second."""
    states = np.zeros((STEPS, 3), dtype=np.float32)
    for slot, drawer in enumerate(opens):
        begin = 2 + slot * 10
        ramp = np.clip((np.arange(STEPS) - begin) / 8, 0, 1)
        states[:, 0] += ramp
        states[:, 1 + drawer] = ramp
    states += rng.normal(0, 0.002, states.shape)
    targets = np.vstack([states[1:, :1], states[-1:, :1]])
    return Trajectory(states.astype(np.float32), targets.astype(np.float32), source="drawers")


def drawer_demonstrations(count: int = 8, seed: int = 0) -> Demonstrations:
    rng = np.random.default_rng(seed)
    made = [drawer_demonstration(rng, ((0, 1), (0,), (1,))[i % 3]) for i in range(count)]
    source = {"name": "drawers", "digest": "0" * 64, "episodes": count, "steps": count * STEPS, "licence": "made here"}
    return Demonstrations(made, [source])
