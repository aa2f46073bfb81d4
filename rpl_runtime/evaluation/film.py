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
from rpl_runtime.tasks.pictures import ANIMATED, FAST, Frame, write_sheet, write_video
from rpl_runtime.tasks.task import Task, World

_READABLE = 12  # [control steps] for which a disturbance is named

Progress = Callable[[int, int], None]  # gets the number of pictures drawn of a file, and the number it needs


class Film:
    """The moments of a simulated robot's run, kept while it runs and drawn afterwards.

    Args:
        task: the robot's.
        world: one of the task's; `keep` needs the robot's own.
        elements: of the goal; `keep_moment` has those of each moment.

    Raises:
        MissingExtra: rendering is not possible here, or not of the task; the message says what to do.
    """

    def __init__(self, task: Task, world: World, elements: Sequence[str] = ()) -> None:
        self._renderer = task.renderer_of(world)
        self._world, self._elements, self._period_s = world, tuple(elements), task.spec.period_s
        self._frames: list[Frame] = []
        self._noted, self._note = -_READABLE, ""  # the last disturbance

    def keep(self, step: Step) -> None:
        """Keep the moment after a step."""
        done = step.done | (self._frames[-1].done if self._frames else frozenset())
        action = step.action
        self._frames.append(Frame(self._world.truth, action.subgoal, step.step + 1, action.age, self._elements, done))

    def keep_moment(self, moment: Moment) -> None:
        """Keep a moment of the hard protocol."""
        step, action = moment.step.step + 1, moment.step.action
        if moment.happens:
            self._noted, self._note = step, ", ".join(moment.happens)
        aim = "back to the start" if moment.undone else ""
        note = self._note if step < self._noted + _READABLE else aim
        self._frames.append(Frame(moment.truth, action.subgoal, step, action.age, moment.named, moment.done, note))

    def write_video(self, path: Path, progress: Progress) -> None:
        """Write all moments as a video in real time, or as a moving picture that is `FAST` times as fast."""
        frames = self._frames[::FAST] if path.suffix in ANIMATED else self._frames
        write_video(path, self._drawn(frames, progress), self._period_s)

    def write_sheet(self, path: Path, progress: Progress) -> None:
        """Write a contact sheet with a tile for each subgoal and for the end."""
        tiles = [*(frame for frame in self._frames[:-1] if frame.age == 0), self._frames[-1]]
        write_sheet(path, list(self._drawn(tiles, progress)))

    def close(self) -> None:
        """Release the renderer."""
        self._renderer.close()

    def _drawn(self, frames: Sequence[Frame], progress: Progress) -> Iterator[np.ndarray]:
        for number, frame in enumerate(frames, start=1):
            yield self._renderer.draw(frame)
            progress(number, len(frames))


def film(
    address: str,
    task: Task,
    trial: Trial,
    video: Path | None = None,
    sheet: Path | None = None,
    config: EvaluateConfig | None = None,
    progress: Progress = lambda drawn, total: None,
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
    with (
        closing(DegradedRobot(SimulatedRobot(task), config.robot)) as robot,
        closing(Film(task, robot.simulated.world, trial.elements)) as made,
    ):
        with Client(address, access=access) as client, client.control() as control:
            estimator = estimators(task, client, control.model, calibration_of(task, config, control.model.spec))()
            play(robot, control, trial, config, made.keep, estimator)
        _write(made, video, sheet, progress)


def film_condition(
    task: Task,
    open_control: Callable[[], Control],
    estimator: Callable[[Conditions], Callable[[], Estimator | None]],
    name: str,
    hardship: Hardship,
    seed: int,
    video: Path | None = None,
    sheet: Path | None = None,
    progress: Progress = lambda drawn, total: None,
) -> None:
    """Run the first episode of a condition of the hard protocol and write a video, a contact sheet, or both.

    Args:
        open_control, estimator: as `run_protocol` takes them.
        progress: as `film` takes it.

    Raises:
        MissingExtra: rendering is not possible here, or not of the task; the message says what to do.
        ServerUnavailable: the server stopped answering.
    """
    with closing(task.open_world()) as world, closing(Film(task, world)) as made:
        config = ProtocolConfig(1, seed, jobs=1)
        run_protocol(task, open_control, estimator, {name: hardship}, config, {}, on_moment=made.keep_moment)
        _write(made, video, sheet, progress)


def _write(made: Film, video: Path | None, sheet: Path | None, progress: Progress) -> None:
    if video is not None:
        made.write_video(video, progress)
    if sheet is not None:
        made.write_sheet(sheet, progress)
