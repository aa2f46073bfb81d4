"""Quotas: how many streams, calls and messages one caller may use. Not thread-safe; reads no clock.

A caller is the holder of a token, or else a network: an IPv4 address, an IPv6 prefix of 64 bits, or all users of a
Unix socket. Rates are token buckets: they let short bursts through and hold over any longer time.
"""

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import unquote

from rpl_runtime.errors import LimitReached

_CALLERS = 4096  # remembered at most; then those that have their whole quota are dropped


@dataclass(frozen=True)
class QuotaConfig:
    """For each caller; above it, RESOURCE_EXHAUSTED."""

    streams: int = 256  # Control streams at once
    calls_per_s: float = 200.0  # [1/s] Control, Describe, Fetch and admin calls
    messages_per_s: float = 20_000.0  # [1/s] Plan, Act, and messages on Control streams
    burst_s: float = 5.0  # [s] worth of either that may come at once after a pause


class Quotas:
    """The quotas of all callers."""

    def __init__(self, config: QuotaConfig) -> None:
        self._config = config
        self._shares: dict[str, Share] = {}

    def share(self, caller: str, now: float) -> "Share":
        """The quota of a caller, at a time [s] of a monotonic clock."""
        share = self._shares.get(caller)
        if share is None:
            if len(self._shares) >= _CALLERS:
                self._shares = {name: share for name, share in self._shares.items() if not share.at_rest(now)}
            share = self._shares[caller] = Share(caller, self._config, now)
        return share


class Share:
    """One caller's quota, and how much of it is used."""

    def __init__(self, caller: str, config: QuotaConfig, now: float) -> None:
        self._caller = caller
        self._config = config
        self._streams = 0
        self._calls = _Bucket(config.calls_per_s, config.calls_per_s * config.burst_s, now)
        self._messages = _Bucket(config.messages_per_s, config.messages_per_s * config.burst_s, now)

    def take_call(self, now: float) -> None:
        """Count a call.

        Raises:
            LimitReached: there are too many.
        """
        if not self._calls.take(now):
            raise LimitReached(f"{self._caller} makes too many calls; must be at most {self._calls.rate:g} a second")

    def take_message(self, now: float) -> None:
        """Count a message.

        Raises:
            LimitReached: there are too many.
        """
        if not self._messages.take(now):
            rate = self._messages.rate
            raise LimitReached(f"{self._caller} sends too many messages; must be at most {rate:g} a second")

    def open_stream(self) -> None:
        """Count a stream until `close_stream`.

        Raises:
            LimitReached: there are too many.
        """
        if self._streams >= self._config.streams:
            raise LimitReached(f"{self._caller} has {self._streams} Control streams open, the most for one caller")
        self._streams += 1

    def close_stream(self) -> None:
        """Uncount a stream."""
        self._streams -= 1

    def at_rest(self, now: float) -> bool:
        """True if dropping this caller's record grants it no extra quota."""
        return not self._streams and self._calls.full(now) and self._messages.full(now)


@dataclass(slots=True)
class _Bucket:
    rate: float  # [1/s] at which it fills
    size: float
    filled_at: float  # [s]
    level: float = field(init=False)

    def __post_init__(self) -> None:
        self.size = max(self.size, 1.0)  # or nothing would ever pass
        self.level = self.size

    def take(self, now: float) -> bool:
        if self._fill(now) < 1.0:
            return False
        self.level -= 1.0
        return True

    def full(self, now: float) -> bool:
        return self._fill(now) >= self.size

    def _fill(self, now: float) -> float:
        self.level = min(self.size, self.level + (now - self.filled_at) * self.rate)
        self.filled_at = now
        return self.level


def network_of(peer: str) -> str:
    """The network of a peer, from its address as gRPC writes it: "ipv4:10.0.0.7:4711" -> "10.0.0.7"."""
    kind, _, rest = unquote(peer).partition(":")
    host = rest.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return kind  # unix, or a transport of a test
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
    return str(address)
