"""How much of a server one caller may take: calls, streams, messages.

In: who calls, and when. Out: nothing, or why it is too much. It does not know what is called, and reads no clock; it
belongs to one thread.

A caller is the holder of a token, or else a network: an IPv4 address, an IPv6 prefix of 64 bits, or everybody at a
Unix domain socket. The rates are those of token buckets, which let short bursts through and hold over any longer time.
"""

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import unquote

from rpl_runtime.errors import LimitReached

_CALLERS = 4096  # remembered at most, before those are forgotten that owe nothing


@dataclass(frozen=True)
class QuotaConfig:
    """Of each caller; what is over is refused with RESOURCE_EXHAUSTED."""

    streams: int = 256  # Control streams at once
    calls_per_s: float = 200.0  # [1/s] Control, Describe, Fetch and admin calls
    messages_per_s: float = 20_000.0  # [1/s] Plan, Act, and messages on Control streams
    burst_s: float = 5.0  # [s] worth of either that may come at once after a pause


class Quotas:
    """The share of each caller."""

    def __init__(self, config: QuotaConfig) -> None:
        self._config = config
        self._shares: dict[str, Share] = {}

    def share(self, caller: str, now: float) -> "Share":
        """What a caller may take, at a time [s] of a monotonic clock."""
        share = self._shares.get(caller)
        if share is None:
            if len(self._shares) >= _CALLERS:
                self._shares = {name: share for name, share in self._shares.items() if not share.at_rest(now)}
            share = self._shares[caller] = Share(caller, self._config, now)
        return share


class Share:
    """What one caller may take, and has taken."""

    def __init__(self, caller: str, config: QuotaConfig, now: float) -> None:
        self._caller = caller
        self._config = config
        self._streams = 0
        self._calls = _Bucket(config.calls_per_s, config.calls_per_s * config.burst_s, now)
        self._messages = _Bucket(config.messages_per_s, config.messages_per_s * config.burst_s, now)

    def take_call(self, now: float) -> None:
        """Count one more call.

        Raises:
            LimitReached: the caller makes too many.
        """
        if not self._calls.take(now):
            raise LimitReached(f"{self._caller} makes more calls than the {self._calls.rate:g} a second allowed to one")

    def take_message(self, now: float) -> None:
        """Count one more message.

        Raises:
            LimitReached: the caller sends too many.
        """
        if not self._messages.take(now):
            raise LimitReached(
                f"{self._caller} sends more messages than the {self._messages.rate:g} a second allowed to one caller"
            )

    def open_stream(self) -> None:
        """Count a stream that begins; `close_stream` when it ends.

        Raises:
            LimitReached: the caller has as many as it may.
        """
        if self._streams >= self._config.streams:
            raise LimitReached(f"{self._caller} has {self._streams} Control streams open, as many as one caller may")
        self._streams += 1

    def close_stream(self) -> None:
        """A stream that was counted is over."""
        self._streams -= 1

    def at_rest(self, now: float) -> bool:
        """Whether the caller could be forgotten without getting anything for it."""
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
        self._fill(now)
        if self.level < 1.0:
            return False
        self.level -= 1.0
        return True

    def full(self, now: float) -> bool:
        self._fill(now)
        return self.level >= self.size

    def _fill(self, now: float) -> None:
        self.level = min(self.size, self.level + (now - self.filled_at) * self.rate)
        self.filled_at = now


def network_of(peer: str) -> str:
    """The network that a peer belongs to, of its address as gRPC writes it: "ipv4:10.0.0.7:4711" -> "10.0.0.7"."""
    kind, _, rest = unquote(peer).partition(":")
    host = rest.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return kind  # unix, or a transport of a test
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
    return str(address)
