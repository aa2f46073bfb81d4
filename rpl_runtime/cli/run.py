"""The command `rpl run`: connects to a server, a robot and a log, runs, and reports the result on stdout."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from rpl_runtime.cli.options import Server, show
from rpl_runtime.cli.report import (
    drive_facts,
    noise_notice,
    print_calibration,
    print_drive,
    print_run,
    run_facts,
    run_progress,
    run_recorder,
    written,
)
from rpl_runtime.cli.view import print_page
from rpl_runtime.client import Access, Control, ReconnectConfig, TimeBudget, lasting_control, on_robot_control
from rpl_runtime.client.on_robot import served_bundle
from rpl_runtime.console import Console, progress
from rpl_runtime.errors import InvalidInput, RobotStopped, require
from rpl_runtime.estimation.body import Body
from rpl_runtime.estimation.calibration import Calibration
from rpl_runtime.estimation.estimator import Estimator
from rpl_runtime.evaluation.evaluate import check_policy
from rpl_runtime.evaluation.film import Film
from rpl_runtime.factories import call_factory
from rpl_runtime.files import read, write_json
from rpl_runtime.loop.calibrate import calibrate
from rpl_runtime.loop.clock import MonotonicClock, Schedule
from rpl_runtime.loop.heartbeat import Heartbeat
from rpl_runtime.loop.lockstep import run
from rpl_runtime.loop.pilot import Pilot
from rpl_runtime.loop.realtime import DriveResult, drive
from rpl_runtime.loop.watchdog import Event
from rpl_runtime.policy.spec import parse_goal
from rpl_runtime.process import INTERRUPTED_EXIT, own_process
from rpl_runtime.recording.minari import check_record, record, recording_of
from rpl_runtime.recording.recorder import RunRecorder
from rpl_runtime.relay.messages import Goal
from rpl_runtime.relay.plans import Fallback, PlanRules
from rpl_runtime.relay.run import RunConfig, Step
from rpl_runtime.robots import LiveRobot, Robot
from rpl_runtime.robots.franka import FrankaConfig, FrankaRobot
from rpl_runtime.robots.franka.objects import UNTOUCHED, FixedObjects, ObjectSource, StreamedObjects
from rpl_runtime.robots.simulated import SimulatedRobot
from rpl_runtime.tasks.task import DRAWN, Task

SIMULATED = "sim"  # the host name for a robot simulated for the run
TIME_BUDGET = TimeBudget()  # of a Franka's control steps


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The run and its policy."""

    goal: str
    server: Server
    robot_id: str
    model: str | None = None  # of the server's models; None: its default
    seed: int | None = None
    steps: int | None = None  # None: an episode
    until_done: bool = False  # end once every element was done
    local: bool = False  # run the low level here
    plan_lead: int = 0  # [steps]
    late_plan: str | None = None  # wait, or a fallback; None: a simulation waits, a Franka does as the server says
    plan_deadline_s: float | None = None  # [s] None: the server's
    calibration: Path | None = None  # of the senses; None: the policy decides in the readings
    pilot: Pilot | None = None  # takes the robot in hand for some steps; None: the policy decides every step
    log_to: Path | None = None
    view: bool = False  # show the run in a page, in real time
    video: Path | None = None  # film the run of a simulated robot here
    as_json: bool = False


def run_simulated(
    options: RunOptions, task: Task, start: str | None, patience_s: float | None, record_to: Path | None
) -> int:
    """Run the simulated robot of a task. Returns the exit code: 0 if every element was done, else 1.

    Args:
        start: of the task's; None: its first.
        patience_s: [s] for which a server that is gone, or not up yet, is looked for; None: not for the latter.
        record_to: the Minari data set that the run is added to.
    """
    if record_to:
        check_record(task, record_to)
    with ExitStack() as scene:
        with ExitStack() as stack:
            control, estimator = _control(stack, options, task, _patient(options, patience_s))
            check_policy(control.model.spec, task)
            elements = parse_goal(options.goal, control.model.spec) if task.spec.elements else (DRAWN,)
            robot = scene.enter_context(closing(SimulatedRobot(task, start)))
            film = scene.enter_context(closing(Film(task, robot.world, elements))) if options.video else None
            config = _config(options, elements, robot.goal(elements, options.seed or 0), task.episode_steps, waits=True)
            schedule = Schedule(MonotonicClock(), task.spec.period_s)
            others: list[Callable[[Step], object]] = [film.keep] if film else []
            if options.view:
                others.append(lambda _: schedule.wait())
            on_step, log = _listeners(stack, options, task, config, elements, control, others)
            result = run(robot, control, config, on_step, estimator, options.pilot, _into(log))
        spec = control.model.spec
        facts = run_facts(result, elements, spec)
        show(options.as_json, facts, lambda: print_run(facts, spec.period_s))
        filmed = True
        if film and options.video:
            with progress() as report:
                on_frame = partial(report, f"filming {options.goal}")
                filmed = written(options.video, partial(film.write_video, options.video, on_frame))
    if record_to:
        source = f"{spec.name}, bundle {result.digest[:12]}, seed {config.seed}"
        about = {"description": f"Runs of served policies in {task.environment}.", "algorithm_name": spec.name}
        record(task, [recording_of(result, elements, source)], record_to, about)
    return 0 if facts["success"] and filmed else 1


def run_franka(
    options: RunOptions, task: Task, host: str, objects: str, objects_access: Access, franka: FrankaConfig
) -> int:
    """Run a Franka. Returns the exit code: 0 if every element was done, 1 if not; after a stop, that of its cause.

    Args:
        host: address of its control interface, or SIMULATED.
        objects: mirror, fixed or HOST:PORT.
        objects_access: how a server of objects is reached.
    """
    return _drive(options, task, lambda: open_franka(host, objects, objects_access, franka), franka.dry_run)


def run_own(options: RunOptions, task: Task, reference: str, patience_s: float | None) -> int:
    """Run a robot of somebody's own class, `module:class`; one whose world does not wait is driven in real time.

    Args:
        patience_s: [s] as of `run_simulated`, if the world waits.

    Returns:
        The exit code: of `run_simulated` if the world waits, else of `run_franka`.

    Raises:
        InvalidInput: there is no such class, it cannot be made without arguments, or it lacks a part of the protocol.
    """
    robot = call_factory(reference, "my_robot:Cart")
    with closing(robot) if hasattr(robot, "close") else nullcontext():
        protocol = Robot if getattr(robot, "waits", True) else LiveRobot
        if lacking := sorted(name for name in _parts(protocol) if not hasattr(robot, name)):
            raise InvalidInput(
                f"{reference} lacks {', '.join(lacking)}; must be a rpl_runtime.robots.{protocol.__name__}"
            )
        if not robot.waits:
            return _drive(options, task, lambda: nullcontext(robot), dry_run=False)
        with ExitStack() as stack:
            control, estimator = _control(stack, options, task, _patient(options, patience_s))
            elements = parse_goal(options.goal, control.model.spec)
            config = _config(options, elements, elements, task.episode_steps, waits=True)
            on_step, log = _listeners(stack, options, task, config, elements, control)
            result = run(robot, control, config, on_step, estimator, options.pilot, _into(log))
    facts = run_facts(result, elements, control.model.spec)
    show(options.as_json, facts, lambda: print_run(facts, control.model.spec.period_s))
    return 0 if facts["success"] else 1


def _patient(options: RunOptions, patience_s: float | None) -> ReconnectConfig:
    """How a run whose world waits reconnects."""
    reconnect = ReconnectConfig(options.model, access=options.server.access)
    return reconnect if patience_s is None else replace(reconnect, patience_s=patience_s, first_s=patience_s)


def _parts(protocol: type) -> set[str]:
    return {name for each in protocol.__mro__ for name in vars(each) if name[0] != "_"}


def _drive(
    options: RunOptions, task: Task, opened: Callable[[], AbstractContextManager[LiveRobot]], dry_run: bool
) -> int:
    with ExitStack() as stack:
        timeout_s = TIME_BUDGET.timeout_s(task.spec.period_s, options.plan_lead)
        reconnect = ReconnectConfig(options.model, timeout_s=timeout_s, waits=False, access=options.server.access)
        control, estimator = _control(stack, options, task, reconnect)
        elements = parse_goal(options.goal, control.model.spec)
        config = _config(options, elements, elements, task.episode_steps, waits=False)
        heartbeat = stack.enter_context(Heartbeat())
        robot = stack.enter_context(opened())
        on_step, log = _listeners(stack, options, task, config, elements, control)
        result = drive(
            robot,
            control,
            config,
            on_step,
            on_event=_into(log),
            budget=TIME_BUDGET,
            heartbeat=heartbeat,
            estimator=estimator,
            pilot=options.pilot,
        )
        if log is not None:
            log.event("limit_violations", json.dumps(result.limit_violations))
    spec = control.model.spec
    facts = run_facts(result.run, elements, spec) | drive_facts(result, dry_run)
    show(options.as_json, facts, lambda: (print_drive(facts), print_run(facts, spec.period_s)))
    return exit_code(result, facts["success"])


def exit_code(result: DriveResult, success: bool) -> int:
    """The exit code after a Franka's run; `success` if every element was done."""
    if result.interrupted:
        return INTERRUPTED_EXIT
    if result.stop is not None:
        return RobotStopped.exit_code
    return 0 if success else 1


def calibrate_simulated(task: Task, path: Path, as_json: bool) -> int:
    """Calibrate the simulated robot of a task, and write the calibration to a file. Returns the exit code.

    Raises:
        InvalidInput: the task does not say what its robot's body is.
    """
    with closing(SimulatedRobot(task)) as robot:
        return _calibrate(robot, task, path, as_json)


def calibrate_franka(
    task: Task, path: Path, as_json: bool, host: str, objects: str, objects_access: Access, franka: FrankaConfig
) -> int:
    """Calibrate a Franka, given as to `run_franka`, and write the calibration to a file. Returns the exit code."""
    with ExitStack() as stack:
        robot = stack.enter_context(open_franka(host, objects, objects_access, franka))
        return _calibrate(robot, task, path, as_json)


def read_calibration(path: Path) -> Calibration:
    """The calibration in a file.

    Raises:
        InvalidInput: `rpl run --calibrate` did not write it.
    """
    try:
        return Calibration.model_validate_json(read(path))
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
        raise InvalidInput(
            f"{path} is not a calibration ({reason}); must be a file of `rpl run --calibrate`"
        ) from error


@contextmanager
def open_franka(host: str, objects: str, objects_access: Access, franka: FrankaConfig) -> Iterator[FrankaRobot]:
    """A Franka, given as to `run_franka`, for the length of a block."""
    from rpl_runtime.robots.franka.sim import simulated_robot

    with ExitStack() as stack:
        source = stack.enter_context(closing(_source(objects, objects_access)))
        there = stack.enter_context(simulated_robot()) if host == SIMULATED else host
        yield stack.enter_context(closing(FrankaRobot(there, source, franka)))


def _body(task: Task) -> Body:
    if task.body is None:
        raise InvalidInput(f"{task.name} does not say what its robot's body is, so its states cannot be estimated")
    return task.body


def _calibrate(robot: Robot, task: Task, path: Path, as_json: bool) -> int:
    calibration = calibrate(robot, _body(task), task.spec)
    write_json(path, calibration.model_dump(mode="json"))
    show(as_json, calibration.model_dump(mode="json"), lambda: print_calibration(calibration, path))
    return 0


def _control(
    stack: ExitStack, options: RunOptions, task: Task, reconnect: ReconnectConfig
) -> tuple[Control, Estimator | None]:
    """The control of the policy, and the estimator before it if there is a calibration."""
    calibration = None if options.calibration is None else read_calibration(options.calibration)
    where = stack.enter_context(options.server.reached())
    open_control = on_robot_control if options.local else lasting_control
    control = stack.enter_context(open_control(where, reconnect))
    if options.view:
        from rpl_runtime.view.live import view_server

        require("viser", "view")
        page = own_process(view_server, where.partition(",")[0], options.server.access, 0)
        print_page(stack.enter_context(page), Console(stderr=True))
    if calibration is None:
        return control, None
    spec, manifest = control.model.spec, served_bundle(where, reconnect).manifest
    calibration.checked(spec.state.names)
    return control, Estimator(_body(task), calibration, manifest.statistics, spec.period_s)


def _config(options: RunOptions, elements: tuple[str, ...], goal: Goal, episode_steps: int, waits: bool) -> RunConfig:
    return RunConfig(
        goal,
        episode_steps if options.steps is None else options.steps,
        options.robot_id,
        options.seed,
        start_seed=options.seed or 0,
        plan_lead=options.plan_lead,
        rules=_rules(options, waits),
        until=frozenset(elements if options.until_done else ()),
    )


def _rules(options: RunOptions, waits: bool) -> PlanRules:
    """The rules for plans that take time, in a world that waits or in one that does not."""
    wait = options.late_plan == "wait" or (options.late_plan is None and waits)
    fallback = None if options.late_plan in (None, "wait") else Fallback(options.late_plan)
    return PlanRules(wait, fallback, options.plan_deadline_s)


def _listeners(
    stack: ExitStack,
    options: RunOptions,
    task: Task,
    config: RunConfig,
    elements: tuple[str, ...],
    control: Control,
    others: Sequence[Callable[[Step], object]] = (),
) -> tuple[Callable[[Step], None], RunRecorder | None]:
    """The listener to a run's steps, which `others` listen to, too, and the log if one is asked for."""
    listeners: list[Callable[[Step], object]] = [
        *others,
        stack.enter_context(run_progress(config.steps, elements)),
    ]
    ours = task.spec.state.names == control.model.spec.state.names  # not of a robot of somebody's own
    if options.calibration is None and task.body is not None and ours:
        listeners.append(noise_notice(task.body))
    log = stack.enter_context(run_recorder(options.log_to, config, control.model, task)) if options.log_to else None
    if log is not None:
        listeners.append(log.step)

    def on_step(step: Step) -> None:
        for listener in listeners:
            listener(step)

    return on_step, log


def _into(log: RunRecorder | None) -> Callable[[Event], None]:
    """The listener that writes events into a log, if there is one."""
    return lambda event: None if log is None else log.event(event.kind, event.text, event.at_ns)


def _source(name: str, access: Access) -> ObjectSource:
    if name == "mirror":
        from rpl_runtime.robots.mirror import KitchenMirror

        return KitchenMirror()
    if name == "fixed":
        return FixedObjects(UNTOUCHED)
    check_source(name)
    return StreamedObjects(name, access)


def check_source(name: str) -> None:
    """Check where a robot's objects are to come from.

    Raises:
        InvalidInput: no source of objects has that name.
    """
    if name not in ("mirror", "fixed") and ":" not in name:
        raise InvalidInput(
            f"objects from {name!r}; must be one of mirror, fixed, or HOST:PORT of an rpl.v1.ObjectStates"
        )
