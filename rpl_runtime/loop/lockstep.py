"""One run of a robot whose world waits, as a simulator does: observe, ask for the action, apply it, step by step."""

from collections.abc import Callable

from rpl_runtime.client.control import Control
from rpl_runtime.errors import InvalidInput
from rpl_runtime.relay.run import RunConfig, RunResult, Step, run_result
from rpl_runtime.robots import Robot


def run(
    robot: Robot, control: Control, config: RunConfig, on_step: Callable[[Step], None] = lambda step: None
) -> RunResult:
    """Drive a robot through one run; `on_step` is called after each step.

    If the run fails, the robot is stopped and stays leased until the control stream ends.

    Raises:
        InvalidInput: the run has no step.
        RelayError: the server refused a request, or is gone.
    """
    if config.steps < 1:
        raise InvalidInput(f"a run of {config.steps} steps was asked for; must be 1 or more")
    robot.reset(config.start_seed)
    state = robot.observe()
    started = control.start(config.robot_id, config.goal, state, config.seed, config.plan_lead)
    steps: list[Step] = []
    try:
        for number in range(config.steps):
            action = control.step(config.robot_id, number, state)
            robot.apply(action.target)
            steps.append(Step(number, state, action, robot.done(), started.goal))
            on_step(steps[-1])
            state = robot.observe()
    finally:
        robot.stop()
    control.finish(config.robot_id)
    return run_result(started, steps, state, control.model.spec.action.dim)
