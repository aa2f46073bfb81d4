"""What the runtime costs: the relay loop beside bare inference, a server beside its peers.

In: a bundle, and folders of peers if there are any. Out: a `Bench` of latencies, each percentile with the number of
measurements it is taken from, and the requirements they are held against. It does not judge the machine: whatever else
runs there is in the numbers.

What is compared is measured in turns, so that all sides see the same machine: in process call by call, servers in
blocks of steps. Each server and each driver is a process of its own (contest.py).
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any, NamedTuple

import numpy as np
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from rpl_runtime.bench.load import Order
from rpl_runtime.bench.processes import Contestant, Spent, contest, folder_peers, own_peers
from rpl_runtime.errors import InvalidInput
from rpl_runtime.policy.bundle import Bundle, load_bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.policy.spec import PolicySpec, ResolvedGoal
from rpl_runtime.provenance import command, commit, versions
from rpl_runtime.relay.loop import RelayLoop

MAX_RELAY_RATIO = 1.5  # one relay step over two bare session.run calls, p50
MAX_ABOVE_ECHO_US = 100.0  # [us] a step through Control above a bare echo, p50
MAX_PACED_US = 4000.0  # [us] a step of one robot through Control at the robot's own rate, p99
MAX_PACED_32_US = 10_000.0  # [us] a step of 32 robots at their own rate, p99.9
MIN_BATCHED_PER_S = 50_000.0  # [robot steps/s] of 64 robots on one stream
BLOCK = 100  # steps that a peer takes before the next has its turn
_ROUNDS = 5  # turns of each peer under each load
_PERCENTILES = {"p50_us": 50, "p90_us": 90, "p99_us": 99, "p99.9_us": 99.9}
_ROBOT = "bench"
_PACKAGES = ("relay-policy", "numpy", "onnxruntime", "grpcio", "protobuf")


@dataclass(frozen=True)
class BenchConfig:
    steps: int = 5000  # of each unpaced measurement, all streams together
    paced_s: float = 26.0  # [s] of each measurement at the policy's own rate: 10,400 steps of 32 robots at 12.5 Hz
    warm_up: int = 200  # steps before anything is measured
    streams: tuple[int, ...] = (1, 8, 32, 64)  # side by side, a robot each
    batches: tuple[int, ...] = (1, 8, 64, 256)  # robots on one stream
    peers: Path | None = None  # folder of peers beside our own


class Bench(NamedTuple):
    """What was measured."""

    content: dict[str, Any]  # what --json prints

    @property
    def met(self) -> bool:
        """Whether every requirement is met."""
        return all(requirement["met"] for requirement in self.content["requirements"])


def bench(path: Path, config: BenchConfig) -> Bench:
    """Measure a bundle in process and through servers.

    Raises:
        BundleError: the bundle cannot be used.
        InvalidInput: a setting is out of range.
        RelayError: a peer does not run.
    """
    for name in ("steps", "paced_s", "warm_up", "streams", "batches"):
        value = getattr(config, name)
        if not np.isfinite(np.max(value)) or np.min(value) <= 0:
            raise InvalidInput(f"{name} is {value}; must be a finite number above 0")
    bundle = load_bundle(path)
    peers = own_peers() + (folder_peers(config.peers) if config.peers else [])
    content: dict[str, Any] = {"in_process": _in_process(OnnxPolicy(bundle), config)}
    with contest(peers, path.resolve()) as contestants:
        content["alone"] = _alone(contestants, config)
        content["streams"] = _loads(contestants, config, [(streams, 1) for streams in config.streams])
        content["batches"] = _loads(contestants, config, [(1, batch) for batch in config.batches])
        content["paced"] = _paced(contestants, config, bundle.spec.period_s)
        content["memory_mb"] = {one.peer.what: one.memory_mb() for one in contestants}
    content["requirements"] = _requirements(content)
    return Bench(content | _circumstances(bundle))


def bench_table(content: dict[str, Any]) -> Group:
    """The tables of a bench: what was measured, then the requirements."""
    return Group(
        _latencies("in process", content["in_process"].values()),
        _latencies("one robot, as fast as it goes", content["alone"]),
        _latencies(
            "streams side by side, as fast as they go, and robot steps/s", content["streams"], "streams", "steps_per_s"
        ),
        _latencies(
            "robots on one stream, as fast as they go, and robot steps/s", content["batches"], "batch", "steps_per_s"
        ),
        _latencies(
            "streams side by side, at the policy's rate, and deadlines missed", content["paced"], "streams", "missed"
        ),
        _verdicts(content),
    )


def _in_process(policy: OnnxPolicy, config: BenchConfig) -> dict[str, Any]:
    """The relay loop against the two inferences inside it, one robot, on the same arrays."""
    spec = policy.spec
    state = _state(spec)
    goal = ResolvedGoal(state[0], np.ones_like(state[0]))
    nothing = np.zeros((1, spec.high_noise), np.float32), np.zeros((1, spec.low_noise), np.float32)
    goal_row, mask_row = goal.state[None], goal.mask[None]
    planning, following = RelayLoop(policy, spec), RelayLoop(policy, spec)
    for loop in (planning, following):
        loop.start(_ROBOT, goal)

    def bare(step: int) -> None:
        subgoal = policy.plan(state, goal_row, mask_row, nothing[0])
        policy.act(state, subgoal, nothing[1])

    measured = _in_turns(
        {
            "bare": bare,
            "relay": lambda step: planning.step([_ROBOT], [step], state),
            "amortised": lambda step: following.step([_ROBOT], [step], state),
        },
        config,
        before=lambda: planning.set_goal(_ROBOT, goal),  # or it would plan only every `horizon` steps
    )
    return {
        "bare": _percentiles("two bare session.run calls", measured["bare"]),
        "relay": _percentiles("relay step, both levels", measured["relay"]),
        "amortised": _percentiles(f"relay step, a plan every {spec.horizon} steps", measured["amortised"]),
    }


def _alone(contestants: Sequence[Contestant], config: BenchConfig) -> list[dict[str, Any]]:
    """One robot, in blocks by turns."""
    for one in contestants:
        one.obey(Order(1, 1, 1, config.warm_up))
    blocks = max(1, config.steps // BLOCK)
    order = Order(1, 1, min(BLOCK, config.steps), warm_up=5)
    return [_row(one, spent, {}) for one, spent in _by_turns(contestants, order, blocks)]


def _loads(
    contestants: Sequence[Contestant], config: BenchConfig, shapes: list[tuple[int, int]]
) -> list[dict[str, Any]]:
    """Streams side by side, or robots on a stream, as fast as they go."""
    rows = []
    for streams, batch in shapes:
        steps = max(1, config.steps // streams // batch // _ROUNDS)
        for one, spent in _by_turns(contestants, Order(streams, batch, steps, warm_up=5), _ROUNDS):
            per_s = len(spent.steps_ns) * batch / spent.wall_s
            rows.append(_row(one, spent, {"streams": streams, "batch": batch}) | {"steps_per_s": per_s})
    return rows


def _paced(contestants: Sequence[Contestant], config: BenchConfig, period_s: float) -> list[dict[str, Any]]:
    """Streams side by side, a robot each, at the policy's rate and evenly out of phase."""
    rows = []
    for streams in config.streams:
        order = Order(streams, 1, max(1, round(config.paced_s / period_s)), 5, period_s)
        for one in contestants:
            spent = one.obey(order)
            missed = int((spent.steps_ns > period_s * 1e9).sum())
            rows.append(_row(one, spent, {"streams": streams, "period_s": period_s, "missed": missed}))
    return rows


def _by_turns(contestants: Sequence[Contestant], order: Order, rounds: int) -> list[tuple[Contestant, Spent]]:
    found: dict[Contestant, Spent] = {}
    for _ in range(rounds):
        for one in contestants:
            spent = one.obey(order)
            found[one] = found[one].joined(spent) if one in found else spent
    return list(found.items())


def _row(one: Contestant, spent: Spent, load: dict[str, Any]) -> dict[str, Any]:
    return {"peer": one.peer.name} | load | _percentiles(one.peer.what, spent.steps_ns)


def _in_turns(
    calls: dict[str, Callable[[int], Any]], config: BenchConfig, before: Callable[[], None] | None = None
) -> dict[str, np.ndarray]:
    """Nanoseconds of each call, (steps,) each, one call of each kind after the other."""
    spent = {name: np.empty(config.warm_up + config.steps) for name in calls}
    for step in range(config.warm_up + config.steps):
        if before is not None:
            before()
        for name, call in calls.items():
            begun = perf_counter_ns()
            call(step)
            spent[name][step] = perf_counter_ns() - begun
    return {name: values[config.warm_up :] for name, values in spent.items()}


def _state(spec: PolicySpec) -> np.ndarray:
    """A state in the middle of what the policy accepts, (1, n)."""
    low, high = spec.state.bounds
    return ((low + high) / 2)[None]


def _percentiles(what: str, nanoseconds: np.ndarray) -> dict[str, Any]:
    figures = np.percentile(nanoseconds / 1000, list(_PERCENTILES.values()))
    return {"what": what, "n": len(nanoseconds)} | dict(zip(_PERCENTILES, map(float, figures), strict=True))


def _requirements(content: dict[str, Any]) -> list[dict[str, Any]]:
    inside, paced = content["in_process"], _of_control(content["paced"], "streams")
    alone = {row["peer"]: row["p50_us"] for row in content["alone"]}
    found = [
        ("relay step over bare calls, p50", inside["relay"]["p50_us"] / inside["bare"]["p50_us"], MAX_RELAY_RATIO),
        ("Control above echo, p50 [us]", alone["control"] - alone["echo"], MAX_ABOVE_ECHO_US),
    ]
    if 1 in paced:
        found.append(("Control paced, one robot, p99 [us]", paced[1]["p99_us"], MAX_PACED_US))
    if 32 in paced:
        found.append(("Control paced, 32 robots, p99.9 [us]", paced[32]["p99.9_us"], MAX_PACED_32_US))
        found.append(("Control paced, 32 robots, deadlines missed", paced[32]["missed"], 0))
    requirements = [
        {"what": what, "value": value, "limit": limit, "sense": "at most", "met": value <= limit}
        for what, value, limit in found
    ]
    if 64 in (batches := _of_control(content["batches"], "batch")):
        per_s = batches[64]["steps_per_s"]
        requirements.append(
            {
                "what": "Control, 64 robots on a stream [robot steps/s]",
                "value": per_s,
                "limit": MIN_BATCHED_PER_S,
                "sense": "at least",
                "met": per_s >= MIN_BATCHED_PER_S,
            }
        )
    return requirements


def _of_control(rows: list[dict[str, Any]], key: str) -> dict[int, dict[str, Any]]:
    return {row[key]: row for row in rows if row["peer"] == "control"}


def _latencies(title: str, rows: Any, load: str | None = None, result: str | None = None) -> Table:
    """A row for each thing measured; `load` is what it was under, `result` what else came of it."""
    table = Table(title=escape(f"{title} [us]"), header_style="bold", title_justify="left")
    table.add_column("", no_wrap=True)
    extra = [key for key in (load, result) if key]
    for heading in (*([load] if load else []), "n", "p50", "p90", "p99", "p99.9", *([result] if result else [])):
        table.add_column(heading.replace("_per_s", "/s"), justify="right", no_wrap=True)
    for row in rows:
        figures = [f"{row[key]:.0f}" for key in _PERCENTILES]
        before, after = ([f"{row[key]:.0f}"] if key in extra else [] for key in (load, result))
        table.add_row(row["what"], *before, str(row["n"]), *figures, *after)
    return table


def _verdicts(content: dict[str, Any]) -> Table:
    table = Table(title="requirements", header_style="bold", title_justify="left")
    for heading in ("", "found", "asked", ""):
        table.add_column(heading, justify="right" if heading else "left")
    for requirement in content["requirements"]:
        verdict = "[green]met[/]" if requirement["met"] else "[red]missed[/]"
        asked = f"{requirement['sense']} {requirement['limit']:g}"
        table.add_row(escape(requirement["what"]), f"{requirement['value']:.2f}", asked, verdict)
    held = ", ".join(f"{what} {mb:.0f}" for what, mb in content["memory_mb"].items() if mb is not None)
    machine = content["machine"]
    table.caption = f"resident \\[MB]: {held}. Load {machine['load']:.1f} on {machine['cpus']} CPUs."
    return table


def _circumstances(bundle: Bundle) -> dict[str, Any]:
    return {
        "bundle": {"name": bundle.spec.name, "digest": bundle.digest},
        "command": command(),
        "commit": commit(),
        "versions": versions(_PACKAGES),
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0]},
    }
