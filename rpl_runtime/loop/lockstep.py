"""One run of a robot whose world waits, as a simulator does: observe, ask for the action, apply it, step by step."""

import time
from collections.abc import Callable

from rpl_runtime.client.control import Control
from rpl_runtime.errors import InvalidInput
from rpl_runtime.estimation.estimator import Estimator
from rpl_runtime.loop.pilot import Helm, Pilot
from rpl_runtime.loop.watchdog import Event
from rpl_runtime.relay.messages import Noted
from rpl_runtime.relay.plans import PlanRules
from rpl_runtime.relay.run import RunConfig, RunResult, Step, run_result
from rpl_runtime.robots import Robot


def run(
    robot: Robot,
    control: Control,
    config: RunConfig,
    on_step: Callable[[Step], None] = lambda step: None,
    estimator: Estimator | None = None,
    pilot: Pilot | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> RunResult:
    """Drive a robot through one run; `on_step` is called after each step, `on_event` after each change of hands.

    `on_step` may give the run another goal by `control.set_goal`.

    With an estimator, the policy decides in its states, and the robot gets its commands. A pilot decides the steps for
    which it takes the robot in hand.

    If the run fails, the robot is stopped and stays leased until the control stream ends.

    Raises:
        InvalidInput: the run has no step.
        RelayError: the server refused a request, or is gone.
    """
    if config.steps < 1:
        raise InvalidInput(f"a run of {config.steps} steps was asked for; must be 1 or more")
    robot.reset(config.start_seed)
    if estimator is not None:
        estimator.reset()
    reading = robot.observe()
    state = reading if estimator is None else estimator.see(reading, robot.ages)
    rules = config.rules or PlanRules(wait=True)
    started = control.start(config.robot_id, config.goal, state, config.seed, config.plan_lead, rules=rules)
    steps: list[Step] = []
    goal, missing = started.goal, config.until
    helm = Helm(pilot, control.model.spec, on_event)
    try:
        for number in range(config.steps):
            action = helm.take(number, state, goal, time.monotonic_ns())
            if action is None:
                _tell(control, config.robot_id, helm)
                action = control.step(config.robot_id, number, state)
            robot.apply(action.target if estimator is None else estimator.command(action.target))
            helm.applied(number, state, action)
            if (noted := _tell(control, config.robot_id, helm)) is not None:
                action = action._replace(novelty=noted.novelty, goal=noted.goal, help=noted.help)
            goal = action.goal or goal
            sensed = None if estimator is None else reading
            steps.append(Step(number, state, action, robot.done(), goal, sensed, action.author or helm.author))
            on_step(steps[-1])
            goal = control.set_goals.pop(config.robot_id, goal)
            reading = robot.observe()
            state = reading if estimator is None else estimator.see(reading, robot.ages)
            missing -= steps[-1].done
            if config.until and not missing:
                break
    finally:
        robot.stop()
    control.finish(config.robot_id)
    return run_result(started, steps, state, control.model.spec.action.dim)


def _tell(control: Control, robot: str, helm: Helm) -> Noted | None:
    """Tell the relay loop of a pilot's deeds. Returns what it says to the step by hand, if there is one."""
    if not helm.untold:
        return None
    last = control.ask(robot, helm.untold)[-1]
    helm.untold.clear()
    if not isinstance(last, Noted):
        return None
    helm.heard(last)
    return last
