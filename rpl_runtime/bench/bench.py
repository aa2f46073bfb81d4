"""Latency and throughput of the runtime: the relay loop beside bare inference, a server beside its peers.

Whatever is compared is measured in turns, so that all sides see the same machine: in process call by call, servers in
blocks of control steps. Each server and each driver is a process of its own (processes.py). The load of the machine is
part of the figures.
"""

import operator
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import NamedTuple

import numpy as np
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from rpl_runtime.auth.client import Access, Connection
from rpl_runtime.bench.load import Order
from rpl_runtime.bench.peers.control import middle
from rpl_runtime.bench.processes import Contestant, Spent, contest, folder_peers, joined, own_peers
from rpl_runtime.client.transport import way_to_call
from rpl_runtime.errors import InvalidInput
from rpl_runtime.files import JsonDict
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.policy.spec import ResolvedGoal
from rpl_runtime.policy.trial import open_policy
from rpl_runtime.provenance import command, commit, versions
from rpl_runtime.relay.loop import RelayLoop
from rpl_runtime.server.transport import way_to_serve

MAX_RELAY_RATIO = 1.5  # one control step of the relay loop over two bare session.run calls, p50
# Control over a peer, the median of at least five runs: what, percentile or steps/s, the peer, and the requirement.
RATIOS = (
    ("alone", "p50_us", "echo", "at most", 1.0),
    ("alone", "p50_us", "openpi", "at most", 0.75),
    ("alone", "p50_us", "zeromq", "at most", 1.05),
    ("alone", "p99_us", "openpi", "at most", 1.0),
    ("batch 64", "steps_per_s", "openpi", "at least", 1.1),
    ("batch 64", "steps_per_s", "zeromq", "at least", 1.0),
    ("batch 256", "steps_per_s", "openpi", "at least", 1.05),
    ("batch 256", "steps_per_s", "zeromq", "at least", 1.0),
    ("streams 8", "steps_per_s", "openpi", "at least", 1.0),
    ("streams 32", "steps_per_s", "openpi", "at least", 1.0),
    ("streams 64", "steps_per_s", "openpi", "at least", 1.0),
)
MAX_SECURE_RATIO = 1.25  # a sampled control step with TLS and a token over a plain one, p50
MAX_PACED_US = 4000.0  # [us] a control step of one robot through Control at the robot's own rate, p99
MAX_PACED_32_US = 3000.0  # [us] a control step of 32 robots at their own rate, p99.9
MIN_BATCHED_PER_S = 50_000.0  # [control steps/s] of 64 robots on one stream, all robots together
BLOCK = 100  # [control steps] of a peer before the next has its turn
_ROUNDS = 5  # turns of each peer under each load, and runs that a ratio is the median of
_PERCENTILES = {"p50_us": 50, "p90_us": 90, "p99_us": 99, "p99.9_us": 99.9}
_ROBOT = "bench"
_PACKAGES = ("relay-policy", "numpy", "onnxruntime", "grpcio", "protobuf")


@dataclass(frozen=True)
class BenchConfig:
    steps: int = 5000  # [control steps] of each unpaced measurement, all streams together
    paced_s: float = 26.0  # [s] of each measurement at the policy's rate: 10,400 steps of 32 robots at 12.5 Hz
    warm_up: int = 200  # [control steps] before each measurement in process and of one robot
    streams: tuple[int, ...] = (1, 8, 32, 64)  # in parallel, a robot each
    batches: tuple[int, ...] = (1, 8, 64, 256)  # robots on one stream
    peers: Path | None = None  # folder of more peers


class Bench(NamedTuple):
    """The result of a bench."""

    content: JsonDict  # what --json prints
    met: bool  # whether every requirement is met


def bench(path: Path, config: BenchConfig) -> Bench:
    """Measure a bundle in process and through servers.

    Raises:
        BundleError: the bundle cannot be used.
        InvalidInput: a setting is out of range.
        RelayError: a peer failed.
    """
    for name in ("steps", "paced_s", "warm_up", "streams", "batches"):
        value = getattr(config, name)
        if not np.isfinite(np.max(value)) or np.min(value) <= 0:
            raise InvalidInput(f"{name} is {value}; must be a finite number above 0")
    bundle = load_bundle(path)
    peers = own_peers() + (folder_peers(config.peers) if config.peers else [])
    content: JsonDict = {"in_process": _in_process(open_policy(bundle), config)}
    with contest(peers, path.resolve()) as contestants:
        _by_turns(contestants, Order(1, 1, 1, config.warm_up), rounds=1)
        order = Order(1, 1, min(BLOCK, config.steps), warm_up=5)
        runs = {"alone": _by_turns(contestants, order, max(1, config.steps // BLOCK))}
        content["alone"] = [_row(one, joined(spent)) for one, spent in runs["alone"].items()]
        content["streams"] = _unpaced(contestants, config, [(streams, 1) for streams in config.streams], runs)
        content["batches"] = _unpaced(contestants, config, [(1, batch) for batch in config.batches], runs)
        content["ratios"] = _ratios(runs)
        content["paced"] = _paced(contestants, config, bundle.spec.period_s)
        content["memory_mb"] = {one.peer.what: one.memory_mb() for one in contestants}
    with Connection("127.0.0.1:1", Access()) as unused:
        client_way = way_to_call(unused.channel)
    content["requirements"] = requirements = _requirements(content)
    content |= {
        "bundle": {"name": bundle.spec.name, "digest": bundle.digest},
        "command": command(),
        "commit": commit(),
        "versions": versions(_PACKAGES),
        "transport": {"client": client_way, "server": way_to_serve()},
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0]},
    }
    return Bench(content, all(requirement["met"] for requirement in requirements))


def _in_process(policy: OnnxPolicy, config: BenchConfig) -> JsonDict:
    """The relay loop and the two inferences inside it, call by call, for one robot and the same arrays."""
    spec = policy.spec
    state = middle(spec)[None]
    goal = ResolvedGoal(state[0], np.ones_like(state[0]))
    high_noise, low_noise = np.zeros((1, spec.high_noise), np.float32), np.zeros((1, spec.low_noise), np.float32)
    planning, following = RelayLoop(policy, spec), RelayLoop(policy, spec)
    for loop in (planning, following):
        loop.start(_ROBOT, goal)

    def bare(step: int) -> None:
        subgoal = policy.plan(state, goal.state[None], goal.mask[None], high_noise)
        policy.act(state, subgoal, low_noise)

    calls = {
        "bare": ("two bare session.run calls", bare),
        "relay": ("relay loop, both levels", lambda step: planning.step([_ROBOT], [step], state)),
        "amortised": (
            f"relay loop, a plan every {spec.horizon} steps",
            lambda step: following.step([_ROBOT], [step], state),
        ),
    }
    spent = {name: np.empty(config.warm_up + config.steps) for name in calls}
    for step in range(config.warm_up + config.steps):
        planning.set_goal(_ROBOT, goal)  # makes it plan at every step
        for name, (_, call) in calls.items():
            begun = perf_counter_ns()
            call(step)
            spent[name][step] = perf_counter_ns() - begun
    return {name: _percentiles(what, spent[name][config.warm_up :]) for name, (what, _) in calls.items()}


def _unpaced(
    contestants: Sequence[Contestant],
    config: BenchConfig,
    shapes: list[tuple[int, int]],
    runs: "dict[str, _Runs]",
) -> list[JsonDict]:
    """Rows for loads of (streams, robots on each), unpaced; the runs are added to `runs` by the load's name."""
    rows = []
    for streams, batch in shapes:
        steps = max(1, config.steps // streams // batch // _ROUNDS)
        found = _by_turns(contestants, Order(streams, batch, steps, warm_up=5), _ROUNDS)
        runs[f"streams {streams}" if batch == 1 else f"batch {batch}"] = found
        for one, several in found.items():
            spent = joined(several)
            rate = {"steps_per_s": len(spent.steps_ns) * batch / spent.wall_s}
            rows.append(_row(one, spent, streams=streams, batch=batch) | rate)
    return rows


def _ratios(runs: "dict[str, _Runs]") -> list[JsonDict]:
    """Control over each other peer, run by run: the median, lowest and highest ratio of p50, p99 and steps/s."""
    found = []
    for load, by_peer in runs.items():
        [ours] = [several for one, several in by_peer.items() if one.peer.name == "control"]
        for one, theirs in by_peer.items():
            if one.peer.name == "control":
                continue
            for figure, of in _FIGURES.items():
                pairs = zip(_in_runs(ours), _in_runs(theirs), strict=True)
                ratios = [of(mine) / of(other) for mine, other in pairs]
                found.append(
                    {"load": load, "figure": figure, "peer": one.peer.name, "runs": len(ratios)}
                    | {"ratio": float(np.median(ratios)), "low": min(ratios), "high": max(ratios)}
                )
    return found


def _in_runs(several: "list[Spent]") -> "list[Spent]":
    """Turns as runs, at most five: each joins turns that follow each other."""
    chunks = np.array_split(np.arange(len(several)), min(_ROUNDS, len(several)))
    return [joined([several[turn] for turn in chunk]) for chunk in chunks]


def _paced(contestants: Sequence[Contestant], config: BenchConfig, period_s: float) -> list[JsonDict]:
    """Rows for parallel streams of a robot each, at the policy's rate and evenly out of phase."""
    rows = []
    for streams in config.streams:
        order = Order(streams, 1, max(1, round(config.paced_s / period_s)), 5, period_s)
        for one in contestants:
            spent = one.obey(order)
            missed = int((spent.steps_ns > period_s * 1e9).sum())
            rows.append(_row(one, spent, streams=streams, period_s=period_s, missed=missed))
    return rows


def _by_turns(contestants: Sequence[Contestant], order: Order, rounds: int) -> "_Runs":
    found: _Runs = {one: [] for one in contestants}
    for _ in range(rounds):
        for one in contestants:
            found[one].append(one.obey(order))
    return found


_Runs = dict[Contestant, list[Spent]]  # an order's turns of each peer
_FIGURES: dict[str, Callable[[Spent], float]] = {
    "p50_us": lambda spent: float(np.percentile(spent.steps_ns, 50)),
    "p99_us": lambda spent: float(np.percentile(spent.steps_ns, 99)),
    "steps_per_s": lambda spent: len(spent.steps_ns) / spent.wall_s,
}


def _row(one: Contestant, spent: Spent, **load: float) -> JsonDict:
    return {"peer": one.peer.name} | load | _percentiles(one.peer.what, spent.steps_ns)


def _percentiles(what: str, nanoseconds: np.ndarray) -> JsonDict:
    figures = np.percentile(nanoseconds / 1000, list(_PERCENTILES.values()))
    return {"what": what, "n": len(nanoseconds)} | dict(zip(_PERCENTILES, map(float, figures), strict=True))


def _requirements(content: JsonDict) -> list[JsonDict]:
    inside = content["in_process"]
    paced, batches = (
        {row[key]: row for row in content[name] if row["peer"] == "control"}
        for name, key in (("paced", "streams"), ("batches", "batch"))
    )
    ratio = inside["relay"]["p50_us"] / inside["bare"]["p50_us"]
    found = [
        ("relay loop over bare calls, p50", ratio, "at most", MAX_RELAY_RATIO),
    ]
    ratios = {(row["load"], row["figure"], row["peer"]): row["ratio"] for row in content["ratios"]}
    found += [
        (f"Control over {peer}, {load}, {figure}", ratios[load, figure, peer], sense, limit)
        for load, figure, peer, sense, limit in RATIOS
        if (load, figure, peer) in ratios
    ]
    if (plain := ratios.get(("alone", "p50_us", "control_secure"))) is not None:
        found.append(("TLS, token and sampled over plain, p50", 1 / plain, "at most", MAX_SECURE_RATIO))
    if 1 in paced:
        found.append(("Control paced, one robot, p99 [us]", paced[1]["p99_us"], "at most", MAX_PACED_US))
    if 32 in paced:
        found.append(("Control paced, 32 robots, p99.9 [us]", paced[32]["p99.9_us"], "at most", MAX_PACED_32_US))
        found.append(("Control paced, 32 robots, deadlines missed", paced[32]["missed"], "at most", 0))
    if 64 in batches:
        per_s = batches[64]["steps_per_s"]
        found.append(("Control, 64 robots on a stream [control steps/s]", per_s, "at least", MIN_BATCHED_PER_S))
    met = {"at most": operator.le, "at least": operator.ge}
    return [
        {"what": what, "value": value, "limit": limit, "sense": sense, "met": met[sense](value, limit)}
        for what, value, sense, limit in found
    ]


def bench_table(content: JsonDict) -> Group:
    """The tables of a bench: the measurements, then the requirements."""
    requirements = Table(title="requirements", header_style="bold", title_justify="left")
    for heading in ("", "found", "required", ""):
        requirements.add_column(heading, justify="right" if heading else "left")
    for one in content["requirements"]:
        verdict = "[green]met[/]" if one["met"] else "[red]missed[/]"
        limit = f"{one['sense']} {one['limit']:g}"
        requirements.add_row(escape(one["what"]), f"{one['value']:.2f}", limit, verdict)
    title = f"Control over its peers, the median of {_ROUNDS} runs, with the lowest and the highest"
    ratios = Table(title=title, header_style="bold", title_justify="left")
    for heading in ("load", "figure", "peer", "ratio", "from", "to"):
        ratios.add_column(heading, justify="left" if heading in ("load", "figure", "peer") else "right")
    for row in content["ratios"]:
        figures = (f"{row[key]:.2f}" for key in ("ratio", "low", "high"))
        ratios.add_row(row["load"], row["figure"], row["peer"], *figures)
    held = ", ".join(f"{what} {mb:.0f}" for what, mb in content["memory_mb"].items() if mb is not None)
    machine = content["machine"]
    ways = ", ".join(f"{side} {way}" for side, way in content["transport"].items())
    requirements.caption = (
        f"resident \\[MB]: {held}. Transport: {ways}. Load {machine['load']:.1f} on {machine['cpus']} CPUs."
    )
    return Group(
        _latencies("in process", content["in_process"].values()),
        _latencies("one robot, unpaced", content["alone"]),
        _latencies("parallel streams, unpaced, and control steps/s", content["streams"], "streams", "steps_per_s"),
        _latencies("robots on one stream, unpaced, and control steps/s", content["batches"], "batch", "steps_per_s"),
        _latencies(
            "parallel streams at the policy's rate, and deadlines missed", content["paced"], "streams", "missed"
        ),
        ratios,
        requirements,
        f"requirements met: {sum(one['met'] for one in content['requirements'])} of {len(content['requirements'])}",
    )


def _latencies(title: str, rows: Iterable[JsonDict], load: str | None = None, result: str | None = None) -> Table:
    """A row for each measurement, with its percentiles between its load and its result."""
    table = Table(title=escape(f"{title} [us]"), header_style="bold", title_justify="left")
    table.add_column("")
    before, after = [load] if load else [], [result] if result else []
    for heading in (*before, "n", "p50", "p90", "p99", "p99.9", *after):
        table.add_column(heading.replace("_per_s", "/s"), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row["what"], *(f"{row[key]:.0f}" for key in (*before, "n", *_PERCENTILES, *after)))
    return table
