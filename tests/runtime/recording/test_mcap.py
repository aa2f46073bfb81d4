"""Logs of runs as MCAP files: what goes in comes out, whoever reads it and wherever the file ends."""

import io
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.writer import Writer
from mcap_protobuf.decoder import DecoderFactory

import policies
from faults import no_file_longer_than
from rpl_runtime.errors import InvalidInput, RecordingError
from rpl_runtime.policy.spec import ResolvedGoal
from rpl_runtime.recording.mcap import Event, LogHeader, LogWriter, read_log
from rpl_runtime.relay.messages import Action, StageTimes
from rpl_runtime.relay.run import Step
from rpl_runtime.relay.run_state import POLICY

SPEC = policies.tiny_spec()
HEADER = LogHeader(robot="cart", seed=7, plan_lead=2, digest="d" * 64, spec=SPEC, command="test", commit="none")
SECOND = 20  # steps of 0.05 s
GOAL = SPEC.resolve(["door"], np.zeros(5))


def made(number: int, goal: ResolvedGoal = GOAL, seed: int = 0) -> Step:
    """A step like none before it."""
    rng = np.random.default_rng((seed, number))
    state, subgoal, target = (rng.normal(size=size).astype(np.float32) for size in (5, 5, 2))
    novelty = None if number % 2 else float(np.float32(rng.random()))
    times = StageTimes(1, 2, 3, 4)
    action = Action(target, subgoal, number % 4, number % 4 == 0, number * 50_000_000, None, times, novelty)
    return Step(number, state, action, frozenset({"door"} if number else ()), goal)


def write(path: Path, steps: Sequence[Step], close: bool = True) -> LogWriter:
    writer = LogWriter(path, HEADER)
    for step in steps:
        writer.write_step(step, step.action.valid_until_ns)
    if close:
        writer.close(dropped=0)
    return writer


def assert_holds(path: Path, steps: Sequence[Step]) -> None:
    """The first of the steps, bit for bit, as many as the log has."""
    for found, step in zip(read_log(path).steps, steps, strict=False):
        assert (found.step, found.age, found.novelty) == (step.step, step.action.age, step.action.novelty)
        pairs = {
            "goal": step.goal.state,
            "mask": step.goal.mask,
            "state": step.state,
            "subgoal": step.action.subgoal,
            "target": step.action.target,
        }
        for name, expected in pairs.items():
            assert np.array(getattr(found, name), np.float32).tobytes() == expected.tobytes(), name


def test_a_log_says_what_was_written(tmp_path: Path) -> None:
    other = SPEC.resolve(["lamp"], np.ones(5))
    steps = [made(number, GOAL if number < 30 else other) for number in range(45) if number != 17]
    write(tmp_path / "run.mcap", steps)
    log = read_log(tmp_path / "run.mcap")
    assert log.header == HEADER
    assert log.whole
    assert len(log.steps) == 44
    assert_holds(tmp_path / "run.mcap", steps)


def test_a_log_says_who_decided_each_step_and_where_the_policy_asked_for_help(tmp_path: Path) -> None:
    asking = made(2)
    asking = asking._replace(action=asking.action._replace(help=True))
    write(tmp_path / "run.mcap", [made(0), made(1)._replace(author="gamepad"), asking])
    steps = read_log(tmp_path / "run.mcap").steps
    assert [step.author for step in steps] == [POLICY, "gamepad", POLICY]
    assert [step.help for step in steps] == [False, False, True]


def test_a_log_keeps_the_reading_behind_an_estimated_state(tmp_path: Path) -> None:
    """A replay decides in the state that the policy saw; a reader finds the sensors' reading beside it."""
    estimated, exact = made(0)._replace(reading=np.arange(5, dtype=np.float32)), made(1)
    write(tmp_path / "run.mcap", [estimated, exact])
    assert_holds(tmp_path / "run.mcap", [estimated, exact])
    with (tmp_path / "run.mcap").open("rb") as file:
        found = [
            decoded
            for *_, decoded in make_reader(file, decoder_factories=[DecoderFactory()]).iter_decoded_messages(
                ["/reading"]
            )
        ]
    assert [(each.step, [one.value for one in each.values]) for each in found] == [(0, [0, 1, 2, 3, 4])]


def test_any_reader_finds_every_number_by_its_name(tmp_path: Path) -> None:
    """What Foxglove needs: schemas in the file, a topic for each channel, names and units beside the numbers."""
    writer = write(tmp_path / "run.mcap", [made(0), made(1)], close=False)
    writer.write_event(Event("stop", "the robot was stopped by hand"), 123_000_000)
    writer.close(dropped=3)
    with (tmp_path / "run.mcap").open("rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        messages = [(channel.topic, entry, message) for _, channel, entry, message in reader.iter_decoded_messages()]
        metadata = {entry.name: entry.metadata for entry in reader.iter_metadata()}
    step = ["/state", "/subgoal", "/action"]
    assert [topic for topic, _, _ in messages] == ["/goal", *step, *step, "/events"]
    states = [(entry, message) for topic, entry, message in messages if topic == "/state"]
    named = {item.name: (item.unit, item.value) for item in states[1][1].values}
    assert list(named) == ["x", "y", "heading", "door", "lamp"]
    assert named["heading"] == ("rad", made(1).state[2])
    assert states[1][0].log_time - states[0][0].log_time == 50_000_000
    assert states[1][0].log_time - states[1][0].publish_time == 50_000_000  # it was observed a period before
    (_, entry, event) = messages[-1]
    assert (event.kind, event.text) == ("stop", "the robot was stopped by hand")
    assert entry.log_time - states[1][0].log_time == 73_000_000
    action = messages[3][2]
    assert (action.done, action.times.plan_us) == ([], 2)
    assert json.loads(metadata["rpl.v1.run"]["spec"])["state"]["units"] == ["m", "m", "rad", "rad", "1"]
    assert {key: json.loads(metadata["rpl.v1.run"][key]) for key in ("robot", "seed", "digest")} == {
        "robot": "cart",
        "seed": 7,
        "digest": "d" * 64,
    }
    assert metadata["rpl.v1.end"] == {"steps": "2", "dropped": "3"}


def test_times_are_unix_times(tmp_path: Path) -> None:
    before, step = time.time_ns(), made(0)
    now = time.monotonic_ns()
    writer = LogWriter(tmp_path / "run.mcap", HEADER)
    writer.write_step(step._replace(action=step.action._replace(valid_until_ns=now)), now)
    writer.close(dropped=0)
    with (tmp_path / "run.mcap").open("rb") as file:
        [(_, _, entry), *_] = make_reader(file).iter_messages()
    assert abs(entry.log_time - before) < 60e9


def test_what_a_killed_process_leaves_is_read_up_to_the_last_second(tmp_path: Path) -> None:
    steps = [made(number) for number in range(3 * SECOND + 7)]
    writer = write(tmp_path / "run.mcap", steps, close=False)
    log = read_log(tmp_path / "run.mcap")
    assert not log.whole
    assert len(log.steps) == writer.kept == 3 * SECOND
    assert_holds(tmp_path / "run.mcap", steps)
    writer.close(dropped=0)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("log") / "run.mcap"
    write(path, [made(number) for number in range(4 * SECOND)])
    return path.read_bytes()


@given(st.data())
def test_a_file_cut_anywhere_gives_its_whole_seconds(content: bytes, data: st.DataObject) -> None:
    summary = make_reader(io.BytesIO(content)).get_summary()
    assert summary is not None
    end = data.draw(st.integers(0, len(content) - 1))
    seconds = sum(chunk.chunk_start_offset + chunk.chunk_length <= end for chunk in summary.chunk_indexes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cut.mcap"
        path.write_bytes(content[:end])
        if seconds:
            assert len(read_log(path).steps) == seconds * SECOND
            assert_holds(path, [made(number) for number in range(4 * SECOND)])
        else:
            with pytest.raises(InvalidInput, match=r"holds no (run|control step)"):
                read_log(path)


def test_a_damaged_chunk_ends_the_log(tmp_path: Path, content: bytes) -> None:
    chunk = content.index(b"zstd", content.index(b"zstd") + 4)
    damaged = bytearray(content)
    damaged[chunk + 200] ^= 255
    (tmp_path / "run.mcap").write_bytes(damaged)
    log = read_log(tmp_path / "run.mcap")
    assert not log.whole
    assert len(log.steps) == SECOND


def foreign(path: Path) -> None:
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        writer.finish()


@pytest.mark.parametrize(
    ("write_file", "sentence"),
    [
        (lambda path: path.write_bytes(b""), "holds no run; it must be"),
        (lambda path: path.write_text("not a log at all, however long it may be"), "is not an MCAP file; it must be"),
        (foreign, "holds no run; it must be"),
        (lambda path: write(path, []), "holds no control step"),
    ],
)
def test_a_file_that_is_no_log_is_one_sentence(tmp_path: Path, write_file, sentence: str) -> None:
    write_file(tmp_path / "run.mcap")
    with pytest.raises(InvalidInput, match=sentence):
        read_log(tmp_path / "run.mcap")


def test_a_header_of_another_version_is_one_sentence(tmp_path: Path) -> None:
    with (tmp_path / "run.mcap").open("wb") as file:
        writer = Writer(file)
        writer.start()
        writer.add_metadata("rpl.v1.run", {"robot": '"cart"'})
        writer.finish()
    with pytest.raises(InvalidInput, match="is damaged or not a file of `rpl run --log`"):
        read_log(tmp_path / "run.mcap")


def test_a_log_is_not_written_over_anything(tmp_path: Path) -> None:
    (tmp_path / "run.mcap").write_text("precious")
    with pytest.raises(InvalidInput, match="choose another name"):
        LogWriter(tmp_path / "run.mcap", HEADER)
    assert (tmp_path / "run.mcap").read_text() == "precious"
    with pytest.raises(RecordingError, match="cannot be created"):
        LogWriter(tmp_path / "run.mcap" / "inside.mcap", HEADER)


@pytest.mark.parametrize("size", [20_000, 33_333])
def test_a_full_disk_ends_the_log_and_leaves_it_readable(tmp_path: Path, size: int) -> None:
    steps = [made(number) for number in range(2_000)]
    writer = LogWriter(tmp_path / "run.mcap", HEADER)

    def write_all() -> None:
        for step in steps:
            writer.write_step(step, 0)

    with no_file_longer_than(size), pytest.raises(RecordingError, match=r"ends early, after \d+ control steps"):
        write_all()
    log = read_log(tmp_path / "run.mcap")
    assert not log.whole
    assert len(log.steps) >= writer.kept >= SECOND
    assert_holds(tmp_path / "run.mcap", steps)
