"""Pictures of episodes: what a renderer draws, and videos and contact sheets of what it drew."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from rpl_runtime.errors import require
from rpl_runtime.files import staged

BACKGROUND = (22, 24, 28)  # red, green, blue
ANIMATED = (".webp",)  # pictures that move, for pages that show no video
FAST = 4  # how much faster than the robot they are


class Frame(NamedTuple):
    """One moment of an episode."""

    truth: np.ndarray  # (n,) the state without noise
    subgoal: np.ndarray  # (n,)
    step: int  # [control steps] since the start
    age: int  # [control steps] since the subgoal took effect
    named: tuple[str, ...]  # the elements of the goal
    done: frozenset[str]  # those of them that are done
    note: str = ""  # what happens to the robot or its goal


class Renderer(Protocol):
    """Draws frames of a world."""

    def draw(self, frame: Frame) -> np.ndarray:
        """The frame as an image (height, width, 3) uint8, always of one size."""
        ...

    def close(self) -> None:
        """Release what it draws with."""
        ...


def video_suffixes() -> list[str]:
    """The suffixes under which `write_video` can write.

    Raises:
        MissingExtra: imageio is not installed.
    """
    known = require("imageio.config", "sim").known_extensions
    # WebM does not hold H.264.
    videos = [name for name, kinds in known.items() if kinds[0].priority[0] == "FFMPEG" and name != ".webm"]
    return [*videos, *ANIMATED]


def write_video(path: Path, images: Iterable[np.ndarray], period_s: float) -> None:
    """Write images (height, width, 3) as a video, one in each `period_s` [s], by the suffix of its name.

    Raises:
        OSError: the file cannot be written.
    """
    with staged(path) as staging:
        if path.suffix in ANIMATED:
            first, *others = map(require("PIL.Image", "sim").fromarray, images)
            first.save(staging, save_all=True, append_images=others, duration=1000 * period_s, loop=0, quality=60)
            return
        logging.getLogger("imageio_ffmpeg").setLevel(logging.ERROR)  # an encoder that ends early is an error below
        options = {"codec": "libx264", "quality": 7, "ffmpeg_log_level": "quiet"}
        writer = require("imageio.v2", "sim").get_writer(staging, fps=1 / period_s, **options)
        made = 0
        with writer:
            for image in images:
                try:
                    writer.append_data(image)
                except OSError as error:  # whose text is the encoder's whole command
                    raise OSError(f"the encoder ended at picture {made + 1}; is the disk full?") from error
                made += 1
        # imageio does not notice an encoder that fails after its last picture, for example on a full disk.
        try:
            kept, _ = require("imageio_ffmpeg", "sim").count_frames_and_secs(staging)
        except RuntimeError:
            kept = 0
        if kept != made:
            raise OSError(f"the encoder kept {kept} of {made} pictures; is the disk full?")


def sheet_suffixes() -> list[str]:
    """The suffixes under which `write_sheet` can write.

    Raises:
        MissingExtra: Pillow is not installed.
    """
    images = require("PIL.Image", "sim")
    # Pillow writes a format without a MIME type only if another package brings a writer.
    return [s for s, kind in images.registered_extensions().items() if kind in images.SAVE and kind in images.MIME]


def write_sheet(path: Path, images: Sequence[np.ndarray], columns: int = 4) -> None:
    """Write images (height, width, 3) as one picture, row by row."""
    height, width, _ = images[0].shape
    rows = -(-len(images) // columns)
    sheet = np.full((rows * height, columns * width, 3), BACKGROUND, dtype=np.uint8)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = image
    with staged(path) as staging:
        require("PIL.Image", "sim").fromarray(sheet).save(staging)
