"""Which robots run: each on one stream at a time, and no more of them than a server takes.

In: robot ids. Out: nothing, or why a run cannot begin. It does not know streams or the wire, and belongs to one thread.
"""

from collections.abc import Iterable

from rpl_runtime.errors import LimitReached, RobotLeased, ServerStopping


class Leases:
    """The robots with a run.

    Args:
        most: how many there may be at once.
    """

    def __init__(self, most: int = 2**31) -> None:
        self._most = most
        self._robots: set[str] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._robots)

    def close(self) -> None:
        """From now on no run begins; those that did go on."""
        self._closed = True

    def check(self, robot: str, here: bool) -> None:
        """Whether a robot may begin a run; `here`, whether it has one on the very stream that asks.

        Raises:
            RobotLeased: it has one.
            ServerStopping: none may begin any more.
            LimitReached: there are as many as there may be.
        """
        if robot in self._robots:
            where = "this stream" if here else "another stream"
            raise RobotLeased(f"robot {robot!r} runs on {where}; finish that run, or choose another robot id")
        if self._closed:
            raise ServerStopping("the server is about to stop and takes no new runs; start at another one")
        if len(self._robots) >= self._most:
            raise LimitReached(f"{len(self._robots)} robots run, as many as this server takes; try again later")

    def take(self, robot: str) -> None:
        """A run of a robot that was checked has begun."""
        self._robots.add(robot)

    def free(self, robots: Iterable[str]) -> None:
        """Runs are over."""
        self._robots.difference_update(robots)
