"""Demonstrations as a LeRobot data set (v3.0): numbers as Parquet, pictures as one video, and back to the bit.

`observation.state` and `action` hold the state and the target; `author` who decided each step. The elements and the
source of each episode stand in its own row, in columns that other readers ignore. A control rate that is not a whole
number, such as the kitchen's 12.5 Hz, is kept as it is.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from rpl_runtime import provenance
from rpl_runtime.errors import DemonstrationError, InvalidInput, RecordingError, require
from rpl_runtime.files import JsonDict, followed, read, translated
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.process import CONTEXT, end_with_parent, end_workers
from rpl_runtime.tasks.pictures import write_video
from rpl_runtime.tasks.task import Task
from rpl_train.data.sheet import frame_of
from rpl_train.data.trajectory import Trajectory, check_sizes

_VERSION = "v3.0"
_INFO, _STATS, _TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
_EPISODES, _DATA = "meta/episodes/chunk-000/file-000.parquet", "data/chunk-000/file-000.parquet"
_CAMERA = "observation.images.scene"
_VIDEO = f"videos/{_CAMERA}/chunk-000/file-000.mp4"
_PATTERN = "chunk-{chunk_index:03d}/file-{file_index:03d}"
# Of a data set that is read: [bytes] of its description and of each file, values in all and for each byte, characters.
_MOST_META, _MOST_FILE = 16 << 20, 4 << 30
_MOST_VALUES, _PACKING, _MOST_CHARACTERS = 400_000_000, 1000, 64 << 20
_STATE, _ACTION = "observation.state", "action"
_INDICES = ("frame_index", "episode_index", "index", "task_index")


def is_lerobot(path: Path) -> bool:
    """Whether a folder holds a LeRobot data set."""
    return (path / _INFO).is_file()


def export_lerobot(
    task: Task, trajectories: Sequence[Trajectory], folder: Path, licence: str, video: bool = False
) -> None:
    """Write demonstrations as a data set; `import_lerobot` gives them back unchanged. All is written or nothing.

    Args:
        video: draw each step with the task's renderer, too.

    Raises:
        InvalidInput: the folder exists, or there is no demonstration.
        DemonstrationError: a demonstration is of another task.
        RecordingError: the data cannot be written.
        MissingExtra: pyarrow is not installed, or a video is asked for that cannot be drawn here.
    """
    require("pyarrow.parquet", "lerobot")
    if not trajectories:
        raise InvalidInput("a data set needs at least one demonstration; got none")
    if folder.exists():
        raise InvalidInput(f"{folder} exists, and a LeRobot data set never replaces a folder; choose another name")
    for trajectory in trajectories:
        check_sizes(trajectory, task.spec)
    folder = followed(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as staging:
            made = Path(staging) / folder.name
            for name in (_TASKS, _EPISODES, _DATA):
                (made / name).parent.mkdir(parents=True, exist_ok=True)
            _write(task, trajectories, made, licence, video)
            os.replace(made, folder)
    except OSError as error:
        raise RecordingError(
            f"{folder} cannot be written, and nothing of it is left: {error.strerror or error}"
        ) from error


def import_lerobot(folder: Path, spec: PolicySpec) -> list[Trajectory]:
    """Read every episode of a data set that has the spec's names, and its control rate.

    Raises:
        DemonstrationError: the data set is damaged, of another version, or of another task.
        MissingExtra: pyarrow is not installed.
    """
    require("pyarrow.parquet", "lerobot")
    with translated(folder, DemonstrationError, f"a LeRobot data set {_VERSION}"):
        info = json.loads(read(folder / _INFO, _MOST_META))
        version, features = str(info["codebase_version"]), info["features"]
        if not version.startswith("v3."):
            raise DemonstrationError(f"{folder} is a LeRobot data set of version {version[:20]}; must be {_VERSION}")
        theirs = tuple(features[name]["names"] for name in (_STATE, _ACTION))
        if theirs != (list(spec.state.names), list(spec.action.names)):
            raise DemonstrationError(
                f"{folder} has other names of states and actions than {spec.name}; it must have those of the task"
            )
        if not np.isclose(float(info["fps"]) * spec.period_s, 1.0):
            raise DemonstrationError(f"{folder} has {info['fps']} steps a second; must be {1 / spec.period_s:g}")
        columns = [_STATE, _ACTION, "episode_index", *(["author"] if "author" in features else [])]
        episodes, frames = _apart(
            (sorted(folder.glob("meta/episodes/*/*.parquet")), ["episode_index", "source", "elements"]),
            (sorted(folder.glob("data/*/*.parquet")), columns),
        )
        if sorted(episodes["episode_index"]) != list(range(len(episodes["episode_index"]))):
            raise ValueError("its episodes are not numbered from 0 on")
        owner, authors = np.array(frames["episode_index"]), np.array(frames.get("author", [""]), dtype=np.str_)
        states, targets = (
            np.array(frames[name], dtype=np.float32).reshape(len(owner), -1) for name in (_STATE, _ACTION)
        )
        found = []
        for row, number in enumerate(episodes["episode_index"]):
            steps = np.flatnonzero(owner == number)
            by = tuple(map(str, authors[steps])) if "author" in frames else ()
            source = episodes["source"][row] if "source" in episodes else f"{folder.name}#{number}"
            elements = tuple(episodes["elements"][row]) if "elements" in episodes else ()
            found.append(Trajectory(states[steps], targets[steps], elements, source, by if any(by) else ()))
    return found


def _apart(*wanted: tuple[list[Path], list[str]]) -> list[dict[str, list[Any]]]:
    """`_rows` of each of some files and columns, in a process of its own.

    Some damage aborts the process that reads it: pyarrow's `RowGroupMetaData.column` lets no C++ exception through.
    """
    with ProcessPoolExecutor(1, CONTEXT, _quiet) as executor:
        try:
            return [found.result() for found in [executor.submit(_rows, *each) for each in wanted]]
        except BrokenProcessPool:
            raise ValueError("the process that reads its Parquet files has died") from None
        except KeyboardInterrupt:
            end_workers()
            raise


def _quiet() -> None:
    """Let a process end with its parent, and say nothing of why it aborts."""
    end_with_parent()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _rows(paths: list[Path], columns: list[str]) -> dict[str, list[Any]]:
    """Those of some columns that there are in several Parquet files, one file after the other.

    Parquet holds a repeated value once: a few bytes unpack to any number of values, and of characters.
    """
    parquet = require("pyarrow.parquet", "lerobot")
    if not paths:
        raise ValueError("its Parquet files are not there")
    rows: dict[str, list[Any]] = {}
    values = size = characters = 0
    for path in paths:
        content = read(path, _MOST_FILE)
        about = parquet.read_metadata(BytesIO(content))
        leaves = [about.row_group(i).column(j) for i in range(about.num_row_groups) for j in range(about.num_columns)]
        leaves = [leaf for leaf in leaves if leaf.path_in_schema.startswith(tuple(columns))]
        values, size = values + sum(leaf.num_values for leaf in leaves), size + len(content)
        if values > min(_MOST_VALUES, _PACKING * size):
            raise ValueError(f"it unpacks to {values:,} values; must be {_MOST_VALUES:,}, {_PACKING} a byte, or less")
        texts = {leaf.path_in_schema for leaf in leaves if leaf.physical_type.endswith("BYTE_ARRAY")}
        file = parquet.ParquetFile(BytesIO(content), read_dictionary=sorted(texts))  # so that they stay packed
        table = file.read(columns=[name for name in columns if name in file.schema_arrow.names])
        characters += sum(_characters(chunk) for column in table.columns for chunk in column.chunks)
        if characters > _MOST_CHARACTERS:
            raise ValueError(f"its texts have {characters:,} characters; must be {_MOST_CHARACTERS:,} or less")
        for name, found in table.to_pydict().items():
            rows.setdefault(name, []).extend(found)
    return rows


def _characters(values: Any) -> int:
    """How many characters an array of packed texts, or of lists of them, has; 0 for others."""
    compute = require("pyarrow.compute", "lerobot")
    while hasattr(values, "values"):
        values = values.flatten()
    if not hasattr(values, "dictionary"):
        return 0
    return compute.sum(compute.binary_length(values.dictionary).take(values.indices)).as_py() or 0


def _write(task: Task, trajectories: Sequence[Trajectory], folder: Path, licence: str, video: bool) -> None:
    pa, parquet = require("pyarrow", "lerobot"), require("pyarrow.parquet", "lerobot")
    fps = 1 / task.spec.period_s
    lengths = np.array([len(trajectory) for trajectory in trajectories])
    ends = np.cumsum(lengths)
    names = [", ".join(trajectory.elements) or task.name for trajectory in trajectories]
    tasks = list(dict.fromkeys(names))
    numbers = _numbers(trajectories, lengths, [tasks.index(name) for name in names], fps)
    authors = [author for each in trajectories for author in each.authors or ("",) * len(each)]
    frames = pa.table({name: _column(pa, values) for name, values in numbers.items()} | {"author": authors})
    episodes, features = _episodes(pa, trajectories, names, ends, lengths), _features(task.spec)
    if video:
        height, width = _write_video(task, trajectories, folder / _VIDEO)
        features[_CAMERA] = _camera(height, width, fps)
        episodes |= _in_video(ends, lengths, fps)
    with parquet.ParquetWriter(folder / _DATA, frames.schema) as writer:
        for end, length in zip(ends.tolist(), lengths.tolist(), strict=True):
            writer.write_table(frames.slice(end - length, length))  # a group of rows for each episode
    _write_tasks(pa, parquet, folder / _TASKS, tasks)
    parquet.write_table(pa.table(episodes), folder / _EPISODES)
    info = {
        "codebase_version": _VERSION,
        "robot_type": task.name,
        "total_episodes": len(lengths),
        "total_frames": int(ends[-1]),
        "total_tasks": len(tasks),
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": int(fps) if fps.is_integer() else fps,
        "splits": {"train": f"0:{len(lengths)}"},
        "data_path": f"data/{_PATTERN}.parquet",
        "video_path": f"videos/{{video_key}}/{_PATTERN}.mp4" if video else None,
        "features": features,
    }
    (folder / _INFO).write_text(json.dumps(info, indent=1))
    (folder / _STATS).write_text(json.dumps({name: _statistics(values) for name, values in numbers.items()}))
    (folder / "README.md").write_text(
        f"Demonstrations of {task.name}. Licence: {licence}.\n\nMade by `{provenance.command()}`.\n"
    )


def _numbers(
    trajectories: Sequence[Trajectory], lengths: np.ndarray, tasks: Sequence[int], fps: float
) -> dict[str, np.ndarray]:
    """The columns of numbers, a row for each step; each episode has a length and the number of its task."""
    frame_index = np.concatenate([np.arange(length) for length in lengths])
    return {
        _STATE: np.concatenate([trajectory.states for trajectory in trajectories]).astype(np.float32),
        _ACTION: np.concatenate([trajectory.targets for trajectory in trajectories]).astype(np.float32),
        "timestamp": (frame_index / fps).astype(np.float32),
        "frame_index": frame_index,
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
        "index": np.arange(len(frame_index)),
        "task_index": np.repeat(tasks, lengths),
    }


def _features(spec: PolicySpec) -> JsonDict:
    """What each column of the steps holds."""
    return {
        _STATE: {"dtype": "float32", "shape": [spec.state.dim], "names": list(spec.state.names)},
        _ACTION: {"dtype": "float32", "shape": [spec.action.dim], "names": list(spec.action.names)},
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        **{name: {"dtype": "int64", "shape": [1], "names": None} for name in _INDICES},
        "author": {"dtype": "string", "shape": [1], "names": None},
    }


def _episodes(
    pa: ModuleType, trajectories: Sequence[Trajectory], names: Sequence[str], ends: np.ndarray, lengths: np.ndarray
) -> dict[str, Any]:
    """The columns of the episodes; `ends` counts the steps up to the end of each, `names` are of tasks."""
    first = np.zeros(len(lengths), np.int64)  # all is in one file
    return {
        "episode_index": np.arange(len(lengths)),
        "tasks": pa.array([[name] for name in names], pa.list_(pa.string())),
        "length": lengths,
        "dataset_from_index": ends - lengths,
        "dataset_to_index": ends,
        **dict.fromkeys(("data/chunk_index", "data/file_index"), first),
        **dict.fromkeys(("meta/episodes/chunk_index", "meta/episodes/file_index"), first),
        "elements": pa.array([list(trajectory.elements) for trajectory in trajectories], pa.list_(pa.string())),
        "source": pa.array([trajectory.source for trajectory in trajectories], pa.string()),
    }


def _camera(height: int, width: int, fps: float) -> JsonDict:
    """What the video holds."""
    return {
        "dtype": "video",
        "shape": [height, width, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": height,
            "video.width": width,
            "video.channels": 3,
            "video.codec": "h264",
            "video.pix_fmt": "yuv420p",
            "video.fps": fps,
            "video.is_depth_map": False,
            "has_audio": False,
        },
    }


def _in_video(ends: np.ndarray, lengths: np.ndarray, fps: float) -> dict[str, np.ndarray]:
    """The columns that say where each episode is in the video."""
    video, first = f"videos/{_CAMERA}", np.zeros(len(lengths), np.int64)
    return {
        f"{video}/chunk_index": first,
        f"{video}/file_index": first,
        f"{video}/from_timestamp": (ends - lengths) / fps,
        f"{video}/to_timestamp": ends / fps,
    }


def _column(pa: ModuleType, values: np.ndarray) -> Any:
    """One number a row, or one list of a fixed size; LeRobot keeps a vector of one number as a number."""
    flat = pa.array(values.ravel())
    return (
        flat if values.ndim == 1 or values.shape[1] == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    )


def _statistics(values: np.ndarray) -> JsonDict:
    rows = values.reshape(len(values), -1).astype(np.float64)
    figures = {"min": rows.min(axis=0), "max": rows.max(axis=0), "mean": rows.mean(axis=0), "std": rows.std(axis=0)}
    return {name: figure.tolist() for name, figure in figures.items()} | {"count": [len(rows)]}


def _write_tasks(pa: ModuleType, parquet: ModuleType, path: Path, tasks: list[str]) -> None:
    """The tasks as LeRobot reads them: a data frame of pandas whose index is their text."""
    table = pa.table({"task_index": np.arange(len(tasks)), "task": tasks})
    described = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": stored, "metadata": None}
        for name, kind, stored in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    frame = {"index_columns": ["task"], "column_indexes": [], "columns": described, "pandas_version": "2.0.0"}
    parquet.write_table(table.replace_schema_metadata({"pandas": json.dumps(frame)}), path)


def _write_video(task: Task, trajectories: Sequence[Trajectory], path: Path) -> tuple[int, int]:
    """A picture of each step of each episode in one video. Returns the height and the width [pixels]."""
    size = (0, 0)

    def pictures() -> Iterator[np.ndarray]:
        nonlocal size
        with closing(task.open()) as world, closing(task.renderer_of(world)) as renderer:
            for trajectory in trajectories:
                for step in range(len(trajectory)):
                    image = renderer.draw(frame_of(task.spec, trajectory, step))
                    size = image.shape[:2]
                    yield image

    path.parent.mkdir(parents=True)
    write_video(path, pictures(), task.spec.period_s)
    return size
