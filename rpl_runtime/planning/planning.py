"""Who plans for a served policy: its own high level within a step, the same in a thread, or a planner.

A high level that is fast runs within the step that needs it, since handing it to a thread costs more than running it. A
slow one runs in a thread of its own, so that no robot waits for the plan of another.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import cast
from weakref import WeakSet

from rpl_runtime.auth.client import Access
from rpl_runtime.errors import InvalidInput
from rpl_runtime.planning.planner import HighLevel, Planner
from rpl_runtime.planning.port import Observe, Port
from rpl_runtime.planning.remote import RemotePlanner
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.policy.manifest import PLANNER
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.relay.plans import MAX_DEADLINE_S, Fallback, Source

FAST_S = 0.005  # [s] for a plan; all robots of the server wait for a slower one
_THREADS = 64  # questions that a planner is asked at once


class Where(StrEnum):
    """Where a bundle's own high level runs."""

    AUTO = "auto"  # within the step if it is fast, else in a thread
    STEP = "step"
    THREAD = "thread"


@dataclass(frozen=True)
class PlanningConfig:
    planner: str | Planner | None = None  # HOST:PORT or unix:PATH, or an object; None: the bundle's own high level
    deadline_s: float = 2.0  # [s] that a plan may take, unless a run names another
    fallback: Fallback = Fallback.KEEP  # of runs that name none
    own: Where = Where.AUTO  # where the bundle's own high level runs
    access: Access | None = None  # how a planner at an address is reached; None reads it from the environment


def unplanned(spec: PolicySpec) -> InvalidInput:
    """The refusal of a low level alone that nobody plans for."""
    return InvalidInput(
        f"{spec.name} is a low level alone, and nobody plans for it; must be served with `rpl serve BUNDLE --planner "
        f"HOST:PORT`, the address of an {PLANNER} for its states"
    )


class Planning:
    """The planners of a server.

    Args:
        config: which planner, and the rules for runs that name none.
        observe: is told what became of each question.
        thread_name: of a thread that runs a bundle's graph.

    Raises:
        InvalidInput: a setting is not acceptable.
    """

    def __init__(self, config: PlanningConfig, observe: Observe | None, thread_name: str) -> None:
        if not 0 < config.deadline_s <= MAX_DEADLINE_S:
            raise InvalidInput(
                f"the deadline of a plan is {config.deadline_s:g} s; must be above 0 and at most {MAX_DEADLINE_S:g} s"
            )
        if config.fallback is Fallback.BUNDLE and config.planner is None:
            raise InvalidInput("the fallback is the bundle's own high level, which plans anyway; must be another one")
        self._config = config
        self._observe = observe
        self._thread_name = thread_name
        self._ports: WeakSet[Port] = WeakSet()  # of models that are still served
        self._remote = RemotePlanner(config.planner, config.access) if isinstance(config.planner, str) else None

    def port(self, policy: OnnxPolicy) -> Port | None:
        """The port of the planner for a policy; None: its high level runs within the step.

        Raises:
            PlannerLost, ProtocolViolation: no planner answers at the address.
            InvalidInput: the planner is one for other states, or the fallback would hold up the steps.
        """
        config, spec = self._config, policy.spec
        slow = config.own is Where.THREAD or (config.own is Where.AUTO and policy.plan_time_s() > FAST_S)
        if config.planner is None:
            if policy.high is None:
                raise unplanned(spec)
            if not slow:
                return None
            planner, name, source, threads, thread = HighLevel(policy), spec.name, Source.BUNDLE, 1, self._thread_name
        else:
            if (slow or policy.high is None) and config.fallback is Fallback.BUNDLE:
                why = f"a plan of {spec.name} takes {policy.plan_time_s():.3g} s, for which every robot would wait"
                if policy.high is None:
                    why = f"{spec.name} is a low level alone"
                raise InvalidInput(f"{why}; the fallback must be another one than the bundle")
            if self._remote is not None:
                planner, name = self._remote, self._remote.check(spec)
            else:
                planner, name = cast(Planner, config.planner), type(config.planner).__name__
            source, threads, thread = Source.PLANNER, _THREADS, "rpl-planner"
        port = Port(
            planner,
            name,
            spec,
            source,
            config.deadline_s,
            config.fallback,
            policy.high is not None and not slow,
            threads,
            thread,
            self._observe,
        )
        self._ports.add(port)
        return port

    def close(self) -> None:
        """End the connection to the planner, and the threads that ask."""
        for port in self._ports:
            port.close()
        if self._remote is not None:
            self._remote.close()
