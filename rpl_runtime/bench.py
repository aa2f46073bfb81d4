"""What the runtime costs: the relay loop beside bare inference, and gRPC beside a bare echo.

In: a bundle. Out: a `Bench` of latencies, each percentile with the number of measurements it is taken from, and the
requirements they are held against. It does not judge the machine: whatever else runs there is in the numbers.

What is compared is measured in turns, call by call, so that both sides see the same machine. Each server runs in a
process of its own, as it would for a robot.
"""

import asyncio
import os
import queue
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any, NamedTuple

import grpc
import grpc.aio
import numpy as np
from rich.table import Table

from rpl_runtime.bundle import Bundle, load_bundle
from rpl_runtime.client import Client, Control
from rpl_runtime.codec import pack_request
from rpl_runtime.errors import InvalidInput
from rpl_runtime.hosting import hosting, own_process
from rpl_runtime.messages import Observation
from rpl_runtime.policy import OnnxPolicy
from rpl_runtime.provenance import command, commit, versions
from rpl_runtime.relay import RelayLoop
from rpl_runtime.spec import PolicySpec, ResolvedGoal

MAX_RELAY_RATIO = 1.5  # one relay step over two bare session.run calls, p50
MAX_ABOVE_ECHO_US = 150.0  # [us] a step through Control above a bare echo, p50
MAX_PACED_US = 4000.0  # [us] a step through Control at the robot's own rate, p99
_ROBOT = "bench"
_PACKAGES = ("relay-policy", "numpy", "onnxruntime", "grpcio", "protobuf")


@dataclass(frozen=True)
class BenchConfig:
    steps: int = 5000  # of each unpaced measurement
    paced_steps: int = 1000  # at the policy's own period: 80 s for 12.5 Hz
    warm_up: int = 200  # steps before anything is measured


class Bench(NamedTuple):
    """What was measured."""

    content: dict[str, Any]  # what --json prints

    @property
    def met(self) -> bool:
        """Whether every requirement is met."""
        return all(requirement["met"] for requirement in self.content["requirements"])


def bench(path: Path, config: BenchConfig) -> Bench:
    """Measure a bundle in process and through gRPC.

    Raises:
        BundleError: the bundle cannot be used.
        InvalidInput: a setting is out of range.
    """
    for name, value in asdict(config).items():
        if value < 1:
            raise InvalidInput(f"{name} is {value}; allowed is 1 or more")
    bundle = load_bundle(path)
    policy = OnnxPolicy(bundle)
    content: dict[str, Any] = {"in_process": _in_process(policy, config)}
    with ExitStack() as stack:
        served = stack.enter_context(hosting(path))
        echoed = stack.enter_context(own_process(_serve_echo))
        control = stack.enter_context(stack.enter_context(Client(served)).control())
        content["loopback"] = _loopback(control, echoed, policy.spec, config)
        content["paced"] = _paced(control, policy.spec, config)
    content["requirements"] = _requirements(content)
    return Bench(content | _circumstances(bundle))


def bench_table(content: dict[str, Any]) -> Table:
    """The table of a bench: a row for each thing measured, then the requirements."""
    measured = content["in_process"], content["loopback"], content["paced"]
    table = Table(title="latency [us]", header_style="bold")
    for heading in ("", "n", "p50", "p90", "p99", "p99.9"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=bool(heading))
    for section in measured:
        for found in section.values():
            figures = (found["p50_us"], found["p90_us"], found["p99_us"], found["p99.9_us"])
            table.add_row(found["what"], str(found["n"]), *(f"{figure:.1f}" for figure in figures))
        table.add_section()
    for requirement in content["requirements"]:
        verdict = "[green]met[/]" if requirement["met"] else "[red]missed[/]"
        value, limit = requirement["value"], requirement["limit"]
        table.add_row(requirement["what"], "", f"{value:.2f}", f"≤ {limit:g}", verdict)
    return table


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


def _loopback(control: Control, echo_address: str, spec: PolicySpec, config: BenchConfig) -> dict[str, Any]:
    """A step through Control against an echo of as many bytes through a stream of the same shape."""
    state = _state(spec)[0]
    control.start(_ROBOT, ResolvedGoal(state, np.ones_like(state)))
    payload = pack_request([(_ROBOT, Observation(0, state, time.monotonic_ns()))])
    with _Echo(echo_address) as echo:
        measured = _in_turns(
            {
                "echo": lambda step: echo.exchange(payload),
                "control": lambda step: control.step(_ROBOT, step, state),
            },
            config,
        )
    control.finish(_ROBOT)
    return {
        "echo": _percentiles(f"bare gRPC echo of {len(payload)} bytes", measured["echo"]),
        "control": _percentiles("step through Control, unpaced", measured["control"]),
    }


def _paced(control: Control, spec: PolicySpec, config: BenchConfig) -> dict[str, Any]:
    """Steps through Control at the robot's rate, against deadlines that do not drift."""
    state = _state(spec)[0]
    control.start(_ROBOT, ResolvedGoal(state, np.ones_like(state)))
    spent = np.empty(config.paced_steps)
    start = time.monotonic()
    for step in range(config.paced_steps):
        time.sleep(max(0.0, start + step * spec.period_s - time.monotonic()))
        before = perf_counter_ns()
        control.step(_ROBOT, step, state)
        spent[step] = perf_counter_ns() - before
    control.finish(_ROBOT)
    return {"control": _percentiles(f"step through Control at {1 / spec.period_s:g} Hz", spent)}


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
    figures = np.percentile(nanoseconds / 1000, (50, 90, 99, 99.9))
    names = ("p50_us", "p90_us", "p99_us", "p99.9_us")
    return {"what": what, "n": len(nanoseconds)} | dict(zip(names, map(float, figures), strict=True))


def _requirements(content: dict[str, Any]) -> list[dict[str, Any]]:
    inside, loopback, paced = content["in_process"], content["loopback"], content["paced"]
    found = (
        ("relay step over bare calls, p50", inside["relay"]["p50_us"] / inside["bare"]["p50_us"], MAX_RELAY_RATIO),
        ("Control above echo, p50 [us]", loopback["control"]["p50_us"] - loopback["echo"]["p50_us"], MAX_ABOVE_ECHO_US),
        ("Control paced, p99 [us]", paced["control"]["p99_us"], MAX_PACED_US),
    )
    return [{"what": what, "value": value, "limit": limit, "met": value <= limit} for what, value, limit in found]


def _circumstances(bundle: Bundle) -> dict[str, Any]:
    return {
        "bundle": {"name": bundle.spec.name, "digest": bundle.digest},
        "command": command(),
        "commit": commit(),
        "versions": versions(_PACKAGES),
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0]},
    }


class _Echo:
    """A client of the echo that talks as `Control` does: one stream, bytes out of a queue, a reply awaited for each."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._replies: Any = self._channel.stream_stream("/echo.Echo/Echo")(iter(self._outbox.get, None))

    def exchange(self, payload: bytes) -> bytes:
        self._outbox.put(payload)
        return next(self._replies)

    def __enter__(self) -> "_Echo":
        return self

    def __exit__(self, *_: object) -> None:
        self._outbox.put(None)
        self._channel.close()


def _serve_echo(on_ready: Callable[[str], None]) -> None:
    asyncio.run(_echo(on_ready))


async def _echo(on_ready: Callable[[str], None]) -> None:
    async def echo(_: Any, context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
            await context.write(request)

    server = grpc.aio.server()
    handlers = {"Echo": grpc.stream_stream_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo.Echo", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    on_ready(f"127.0.0.1:{port}")
    await server.wait_for_termination()
