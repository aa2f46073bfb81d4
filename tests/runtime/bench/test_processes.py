"""Peers as processes: those of this installation, those of a folder, and those that fail."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from rpl_runtime.bench import load
from rpl_runtime.bench.load import Order
from rpl_runtime.bench.processes import contest, folder_peers, joined, own_peers
from rpl_runtime.errors import RelayError
from rpl_runtime.policy.bundle import Bundle

SLEEPER = '''"""A peer that does nothing: not even well."""

import time
from contextlib import contextmanager

from rpl_runtime.bench.load import main


def serve(bundle, on_ready):
    on_ready("nowhere")
    time.sleep(1000)


@contextmanager
def connect(address, bundle, stream, batch):
    assert (address, stream) == ("nowhere", "stream-0")
    steps = []
    yield lambda step: steps.append(step) or steps == list(range(len(steps))) or exit(1)


main(serve, connect)
'''


def peer_in(folder: Path, script: str) -> Path:
    (folder / "sleeper").mkdir()
    (folder / "sleeper" / "peer.py").write_text(script)
    return folder


def test_orders_are_carried_out_to_the_step(tiny_bundle: Bundle):
    with contest(own_peers(), tiny_bundle.path) as contestants:
        assert [one.peer.name for one in contestants] == ["echo", "control", "control_unix", "control_secure"]
        for one in contestants:
            for order in (Order(1, 1, 5, 2), Order(1, 1, 7, 0), Order(3, 2, 4, 1), Order(2, 1, 3, 0, period_s=0.1)):
                given = time.perf_counter()
                spent = one.obey(order)
                # No step of a period begins before its time; a first one that was late is measured from there.
                assert time.perf_counter() - given >= (order.period_s or 0) * (order.steps - 1)
                assert spent.steps_ns.shape == (order.streams * order.steps,)
                assert (spent.steps_ns > 0).all()
                assert spent.wall_s * 1e9 >= spent.steps_ns.max()
            assert (one.memory_mb() or 1e9) > 1


def test_paced_steps_begin_a_period_apart(monkeypatch: pytest.MonkeyPatch):
    now, began = [100.0], []

    def sleep(duration_s: float) -> None:
        now[0] += duration_s

    def exchange(step: int) -> None:
        began.append((step, now[0]))
        now[0] += 0.3 if step == 1 else 0.1  # one step takes longer than its period

    monkeypatch.setattr(load, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    lane = load._Lane(exchange)
    lane.run(Order(1, 1, steps=3, warm_up=1, period_s=0.25), begin=100.5)
    assert began == [(0, 100.5), (1, 100.75), (2, pytest.approx(101.05)), (3, pytest.approx(101.25))]
    assert len(lane.spent) == 3


def test_a_folder_of_peers_is_driven_alike_and_steps_go_on_from_order_to_order(tiny_bundle: Bundle, tmp_path: Path):
    [peer] = folder_peers(peer_in(tmp_path, SLEEPER))
    assert (peer.name, peer.what) == ("sleeper", "A peer that does nothing")
    with contest([peer], tiny_bundle.path) as [one]:
        both = joined([one.obey(Order(1, 1, 4, 1)), one.obey(Order(1, 1, 3, 1))])
    assert both.steps_ns.dtype.kind == "i"
    assert len(both.steps_ns) == 7


def test_a_peer_that_fails_is_one_sentence(tiny_bundle: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    peers = folder_peers(peer_in(tmp_path, "import sys\nsys.exit(7)\n"))
    with pytest.raises(RelayError, match="exit code 7"), contest(peers, tiny_bundle.path):
        pass


def test_an_environment_that_cannot_be_made_is_one_sentence(tmp_path: Path):
    folder = peer_in(tmp_path, SLEEPER)
    (folder / "sleeper" / "requirements.txt").write_text("no-such-package==1.0\n")
    (folder / "sleeper" / ".venv").write_text("a file where the environment goes")
    with pytest.raises(RelayError, match="the environment of sleeper cannot be created: Error: ") as caught:
        folder_peers(folder)
    assert "\n" not in str(caught.value)


def test_what_drives_a_peer_needs_nothing_that_its_environment_may_lack():
    from source import ROOT, RUNTIME, packages

    assert packages(RUNTIME / "bench" / "load.py") <= sys.stdlib_module_names
    bare = [sys.executable, "-S", "-c", "import rpl_runtime.bench.load"]  # -S: without any installed package
    subprocess.run(bare, env={"PYTHONPATH": str(ROOT)}, check=True)


def test_the_peers_of_the_repository_name_themselves():
    """Their environments take a while to make and are not made here."""
    folder = Path(__file__).parents[3] / "benchmarks" / "runtime" / "peers"
    scripts = sorted(folder.glob("*/peer.py"))
    assert [script.parent.name for script in scripts] == ["openpi", "zeromq"]
    for script in scripts:
        compile(script.read_text(), str(script), "exec")
        assert (script.parent / "requirements.txt").exists()
