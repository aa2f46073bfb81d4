"""What one caller may take of a server, whatever it tries, and that others lose nothing by it."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpl_runtime.auth import quotas
from rpl_runtime.auth.quotas import QuotaConfig, Quotas, Share, caller_of
from rpl_runtime.errors import LimitReached


def passed(share: Share, at: float, tries: int) -> int:
    """How many of so many messages at one moment pass."""
    count = 0
    for _ in range(tries):
        try:
            share.take_rows(1, 0, at)
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
    share = Quotas(QuotaConfig(rows_per_s=rate, burst_s=burst)).share("a", 0.0)
    counts = [passed(share, moment, 30) for moment in moments]
    for first in range(len(moments)):
        for last in range(first, len(moments)):
            allowed = max(rate * burst, 1.0) + rate * (moments[last] - moments[first])
            assert sum(counts[first : last + 1]) <= allowed + 1e-6


@given(rate=st.floats(0.5, 100.0), count=st.integers(1, 50))
def test_who_keeps_to_the_rate_is_never_refused(rate: float, count: int) -> None:
    share = Quotas(QuotaConfig(rows_per_s=rate, burst_s=1.0)).share("a", 0.0)
    for number in range(count):
        share.take_rows(1, 0, number / rate * (1 + 1e-9))


def test_a_refusal_names_the_caller_and_the_limit() -> None:
    share = Quotas(QuotaConfig(streams=2, calls_per_s=1, rows_per_s=2, burst_s=1)).share("arm", 0.0)
    share.take_call(0.0)
    with pytest.raises(LimitReached, match="arm makes too many calls; must be at most 1 a second"):
        share.take_call(0.5)
    share.take_call(1.0)
    assert passed(share, 0.0, 5) == 2
    with pytest.raises(LimitReached, match="arm sends too many rows; must be at most 2 a second"):
        share.take_rows(1, 0, 0.0)
    share.open_stream()
    share.open_stream()
    with pytest.raises(LimitReached, match=r"arm has as many Control streams open as one caller may \(2\)"):
        share.open_stream()
    share.close_stream()
    share.open_stream()


def test_callers_do_not_share() -> None:
    taken = Quotas(QuotaConfig(rows_per_s=1, burst_s=1))
    for caller in ("a", "b"):
        assert passed(taken.share(caller, 0.0), 0.0, 3) == 1
    assert passed(taken.share("a", 0.0), 0.0, 3) == 0


def test_any_number_of_callers_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is forgotten while that would give them something."""
    monkeypatch.setattr(quotas, "_CALLERS", 10)
    taken = Quotas(QuotaConfig(rows_per_s=1, burst_s=1, streams=1))
    taken.share("streaming", 0.0).open_stream()
    for number in range(1000):
        assert passed(taken.share(f"caller {number}", number), number, 2) == 1
        assert len(taken._shares) <= 12
    assert passed(taken.share("caller 999", 999.0), 999.0, 1) == 0
    with pytest.raises(LimitReached):
        taken.share("streaming", 1000.0).open_stream()


@pytest.mark.parametrize(
    ("peer", "caller"),
    [
        ("ipv4:10.0.0.7:4711", "10.0.0.7"),
        ("ipv4:10.0.0.7:12", "10.0.0.7"),
        ("ipv6:%5B2001:db8:1:2::7%5D:4711", "2001:db8:1:2::/64"),
        ("ipv6:[2001:db8:1:2:ffff::9]:1", "2001:db8:1:2::/64"),
        ("ipv6:%5B::1%5D:4711", "::1 port 4711"),
        ("ipv4:127.0.0.1:4711", "127.0.0.1 port 4711"),
        ("ipv6:[::ffff:127.0.0.1]:9", "127.0.0.1 port 9"),
        ("ipv6:[fe80::1%25eth0]:9", "fe80::/64"),
        ("ipv6:[::ffff:10.0.0.7]:9", "10.0.0.7"),
        ("unix:", "unix"),
        ("unix:/run/rpl.sock", "unix"),
        ("", ""),
    ],
)
def test_a_caller_without_a_name_is_a_network_and_on_this_machine_a_connection(peer: str, caller: str) -> None:
    assert caller_of(peer) == caller


def test_a_pause_is_worth_no_more_than_a_burst() -> None:
    share = Quotas(QuotaConfig(rows_per_s=10, burst_s=2)).share("a", 0.0)
    counts = [passed(share, at, 100) for at in (0.0, 1.0, 1000.0, 1000.05, 1000.2)]
    assert counts == [20, 10, 20, 0, 2]


def test_rows_and_bytes_count_and_not_messages() -> None:
    share = Quotas(QuotaConfig(rows_per_s=100, bytes_per_s=1000, burst_s=1)).share("arm", 0.0)
    share.take_rows(60, 100, 0.0)
    with pytest.raises(LimitReached, match="arm sends too many rows; must be at most 100 a second"):
        share.take_rows(60, 100, 0.0)
    share.take_rows(40, 100, 0.0)
    with pytest.raises(LimitReached, match="arm sends too many bytes; must be at most 1000 a second"):
        share.take_rows(1, 900, 0.05)
    share.take_rows(1, 900, 0.15)


def test_calls_that_stay_open_are_limited() -> None:
    share = Quotas(QuotaConfig()).share("arm", 0.0)
    with contextlib.ExitStack() as opened:
        for _ in range(64):
            opened.enter_context(share.open_call())
        with pytest.raises(LimitReached, match="arm has 64 calls open, the most for one caller"):
            opened.enter_context(share.open_call())
    with share.open_call():
        pass


def test_a_caller_that_is_alone_may_use_all_of_the_time() -> None:
    share = Quotas(QuotaConfig(time_share=0.25)).share("a", 0.0)
    for number in range(1000):
        share.come(number / 100)
        share.spend(0.01, number / 100)
        assert share.rest_s(number / 100) == 0.0


@given(
    part=st.floats(0.05, 1.0),
    spent=st.lists(st.floats(0.0, 0.02), min_size=1, max_size=100),
)
def test_beside_another_a_caller_gets_its_share_of_the_time(part: float, spent: list[float]) -> None:
    """However long its messages take: over any stretch of time, but for one turn and the message that exceeds it."""
    taken = Quotas(QuotaConfig(time_share=part))
    greedy, other, now = taken.share("greedy", 0.0), taken.share("other", 0.0), 0.0
    used: list[tuple[float, float]] = []  # when and how long
    for seconds in spent:
        other.come(now)
        greedy.come(now)
        greedy.spend(seconds, now)
        used.append((now, seconds))
        now += seconds
        other.come(now)
        assert other.rest_s(now) == 0.0
        now += greedy.rest_s(now) + 1e-9
    for first in range(len(used)):
        total = 0.0
        for moment, seconds in used[first:]:
            assert total <= quotas._TURN_S + part * (moment - used[first][0]) + max(spent) + 1e-6
            total += seconds


def test_the_time_is_a_callers_own_again_when_the_others_have_gone() -> None:
    taken = Quotas(QuotaConfig(time_share=0.5))
    greedy, other = taken.share("greedy", 0.0), taken.share("other", 0.0)
    other.come(0.0)
    greedy.come(0.1)
    greedy.spend(10.0, 0.1)
    assert greedy.rest_s(0.1) == pytest.approx(19.99)
    assert greedy.rest_s(1.5) == 0.0
    other.come(2.0)
    assert greedy.rest_s(2.0) > 10
