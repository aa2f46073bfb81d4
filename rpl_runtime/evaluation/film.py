"""One episode as a video and a contact sheet, with the commanded subgoal made visible.

In: the address of a server and an episode to run. Out: files. It does not know how a frame is drawn.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from rpl_runtime.client.client import Client
from rpl_runtime.evaluation.evaluate import EvaluateConfig, Task, play
from rpl_runtime.relay.run import Step
from rpl_runtime.robots.degraded import ImpairedRobot
from rpl_runtime.robots.simulated import KitchenRobot
from rpl_runtime.tasks.kitchen.render import Frame, Renderer, open_renderer, write_sheet, write_video


def film(
    address: str,
    task: Task,
    video: Path | None = None,
    sheet: Path | None = None,
    config: EvaluateConfig | None = None,
    progress: Callable[[int, int], None] = lambda drawn, total: None,
) -> None:
    """Run an episode and write a video of it, a sheet with a tile for each subgoal and for the end, or both.

    Args:
        progress: called with how many pictures of the file under way are drawn, and of how many.

    Raises:
        MissingExtra: rendering is not possible here; the message says what it takes.
        ServerUnavailable: nobody answers at the address.
    """
    config = config or EvaluateConfig()
    with (
        closing(ImpairedRobot(KitchenRobot(), config.robot)) as robot,
        open_renderer(robot.kitchen.simulator.model, task.elements) as renderer,
    ):
        frames = _record(address, robot, task, config)
        tiles = [frame for frame in frames if frame.age == 0]
        tiles += [] if frames[-1] is tiles[-1] else [frames[-1]]
        if video is not None:
            write_video(video, _drawn(renderer, frames, progress))
        if sheet is not None:
            write_sheet(sheet, list(_drawn(renderer, tiles, progress)))


def _drawn(renderer: Renderer, frames: Sequence[Frame], progress: Callable[[int, int], None]) -> Iterator[np.ndarray]:
    for drawn, frame in enumerate(frames, start=1):
        yield renderer.draw(frame)
        progress(drawn, len(frames))


def _record(address: str, robot: ImpairedRobot, task: Task, config: EvaluateConfig) -> list[Frame]:
    """The frames of an episode, as each step left the kitchen."""
    frames: list[Frame] = []
    done: frozenset[str] = frozenset()

    def keep(step: Step) -> None:
        nonlocal done
        done |= step.done
        frames.append(Frame(robot.kitchen.simulator.qpos, step.action.subgoal, step.step + 1, step.action.age, done))

    with Client(address) as client, client.control() as control:
        play(robot, control, task, config, on_step=keep)
    return frames
