"""The report of `rpl run`: its log, and its result as a JSON object and as tables."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from rich.markup import escape
from rich.table import Table

from rpl_runtime.console import Console, count, progress
from rpl_runtime.errors import MissingExtra, RelayError
from rpl_runtime.estimation.body import Body
from rpl_runtime.estimation.calibration import NOISE_FLOOR, Calibration, NoiseWatch
from rpl_runtime.files import JsonDict
from rpl_runtime.loop.realtime import DriveResult
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.recording.mcap import LogHeader, LogWriter
from rpl_runtime.recording.recorder import RunRecorder
from rpl_runtime.relay.messages import ModelInfo
from rpl_runtime.relay.run import RunConfig, RunResult, Step
from rpl_runtime.relay.run_state import POLICY
from rpl_runtime.tasks.task import Task


@contextlib.contextmanager
def run_progress(steps: int, elements: tuple[str, ...]) -> Iterator[Callable[[Step], None]]:
    """The progress of a run; call the value after each control step."""
    ever: set[str] = set()
    with progress() as report:

        def on_step(step: Step) -> None:
            ever.update(step.done.intersection(elements))
            done = f"{len(ever)} of {count(len(elements), 'element')} done"
            report("control steps", step.step + 1, steps, done)

        yield on_step


@contextlib.contextmanager
def run_recorder(path: Path, config: RunConfig, model: ModelInfo, task: Task) -> Iterator[RunRecorder]:
    """A recorder of a run, which reports on stderr at the end. Its log draws the task if that can be drawn here.

    Raises:
        InvalidInput: the path exists.
        RecordingError: the log cannot be created.
        MissingExtra: the `record` extra is not installed.
    """
    header = LogHeader(
        robot=config.robot_id, seed=config.seed, plan_lead=config.plan_lead, digest=model.digest, spec=model.spec
    )
    scenery = None
    if task.scenery is not None and task.spec.state.names == model.spec.state.names:
        with contextlib.suppress(MissingExtra):  # a real robot runs without its simulator
            scenery = task.scenery()
    recorder = RunRecorder(LogWriter(path, header, scenery))
    try:
        with recorder:
            yield recorder
    finally:
        steps, dropped, fault = recorder.summary
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print(f"log {escape(str(path))}: control steps {steps}, dropped {dropped}")
        if fault:
            console.print("[bold yellow]the log is incomplete:[/]", escape(fault))


def written(path: Path, put: Callable[[], object]) -> bool:
    """Write one output. Returns whether that worked; if not, stderr says why."""
    try:
        put()
    except (OSError, RelayError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        message = escape(f"{path} was not written: {reason}")
        Console(stderr=True).print("[bold red]error:[/]", message, highlight=False, soft_wrap=True)
        return False
    return True


@contextlib.contextmanager
def filming(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar of pictures; if none can be drawn here, stderr says what to install."""
    try:
        with progress() as report:
            on_frame = partial(report, f"filming {what}")
            on_frame(0, None)  # until the episode has ended
            yield on_frame
    except MissingExtra as error:
        console = Console(stderr=True)
        console.print("[bold yellow]no video:[/]", escape(str(error)), highlight=False, soft_wrap=True)


def noise_notice(body: Body) -> Callable[[Step], None]:
    """Says on stderr, once, that readings are noisy; call the value after each step of a run without an estimator."""
    watch = NoiseWatch(body)

    def on_step(step: Step) -> None:
        noise = watch.see(step.state)
        if noise is not None:
            Console(stderr=True, soft_wrap=True, highlight=False).print(
                f"[bold yellow]noise without a calibration:[/] objects at rest tremble by about {noise:.1g} (m or "
                "rad), which a policy takes for motion. Record a calibration with `rpl run --calibrate FILE`, and run "
                "with --calibration FILE."
            )

    return on_step


def print_calibration(calibration: Calibration, path: Path) -> None:
    """Print a calibration: a table of the objects that tremble, and one line."""
    table = Table("object", "at rest", "standard deviation", title=f"senses and hand, written to {escape(str(path))}")
    for name, rest, sigma in zip(calibration.names, calibration.rest, calibration.sigma, strict=True):
        if sigma > NOISE_FLOOR:
            table.add_row(name, f"{rest:.4f}", f"{sigma:.2g}")
    ages = [
        f"{what} seen {'at an unknown time' if age is None else f'{1000 * age:.0f} ms late'}"
        for what, age in (("the arm is", calibration.arm_age_s), ("the objects are", calibration.object_age_s))
    ]
    hand = "follows every target" if calibration.hand_s is None else f"needs {calibration.hand_s:.2f} s for a command"
    console = Console(highlight=False)
    console.print(table if table.row_count else f"written to {escape(str(path))}; no object at rest trembles")
    console.print(f"{'; '.join(ages)}; the hand {hand}")


def run_facts(result: RunResult, elements: tuple[str, ...], spec: PolicySpec) -> JsonDict:
    """The result of a run, for each element of its goal; `unasked` are the others that it got done."""
    at_start = spec.done(result.states[0]) if len(result.states) else frozenset()
    goal, end = result.goal, result.final_state
    whole = float(np.linalg.norm((end - goal.state)[goal.mask > 0]))  # from a goal that is a state
    return {
        "policy": spec.name,
        "bundle_digest": result.digest,
        "steps": len(result.states),
        "by_hand": dict(Counter(author for author in result.authors if author != POLICY)),
        "elements": {
            name: {
                "ever_done": name in result.ever_done,
                "done_at_end": name in result.done_at_end,
                "first_done": result.first_done(name),
                "distance_at_end": spec.elements[name].distance(end) if name in spec.elements else whole,
            }
            for name in elements
        },
        "unasked": sorted(result.ever_done.difference(elements, at_start)),
        "done": len(result.ever_done.intersection(elements)),
        "success": result.ever_done.issuperset(elements),
    }


def print_run(facts: JsonDict, period_s: float) -> None:
    """Print `run_facts` as a table, and in its last line the verdict."""
    table = Table(*("element", "first done", "at the end", "distance at the end"))
    for name, element in facts["elements"].items():
        first = element["first_done"]
        table.add_row(
            name,
            "[red]never[/]" if first is None else f"[green]control step {first}[/] ({first * period_s:.1f} s)",
            "[green]done[/]" if element["done_at_end"] else "[red]not done[/]",
            f"{element['distance_at_end']:.3f}",
        )
    if facts["by_hand"]:
        hands = ", ".join(f"{steps} of {escape(name)}" for name, steps in facts["by_hand"].items())
        table.caption = f"control steps by hand: {hands}"
    console = Console(highlight=False)
    console.print(table)
    if facts["unasked"]:
        console.print(f"also done, though not asked: {escape(', '.join(facts['unasked']))}")
    verdict = "[green]success:[/]" if facts["success"] else "[red]no success:[/]"
    done = f"{facts['done']} of {count(len(facts['elements']), 'element')} done"
    console.print(f"{verdict} {done} in {count(facts['steps'], 'control step')} of {escape(facts['policy'])}")


_BUSY_MS = 5.0  # [ms] of a late period, after which a stop may be the machine's fault
_PERCENTILES = (50, 90, 99, 99.9, 100)


def drive_facts(result: DriveResult, dry_run: bool) -> JsonDict:
    """More of the result of a run in real time: what stopped it, and how punctual it was."""
    began_ns = result.events[0].at_ns
    unix_ns = time.time_ns() - time.monotonic_ns()

    def moment(at_ns: int) -> JsonDict:
        at = datetime.fromtimestamp((unix_ns + at_ns) / 1e9, UTC)
        return {"after_s": (at_ns - began_ns) / 1e9, "time": at.isoformat(timespec="milliseconds")}

    stop = None
    if result.stop is not None:
        at_ns, rest_ns = result.stop.at_ns, result.stop.rest_ns
        rest_after_s = None if rest_ns is None else (rest_ns - at_ns) / 1e9
        stop = {"cause": result.stop.cause} | moment(at_ns) | {"rest_after_s": rest_after_s}
    return {
        "dry_run": dry_run,
        "stop": stop,
        "events": [{"kind": event.kind, "text": event.text} | moment(event.at_ns) for event in result.events],
        "periods": len(result.late_ns),
        "held": result.held,
        "missed": result.missed,
        "limit_violations": result.limit_violations,
        "late_us": percentiles_us(result.late_ns),
        "observe_to_command_us": percentiles_us(result.answer_ns),
    }


def percentiles_us(durations_ns: np.ndarray) -> dict[str, float]:
    """Percentiles [us] of durations (N,) [ns], and their number n; only n if that is 0."""
    if not len(durations_ns):
        return {"n": 0}
    values = np.percentile(durations_ns / 1000, _PERCENTILES)
    found = {f"p{q:g}": round(float(value), 1) for q, value in zip(_PERCENTILES, values, strict=True)}
    return {"n": len(durations_ns)} | found


def print_drive(facts: JsonDict) -> None:
    """Print `drive_facts` as a few lines and a table."""
    console = Console(soft_wrap=True, highlight=False)
    stop, limit_violations = facts["stop"], facts["limit_violations"]
    if stop is not None:
        console.print(f"[bold red]stopped[/] after {stop['after_s']:.2f} s, {stop['time']}: {escape(stop['cause'])}")
        console.print("It stays stopped until another `rpl run`; look first where the robot stands.")
        latest_ms = facts["late_us"].get("p100", 0) / 1000
        if latest_ms > _BUSY_MS:
            console.print(f"This machine is busy: a control period began {latest_ms:.0f} ms late. Leave it less to do.")
    if facts["dry_run"]:
        console.print("A dry run: nothing was commanded.")
    kept = ", ".join(f"{kind} {count}" for kind, count in limit_violations.items()) or "none"
    periods = count(facts["periods"], "control period")
    console.print(f"{periods}, {facts['held']} without an action, {facts['missed']} missed")
    console.print(f"targets changed to keep a limit: {kept}")
    table = Table(header_style="bold")
    for heading in ("[us]", "n", "p50", "p90", "p99", "p99.9", "max"):
        table.add_column(escape(heading), justify="left" if heading == "[us]" else "right")
    for name, key in (("period late by", "late_us"), ("observation to command", "observe_to_command_us")):
        found = facts[key]
        figures = [f"{found[f'p{q:g}']:.0f}" for q in _PERCENTILES if f"p{q:g}" in found]
        table.add_row(name, str(found["n"]), *figures)
    console.print(table)
