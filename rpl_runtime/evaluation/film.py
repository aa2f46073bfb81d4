"""One episode as a video and a contact sheet that show the subgoals."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from rpl_runtime.client import Access, Client
from rpl_runtime.errors import MissingExtra
from rpl_runtime.evaluation.evaluate import EvaluateConfig, Trial, calibration_of, estimators, play
from rpl_runtime.relay.run import Step
from rpl_runtime.robots.degraded import DegradedRobot
from rpl_runtime.robots.simulated import SimulatedRobot
from rpl_runtime.tasks.pictures import Frame, write_sheet, write_video
from rpl_runtime.tasks.task import Task


def film(
    address: str,
    task: Task,
    trial: Trial,
    video: Path | None = None,
    sheet: Path | None = None,
    config: EvaluateConfig | None = None,
    progress: Callable[[int, int], None] = lambda drawn, total: None,
    access: Access | None = None,
) -> None:
    """Run an episode and write a video, a contact sheet with a tile for each subgoal and for the end, or both.

    Args:
        progress: called with the number of pictures drawn of the current file, and the number it needs.
        access: how the server is reached; None reads it from the environment.

    Raises:
        MissingExtra: rendering is not possible here, or not of the task; the message says what to do.
        ServerUnavailable: no server answers at the address.
    """
    if task.open_renderer is None:
        raise MissingExtra(f"{task.name} has no renderer; a task's open_renderer makes one")
    config = (config or EvaluateConfig()).of(task)
    frames: list[Frame] = []
    done: frozenset[str] = frozenset()
    with (
        closing(DegradedRobot(SimulatedRobot(task), config.robot)) as robot,
        closing(task.open_renderer(robot.simulated.world, trial.elements)) as renderer,
    ):

        def keep(step: Step) -> None:
            nonlocal done
            done |= step.done
            truth, action = robot.simulated.world.truth, step.action
            frames.append(Frame(truth, action.subgoal, step.step + 1, action.age, done))

        def drawn(chosen: Sequence[Frame]) -> Iterator[np.ndarray]:
            for number, frame in enumerate(chosen, start=1):
                yield renderer.draw(frame)
                progress(number, len(chosen))

        with Client(address, access=access) as client, client.control() as control:
            estimator = estimators(task, client, control.model, calibration_of(task, config, control.model.spec))()
            play(robot, control, trial, config, keep, estimator)
        if video is not None:
            write_video(video, drawn(frames), task.spec.period_s)
        if sheet is not None:
            write_sheet(sheet, list(drawn([*(frame for frame in frames[:-1] if frame.age == 0), frames[-1]])))
