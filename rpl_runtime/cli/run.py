"""The command `rpl run`: connects to a server, a robot and a log, runs, and reports the result on stdout."""

import json
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from rpl_runtime.cli.options import show
from rpl_runtime.cli.report import drive_facts, print_drive, print_run, run_facts, run_progress, run_recorder
from rpl_runtime.client import Access, Control, ReconnectConfig, TimeBudget, lasting_control, on_robot_control
from rpl_runtime.errors import InvalidInput, RobotStopped
from rpl_runtime.loop.heartbeat import Heartbeat
from rpl_runtime.loop.lockstep import run
from rpl_runtime.loop.realtime import DriveResult, drive
from rpl_runtime.policy.spec import parse_goal
from rpl_runtime.process import INTERRUPTED_EXIT
from rpl_runtime.recording.minari import check_record, record, recording_of
from rpl_runtime.recording.recorder import RunRecorder
from rpl_runtime.relay.run import RunConfig, Step
from rpl_runtime.robots.franka import FrankaConfig, FrankaRobot
from rpl_runtime.robots.objects import UNTOUCHED, FixedObjects, ObjectSource, StreamedObjects
from rpl_runtime.server.subprocess import serve_in_process
from rpl_runtime.tasks.kitchen.elements import EPISODE_STEPS, PERIOD

SIMULATED = "sim"  # the host name for a robot simulated for the run
TIME_BUDGET = TimeBudget()  # of a Franka's control steps


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The run and its policy."""

    goal: str
    address: str  # of the server
    access: Access  # how the server is reached
    bundle: Path | None  # served for the run instead
    robot_id: str
    model: str | None = None  # of the server's models; None: its default
    seed: int | None = None
    steps: int | None = None  # None: an episode
    local: bool = False  # run the low level here
    plan_lead: int = 0  # [steps]
    log_to: Path | None = None
    as_json: bool = False


def run_kitchen(options: RunOptions, perturbed: bool, patience_s: float, record_to: Path | None) -> int:
    """Run the simulated kitchen. Returns the exit code: 0 if every element was done, else 1.

    Args:
        perturbed: draw the start from around the nominal one.
        patience_s: [s] for which a server that is gone is looked for.
        record_to: the Minari data set that the run is added to.
    """
    from rpl_runtime.robots.simulated import KitchenRobot
    from rpl_runtime.tasks.kitchen.simulator import NOMINAL, PERTURBED

    if record_to:
        check_record(record_to)
    with ExitStack() as stack:
        control = _control(stack, options, ReconnectConfig(options.model, patience_s, access=options.access))
        config = _config(options, control)
        kitchen = stack.enter_context(closing(KitchenRobot(PERTURBED if perturbed else NOMINAL)))
        on_step, _ = _listeners(stack, options, config, control)
        result = run(kitchen, control, config, on_step)
    spec = control.model.spec
    facts = run_facts(result, _elements(config), spec)
    show(options.as_json, facts, lambda: print_run(facts, spec.period_s))
    if record_to:
        source = f"{spec.name}, bundle {result.digest[:12]}, seed {config.seed}"
        about = {"description": "Runs of served policies in the Franka kitchen.", "algorithm_name": spec.name}
        record([recording_of(result, _elements(config), source)], record_to, about)
    return 0 if facts["success"] else 1


def run_franka(options: RunOptions, host: str, objects: str, objects_access: Access, franka: FrankaConfig) -> int:
    """Run a Franka. Returns the exit code: 0 if every element was done, 1 if not; after a stop, that of its cause.

    Args:
        host: address of its control interface, or SIMULATED.
        objects: mirror, fixed or HOST:PORT.
        objects_access: how a server of objects is reached.
    """
    from rpl_runtime.robots.franka.sim import simulated_robot

    with ExitStack() as stack:
        timeout_s = TIME_BUDGET.timeout_s(PERIOD, options.plan_lead)
        reconnect = ReconnectConfig(options.model, timeout_s=timeout_s, waits=False, access=options.access)
        control = _control(stack, options, reconnect)
        config = _config(options, control)
        heartbeat = stack.enter_context(Heartbeat())
        source = stack.enter_context(closing(_source(objects, objects_access)))
        there = stack.enter_context(simulated_robot()) if host == SIMULATED else host
        robot = stack.enter_context(closing(FrankaRobot(there, source, franka)))
        on_step, log = _listeners(stack, options, config, control)
        result = drive(
            robot,
            control,
            config,
            on_step,
            on_event=lambda event: None if log is None else log.event(event.kind, event.text, event.at_ns),
            budget=TIME_BUDGET,
            heartbeat=heartbeat,
        )
        if log is not None:
            log.event("limit_violations", json.dumps(result.limit_violations))
    spec = control.model.spec
    facts = run_facts(result.run, _elements(config), spec) | drive_facts(result, franka.dry_run)
    show(options.as_json, facts, lambda: (print_run(facts, spec.period_s), print_drive(facts)))
    return exit_code(result, facts["success"])


def exit_code(result: DriveResult, success: bool) -> int:
    """The exit code after a Franka's run; `success` if every element was done."""
    if result.interrupted:
        return INTERRUPTED_EXIT
    if result.stop is not None:
        return RobotStopped.exit_code
    return 0 if success else 1


def _control(stack: ExitStack, options: RunOptions, reconnect: ReconnectConfig) -> Control:
    where = stack.enter_context(serve_in_process(options.bundle)) if options.bundle else options.address
    open_control = on_robot_control if options.local else lasting_control
    return stack.enter_context(open_control(where, reconnect))


def _config(options: RunOptions, control: Control) -> RunConfig:
    return RunConfig(
        parse_goal(options.goal, control.model.spec),
        EPISODE_STEPS if options.steps is None else options.steps,
        options.robot_id,
        options.seed,
        start_seed=options.seed or 0,
        plan_lead=options.plan_lead,
    )


def _elements(config: RunConfig) -> tuple[str, ...]:
    return tuple(str(name) for name in config.goal)  # type: ignore[union-attr]  # names, as they were parsed


def _listeners(
    stack: ExitStack, options: RunOptions, config: RunConfig, control: Control
) -> tuple[Callable[[Step], None], RunRecorder | None]:
    """The listener to a run's steps, and the log if one is asked for."""
    listeners = [stack.enter_context(run_progress(config.steps, _elements(config)))]
    log = stack.enter_context(run_recorder(options.log_to, config, control.model)) if options.log_to else None
    if log is not None:
        listeners.append(log.step)

    def on_step(step: Step) -> None:
        for listener in listeners:
            listener(step)

    return on_step, log


def _source(name: str, access: Access) -> ObjectSource:
    if name == "mirror":
        from rpl_runtime.robots.mirror import KitchenMirror

        return KitchenMirror()
    if name == "fixed":
        return FixedObjects(UNTOUCHED)
    if ":" in name:
        return StreamedObjects(name, access)
    raise InvalidInput(f"objects from {name!r}; must be one of mirror, fixed, or HOST:PORT of an rpl.v1.ObjectStates")
