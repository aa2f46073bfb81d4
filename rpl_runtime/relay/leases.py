"""Leases: each robot runs on one stream at a time; a server, and each of its callers, runs a limited number of robots.

Used from one thread.
"""

from collections import Counter
from collections.abc import Iterable

from rpl_runtime.errors import LimitReached, RobotLeased, ServerStopping


class Leases:
    """The robots with a run.

    Args:
        most: the largest number of robots at once.
        most_each: the same for the robots of one caller.
    """

    def __init__(self, most: int = 2**31, most_each: int = 2**31) -> None:
        self._most = most
        self._most_each = most_each
        self._callers: dict[str, str] = {}  # of each robot with a run
        self._counts: Counter[str] = Counter()  # robots of each caller
        self._closed = False

    def __len__(self) -> int:
        return len(self._callers)

    def __contains__(self, robot: str) -> bool:
        return robot in self._callers

    def close(self) -> None:
        """Refuse new runs from now on; open runs go on."""
        self._closed = True

    def check(self, robot: str, caller: str, here: bool) -> None:
        """Check that a caller's robot may begin a run; `here` is whether its present run is on the stream that asks.

        Raises:
            RobotLeased: the robot has a run.
            ServerStopping: the leases are closed.
            LimitReached: as many robots run as may, of this caller or of all.
        """
        if robot in self._callers:
            where = "this stream" if here else "another stream"
            raise RobotLeased(f"robot {robot!r} runs on {where}; finish that run, or choose another robot id")
        if self._closed:
            raise ServerStopping("the server is about to stop and takes no new runs; start at another one")
        if len(self._callers) >= self._most:
            raise LimitReached(f"as many robots run as this server takes ({self._most}); try again later")
        if self._counts[caller] >= self._most_each:
            raise LimitReached(f"{caller} runs as many robots as one caller may ({self._most_each})")

    def take(self, robot: str, caller: str) -> None:
        """Lease a robot that was checked."""
        self._callers[robot] = caller
        self._counts[caller] += 1

    def free(self, robots: Iterable[str]) -> None:
        """End the leases of robots, if they have any."""
        for robot in robots:
            if (caller := self._callers.pop(robot, None)) is not None:
                self._counts[caller] -= 1
                if not self._counts[caller]:
                    del self._counts[caller]
