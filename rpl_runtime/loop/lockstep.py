"""One run of a robot whose world waits, as a simulator does: observe, ask for the action, apply it, step by step."""

from collections.abc import Callable

from rpl_runtime.client.control import Control
from rpl_runtime.errors import InvalidInput
from rpl_runtime.estimation.estimator import Estimator
from rpl_runtime.relay.run import RunConfig, RunResult, Step, run_result
from rpl_runtime.robots import Robot


def run(
    robot: Robot,
    control: Control,
    config: RunConfig,
    on_step: Callable[[Step], None] = lambda step: None,
    estimator: Estimator | None = None,
) -> RunResult:
    """Drive a robot through one run; `on_step` is called after each step.

    With an estimator, the policy decides in its states, and the robot gets its commands.

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
    started = control.start(config.robot_id, config.goal, state, config.seed, config.plan_lead)
    steps: list[Step] = []
    goal = started.goal
    try:
        for number in range(config.steps):
            action = control.step(config.robot_id, number, state)
            goal = action.goal or goal
            robot.apply(action.target if estimator is None else estimator.command(action.target))
            sensed = None if estimator is None else reading
            steps.append(Step(number, state, action, robot.done(), goal, sensed))
            on_step(steps[-1])
            reading = robot.observe()
            state = reading if estimator is None else estimator.see(reading, robot.ages)
    finally:
        robot.stop()
    control.finish(config.robot_id)
    return run_result(started, steps, state, control.model.spec.action.dim)
