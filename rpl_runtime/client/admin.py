"""The operator's client: lists and changes the models that a server holds and the robots that run there."""

import queue
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from rpl_runtime.auth.client import Access, Connection
from rpl_runtime.client.client import Client
from rpl_runtime.errors import RobotNotFound, hint
from rpl_runtime.policy.spec import PolicySpec, ResolvedGoal
from rpl_runtime.relay.messages import Goal
from rpl_runtime.wire import admin as codec
from rpl_runtime.wire.admin import RobotStatus, ServedModel

__all__ = ["Admin", "RobotStatus", "ServedModel", "Specs"]

_Reply = TypeVar("_Reply", bound=codec.Message)
_LOADING_S = 120.0  # [s] for a large bundle from a slow disk


class Admin(Connection):
    """A connection to one server.

    Args:
        address: HOST:PORT or unix:PATH.
        timeout_s: [s] how long an answer may take before the server counts as gone.
        access: how the server is reached; None reads it from the environment.

    Raises (every call):
        ServerUnavailable: no server answers in time.
        Unauthenticated, PermissionDenied: the token is missing, or has no right to administer.
        RelayError: of the class that the server names.
    """

    def __init__(self, address: str, timeout_s: float = 5.0, access: Access | None = None) -> None:
        super().__init__(address, access)
        self._timeout_s = timeout_s

    def models(self) -> list[ServedModel]:
        """The models on the server, the default first."""
        return [codec.served_model(model) for model in self._call("ListModels", codec.pb.ListModelsReply).models]

    def load(self, path: str) -> tuple[ServedModel, str]:
        """Serve a bundle from a folder on the server's machine. Returns the model and the digest it replaced, or "".

        Raises:
            BundleError: it cannot be used; nothing has changed.
            LimitReached: the server has no room for another model.
        """
        reply = self._call("LoadModel", codec.pb.LoadModelReply, _LOADING_S, path=path)
        return codec.served_model(reply.model), reply.replaced

    def unload(self, model: str) -> ServedModel:
        """Take a model, named by its name or digest, out of service.

        Raises:
            ModelNotFound: the server has no such model.
            ProtocolViolation: it is the last one.
        """
        return codec.served_model(self._call("UnloadModel", codec.pb.UnloadModelReply, model=model).model)

    def robots(self) -> list[RobotStatus]:
        """The robots that run now, sorted by id."""
        return [codec.robot_status(robot) for robot in self._call("ListRobots", codec.pb.ListRobotsReply).robots]

    def robot(self, robot: str) -> RobotStatus:
        """The status of one robot.

        Raises:
            RobotNotFound: it does not run.
        """
        robots = {status.robot: status for status in self.robots()}
        if robot in robots:
            return robots[robot]
        raise RobotNotFound(f"no robot {robot!r} runs here{hint(robot, robots)}; `rpl top` shows those that do")

    def watch(self, every_s: float) -> Iterator[list[RobotStatus]]:
        """The robots that run, sorted by id, every so many seconds, at least 0.02; each time as they are then.

        Raises:
            PermissionDenied: the token has no right to watch or administer.
        """
        to_send: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        asked = float("inf")  # [s] monotonic, while a reply is awaited

        def outgoing() -> Iterator[bytes]:
            while True:
                try:
                    request = to_send.get(timeout=self._timeout_s / 4)
                except queue.Empty:
                    if time.monotonic() - asked > self._timeout_s:
                        call.cancel()
                    continue
                if request is None:
                    return
                yield request

        call = self.channel.stream_stream(f"/{codec.SERVICE}/WatchRobots")(outgoing(), metadata=self.metadata)
        request, due = codec.pack_request("WatchRobots"), time.monotonic()
        try:
            while True:
                asked = time.monotonic()
                to_send.put(request)
                with self.translated(self._timeout_s):
                    reply = codec.unpack_reply(codec.pb.ListRobotsReply, next(call))
                asked = float("inf")
                yield [codec.robot_status(robot) for robot in reply.robots]
                now = time.monotonic()
                due = max(due + every_s, now)
                time.sleep(due - now)
        finally:
            to_send.put(None)
            call.cancel()

    def set_goal(self, robot: str, goal: Goal) -> ResolvedGoal:
        """Give a robot another goal, in place of its client, whom the action of its next step tells.

        Args:
            robot: its id.
            goal: element names, a whole goal state (n,), or a resolved goal.

        Raises:
            RobotNotFound: it does not run.
            ProtocolViolation: it has sent no state yet.
            InvalidGoal, InvalidInput: the goal is not one of its policy.
        """
        fields = {"robot": robot, "goal": codec.goal_message(goal)}
        goal_set = self._call("SetRobotGoal", codec.pb.SetRobotGoalReply, **fields).goal
        return ResolvedGoal(*(np.array(values, dtype=np.float32) for values in (goal_set.state, goal_set.mask)))

    def pin(self, robot: str, subgoal: Sequence[float]) -> None:
        """Make a robot follow a subgoal (n,) from its next step on, until `release`; plans are ignored.

        Raises:
            RobotNotFound: it does not run.
            InvalidInput: the subgoal is not a valid state.
        """
        self._call("PinSubgoal", codec.pb.PinSubgoalReply, robot=robot, subgoal=subgoal)

    def release(self, robot: str) -> None:
        """End a pin: the robot plans at its next step.

        Raises:
            RobotNotFound: it does not run.
            ProtocolViolation: its subgoal is not pinned.
        """
        self._call("ReleaseSubgoal", codec.pb.ReleaseSubgoalReply, robot=robot)

    def veto(self, robot: str) -> None:
        """Discard a robot's subgoal: it plans another at its next step.

        Raises:
            RobotNotFound: it does not run.
            ProtocolViolation: its subgoal is pinned.
        """
        self._call("VetoSubgoal", codec.pb.VetoSubgoalReply, robot=robot)

    def take_over(self, robot: str, by: str) -> str:
        """Take a robot in hand: from its next step on it gets the targets of `steer` in place of the policy's.

        At first it keeps the target that the policy gives it at that step. An operator who does not `steer` for 10 s
        loses the robot to the policy.

        Args:
            robot: its id.
            by: name of the operator, the author of these steps.

        Returns:
            The hand, as `steer` and `hand_back` need it.

        Raises:
            RobotNotFound: it does not run.
            ProtocolViolation: it has sent no state yet, or somebody has it in hand.
            InvalidInput: the name is not acceptable.
        """
        return self._call("TakeOverRobot", codec.pb.TakeOverRobotReply, robot=robot, by=by).hand

    def steer(self, robot: str, hand: str, target: Sequence[float] = ()) -> tuple[float, ...]:
        """Set the target (m,) of a robot in hand; without one, only say that the operator is there.

        Returns:
            (m,) the target of its steps until another; empty before its first step in this hand.

        Raises:
            RobotNotFound: it does not run.
            ProtocolViolation: it is not in this hand, or not any more.
            InvalidInput: the target is not accepted.
        """
        return tuple(self._call("SteerRobot", codec.pb.SteerRobotReply, robot=robot, hand=hand, target=target).target)

    def hand_back(self, robot: str, hand: str) -> None:
        """Give a robot in hand back to the policy, which plans at its next step.

        Raises:
            RobotNotFound: it does not run.
            ProtocolViolation: it is not in this hand, or not any more.
        """
        self._call("HandBackRobot", codec.pb.HandBackRobotReply, robot=robot, hand=hand)

    def _call(self, method: str, reply: type[_Reply], timeout_s: float | None = None, **fields: object) -> _Reply:
        request, timeout_s = codec.pack_request(method, **fields), timeout_s or self._timeout_s
        with self.translated(timeout_s):
            call = self.channel.unary_unary(f"/{codec.SERVICE}/{method}")
            return codec.unpack_reply(reply, call(request, timeout=timeout_s, metadata=self.metadata))


class Specs(dict[str, PolicySpec]):
    """The specs of the policies on a server, by digest."""

    def __init__(self, address: str, access: Access | None) -> None:
        super().__init__()
        self._address, self._access = address, access
        self.default = self._describe(None)

    def of(self, robots: Sequence[RobotStatus]) -> "Specs":
        """These, with those of the policies of robots."""
        for digest in {robot.digest for robot in robots} - set(self):
            self._describe(digest)
        return self

    def _describe(self, digest: str | None) -> PolicySpec:
        with Client(self._address, digest=digest, access=self._access) as client:
            model = client.describe()
        self[model.digest] = model.spec
        return model.spec
