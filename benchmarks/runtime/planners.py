"""Steps of many robots while their planner takes its time: it waits, it computes, or it is killed again and again.

    python -m benchmarks.runtime.planners models/relay

Every robot has a stream of its own and sends a step every control period of the bundle. A step is missed if its answer
takes longer than the period. The first plan of each robot is waited for before the clock starts, so every step has a
subgoal to follow. "fast" is the bundle's own high level within the step, as it is served by default; the last column
is a row's 99th percentile beside that of the fast planner.
"""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple, Self

import numpy as np
import typer
from rich.table import Table

from benchmarks.common import Bundle, Json, circumstances, show, table, tracked
from rpl_runtime.client import Access, Client
from rpl_runtime.errors import RelayError
from rpl_runtime.files import JsonDict
from rpl_runtime.planning.planner import HighLevel
from rpl_runtime.planning.planning import PlanningConfig
from rpl_runtime.planning.serve import serve_planner
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.policy.trial import open_policy
from rpl_runtime.process import own_process
from rpl_runtime.relay.messages import Action
from rpl_runtime.relay.plans import Plan, Question

FAST, WAITS, COMPUTES = "fast", "waits", "computes"
OBJECT, PROCESS = "in process", "over gRPC"


class Case(NamedTuple):
    kind: str
    plan_s: float  # [s] that a plan takes
    where: str
    robots: int
    kills: int = 0  # of the planner's process


class Slow:
    """The bundle's high level behind a wait, or behind a computation of that length."""

    def __init__(self, bundle: Path, kind: str, plan_s: float) -> None:
        policy = open_policy(load_bundle(bundle))
        self._high, self._bounds = HighLevel(policy), policy.spec.state.bounds
        self._kind, self._plan_s = kind, plan_s

    def plan(self, question: Question, deadline_s: float) -> Plan:
        until = time.monotonic() + self._plan_s
        if self._kind == WAITS:
            time.sleep(self._plan_s)
        plan = self._high.plan(question, deadline_s)
        while time.monotonic() < until:
            plan = self._high.plan(question, deadline_s)
        return plan._replace(subgoal=np.clip(plan.subgoal, *self._bounds))


def main(
    bundle: Bundle,
    robots: Annotated[int, typer.Option(min=1, help="Robots of a planner that waits.")] = 32,
    computing_robots: Annotated[int, typer.Option(min=1, help="Robots of a planner that computes.")] = 4,
    seconds: Annotated[float, typer.Option(min=1.0, help="Seconds of steps for each row.")] = 120.0,
    waits: Annotated[str, typer.Option(help="Seconds that a plan waits, separated by commas.")] = "0.3,5",
    computes: Annotated[float, typer.Option(min=0.001, help="Seconds that a plan computes.")] = 0.3,
    kills: Annotated[int, typer.Option(min=0, help="Times that a planner is killed and started again.")] = 10,
    as_json: Json = False,
) -> None:
    """Missed steps and latency at each planner."""
    each = [float(wait) for wait in waits.split(",")]
    cases = [Case(FAST, 0.0, OBJECT, robots)]
    cases += [Case(WAITS, wait, where, robots) for wait in each for where in (OBJECT, PROCESS)]
    cases += [Case(FAST, 0.0, OBJECT, computing_robots), Case(COMPUTES, computes, OBJECT, computing_robots)]
    cases += [Case(WAITS, each[0], PROCESS, robots, kills)] if kills else []
    rows, fast = [], dict[int, float]()
    for case in tracked(cases, "planners"):
        row = measured(bundle, case, seconds)
        if case.kind == FAST:
            fast[case.robots] = row["p99_ms"]
        rows.append(row | {"p99_of_fast": row["p99_ms"] / fast[case.robots]})
    content = {"rows": rows, "seconds": seconds, **circumstances(("numpy", "grpcio", "onnxruntime"))}
    show(content, as_json, shown(rows))


def measured(bundle: Path, case: Case, seconds: float) -> JsonDict:
    """Serve the bundle with a planner, drive its robots, and sum up."""
    deadline_s = min(60.0, 4 * case.plan_s + 2.0)
    with ExitStack() as stack:
        planner, mortal = None, None
        if case.where == PROCESS:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            planner = f"unix:{folder}/planner"
            mortal = stack.enter_context(Mortal(str(bundle), case, planner))
        server = own_process(_serve, str(bundle), case.kind, case.plan_s, planner, deadline_s)
        address = stack.enter_context(server)
        with Client(address, access=Access()) as client:
            spec = client.describe().spec
        together = threading.Barrier(case.robots + 1)
        drivers = stack.enter_context(ThreadPoolExecutor(case.robots))
        steps, period_s = round(seconds / spec.period_s), spec.period_s
        driven = [
            drivers.submit(drive, address, f"robot {index}", steps, index * period_s / case.robots, together)
            for index in range(case.robots)
        ]
        together.wait()
        if mortal is not None:
            stack.enter_context(mortal.killed(seconds))
        spent_ms = np.array([one.result().spent_ms for one in driven])
        ages = [one.result().oldest for one in driven]
        return {
            **case._asdict(),
            "steps": int(spent_ms.size),
            "missed": int(np.count_nonzero(spent_ms > period_s * 1e3)),
            "p50_ms": float(np.percentile(spent_ms, 50)),
            "p99_ms": float(np.percentile(spent_ms, 99)),
            "plans": sum(one.result().plans for one in driven),
            "oldest_subgoal": max(ages),
            "horizon": spec.horizon,
        }


class Driven(NamedTuple):
    spent_ms: list[float]  # [ms] of each step
    plans: int  # that took effect
    oldest: int  # [control steps] the largest age of a subgoal


def drive(address: str, robot: str, steps: int, offset_s: float, together: threading.Barrier) -> Driven:
    """One robot, its steps at the pace of its clock."""
    try:
        with Client(address, timeout_s=30.0, access=Access()) as client, client.control() as control:
            spec = control.model.spec
            state = np.add(*spec.state.bounds) / 2
            control.start(robot, spec.resolve_state(state), state)
            control.step(robot, 0, state)
            together.wait()
            begin, spent, plans, oldest = time.monotonic() + offset_s, [], 0, 0
            for number in range(1, steps + 1):
                time.sleep(max(0.0, begin + number * spec.period_s - time.monotonic()))
                before = time.perf_counter()
                action: Action = control.step(robot, number, state)
                spent.append(1e3 * (time.perf_counter() - before))
                plans, oldest = plans + action.replanned, max(oldest, action.age)
            return Driven(spent, plans, oldest)
    except (RelayError, threading.BrokenBarrierError):
        together.abort()
        raise


class Mortal:
    """A planner's process, for the length of a block."""

    def __init__(self, bundle: str, case: Case, address: str) -> None:
        self._arguments = bundle, case.kind, case.plan_s, address
        self._kills = case.kills
        self._process = ExitStack()

    def __enter__(self) -> Self:
        self._process.enter_context(own_process(_plan, *self._arguments))
        return self

    def __exit__(self, *_: object) -> None:
        self._process.close()

    @contextmanager
    def killed(self, seconds: float) -> Iterator[None]:
        """Kill it as often as the case says over a time [s], and start it again each time."""
        over = threading.Event()

        def kill() -> None:
            for _ in range(self._kills):
                if over.wait(seconds / (self._kills + 1)):
                    return
                self.__exit__()
                self.__enter__()

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            yield
        finally:
            over.set()
            killer.join()


def _serve(
    on_ready: Callable[[str], None], bundle: str, kind: str, plan_s: float, address: str | None, deadline_s: float
) -> None:
    from rpl_runtime.server.server import ServerConfig, serve

    planner = None if kind == FAST else address or Slow(Path(bundle), kind, plan_s)
    planning = PlanningConfig(planner, deadline_s, access=Access())
    serve(load_bundle(Path(bundle)), ServerConfig(address="127.0.0.1:0", drain_s=0.0, planning=planning), on_ready)


def _plan(on_ready: Callable[[str], None], bundle: str, kind: str, plan_s: float, address: str) -> None:
    slow = Slow(Path(bundle), kind, plan_s)
    with serve_planner(slow, "slow", load_bundle(Path(bundle)).spec, address) as where:
        on_ready(where)
        threading.Event().wait()


def shown(rows: list[JsonDict]) -> Table:
    headings = ("planner", "robots", "killed", "steps", "missed", "p50", "p99", "of fast", "plans", "oldest subgoal")
    cells = [
        (
            row["kind"] if row["kind"] == FAST else f"{row['kind']} {row['plan_s']:g} s {row['where']}",
            row["robots"],
            row["kills"],
            row["steps"],
            row["missed"],
            f"{row['p50_ms']:.2f} ms",
            f"{row['p99_ms']:.2f} ms",
            f"{row['p99_of_fast']:.2f}",
            row["plans"],
            f"{row['oldest_subgoal']} steps",
        )
        for row in rows
    ]
    return table("steps while a planner takes its time", headings, cells)


if __name__ == "__main__":
    typer.run(main)
