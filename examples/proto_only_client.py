"""A client of a relay policy server that runs the kitchen, written from the proto file and the README alone.

It imports nothing of this project: grpcio-tools generates the stubs from proto/rpl/v1/relay.proto, and the kitchen is
that of gymnasium-robotics. Start a server with `rpl serve models/kitchen`, then

    python examples/proto_only_client.py --goal microwave --goal kettle

A copy of this file elsewhere needs a copy of the folder proto, named by --proto.

With --by-hand FIRST LAST the client takes the robot over for these steps, holds the arm where it is, and hands it back.
"""

import argparse
import importlib
import queue
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np

PROTOS = Path(__file__).parent.parent / "proto"
RELAY = "rpl/v1/relay.proto"
MAX_STEP = 0.16  # [rad, m] FrankaKitchen-v1 moves a set-point by action * 2 rad/s * 0.08 s from the last reading


def generate(protos: Path, folder: str) -> tuple[Any, Any]:
    """Generate the stubs of the proto files into a folder and import them: (messages, service)."""
    if not (protos / RELAY).is_file():
        raise SystemExit(f"{protos} has no {RELAY}; --proto must name the project's folder proto, or a copy of it")
    try:
        from grpc_tools import protoc
    except ImportError:
        raise SystemExit(f"this needs grpcio-tools: {sys.executable} -m pip install grpcio-tools") from None
    arguments = ["protoc", f"-I{protos}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    if protoc.main([*arguments, RELAY]) != 0:
        raise SystemExit("protoc failed")
    sys.path.insert(0, folder)
    return importlib.import_module("rpl.v1.relay_pb2"), importlib.import_module("rpl.v1.relay_pb2_grpc")


def make_kitchen() -> Any:
    try:
        from gymnasium_robotics.envs.franka_kitchen.kitchen_env import KitchenEnv
    except ImportError:
        raise SystemExit(
            f"this needs gymnasium-robotics: {sys.executable} -m pip install gymnasium-robotics mujoco"
        ) from None

    return KitchenEnv(terminate_on_tasks_completed=False, remove_task_when_completed=False)


def state_of(observation: dict[str, Any]) -> np.ndarray:
    """The policy's 30 numbers: 9 robot positions and 21 object positions, with velocities between them left out."""
    values = observation["observation"]
    return np.concatenate([values[:9], values[18:39]]).astype(np.float32)


class Robot:
    """One robot on one Control stream: a request, then its reply."""

    def __init__(self, pb: Any, stub: Any, name: str) -> None:
        self._pb, self._name = pb, name
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._replies = stub.Control(iter(self._requests.get, None))

    def ask(self, **kind: Any) -> Any:
        row = self._pb.RequestRow(robot=self._name, **kind)
        self._requests.put(self._pb.ControlRequest(rows=[row]))
        [reply] = next(self._replies).rows
        if reply.HasField("refusal"):
            raise SystemExit(f"{reply.refusal.reason}: {reply.refusal.message}")
        return getattr(reply, reply.WhichOneof("kind"))

    def close(self) -> None:
        self._requests.put(None)


def run_episode(pb: Any, stub: Any, goal: list[str], steps: int, by_hand: range) -> dict[str, bool]:
    """Run one episode, some steps of it by hand. Returns each element of the goal and whether it was ever done."""
    spec = stub.Describe(pb.DescribeRequest()).spec
    elements = {element.name: element for element in spec.elements if element.name in goal}
    kitchen = make_kitchen()
    observation, _ = kitchen.reset(seed=0)
    robot = Robot(pb, stub, "example")
    state = state_of(observation)
    robot.ask(start=pb.Start(goal=pb.Goal(elements=pb.ElementSet(names=goal)), state=state.tolist()))
    done, target = dict.fromkeys(goal, False), state[:9]
    for step in range(steps):
        if step == by_hand.start and by_hand:
            robot.ask(take_over=pb.TakeOver(by="example", why="to show how"))
            target = np.clip(state[:9], spec.action.low, spec.action.high)
        if step == by_hand.stop and by_hand:
            robot.ask(hand_back=pb.HandBack())
        if step in by_hand:
            robot.ask(applied=pb.Applied(step=step, state=state.tolist(), target=target.tolist()))
        else:
            seen = pb.Observation(step=step, state=state.tolist(), observed_ns=time.monotonic_ns())
            target = np.array(robot.ask(observation=seen).target)
        observation, *_ = kitchen.step(np.clip((target - state[:9]) / MAX_STEP, -1.0, 1.0))
        state = state_of(observation)
        for name, element in elements.items():
            distance = np.linalg.norm(state[list(element.dims)] - np.array(element.goal))
            done[name] |= bool(distance < element.tolerance)
    robot.ask(finish=pb.Finish())
    robot.close()
    kitchen.close()
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the kitchen for one episode.")
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--goal", action="append", required=True, help="an element's name; repeatable")
    parser.add_argument("--steps", type=int, default=280, help="control steps")
    parser.add_argument("--by-hand", nargs=2, type=int, default=(0, 0), metavar=("FIRST", "LAST"), help="control steps")
    parser.add_argument("--proto", type=Path, default=PROTOS, help="folder of the proto files")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, grpc.insecure_channel(arguments.address) as channel:
        pb, service = generate(arguments.proto, folder)
        by_hand = range(*arguments.by_hand)
        try:
            done = run_episode(pb, service.RelayPolicyStub(channel), arguments.goal, arguments.steps, by_hand)
        except grpc.RpcError as error:  # has status and details, which its type does not say
            status: Any = error
            raise SystemExit(f"{arguments.address}: {status.code().name}: {status.details()}") from None
    for name, was in done.items():
        print(f"{name}: {'done' if was else 'not done'}")


if __name__ == "__main__":
    main()
