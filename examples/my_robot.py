"""A robot of your own, driven by a served policy: a class with a few methods.

    rpl serve models/kitchen
    python examples/my_robot.py --goal microwave,kettle
    rpl run --robot my_robot:MyRobot --bundle models/kitchen --goal microwave    # where the module is

In place of a robot stand joints that go where they are told at once, among objects that nothing moves. Read your
sensors in `observe`, command your motors in `apply`, and bring them to rest in `stop`. One that does not wait between
steps runs with `rpl_runtime.loop.realtime.drive` instead, which stops it when answers do not arrive.
"""

import argparse

import numpy as np

from rpl_runtime.client import Client
from rpl_runtime.estimation.body import Ages
from rpl_runtime.loop.lockstep import run
from rpl_runtime.policy.spec import PolicySpec, parse_goal
from rpl_runtime.relay.run import RunConfig
from rpl_runtime.robots.kitchen.task import KITCHEN


class MyRobot:
    """The robot (the protocol rpl_runtime.robots.Robot)."""

    waits = True  # the world stands still between steps
    ages = Ages(0.0)  # [s] of what `observe` returns

    def __init__(self, spec: PolicySpec = KITCHEN.spec) -> None:
        self.spec = spec
        self.state = np.zeros(spec.state.dim, dtype=np.float32)

    def reset(self, seed: int) -> None:
        """Go to the start of a run."""
        self.state = np.clip(np.zeros_like(self.state), self.spec.state.low, self.spec.state.high).astype(np.float32)

    def observe(self) -> np.ndarray:
        """The state (n,) measured now, in the units of the spec."""
        return self.state.copy()

    def apply(self, target: np.ndarray) -> None:
        """Follow a target (m,), in the units of the spec, for one control period."""
        self.state[list(self.spec.commanded)] = target

    def done(self) -> frozenset[str]:
        """The elements at their goal."""
        return self.spec.done(self.state)

    def stop(self) -> None:
        """Come to rest."""

    def close(self) -> None:
        """Let go of the robot."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="127.0.0.1:50051", help="HOST:PORT of the server")
    parser.add_argument("--goal", help="elements with commas; default: the first of the policy's")
    parser.add_argument("--steps", type=int, default=50, help="control steps")
    options = parser.parse_args()
    with Client(options.address) as client, client.control() as control:
        spec = control.model.spec
        goal = parse_goal(options.goal or next(iter(spec.elements)), spec)
        result = run(MyRobot(spec), control, RunConfig(goal, options.steps))
    print(f"{len(result.states)} control steps; done: {', '.join(sorted(result.ever_done)) or 'nothing'}")


if __name__ == "__main__":
    main()
