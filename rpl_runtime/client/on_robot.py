"""The low level on the robot: only plans are asked of a server, one for each horizon; the actions are the same.

With a plan lead the loop asks for a plan that many steps before it takes effect. The request is under way while the
robot moves on, and nobody waits for it as long as the lead is longer than the network takes.
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
from rpl_runtime.policy.trial import open_policy
from rpl_runtime.relay.leases import Leases
from rpl_runtime.relay.messages import ModelInfo, Reply
from rpl_runtime.relay.session import Session


def on_robot_control(address: str, config: ReconnectConfig | None = None) -> Control:
    """A `Control` that acts here and has a server plan. A lost request for a plan is retried as the settings say.

    Its methods raise what those of any `Control` do, and
        ServerUnavailable: the plan that a step needs did not come; the run stays where it is, the next try plans anew.
        BundleError: the server that came back has another bundle.

    Raises:
        ServerUnavailable: no server answers now.
        ModelNotFound: the server has no such model.
        BundleError: the server's bundle is damaged, or cannot be run here.
    """
    config = config or ReconnectConfig()
    places = Places(address, config)
    model, bundle = _served(places, config)
    return Control(model, _OnRobotLine(bundle, _RemotePlans(places, bundle, config)))


def served_bundle(address: str, config: ReconnectConfig) -> Bundle:
    """The bundle that a server serves, as `cached_bundle` gets it.

    Raises:
        ServerUnavailable: no server answers now.
        ModelNotFound: the server has no such model.
        BundleError: the server's bundle is damaged.
    """
    return _served(Places(address, config), config)[1]


def _served(places: Places, config: ReconnectConfig) -> tuple[ModelInfo, Bundle]:
    timeout_s = max(config.timeout_s, FIRST_ANSWER_S)
    model = places.describe(timeout_s)
    with places.client(timeout_s, model.digest) as client:
        return model, cached_bundle(client, model.digest)


def cached_bundle(client: Client, digest: str) -> Bundle:
    """The bundle with a digest, from the user's cache (the XDG base directory specification's), fetched if need be.

    Raises:
        BundleError: the server's bundle is damaged, or another.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "relay-policy" / "bundles" / digest
    # A damaged copy is fetched again.
    with contextlib.suppress(BundleError):
        bundle = load_bundle(folder)
        if bundle.digest == digest:
            return bundle
    bundle = client.fetch(folder)
    if bundle.digest != digest:
        raise BundleError(f"the server sent bundle {bundle.digest[:12]}; must be {digest[:12]}")
    return bundle


class _OnRobotLine:
    """A `Line` to relay loops in this process."""

    def __init__(self, bundle: Bundle, levels: "_RemotePlans") -> None:
        self._levels = levels
        self._session = Session(levels, bundle, Leases())

    def exchange(self, rows: Rows) -> list[Reply]:
        replies = [reply for _, reply in self._session.answer(rows, perf_counter_ns()).rows]
        self._levels.send()
        return replies

    def close(self) -> None:
        self._session.close()
        self._levels.close()


class _RemotePlans:
    """The low level here, the high level on the server (the `Levels` protocol of the relay loop)."""

    def __init__(self, places: Places, bundle: Bundle, config: ReconnectConfig) -> None:
        self.act = open_policy(bundle).act
        self._places = places
        self._timeout_s = config.timeout_s
        self._digest = bundle.digest
        self._retry_s = config.retry_s(bundle.spec)
        self._closed = threading.Event()
        self._client = places.client(self._timeout_s, self._digest)
        self._turn = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="plans")
        self._unsent: list[_Coming] = []

    def plan(self, state: np.ndarray, goal: np.ndarray, mask: np.ndarray, noise: np.ndarray) -> Sequence[ArrayLike]:
        """state, goal, mask (B, n) and noise (B, high_noise) -> B subgoals (n,) that are waited for when read."""
        coming = _Coming(lambda: persist(lambda: self._ask(state, goal, mask, noise), self._retry_s, self._closed))
        self._unsent.append(coming)
        return [_Row(coming, row) for row in range(len(state))]

    def send(self) -> None:
        """Request the plans that no step has waited for."""
        for coming in self._unsent:
            coming.send(self._thread)
        self._unsent.clear()

    def close(self) -> None:
        self._closed.set()
        self._client.close()  # aborts the request under way
        self._thread.shutdown()
        self._client.close()  # that request may have opened another

    def _ask(self, *arrays: np.ndarray) -> np.ndarray:
        with self._turn:
            try:
                return self._client.plan(*arrays)
            except (ServerUnavailable, BundleError, LimitReached) as error:
                gone = self._places.elsewhere(error)
                self._client.close()  # its connection may be dead
                self._client = self._places.client(self._timeout_s, self._digest)
                raise gone from error


class _Coming:
    """Subgoals (B, n), requested by the step that waits for them, or earlier in a thread."""

    def __init__(self, ask: Callable[[], np.ndarray]) -> None:
        self._ask = ask
        self._answer: Future[np.ndarray] | None = None

    def send(self, thread: ThreadPoolExecutor) -> None:
        if self._answer is None:
            self._answer = thread.submit(self._ask)

    def result(self) -> np.ndarray:
        if self._answer is None:
            self._answer = Future()  # not sent again, even if this fails
            self._answer.set_result(self._ask())
        return self._answer.result()


class _Row(NamedTuple):
    """One of these subgoals; numpy reads it as an array (n,)."""

    coming: _Coming
    row: int

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.coming.result()[self.row], dtype=dtype)
