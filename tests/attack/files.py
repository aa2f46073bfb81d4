"""Sound small files of every format that a command reads, and ways to spoil them."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import nn

import policies
from demonstrations import drawer_spec
from rpl_runtime.auth.tokens import read_grants
from rpl_runtime.cli.measure.hard import read_states
from rpl_runtime.cli.run import read_calibration
from rpl_runtime.estimation.calibration import Calibration
from rpl_runtime.evaluation.episodes import open_journal
from rpl_runtime.evaluation.results import Episode
from rpl_runtime.files import read_json
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.policy.manifest import Provenance, Statistics
from rpl_runtime.recording.mcap import LogHeader, LogWriter, read_log
from rpl_runtime.relay.messages import Action, StageTimes
from rpl_runtime.relay.run import Step
from rpl_train.cli.settings import settings_of
from rpl_train.data.lerobot import export_lerobot, import_lerobot
from rpl_train.data.minari import export_minari
from rpl_train.data.trajectory import Trajectory, load, save
from rpl_train.networks import NetworkConfig, TargetStatistics
from rpl_train.runs import RunRecord, build_policy, load_progress, load_run, open_run, save_progress, save_weights
from rpl_train.tasks.kitchen.d4rl import import_d4rl
from rpl_train.tasks.kitchen.minari import import_minari
from rpl_train.tasks.kitchen.mjl import import_mjl
from rpl_train.tasks.kitchen.task import KITCHEN

CONDITIONS = {"bundle": "d" * 64}


@dataclass(frozen=True)
class Format:
    """A sound file in a folder, and the command's reader of it."""

    file: Path
    read: Callable[[], object]


def _log(folder: Path) -> Format:
    spec = policies.tiny_spec()
    goal = spec.resolve(["door"], np.zeros(5))
    header = LogHeader(robot="cart", seed=7, plan_lead=2, digest="d" * 64, spec=spec, command="test", commit="none")
    writer = LogWriter(folder / "run.mcap", header)
    zeros = np.zeros(5, dtype=np.float32)
    for number in range(25):
        action = Action(zeros[:2], zeros, number % 4, False, number * 50_000_000, None, StageTimes(1, 2, 3, 4), 0.5)
        writer.write_step(Step(number, zeros, action, frozenset({"door"}), goal), number * 50_000_000)
    writer.close(dropped=0)
    return Format(folder / "run.mcap", lambda: read_log(folder / "run.mcap"))


def _numbers(steps: int, width: int) -> np.ndarray:
    return np.random.default_rng(width).uniform(-1, 1, (steps, width)).astype(np.float32)


def _d4rl(folder: Path) -> Format:
    with h5py.File(folder / "a.hdf5", "w") as file:
        file["observations"], file["actions"] = _numbers(6, 60), _numbers(6, 9)
        file["terminals"] = np.arange(6) % 3 == 2
        file["infos/elements"] = np.array([b"kettle|microwave", b"kettle"])
    return Format(folder / "a.hdf5", lambda: import_d4rl(folder / "a.hdf5"))


def _mjl(folder: Path) -> Format:
    times = 0.02 * np.arange(12, dtype=np.float32)[:, None]
    head = np.array([30, 29, 9, 0, 0, 0, 2], dtype="<i4").tobytes() + b"k\0"
    (folder / "a.mjl").write_bytes(head + np.hstack([times, _numbers(12, 68)]).astype("<f4").tobytes())
    return Format(folder / "a.mjl", lambda: import_mjl(folder / "a.mjl"))


def _demonstration(folder: Path) -> Format:
    save(Trajectory(_numbers(5, 30), _numbers(5, 9), ("kettle",), "here#0"), folder / "a.npz")
    return Format(folder / "a.npz", lambda: load(folder / "a.npz"))


def _data_set(folder: Path) -> Path:
    shown = Trajectory(_numbers(5, 30), _numbers(5, 9), ("kettle",), "here#0")
    export_minari(KITCHEN, [shown], folder / "play-v0", "none")
    return folder / "play-v0"


def _episodes(folder: Path) -> Format:
    found = _data_set(folder)
    return Format(found / "data" / "main_data.hdf5", lambda: import_minari(found))


def _metadata(folder: Path) -> Format:
    found = _data_set(folder)
    return Format(found / "data" / "metadata.json", lambda: import_minari(found))


def _lerobot(name: str) -> Callable[[Path], Format]:
    def make(folder: Path) -> Format:
        shown = Trajectory(_numbers(5, 30), _numbers(5, 9), ("kettle",), "here#0")
        export_lerobot(KITCHEN, [shown], folder / "set", "none")
        return Format(folder / "set" / name, lambda: import_lerobot(folder / "set", KITCHEN.spec))

    return make


def _result(folder: Path) -> Format:
    (folder / "evaluation.json").write_text('{"a": [1, {"b": "c"}]}')
    return Format(folder / "evaluation.json", lambda: read_json(folder / "evaluation.json", "an evaluation.json"))


def _states(folder: Path) -> Format:
    (folder / "states.json").write_text(json.dumps(_numbers(2, 30).tolist()))
    return Format(folder / "states.json", lambda: read_states(KITCHEN, folder / "states.json"))


def _calibration(folder: Path) -> Format:
    made = Calibration(names=("x", "y"), rest=(0.0, 1.5), sigma=(0.01, 0.0), arm_age_s=0.1, hand_s=0.5)
    (folder / "senses.json").write_text(made.model_dump_json())
    return Format(folder / "senses.json", lambda: read_calibration(folder / "senses.json"))


def _settings(folder: Path) -> Format:
    (folder / "settings.toml").write_text("[imitate]\nsteps = 6000\nlearning_rate = 1e-3\n")
    return Format(folder / "settings.toml", lambda: settings_of(KITCHEN, folder / "settings.toml"))


def _journal(folder: Path) -> Format:
    file = folder / "episodes.jsonl"
    episode = Episode(
        start="nominal",
        goal="k",
        elements=("kettle",),
        seed=1,
        steps=5,
        refused=None,
        first_done={"kettle": 3},
        done_at_end=("kettle",),
        final_distance={"kettle": 0.1},
    )

    def read() -> object:
        with open_journal(file, CONDITIONS, Episode) as journal:
            return journal.episodes

    with open_journal(file, CONDITIONS, Episode) as journal:
        journal.append(episode)
    return Format(file, read)


def _progress(folder: Path) -> Format:
    module = nn.Linear(3, 2)
    optimiser = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    save_progress(folder / "low.safetensors", module, optimiser, 3)

    def read() -> int:
        other = nn.Linear(3, 2)
        return load_progress(folder / "low.safetensors", other, torch.optim.Adam(other.parameters()))

    return Format(folder / "low.safetensors", read)


def _run(folder: Path) -> Format:
    record = RunRecord(
        spec=drawer_spec(),
        networks=NetworkConfig((4,), (4,)),
        statistics=Statistics(mean=(0, 0, 0), std=(1, 1, 1), low=(0, 0, 0), high=(1, 1, 1)),
        targets=TargetStatistics((0.0,), (1.0,)),
        provenance=Provenance(command="test", commit="none"),
    )
    open_run(folder, record)
    policy = build_policy(record)
    save_weights(folder / "high.safetensors", policy.high)
    save_weights(folder / "low.safetensors", policy.low)
    return Format(folder / "run.json", lambda: load_run(folder))


def _bundle(name: str) -> Callable[[Path], Format]:
    def make(folder: Path) -> Format:
        bundle = policies.tiny_bundle(folder / "bundle", statistics=policies.tiny_statistics())
        return Format(bundle.path / name, lambda: load_bundle(bundle.path))

    return make


def _tokens(folder: Path) -> Format:
    file = folder / "tokens"
    file.write_text(
        f"# name rights sha256 expires\narm act,fetch {'a' * 64} 2027-03-01T00:00:00Z\nleg act {'b' * 64}\n"
    )
    file.chmod(0o600)
    return Format(file, lambda: read_grants(file))


FORMATS: dict[str, Callable[[Path], Format]] = {
    "log": _log,
    "d4rl": _d4rl,
    "mjl": _mjl,
    "demonstration": _demonstration,
    "episodes": _episodes,
    "metadata": _metadata,
    "parquet": _lerobot("data/chunk-000/file-000.parquet"),
    "parquet of episodes": _lerobot("meta/episodes/chunk-000/file-000.parquet"),
    "description": _lerobot("meta/info.json"),
    "result": _result,
    "states": _states,
    "calibration": _calibration,
    "settings": _settings,
    "journal": _journal,
    "progress": _progress,
    "run": _run,
    "weights": lambda folder: replace(_run(folder), file=folder / "low.safetensors"),
    "manifest": _bundle("manifest.json"),
    "graph": _bundle("low.onnx"),
    "tokens": _tokens,
}

_NUMBERS = (b"-1", b"1e999", b"NaN", b"9" * 5000, b"18446744073709551616", b"null", b'"x"', b"[]", b"{}", b"1.5")
_BYTES = (b"\xff" * 8, b"\x00" * 8, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xed\xa0\x80", b"\x1b[2J")


def spoiled(sound: bytes, rng: random.Random) -> bytes:
    """The bytes of a file with one to four changes: bits, lengths, numbers, parts twice or lost, the end cut off."""
    raw = bytearray(sound)
    for _ in range(rng.randint(1, 4)):
        at, size = rng.randrange(len(raw) + 1), rng.choice((1, 2, 4, 8, 64))
        change = rng.randrange(7)
        if change == 0:
            raw[at : at + size] = rng.randbytes(size)
        elif change == 1 and at < len(raw):
            raw[at] ^= 1 << rng.randrange(8)
        elif change == 2:
            part = rng.choice(_BYTES)
            raw[at : at + len(part)] = part
        elif change == 3:
            del raw[at : at + size]
        elif change == 4:
            raw[at:at] = raw[at : at + size * 8]
        elif change == 5 and rng.random() < 0.3:
            del raw[at:]
        elif change == 6 and (numbers := _places(raw)):
            begin, end = rng.choice(numbers)
            raw[begin:end] = rng.choice(_NUMBERS)
    return bytes(raw)


def _places(raw: bytearray) -> list[tuple[int, int]]:
    """Where some numbers in decimal digits stand."""
    found, begin = list[tuple[int, int]](), None
    for at, byte in enumerate(raw[:20_000]):
        if 48 <= byte <= 57:
            begin = at if begin is None else begin
        elif begin is not None:
            found.append((begin, at))
            begin = None
    return found
