"""A clock that goes on only when it is told to, or slept on (the `Clock` protocol)."""


class FakeClock:
    def __init__(self, now_ns: int = 0) -> None:
        self._now_ns = now_ns
        self._asleep_ns = 0

    def now_ns(self) -> int:
        return self._now_ns

    def asleep_ns(self) -> int:
        return self._asleep_ns

    def sleep_until(self, deadline_ns: int) -> None:
        """Be at a deadline [ns] at once."""
        self._now_ns = max(self._now_ns, deadline_ns)

    def advance(self, duration_ns: int) -> None:
        """Let a time [ns] go by."""
        self._now_ns += duration_ns

    def fall_asleep(self, duration_ns: int) -> None:
        """Sleep like a computer for a time [ns]: the monotonic time stands still."""
        self._asleep_ns += duration_ns
