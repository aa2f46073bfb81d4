"""Pictures of the kitchen, where the system has a GL library."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import imageio.v3
import imageio_ffmpeg
import numpy as np
import pytest
from typer.testing import CliRunner

from processes import rpl
from rpl_runtime.cli.app import app
from rpl_runtime.errors import MissingExtra
from rpl_runtime.evaluation.evaluate import EvaluateConfig, plan_trials
from rpl_runtime.evaluation.film import film
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.robots.kitchen.task import KITCHEN
from rpl_runtime.server.server import serve_in_thread
from rpl_runtime.tasks.kitchen.elements import PERIOD, compound_goal
from rpl_runtime.tasks.kitchen.render import (
    CAPTION_HEIGHT,
    HEIGHT,
    WIDTH,
    Renderer,
)
from rpl_runtime.tasks.kitchen.simulator import Kitchen, open_kitchen
from rpl_runtime.tasks.pictures import Frame, video_suffixes, write_sheet, write_video

GOAL = compound_goal("mkbs")


@pytest.fixture(scope="module")
def kitchen() -> Iterator[Kitchen]:
    with open_kitchen() as opened:
        yield opened


@pytest.fixture(scope="module")
def renderer(kitchen: Kitchen) -> Iterator[Renderer]:
    try:
        with closing(Renderer(kitchen.model)) as opened:
            yield opened
    except MissingExtra as error:
        pytest.skip(str(error))


def frame(kitchen: Kitchen, dim: int | None = None, by: float = 0.0, done: frozenset[str] = frozenset()) -> Frame:
    """The kitchen as it stands, with a subgoal that moves one dimension."""
    subgoal = kitchen.qpos
    if dim is not None:
        subgoal[dim] += by
    return Frame(kitchen.qpos, subgoal, step=3, age=2, named=GOAL, done=done)


def changed(image: np.ndarray, other: np.ndarray) -> int:
    """How many pixels of the scene differ visibly."""
    difference = np.abs(image[:HEIGHT].astype(int) - other[:HEIGHT].astype(int)).max(axis=2)
    return int((difference > 20).sum())


@pytest.mark.parametrize(("dim", "by"), [(0, 0.5), (22, -0.7), (23, 0.2), (19, 0.3)])
def test_a_subgoal_is_visible_wherever_it_moves_the_robot_or_an_object(
    renderer: Renderer, kitchen: Kitchen, dim: int, by: float
):
    still = renderer.draw(frame(kitchen))
    assert still.shape == (HEIGHT + CAPTION_HEIGHT, WIDTH, 3)
    assert changed(renderer.draw(frame(kitchen, dim, by)), still) > 300


def test_drawing_leaves_no_trace_in_the_next_frame_or_the_simulator(renderer: Renderer, kitchen: Kitchen):
    before, qpos = renderer.draw(frame(kitchen)), kitchen.qpos
    renderer.draw(frame(kitchen, 22, -0.7))
    np.testing.assert_array_equal(renderer.draw(frame(kitchen)), before)
    np.testing.assert_array_equal(kitchen.qpos, qpos)


def test_the_caption_marks_what_is_done(renderer: Renderer, kitchen: Kitchen):
    open_, done = renderer.draw(frame(kitchen)), renderer.draw(frame(kitchen, done=frozenset({"kettle"})))
    assert (open_[HEIGHT:] != done[HEIGHT:]).any()


def test_the_caption_says_what_happens_and_names_the_goal(renderer: Renderer, kitchen: Kitchen):
    plain = frame(kitchen)
    for other in (plain._replace(note="jolt"), plain._replace(named=GOAL[1:])):
        assert (renderer.draw(plain)[HEIGHT:] != renderer.draw(other)[HEIGHT:]).any()


def test_a_sheet_has_a_place_for_every_image(tmp_path: Path):
    images = [np.full((4, 6, 3), shade, dtype=np.uint8) for shade in (50, 100, 150, 200, 250)]
    write_sheet(tmp_path / "sheet.png", images, columns=3)
    sheet = imageio.v3.imread(tmp_path / "sheet.png")
    assert sheet.shape == (8, 18, 3)
    assert sheet[5, 7].tolist() == [250, 250, 250]


@pytest.mark.usefixtures("renderer")
def test_an_episode_becomes_a_video_and_a_sheet(kitchen_bundle: Bundle, tmp_path: Path):
    config = EvaluateConfig(goals=("mkbs",), starts=("nominal",), steps=4)
    video, sheet = tmp_path / "episode.mp4", tmp_path / "episode.png"
    drawn: list[tuple[int, int]] = []
    with serve_in_thread(kitchen_bundle) as address:
        film(address, KITCHEN, plan_trials(KITCHEN, config)[0], video, sheet, config, lambda *of: drawn.append(of))
    assert drawn == [*((n, 4) for n in range(1, 5)), (1, 2), (2, 2)]
    assert imageio.v3.improps(video, plugin="FFMPEG").shape[1:] == (HEIGHT + CAPTION_HEIGHT, WIDTH, 3)
    assert imageio.v3.imread(sheet).shape == (HEIGHT + CAPTION_HEIGHT, 4 * WIDTH, 3)


@pytest.mark.usefixtures("renderer")
def test_a_run_is_filmed_step_by_step(kitchen_bundle: Bundle, tmp_path: Path):
    video, folder = tmp_path / "run.mp4", tmp_path / "folder.mp4"
    folder.mkdir()
    with serve_in_thread(kitchen_bundle) as address:
        ran = rpl("run", "--address", address, "--goal", "mkbs", "--steps", "3", "--video", video)
        lost = rpl("run", "--address", address, "--goal", "mkbs", "--steps", "3", "--video", folder)
    assert (ran.returncode, "no success: 0 of 4 elements done" in ran.stdout) == (1, True), ran.stderr
    assert imageio_ffmpeg.count_frames_and_secs(str(video))[0] == 3
    assert (lost.returncode, f"{folder} is a folder" in lost.stderr, lost.stdout) == (2, True, "")  # before the run
    wrong = rpl("run", "--address", "127.0.0.1:1", "--goal", "mkbs", "--video", tmp_path / "run.xyz")
    assert (wrong.returncode, "has the suffix '.xyz'" in wrong.stderr) == (2, True)  # before a server is looked for


@pytest.mark.usefixtures("renderer")
def test_a_video_that_cannot_be_written_does_not_lose_the_sheet(
    kitchen_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("rpl_runtime.evaluation.figures.check_place", lambda path: None)  # it was free before the work
    video, sheet = tmp_path / "film.mp4", tmp_path / "new" / "film.png"
    video.mkdir()  # a folder where the file should go
    options = ["--goals", "mkbs", "--episodes", "1", "--start", "nominal", "--steps", "2", "--jobs", "1"]
    options += ["--video", str(video), "--sheet", str(sheet)]
    result = CliRunner().invoke(app, ["evaluate", str(kitchen_bundle.path), *options])
    assert result.exit_code == 1
    assert "nominal start" in result.stdout
    assert f"error: {video} was not written: " in result.stderr
    assert imageio.v3.imread(sheet).ndim == 3
    assert list(tmp_path.rglob("*.mp4")) == [video]  # nor half a one


@pytest.mark.parametrize("suffix", video_suffixes())
def test_a_video_may_have_every_suffix_that_is_named(tmp_path: Path, suffix: str):
    images = [np.full((HEIGHT, WIDTH, 3), shade, dtype=np.uint8) for shade in (50, 150, 250)]
    write_video(tmp_path / f"video{suffix}", images, PERIOD)
    shape = imageio.v3.improps(tmp_path / f"video{suffix}", index=...).shape
    assert shape[-3:] == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(("pictures", "said"), [(3, "the encoder kept 0 of 3 pictures"), (900, "the encoder ended at")])
def test_a_video_that_the_disk_does_not_take_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, pictures: int, said: str
):
    # In a process of its own, whose files have a largest size. The encoder writes most of a short video at its end.
    script = """
import resource, sys
from pathlib import Path
import numpy as np
from rpl_runtime.tasks.pictures import write_video
images = np.random.default_rng(0).integers(0, 255, (int(sys.argv[2]), 64, 64, 3), dtype=np.uint8)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_video(Path(sys.argv[1]), images, 0.08)
except OSError as error:
    print(error)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "video.mp4"), str(pictures)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (ran.stdout.startswith(said), ran.stdout.count("\n"), ran.stderr) == (True, 1, "")
    assert not list(tmp_path.iterdir())


def test_an_encoder_that_hears_no_more_and_lives_on_is_one_sentence(tmp_path: Path):
    encoder = tmp_path / "encoder"
    encoder.write_text("#!/bin/sh\nexec 0<&-\nsleep 0.5\n")
    encoder.chmod(0o755)
    script = """
import sys
from pathlib import Path
import numpy as np
from rpl_runtime.tasks.pictures import write_video
try:
    write_video(Path(sys.argv[1]), np.zeros((100, 32, 32, 3), dtype=np.uint8), 0.08)
except OSError as error:
    print(error)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "video.mp4")]
    environment = {**os.environ, "IMAGEIO_FFMPEG_EXE": str(encoder)}
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert (ran.stdout.startswith("the encoder ended at"), ran.stdout.count("\n"), ran.stderr) == (True, 1, "")
    assert list(tmp_path.iterdir()) == [encoder]


def test_no_gl_library_is_one_sentence_that_says_how_to_get_it(kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    with pytest.raises(MissingExtra, match="apt-get install libosmesa6"):
        Renderer(kitchen.model)


def test_a_kitchen_that_draws_nothing_needs_no_gl_library():
    # In a process of its own: MuJoCo takes MUJOCO_GL up when it is imported.
    script = """
import ctypes.util, os
ctypes.util.find_library = lambda name: None
from rpl_runtime.errors import MissingExtra
from rpl_runtime.tasks.kitchen.render import Renderer
from rpl_runtime.tasks.kitchen.simulator import open_kitchen
with open_kitchen() as kitchen:
    try:
        Renderer(kitchen.model)
    except MissingExtra as error:
        print(error, os.environ["MUJOCO_GL"])
"""
    environment = os.environ | {"MUJOCO_GL": "osmesa"}
    environment.pop("PYOPENGL_PLATFORM", None)
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.endswith("apt-get install libosmesa6 osmesa\n")
