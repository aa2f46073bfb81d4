"""This project as a peer: control steps through Control, from the client's array to the client's array."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from rpl_runtime.auth.server import SecurityConfig
from rpl_runtime.bench.load import Exchange, main
from rpl_runtime.client import Access, Client
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.policy.spec import PolicySpec, ResolvedGoal
from rpl_runtime.server.server import ServerConfig
from rpl_runtime.server.server import serve as serve_bundle


def serve(
    path: Path,
    on_ready: Callable[[str], None],
    address: str = "127.0.0.1:0",
    security: SecurityConfig = SecurityConfig(),
) -> None:
    serve_bundle(load_bundle(path), ServerConfig(address, security=security), on_ready)


@contextmanager
def connect(
    address: str, path: Path, stream: str, batch: int, access: Access = Access(), seed: int | None = None
) -> Iterator[Exchange]:
    state = middle(load_bundle(path).spec)
    robots = [f"{stream}-robot-{number}" for number in range(batch)]
    states = np.tile(state, (batch, 1))
    with Client(address, timeout_s=60.0, access=access) as client, client.control() as control:
        for robot in robots:
            control.start(robot, ResolvedGoal(state, np.ones_like(state)), seed=seed)
        if batch == 1:
            yield lambda step: control.step(robots[0], step, state)
        else:
            yield lambda step: control.step_batch(robots, [step] * batch, states)


def middle(spec: PolicySpec) -> np.ndarray:
    """The middle (n,) of the states that a policy accepts."""
    low, high = spec.state.bounds
    return (low + high) / 2


if __name__ == "__main__":
    main(serve, connect)
