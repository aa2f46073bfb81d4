"""Turns: who is served while callers ask for more than there is, and threads for long work."""

import asyncio
import threading
import time

import pytest

from rpl_runtime.auth import quotas
from rpl_runtime.auth.quotas import QuotaConfig, Quotas
from rpl_runtime.errors import LimitReached
from rpl_runtime.server.turns import Turn, Turns, Workers


@pytest.fixture(autouse=True)
def nobody_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is."""
    monkeypatch.setattr(quotas, "_RECENT_S", 1000.0)


def callers(*names: str, share: float = 0.5) -> list[Turn]:
    """Turns of callers that have just been served, so that each has others beside it."""
    taken, turns, now = Quotas(QuotaConfig(time_share=share)), Turns(), time.monotonic()
    found = [turns.of(taken.share(name, now)) for name in names]
    for turn in found:
        turn.share.come(now)
    return found


def test_who_has_used_up_its_time_waits_in_order_and_another_does_not() -> None:
    served: list[str] = []

    async def ask(turn: Turn, what: str) -> None:
        await turn.wait()
        with turn:
            served.append(what)

    async def main() -> None:
        greedy, other = callers("greedy", "other")
        greedy.share.spend(0.1, time.monotonic())
        asking = [asyncio.create_task(ask(greedy, f"greedy {number}")) for number in range(3)]
        asking[1].cancel()
        asking.append(asyncio.create_task(ask(other, "other")))
        await asyncio.wait(asking)

    asyncio.run(main())
    assert served == ["other", "greedy 0", "greedy 2"]


def test_the_time_of_a_block_counts_even_if_it_fails() -> None:
    async def main() -> None:
        turn, _ = callers("a", "b")
        with pytest.raises(ZeroDivisionError), turn:  # noqa: PT012
            time.sleep(0.02)
            raise ZeroDivisionError
        assert turn.share.rest_s(time.monotonic()) > 0.01

    asyncio.run(main())


def test_no_more_messages_wait_than_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rpl_runtime.server.turns._MOST_WAITING", 2)

    async def main() -> None:
        turn, _ = callers("greedy", "other")
        turn.share.spend(1000.0, time.monotonic())
        waiting = [asyncio.create_task(turn.wait()) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(LimitReached, match="greedy has 2 messages waiting, the most for one caller"):
            await turn.wait()
        for task in waiting:
            task.cancel()

    asyncio.run(main())


def test_a_callers_batches_come_one_by_one_so_that_another_callers_does_not_wait_for_all_of_them() -> None:
    order: list[str] = []

    async def main() -> None:
        greedy, other = callers("greedy", "other", share=1.0)
        workers, begin = Workers(1), threading.Event()
        first = asyncio.create_task(workers.run(begin.wait))
        asked = [
            asyncio.create_task(turn.batch(workers, lambda name=name: order.append(name)))
            for turn, name in [(greedy, "greedy")] * 3 + [(other, "other")]
        ]
        await asyncio.sleep(0)
        begin.set()
        await asyncio.gather(first, *asked)

    asyncio.run(main())
    assert order.index("other") <= 1


def test_work_that_nobody_waits_for_keeps_its_thread_and_no_other() -> None:
    async def main() -> None:
        begun, finish, ended = threading.Event(), threading.Event(), []
        loads, batches = Workers(1), Workers(1)

        def hang() -> None:
            begun.set()
            finish.wait()
            ended.append(True)

        cancelled = asyncio.create_task(loads.run(hang))
        while not begun.is_set():
            await asyncio.sleep(0)
        cancelled.cancel()
        another = asyncio.create_task(loads.run(lambda: list(ended)))
        assert await batches.run(lambda: 7) == 7
        assert not another.done()
        finish.set()
        assert await another == [True]
        with pytest.raises(ZeroDivisionError):
            await loads.run(lambda: 1 // 0)

    asyncio.run(main())
