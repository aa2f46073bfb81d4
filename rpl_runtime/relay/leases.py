"""Leases: each robot runs on one stream at a time, and a server runs a limited number of robots.

Used from one thread.
"""

from collections.abc import Iterable

from rpl_runtime.errors import LimitReached, RobotLeased, ServerStopping


class Leases:
    """The robots with a run.

    Args:
        most: the largest number of robots at once.
    """

    def __init__(self, most: int = 2**31) -> None:
        self._most = most
        self._robots: set[str] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._robots)

    def close(self) -> None:
        """Refuse new runs from now on; open runs go on."""
        self._closed = True

    def check(self, robot: str, here: bool) -> None:
        """Check that a robot may begin a run; `here` is whether its present run is on the stream that asks.

        Raises:
            RobotLeased: the robot has a run.
            ServerStopping: the leases are closed.
            LimitReached: as many robots run as may.
        """
        if robot in self._robots:
            where = "this stream" if here else "another stream"
            raise RobotLeased(f"robot {robot!r} runs on {where}; finish that run, or choose another robot id")
        if self._closed:
            raise ServerStopping("the server is about to stop and takes no new runs; start at another one")
        if len(self._robots) >= self._most:
            raise LimitReached(f"{len(self._robots)} robots run, as many as this server takes; try again later")

    def take(self, robot: str) -> None:
        """Lease a robot that was checked."""
        self._robots.add(robot)

    def free(self, robots: Iterable[str]) -> None:
        """End the leases of robots, if they have any."""
        self._robots.difference_update(robots)
