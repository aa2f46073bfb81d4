"""What one caller may take of a server, whatever it tries, and that others lose nothing by it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpl_runtime.auth import quotas
from rpl_runtime.auth.quotas import QuotaConfig, Quotas, Share, network_of
from rpl_runtime.errors import LimitReached


def passed(share: Share, at: float, tries: int) -> int:
    """How many of so many messages at one moment pass."""
    count = 0
    for _ in range(tries):
        try:
            share.take_message(at)
            count += 1
        except LimitReached:
            pass
    return count


@given(
    rate=st.floats(0.1, 1000.0),
    burst=st.floats(0.0, 10.0),
    moments=st.lists(st.floats(0.0, 100.0), min_size=1, max_size=60).map(sorted),
)
def test_no_more_passes_than_a_burst_and_the_rate(rate: float, burst: float, moments: list[float]) -> None:
    """Over any stretch of time."""
    share = Quotas(QuotaConfig(messages_per_s=rate, burst_s=burst)).share("a", 0.0)
    counts = [passed(share, moment, 30) for moment in moments]
    for first in range(len(moments)):
        for last in range(first, len(moments)):
            allowed = max(rate * burst, 1.0) + rate * (moments[last] - moments[first])
            assert sum(counts[first : last + 1]) <= allowed + 1e-6


@given(rate=st.floats(0.5, 100.0), count=st.integers(1, 50))
def test_who_keeps_to_the_rate_is_never_refused(rate: float, count: int) -> None:
    share = Quotas(QuotaConfig(messages_per_s=rate, burst_s=1.0)).share("a", 0.0)
    for number in range(count):
        share.take_message(number / rate * (1 + 1e-9))


def test_a_refusal_names_the_caller_and_the_limit() -> None:
    share = Quotas(QuotaConfig(streams=2, calls_per_s=1, messages_per_s=2, burst_s=1)).share("arm", 0.0)
    share.take_call(0.0)
    with pytest.raises(LimitReached, match="arm makes too many calls; must be at most 1 a second"):
        share.take_call(0.5)
    share.take_call(1.0)
    assert passed(share, 0.0, 5) == 2
    with pytest.raises(LimitReached, match="arm sends too many messages; must be at most 2 a second"):
        share.take_message(0.0)
    share.open_stream()
    share.open_stream()
    with pytest.raises(LimitReached, match="arm has 2 Control streams open"):
        share.open_stream()
    share.close_stream()
    share.open_stream()


def test_callers_do_not_share() -> None:
    taken = Quotas(QuotaConfig(messages_per_s=1, burst_s=1))
    for caller in ("a", "b"):
        assert passed(taken.share(caller, 0.0), 0.0, 3) == 1
    assert passed(taken.share("a", 0.0), 0.0, 3) == 0


def test_any_number_of_callers_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is forgotten while that would give them something."""
    monkeypatch.setattr(quotas, "_CALLERS", 10)
    taken = Quotas(QuotaConfig(messages_per_s=1, burst_s=1, streams=1))
    taken.share("streaming", 0.0).open_stream()
    for number in range(1000):
        assert passed(taken.share(f"caller {number}", number), number, 2) == 1
        assert len(taken._shares) <= 12
    assert passed(taken.share("caller 999", 999.0), 999.0, 1) == 0
    with pytest.raises(LimitReached):
        taken.share("streaming", 1000.0).open_stream()


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("ipv4:10.0.0.7:4711", "10.0.0.7"),
        ("ipv4:10.0.0.7:12", "10.0.0.7"),
        ("ipv6:%5B2001:db8:1:2::7%5D:4711", "2001:db8:1:2::/64"),
        ("ipv6:[2001:db8:1:2:ffff::9]:1", "2001:db8:1:2::/64"),
        ("ipv6:%5B::1%5D:4711", "::/64"),
        ("ipv6:[fe80::1%25eth0]:9", "fe80::/64"),
        ("ipv6:[::ffff:10.0.0.7]:9", "10.0.0.7"),
        ("unix:", "unix"),
        ("unix:/run/rpl.sock", "unix"),
        ("", ""),
    ],
)
def test_a_caller_without_a_name_is_a_network(peer: str, network: str) -> None:
    assert network_of(peer) == network


def test_a_pause_is_worth_no_more_than_a_burst() -> None:
    share = Quotas(QuotaConfig(messages_per_s=10, burst_s=2)).share("a", 0.0)
    counts = [passed(share, at, 100) for at in (0.0, 1.0, 1000.0, 1000.05, 1000.2)]
    assert counts == [20, 10, 20, 0, 2]
