"""One episode as a video and a contact sheet that show the subgoals."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from rpl_runtime.client import Access, Client, Control
from rpl_runtime.estimation.estimator import Estimator
from rpl_runtime.evaluation.evaluate import EvaluateConfig, Trial, calibration_of, estimators, play
from rpl_runtime.evaluation.protocol import Hardship, Moment, ProtocolConfig, run_protocol
from rpl_runtime.relay.run import Step
from rpl_runtime.robots.degraded import Conditions, DegradedRobot
from rpl_runtime.robots.simulated import SimulatedRobot
from rpl_runtime.tasks.pictures import ANIMATED, FAST, Frame, Renderer, write_sheet, write_video
from rpl_runtime.tasks.task import Task

_READABLE = 12  # [control steps] for which a disturbance is named


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
    config = (config or EvaluateConfig()).of(task)
    frames: list[Frame] = []
    done: frozenset[str] = frozenset()
    with (
        closing(DegradedRobot(SimulatedRobot(task), config.robot)) as robot,
        closing(task.renderer_of(robot.simulated.world)) as renderer,
    ):

        def keep(step: Step) -> None:
            nonlocal done
            done |= step.done
            truth, action = robot.simulated.world.truth, step.action
            frames.append(Frame(truth, action.subgoal, step.step + 1, action.age, trial.elements, done))

        with Client(address, access=access) as client, client.control() as control:
            estimator = estimators(task, client, control.model, calibration_of(task, config, control.model.spec))()
            play(robot, control, trial, config, keep, estimator)
        _write(renderer, frames, task, video, sheet, progress)


def film_condition(
    task: Task,
    open_control: Callable[[], Control],
    estimator: Callable[[Conditions], Callable[[], Estimator | None]],
    name: str,
    hardship: Hardship,
    seed: int,
    video: Path | None = None,
    sheet: Path | None = None,
    progress: Callable[[int, int], None] = lambda drawn, total: None,
) -> None:
    """Run the first episode of a condition of the hard protocol and write a video, a contact sheet, or both.

    Args:
        open_control, estimator: as `run_protocol` takes them.
        progress: as `film` takes it.

    Raises:
        MissingExtra: rendering is not possible here, or not of the task; the message says what to do.
        ServerUnavailable: the server stopped answering.
    """
    frames: list[Frame] = []
    noted, note = 0, ""

    def keep(moment: Moment) -> None:
        nonlocal noted, note
        step, action = moment.step.step + 1, moment.step.action
        if moment.happens:
            noted, note = step, ", ".join(moment.happens)
        shown = note if noted and step < noted + _READABLE else "back to the start" if moment.undone else ""
        frames.append(Frame(moment.truth, action.subgoal, step, action.age, moment.named, moment.done, shown))

    with closing(task.open_world()) as world, closing(task.renderer_of(world)) as renderer:
        config = ProtocolConfig(1, seed, jobs=1)
        run_protocol(task, open_control, estimator, {name: hardship}, config, {}, on_moment=keep)
        _write(renderer, frames, task, video, sheet, progress)


def _write(
    renderer: Renderer,
    frames: Sequence[Frame],
    task: Task,
    video: Path | None,
    sheet: Path | None,
    progress: Callable[[int, int], None],
) -> None:
    def drawn(chosen: Sequence[Frame]) -> Iterator[np.ndarray]:
        for number, frame in enumerate(chosen, start=1):
            yield renderer.draw(frame)
            progress(number, len(chosen))

    if video is not None:
        film = frames[::FAST] if video.suffix in ANIMATED else frames
        write_video(video, drawn(film), task.spec.period_s)
    if sheet is not None:
        write_sheet(sheet, list(drawn([*(frame for frame in frames[:-1] if frame.age == 0), frames[-1]])))
