"""A server under attack: it answers, starves nobody, and stops when it is told to."""

import threading
from pathlib import Path

import numpy as np
import pytest

from attack.hostile import Attacker, Tally
from attack.served import served, targets
from rpl_runtime.policy.bundle import Bundle

KEPT_MB = 200.0  # [MB] that a server may keep of an attack


@pytest.mark.parametrize(("messages", "seed"), [(2000, 0), (2000, 1), pytest.param(100_000, 2, marks=pytest.mark.long)])
def test_hostile_messages_get_the_right_status_and_change_no_bit_of_a_run_beside_them(
    messages: int, seed: int, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """The limits are such that the attack reaches them."""
    tally, different = Tally(messages), 0
    with served(tiny_bundle.path, tmp_path, streams=8, calls_per_s=100, messages_per_s=3000) as server:
        alone, idle_mb = targets(server), server.memory_mb()
        attackers = [Attacker(server.address, server.spec, server.tokens, 4 * seed + number) for number in range(4)]
        threads = [threading.Thread(target=attacker.run, args=(tally,)) for attacker in attackers]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            different += not np.array_equal(targets(server), alone)
        np.testing.assert_array_equal(targets(server), alone)
        kept_mb = server.memory_mb() - idle_mb
    assert tally.sent >= messages
    assert tally.wrong == []
    assert different == 0
    assert kept_mb < KEPT_MB
