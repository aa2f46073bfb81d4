"""Quotas: what one caller may use of a server. Not thread-safe; reads no clock.

A caller is the holder of a token. Without tokens it is a network, an IPv4 address or an IPv6 prefix of 64 bits; on the
server's own machine it is a connection, or all users of a Unix socket. Rates are token buckets: they let short bursts
through and hold over any longer time.
"""

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote

from rpl_runtime.errors import LimitReached

_CALLERS = 4096  # remembered at most; then those that have their whole quota are dropped
_CALLS_AT_ONCE = 64  # of one caller, besides Control streams
_TURN_S = 0.005  # [s] of the server's time that a caller may use at once
_RECENT_S = 0.25  # [s] after its last message for which a caller counts as being served; some periods of a robot


@dataclass(frozen=True)
class QuotaConfig:
    """For each caller. What goes beyond its share of time waits; what goes beyond the rest gets RESOURCE_EXHAUSTED."""

    streams: int = 256  # Control streams at once
    robots: int = 256  # that run at once
    calls_per_s: float = 200.0  # [1/s] every call but Plan and Act
    rows_per_s: float = 500_000.0  # [1/s] of Plan, Act, and messages on Control streams
    bytes_per_s: float = 100e6  # [bytes/s] of the same
    burst_s: float = 5.0  # [s] worth of any of these that may come at once after a pause
    time_share: float = 0.4  # of the server's time, while other callers are served too


class Quotas:
    """The quotas of all callers."""

    def __init__(self, config: QuotaConfig) -> None:
        self._config = config
        self._shares: dict[str, Share] = {}
        self._served = _Served()

    def share(self, caller: str, now: float) -> "Share":
        """The quota of a caller, at a time [s] of a monotonic clock."""
        share = self._shares.get(caller)
        if share is None:
            if len(self._shares) >= _CALLERS:
                self._shares = {name: share for name, share in self._shares.items() if not share.at_rest(now)}
            share = self._shares[caller] = Share(caller, self._config, self._served, now)
        return share


class Share:
    """One caller's quota, and how much of it is used."""

    def __init__(self, caller: str, config: QuotaConfig, served: "_Served", now: float) -> None:
        self.caller = caller
        self._config = config
        self._served = served
        self._streams = self._open = 0
        self._calls, self._rows, self._bytes = (
            _Bucket(rate, max(rate * config.burst_s, 1.0), now)  # or nothing would ever pass
            for rate in (config.calls_per_s, config.rows_per_s, config.bytes_per_s)
        )
        self._time = _Bucket(config.time_share, _TURN_S, now)

    def take_call(self, now: float) -> None:
        """Count a call.

        Raises:
            LimitReached: there are too many.
        """
        if not self._calls.take(1, now):
            raise LimitReached(f"{self.caller} makes too many calls; must be at most {self._calls.rate:g} a second")

    def take_rows(self, rows: int, size: int, now: float) -> None:
        """Count a message of so many rows and bytes.

        Raises:
            LimitReached: there are too many.
        """
        if not self._rows.take(rows, now):
            raise LimitReached(f"{self.caller} sends too many rows; must be at most {self._rows.rate:g} a second")
        if not self._bytes.take(size, now):
            raise LimitReached(f"{self.caller} sends too many bytes; must be at most {self._bytes.rate:g} a second")

    def come(self, now: float) -> None:
        """A message or a call of this caller has come: for a while no other caller has the server to itself."""
        self._served.note(self, now)

    def spend(self, seconds: float, now: float) -> None:
        """Count time [s] that the server took for this caller. It is free while nobody else is served."""
        if self._served.others(self, now):
            self._time.fill(now)
            self._time.level -= seconds

    def rest_s(self, now: float) -> float:
        """[s] until this caller may be served: 0 while it has time left."""
        if self._time.level > 0.0 or self._time.fill(now) > 0.0:
            return 0.0
        return -self._time.level / self._time.rate if self._served.others(self, now) else 0.0

    def open_stream(self) -> None:
        """Count a stream until `close_stream`.

        Raises:
            LimitReached: there are too many.
        """
        if self._streams >= self._config.streams:
            raise LimitReached(f"{self.caller} has as many Control streams open as one caller may ({self._streams})")
        self._streams += 1

    def close_stream(self) -> None:
        """Uncount a stream."""
        self._streams -= 1

    @contextmanager
    def open_call(self) -> Iterator[None]:
        """Count a call other than Control for the length of the block.

        Raises:
            LimitReached: there are too many.
        """
        if self._open >= _CALLS_AT_ONCE:
            raise LimitReached(f"{self.caller} has {self._open} calls open, the most for one caller")
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    def at_rest(self, now: float) -> bool:
        """True if dropping this caller's record grants it no extra quota."""
        buckets = self._calls, self._rows, self._bytes, self._time
        return not (self._streams or self._open) and all(bucket.fill(now) >= bucket.size for bucket in buckets)


class _Served:
    """Who was served lately: enough to say whether a caller has the server to itself."""

    def __init__(self) -> None:
        self._last: Share | None = None
        self._last_at = self._other_at = float("-inf")  # [s] of the last caller, and of the last one before it

    def note(self, share: Share, now: float) -> None:
        """A caller comes to be served."""
        if share is not self._last:
            self._last, self._other_at = share, self._last_at
        self._last_at = now

    def others(self, share: Share, now: float) -> bool:
        """Whether another caller was served lately."""
        return now - (self._other_at if share is self._last else self._last_at) < _RECENT_S


@dataclass(slots=True)
class _Bucket:
    rate: float  # [1/s] at which it fills
    size: float
    filled_at: float  # [s]
    level: float = field(init=False)

    def __post_init__(self) -> None:
        self.level = self.size

    def take(self, count: float, now: float) -> bool:
        if self.fill(now) < count:
            return False
        self.level -= count
        return True

    def fill(self, now: float) -> float:
        self.level = min(self.size, self.level + (now - self.filled_at) * self.rate)
        self.filled_at = now
        return self.level


def caller_of(peer: str) -> str:
    """Who a peer without a token is, from its address as gRPC writes it: "ipv4:10.0.0.7:4711" -> "10.0.0.7".

    A network's members cannot be told apart; this machine's connections can, and the port belongs to their name.
    """
    kind, _, rest = unquote(peer).partition(":")
    host, _, port = rest.rpartition(":")
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return kind  # unix, or a transport of a test
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    if address.is_loopback:
        return f"{address} port {port}"
    return str(address if address.version == 4 else ipaddress.ip_network((address, 64), strict=False))
