"""A server under attack, in a process of its own, and a robot beside the attack."""

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rpl_runtime.auth.client import Access
from rpl_runtime.auth.tokens import Right, add_grant, grant, new_token
from rpl_runtime.client.client import Client
from rpl_runtime.policy.bundle import Bundle, load_bundle
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.process import own_process

DRAIN_S = 0.5  # [s] of the servers here
_RIGHTS = {"attacker": [Right.ACT], "robot": [Right.ACT], "fetching": [Right.FETCH]}


Serve = Callable[[Callable[[str], None], str, str, str], None]


class Served(NamedTuple):
    address: str
    process: BaseProcess
    bundle: Bundle
    tokens: dict[str, str]  # of "attacker", "robot", "fetching" and "expired"; empty if the server asks for none

    @property
    def spec(self) -> PolicySpec:
        return self.bundle.spec

    def access(self) -> Access:
        """The robot's."""
        return Access(token=self.tokens.get("robot"))

    def memory_mb(self) -> float:
        """Resident memory [MB] of the server."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) / 1e3 for line in status.splitlines() if line.startswith("VmRSS"))

    def stop(self, hurry: bool = False) -> float:
        """Send SIGTERM, again and again in a hurry. Returns the time [s] until the process has ended, or infinity."""
        began = time.monotonic()
        self.process.terminate()
        while hurry and self.process.exitcode is None:
            self.process.join(0.1)
            self.process.terminate()
        self.process.join(60.0)
        return time.monotonic() - began if self.process.exitcode is not None else float("inf")


@contextmanager
def served(bundle: Bundle, folder: Path | None = None, serve: Serve | None = None, **quotas: float) -> Iterator[Served]:
    """Serve a bundle by `serve_bundle` or another, to holders of tokens if there is a folder for their file."""
    tokens, file = {}, ""
    if folder is not None:
        file, past = str(folder / "tokens"), datetime.now(UTC) - timedelta(seconds=1)
        for name, rights in _RIGHTS.items():
            tokens[name] = new_token()
            add_grant(Path(file), grant(tokens[name], name, rights))
        tokens["expired"] = new_token()
        add_grant(Path(file), grant(tokens["expired"], "expired", list(Right), past))
    before = set(multiprocessing.active_children())
    with own_process(serve or serve_bundle, str(bundle.path), file, json.dumps(quotas)) as address:
        [process] = set(multiprocessing.active_children()) - before
        yield Served(address, process, bundle, tokens)


def serve_bundle(on_ready: Callable[[str], None], bundle: str, tokens: str, quotas: str) -> None:
    from rpl_runtime.auth.quotas import QuotaConfig
    from rpl_runtime.auth.server import SecurityConfig
    from rpl_runtime.policy.trial import tried_by_parent
    from rpl_runtime.server.server import ServerConfig, serve

    loaded = load_bundle(Path(bundle))
    tried_by_parent([loaded.digest])  # without a trial, which has tests of its own
    limits: dict[str, Any] = json.loads(quotas)
    security = SecurityConfig(tokens=Path(tokens) if tokens else None)
    config = ServerConfig("127.0.0.1:0", DRAIN_S, security, QuotaConfig(**limits))
    serve(loaded, config, on_ready)


def states(spec: PolicySpec, steps: int) -> np.ndarray:
    """(steps, n)"""
    drawn = np.random.default_rng(0).uniform(-0.01, 0.01, (steps, spec.state.dim)).astype(np.float32)
    return np.clip(drawn, *spec.state.bounds)


def targets(served: Served, steps: int = 60) -> np.ndarray:
    """The targets (steps, m) of a sampled run."""
    seen = states(served.spec, steps)
    with Client(served.address, 60.0, access=served.access()) as client, client.control() as control:
        control.start("bystander", [next(iter(served.spec.elements))], seen[0], seed=7)
        found = [control.step("bystander", step, state).target for step, state in enumerate(seen)]
        control.finish("bystander")
    return np.array(found)


def latencies(served: Served, steps: int, period_s: float) -> np.ndarray:
    """The time [s] of each step (steps,) of a robot that takes one every period_s [s]."""
    seen, spent = states(served.spec, 16), np.empty(steps)
    with Client(served.address, 60.0, access=served.access()) as client, client.control() as control:
        control.start("bystander", [next(iter(served.spec.elements))], seen[0])
        due = time.monotonic()
        for step in range(steps):
            time.sleep(max(0.0, due - time.monotonic()))
            before = time.perf_counter()
            control.step("bystander", step, seen[step % len(seen)])
            spent[step] = time.perf_counter() - before
            due = max(due, time.monotonic() - period_s) + period_s
        control.finish("bystander")
    return spent
