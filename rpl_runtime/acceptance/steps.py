"""The steps of an acceptance, in their order: each does one thing with the robot, and has judge.py judge it.

Every step opens the robot anew and closes it at its end, so that none depends on what another left behind.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from rpl_runtime.acceptance import judge
from rpl_runtime.acceptance.journal import Check, Curve, Picture
from rpl_runtime.acceptance.trace import STILL, Trace, Watch, watched
from rpl_runtime.client import Access, ReconnectConfig, TimeBudget, lasting_control
from rpl_runtime.errors import InvalidInput
from rpl_runtime.estimation.calibration import Calibration
from rpl_runtime.estimation.estimator import Estimator
from rpl_runtime.files import read, write_json
from rpl_runtime.loop.calibrate import UNHURRIED, calibrate
from rpl_runtime.loop.clock import MonotonicClock, Schedule
from rpl_runtime.loop.heartbeat import Heartbeat
from rpl_runtime.loop.realtime import DriveResult, drive
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.recording.mcap import LogHeader, LogWriter
from rpl_runtime.recording.recorder import RunRecorder
from rpl_runtime.relay.run import RunConfig, Step
from rpl_runtime.robots.franka import FrankaConfig, FrankaRobot
from rpl_runtime.robots.franka.frames import to_franka
from rpl_runtime.robots.franka.franka import HOME
from rpl_runtime.safety.limits import ARM_JOINTS, Box
from rpl_runtime.server.subprocess import mortal_server
from rpl_runtime.tasks.task import Task

SENSES = "senses.json"  # the calibration, as `rpl run --calibrate` writes it
_SLOW = 0.1  # share of the limits
_BUDGET = TimeBudget()
_DRY = 25  # [periods] of the dry run
_TURN = 0.05  # [rad] of each joint
_INSIDE = 0.15  # [rad] from the ends of their ranges, where they turn
_SETTLE, _JOINT = 25, 14  # [periods] until the arm hangs still, and for one joint
_LEAD = 0.15  # [rad] of joint 1 in the stop tests
_LEAD_FOR = 15  # [periods] of that
_AFTER_S = 0.8  # [s] for which an arm that came to rest is watched
_UNPLUG_AFTER = 12  # [control steps] at least, until the server is killed
_UNPLUG_STEPS = 100  # [control steps] in which the arm must have begun to move
_FIRST = 60  # [control steps] of the first motions
_ELEMENT = 140  # [control steps] for one element


@dataclass(frozen=True)
class Site:
    """What is accepted: a robot where it stands, and a bundle."""

    open_robot: Callable[[FrankaConfig], AbstractContextManager[FrankaRobot]]
    franka: FrankaConfig  # its limits and thresholds; each step chooses its speed
    reach: Box  # of the arm, which a workspace must not exceed
    task: Task
    bundle: Bundle
    elements: tuple[str, ...]  # of the first goals
    folder: Path  # of the report

    def robot(self, speed: float, dry_run: bool = False) -> AbstractContextManager[FrankaRobot]:
        """The robot at a share of its limits, for the length of a block."""
        return self.open_robot(replace(self.franka, speed=speed, dry_run=dry_run))


@dataclass(frozen=True)
class Found:
    """What a step found."""

    checks: Sequence[Check]
    notes: dict[str, str]
    pictures: Sequence[Picture] = ()


@dataclass(frozen=True)
class AcceptanceStep:
    """One step of an acceptance."""

    name: str
    happens: str  # what the robot will do, told before it does
    moves: bool  # whether an operator is asked first
    work: Callable[[Site], Found]


def connection(site: Site) -> Found:
    """Read the robot once."""
    with site.robot(_SLOW, dry_run=True) as robot:
        reading, model, hand = robot.reading(), robot.model(), robot.hand_version
    notes = {"model": model, "hand's interface": f"version {hand}", "mode": reading.mode}
    notes["joints [rad]"] = ", ".join(f"{joint:.3f}" for joint in reading.measured)
    return Found(judge.judge_connection(reading, model, site.franka.profile), notes)


def workspace(site: Site) -> Found:
    """Compare the workspace with the arm, and show both."""
    arm = site.franka.profile.arm
    assert arm is not None  # checked by the configuration
    with site.robot(_SLOW, dry_run=True) as robot:
        reading = robot.reading()
    box = arm.workspace
    notes = {
        "workspace [m]": f"{box.low} to {box.high}",
        "collision thresholds": f"{site.franka.torque_threshold:g} Nm in a joint, "
        f"{site.franka.force_threshold:g} N at the hand",
        "load": "none" if site.franka.load is None else f"{site.franka.load.mass:g} kg",
    }
    pictures = [
        Picture(
            title=f"the workspace from {side}",
            x=f"{'xyz'[x]} [m]",
            y=f"{'xyz'[y]} [m]",
            curves=(
                _outline("where the arm may reach", site.reach, x, y),
                _outline("workspace", box, x, y),
                Curve(name="flange", x=(reading.flange[x],), y=(reading.flange[y],)),
            ),
            same_scale=True,
        )
        for side, x, y in (("above", 0, 1), ("the side", 0, 2))
    ]
    return Found(judge.judge_workspace(box, site.reach, to_franka(HOME)), notes, pictures)


def dry_run(site: Site) -> Found:
    """Serve the policy, and run it without moving."""
    result, _ = _driven(site, "dry-run", _SLOW, site.elements, _DRY, dry=True)
    run, spec = result.run, site.bundle.spec
    checks = [
        *judge.judge_states(run.states, run.targets, spec, site.bundle.manifest.statistics),
        *judge.judge_punctuality(result.missed, result.late_ns, result.answer_ns),
        _not_stopped(result),
    ]
    at_s = spec.period_s * np.arange(len(run.states))
    joints = [spec.state.names.index(name) for name in spec.action.names[:ARM_JOINTS]]
    curves = [
        _curve(f"joint {number}", at_s, run.targets[:, number - 1] - run.states[:, dim])
        for number, dim in enumerate(joints, start=1)
    ]
    picture = Picture(title="targets from the joints", x="time [s]", y="[rad]", curves=tuple(curves))
    return Found(checks, {}, [picture])


def joints(site: Site) -> Found:
    """Move each joint a little, one after the other."""
    with site.robot(_SLOW) as robot:
        robot.reset(0)
        schedule = Schedule(MonotonicClock(), site.task.spec.period_s)
        target = robot.observe()[: len(site.task.spec.action.names)].astype(np.float64)
        # Away from the ends of the ranges, which would hold back a joint that hangs off its target by its weight.
        inside = np.clip(target, robot.profile.low + _INSIDE, robot.profile.high - _INSIDE)
        target[:ARM_JOINTS] = inside[:ARM_JOINTS]
        back, places = target.copy(), []
        with watched(robot) as watch:
            places.append(_led(robot, schedule, target, _SETTLE))
            for joint in range(ARM_JOINTS):
                target[joint] += _TURN
                places.append(_led(robot, schedule, target, _JOINT))
            _led(robot, schedule, back, _JOINT)
    trace = watch.trace
    at_s, start = trace.at_s - trace.at_s[0], trace.measured[0]
    curves = [_curve(f"joint {joint + 1}", at_s, (trace.measured - start)[:, joint]) for joint in range(ARM_JOINTS)]
    picture = Picture(title="measured motion of each joint", x="time [s]", y="[rad]", curves=tuple(curves))
    return Found(judge.judge_joints(places[:-1], places[1:], trace), {}, [picture])


def senses(site: Site) -> Found:
    """Calibrate the senses and the hand, and keep the calibration."""
    if site.task.body is None:
        raise InvalidInput(f"{site.task.name} does not say what its robot's body is, so its senses cannot be measured")
    spec = site.task.spec
    with site.robot(UNHURRIED) as robot, watched(robot) as watch:
        found = calibrate(robot, site.task.body, spec)
        stated_s = robot.ages.arm_s
    write_json(site.folder / SENSES, found.model_dump(mode="json"))
    trace = watch.trace
    at_s = trace.at_s - trace.at_s[0]
    picture = Picture(title="the hand", x="time [s]", y="width [m]", curves=(_curve("width", at_s, trace.width),))
    notes = {
        "arm's age": _age(found.arm_age_s),
        "objects' age": _age(found.object_age_s),
        "hand": "follows every target" if found.hand_s is None else f"{found.hand_s:.2f} s for a command",
    }
    return Found(judge.judge_senses(found, stated_s, trace.width, spec.state.units), notes, [picture])


def stop(site: Site) -> Found:
    """Stop a moving arm, then let it move and command it no more."""
    checks, pictures = list[Check](), list[Picture]()
    with site.robot(_SLOW) as robot:
        for what in ("a stop", "targets that stay out"):
            robot.reset(0)
            with watched(robot) as watch:
                schedule = Schedule(MonotonicClock(), site.task.spec.period_s)
                for _ in range(_LEAD_FOR):
                    target = robot.observe()[: len(site.task.spec.action.names)].astype(np.float64)
                    target[0] += _LEAD
                    robot.apply(target)
                    schedule.wait()
                moment_s = time.monotonic()
                if what == "a stop":
                    robot.stop()
                _watch_rest(watch, moment_s)
            trace = watch.trace
            judged = judge.judge_stop(
                trace, moment_s, judge.LIMITS.stop if what == "a stop" else judge.LIMITS.unplugged
            )
            checks += [check.model_copy(update={"name": f"{what}: {check.name}"}) for check in judged]
            pictures.append(_speeds(f"{what} at a tenth of the speed", trace, moment_s, "from here"))
    return Found(checks, {}, pictures)


def unplug(site: Site) -> Found:
    """Kill the policy server while the arm follows it."""
    killed_s = list[float]()
    result, trace = _driven(site, "unplug", _SLOW, site.elements, _UNPLUG_STEPS, killed_s=killed_s)
    if not killed_s:
        raise InvalidInput(
            f"the policy did not move the arm within {_UNPLUG_STEPS} control steps, so that its server was not killed; "
            f"must move at more than {judge.LIMITS.moving} rad/s: {'' if result.stop is None else result.stop.cause}"
        )
    checks = [
        Check(
            name="the run stopped by itself",
            value=float(result.stop is not None),
            low=1,
            high=1,
            meaning="the run went on without a server",
        ),
        *judge.judge_stop(trace, killed_s[0], judge.LIMITS.unplugged),
    ]
    notes = {} if result.stop is None else {"cause": result.stop.cause}
    return Found(checks, notes, [_speeds("a killed server at a tenth of the speed", trace, killed_s[0], "killed")])


def motion(site: Site, speed: float, whole: bool) -> Found:
    """Let the policy drive at a share of the limits; `whole`: until its elements are done."""
    elements = site.elements if whole else site.elements[:1]
    steps = _ELEMENT * len(elements) if whole else _FIRST
    result, trace = _driven(site, f"speed-{speed:g}", speed, elements, steps)
    run = result.run
    checks = [
        _not_stopped(result),
        *judge.judge_motion(trace, site.franka.profile, speed),
        *judge.judge_punctuality(result.missed, result.late_ns, result.answer_ns),
    ]
    if whole:
        checks += judge.judge_elements(elements, {name: run.first_done(name) for name in elements})
    changed = ", ".join(f"{kind} {count}" for kind, count in result.limit_violations.items()) or "none"
    notes = {"targets changed to keep a limit": changed, "done": ", ".join(sorted(run.ever_done)) or "nothing"}
    pictures = [_speeds(f"{', '.join(elements)} at {speed:g} of the speed", trace, trace.at_s[0], "begins")]
    if len(run.states):
        at_s = site.task.spec.period_s * np.arange(len(run.states))
        far = [
            _curve(name, at_s, np.array([site.task.spec.elements[name].distance(state) for state in run.states]))
            for name in elements
        ]
        pictures.append(Picture(title="distance of the elements from done", x="time [s]", y="", curves=tuple(far)))
    return Found(checks, notes, pictures)


STEPS = (
    AcceptanceStep("connection", "Connects to arm and hand, and reads them once. Nothing moves.", False, connection),
    AcceptanceStep("workspace", "Compares limits and workspace with the arm. Nothing moves.", False, workspace),
    AcceptanceStep("dry-run", "Serves the policy and runs it for 2 s without the motors.", False, dry_run),
    AcceptanceStep(
        "joints",
        "Opens the hand, goes to the start at a fiftieth of the limits, and turns each joint by 0.05 rad at a tenth.",
        True,
        joints,
    ),
    AcceptanceStep(
        "senses",
        "Goes to the start at a fifth of the limits, rests for 8 s, closes and opens the hand, and turns the last "
        "joints by 0.12 rad at 0.3 rad/s. Nothing else in the scene may move.",
        True,
        senses,
    ),
    AcceptanceStep(
        "stop",
        "Turns the arm about its base at a tenth of the limits, and stops it; then the same without a stop: the arm "
        "must come to rest by itself.",
        True,
        stop,
    ),
    AcceptanceStep(
        "unplug",
        "Lets the policy drive at a tenth of the limits, and kills its server while the arm moves.",
        True,
        unplug,
    ),
    AcceptanceStep(
        "speed-0.1",
        "Lets the policy drive for 5 s at a tenth of the limits. It may not finish an element.",
        True,
        partial(motion, speed=0.1, whole=False),
    ),
    AcceptanceStep(
        "speed-0.3",
        "The same at three tenths of the limits.",
        True,
        partial(motion, speed=0.3, whole=False),
    ),
    AcceptanceStep(
        "speed-1",
        "Lets the policy do the elements of the goal at full speed, 11 s for each.",
        True,
        partial(motion, speed=1.0, whole=True),
    ),
)


def _driven(
    site: Site,
    name: str,
    speed: float,
    elements: tuple[str, ...],
    steps: int,
    *,
    dry: bool = False,
    killed_s: list[float] | None = None,
) -> tuple[DriveResult, Trace]:
    """A run with its log, by the calibration if there is one, and the trace of its arm.

    Args:
        killed_s: the server is killed when the arm moves, and the moment [s] appended here.
    """
    period_s, config = site.task.spec.period_s, RunConfig(elements, steps, "acceptance")
    with ExitStack() as stack:
        address, kill = stack.enter_context(mortal_server(site.bundle.path))
        reconnect = ReconnectConfig(timeout_s=_BUDGET.timeout_s(period_s), waits=False, access=Access())
        control = stack.enter_context(lasting_control(address, reconnect))
        heartbeat = stack.enter_context(Heartbeat())
        robot = stack.enter_context(site.robot(speed, dry))
        log = stack.enter_context(_log(site, name, config))
        watch = stack.enter_context(watched(robot))

        def on_step(step: Step) -> None:
            log.step(step)
            moving = step.step >= _UNPLUG_AFTER and watch.speed > 1.5 * judge.LIMITS.moving
            if killed_s is not None and not killed_s and moving:
                kill()
                killed_s.append(time.monotonic())

        result = drive(
            robot,
            control,
            config,
            on_step,
            lambda event: log.event(event.kind, event.text, event.at_ns),
            budget=_BUDGET,
            heartbeat=heartbeat,
            estimator=_estimator(site),
        )
        if killed_s:
            _watch_rest(watch, killed_s[0])
    return result, watch.trace.after(result.events[0].at_ns / 1e9)  # without the way to the start


def _estimator(site: Site) -> Estimator | None:
    path, body = site.folder / SENSES, site.task.body
    if body is None or not path.exists():
        return None
    found = Calibration.model_validate_json(read(path)).checked(site.bundle.spec.state.names)
    return Estimator(body, found, site.bundle.manifest.statistics, site.bundle.spec.period_s)


def _log(site: Site, name: str, config: RunConfig) -> RunRecorder:
    path = site.folder / f"{name}.mcap"
    path.unlink(missing_ok=True)  # of an earlier try of this step
    header = LogHeader(
        robot=config.robot_id, seed=config.seed, plan_lead=0, digest=site.bundle.digest, spec=site.bundle.spec
    )
    return RunRecorder(LogWriter(path, header))


def _led(robot: FrankaRobot, schedule: Schedule, target: np.ndarray, periods: int) -> np.ndarray:
    """Commanded and measured joints (2, 7) [rad] after some periods with a target (m,)."""
    for _ in range(periods):
        robot.observe()
        robot.apply(target)
        schedule.wait()
    reading = robot.reading()
    return np.array([reading.commanded, reading.measured])


def _watch_rest(watch: Watch, moment_s: float) -> None:
    """Wait until the arm has stood for a while, or has had every time to."""
    over_s = moment_s + judge.LIMITS.unplugged + _AFTER_S
    still_s: float | None = None
    while (now_s := time.monotonic()) < over_s:
        still_s = None if watch.speed > STILL else still_s or now_s
        if still_s is not None and now_s > max(still_s, moment_s) + _AFTER_S:
            return
        time.sleep(0.02)


def _not_stopped(result: DriveResult) -> Check:
    cause = "" if result.stop is None else result.stop.cause
    return Check(name="stops of the run", value=float(result.stop is not None), high=0, meaning=cause)


def _speeds(title: str, trace: Trace, moment_s: float, mark: str) -> Picture:
    begin_s = trace.at_s[0]
    curve = _curve("fastest joint", trace.at_s - begin_s, trace.speed)
    return Picture(
        title=title, x="time [s]", y="[rad/s]", curves=(curve,), marks=((round(moment_s - begin_s, 3), mark),)
    )


def _curve(name: str, x: np.ndarray, y: np.ndarray) -> Curve:
    return Curve(name=name, x=tuple(np.round(x, 3).tolist()), y=tuple(np.round(y, 5).astype(float).tolist()))


def _outline(name: str, box: Box, x: int, y: int) -> Curve:
    (left, right), (low, high) = ((box.low[axis], box.high[axis]) for axis in (x, y))
    return Curve(name=name, x=(left, right, right, left, left), y=(low, low, high, high, low))


def _age(age_s: float | None) -> str:
    return "unknown" if age_s is None else f"{1000 * age_s:.0f} ms"
