"""The low level beside the robot: only plans are asked of the server, one for each horizon.

In: the address of a server. Out: a `Control` like that of a stream, with the same actions to the last bit. It does
not know robots; the relay loop is the one that serves.

With a plan_lead the loop asks for a plan that many steps before it takes effect. The ask is under way while the robot
goes on, and waited for only when its step has come: as long as the lead is longer than the network, nobody waits.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import perf_counter_ns
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rpl_runtime.client.client import Client
from rpl_runtime.client.control import Control, Rows
from rpl_runtime.client.reconnect import FIRST_ANSWER_S, Places, ReconnectConfig, persist
from rpl_runtime.errors import BundleError, LimitReached, ServerUnavailable
from rpl_runtime.policy.bundle import Bundle, load_bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.relay.leases import Leases
from rpl_runtime.relay.messages import Reply
from rpl_runtime.relay.session import Session


def on_robot_control(address: str, config: ReconnectConfig | None = None) -> Control:
    """A `Control` that acts here and has the server at an address plan.

    A plan that is lost is asked for again as the settings say. Its verbs raise what those of any `Control` do, and
        ServerUnavailable: the plan that a step needs did not come; the run still stands, its next try plans anew.
        BundleError: what came back serves another bundle.

    Raises:
        ServerUnavailable: nobody answers now.
        ModelNotFound: who answers has no such model.
        BundleError: what the server sent is no sound bundle, or cannot be run here.
    """
    config = config or ReconnectConfig()
    timeout_s = max(config.timeout_s, FIRST_ANSWER_S)
    places = Places(address, config.model)
    model = places.describe(timeout_s)
    with Client(places.now, timeout_s, model.digest) as client:
        bundle = cached_bundle(client, model.digest)
    return Control(model, _OnRobotLine(bundle, _PlansFromAfar(places, bundle, config)))


def cached_bundle(client: Client, digest: str) -> Bundle:
    """The bundle with a digest, from the user's cache, or from the server into it, whole or not at all.

    Raises:
        BundleError: what came is no sound bundle, or another.
    """
    folder = _cache() / digest
    # A copy that was damaged since is fetched again.
    with contextlib.suppress(BundleError):
        bundle = load_bundle(folder)
        if bundle.digest == digest:
            return bundle
    bundle = client.fetch(folder)
    if bundle.digest != digest:
        raise BundleError(f"bundle {digest[:12]} was asked for; the server sent {bundle.digest[:12]}")
    return bundle


def _cache() -> Path:
    """Where bundles are kept, by digest: the XDG base directory specification's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "relay-policy" / "bundles"


class _OnRobotLine:
    """A `Line` to relay loops in this process."""

    def __init__(self, bundle: Bundle, levels: "_PlansFromAfar") -> None:
        self._levels = levels
        self._session = Session(levels, bundle, Leases())

    def exchange(self, rows: Rows) -> list[Reply]:
        replies = [reply for _, reply in self._session.answer(rows, perf_counter_ns()).rows]
        self._levels.send()
        return replies

    def close(self) -> None:
        self._session.close()
        self._levels.close()


class _PlansFromAfar:
    """Both levels: the low one here, the high one at the server (the `Levels` protocol of the relay loop)."""

    def __init__(self, places: Places, bundle: Bundle, config: ReconnectConfig) -> None:
        self.act = OnnxPolicy(bundle).act
        self._places = places
        self._timeout_s = config.timeout_s
        self._digest = bundle.digest
        self._patience_s = config.patience_s(bundle.spec)
        self._over = threading.Event()
        self._client = self._connect()
        self._turn = threading.Lock()
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="plans")
        self._unsent: list[_Coming] = []

    def plan(self, state: np.ndarray, goal: np.ndarray, mask: np.ndarray, noise: np.ndarray) -> Sequence[ArrayLike]:
        """state, goal, mask (B, n) and noise (B, high_noise) -> subgoals (n,), B of them, on their way."""
        coming = _Coming(lambda: persist(lambda: self._ask(state, goal, mask, noise), self._patience_s, self._over))
        self._unsent.append(coming)
        return [_Row(coming, row) for row in range(len(state))]

    def send(self) -> None:
        """Ask for what nobody has waited for, while the robot goes on."""
        for coming in self._unsent:
            coming.send(self._asking)
        self._unsent.clear()

    def close(self) -> None:
        self._over.set()
        self._client.close()  # which cuts short the ask under way
        self._asking.shutdown()
        self._client.close()  # that ask may have opened another

    def _connect(self) -> Client:
        return Client(self._places.now, self._timeout_s, self._digest)

    def _ask(self, *arrays: np.ndarray) -> np.ndarray:
        with self._turn:
            try:
                return self._client.plan(*arrays)
            except (ServerUnavailable, BundleError, LimitReached) as error:
                gone = self._places.elsewhere(error)
                self._client.close()  # its connection may be one that nobody is at the other end of any more
                self._client = self._connect()
                raise gone from error


class _Coming:
    """Subgoals (B, n): asked for by whoever waits for them, or before that in a thread which does."""

    def __init__(self, ask: Callable[[], np.ndarray]) -> None:
        self._ask = ask
        self._answer: Future[np.ndarray] | None = None

    def send(self, thread: ThreadPoolExecutor) -> None:
        if self._answer is None:
            self._answer = thread.submit(self._ask)

    def result(self) -> np.ndarray:
        if self._answer is None:
            self._answer = Future()  # whatever comes of it, it is not sent once more
            self._answer.set_result(self._ask())
        return self._answer.result()


class _Row(NamedTuple):
    """One of them, an array to numpy."""

    coming: _Coming
    row: int

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.coming.result()[self.row], dtype=dtype)
