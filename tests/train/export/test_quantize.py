"""A low level in int8: rows that know nothing of each other, near the float32 ones, and what cannot be quantised."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import drawers
from rpl_runtime.cli.app import main
from rpl_runtime.errors import InvalidInput
from rpl_runtime.policy.bundle import LOW, Bundle, load_bundle, write_bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.policy.trial import open_policy
from rpl_train.augment import LowBatch
from rpl_train.data.recordings import load_demonstrations
from rpl_train.export.export import export
from rpl_train.export.parity import ParityConfig
from rpl_train.export.quantize import quantize
from rpl_train.export.restore import restore
from rpl_train.networks import NetworkConfig
from rpl_train.play import PlayConfig, play
from source import ROOT

TASK = drawers.TASK
SHORT = ParityConfig(episodes=1, steps=3)


def states(bundle: Bundle, rows: int, spread: float = 1.0) -> LowBatch:
    """States and subgoals about the training data, without actions."""
    statistics, rng = bundle.manifest.statistics, np.random.default_rng(rows)
    assert statistics is not None
    shape = (rows, bundle.spec.state.dim)
    drawn = (rng.normal(statistics.mean, spread * np.array(statistics.std), shape).astype(np.float32) for _ in "ab")
    return LowBatch(*drawn, np.zeros((rows, bundle.spec.action.dim), np.float32))


@pytest.fixture(scope="module")
def kitchen() -> Bundle:
    return load_bundle(ROOT / "models" / "kitchen")


@pytest.fixture(scope="module")
def in_int8(kitchen: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The kitchen's policy, quantised over states about its training data."""
    graph = onnx.load_from_string(kitchen.files[LOW])
    quantize(graph, states(kitchen, 512), kitchen.spec.low_noise)
    manifest = kitchen.manifest.model_copy(update={"quantized": "int8"})
    path = tmp_path_factory.mktemp("int8") / "kitchen"
    return write_bundle(path, manifest, kitchen.files["high.onnx"], graph.SerializeToString())


def test_a_row_is_the_same_to_the_bit_beside_any_others(in_int8: Bundle) -> None:
    policy, given = open_policy(in_int8), states(in_int8, 64, spread=2.0)
    noise = np.random.default_rng(1).standard_normal((64, in_int8.spec.low_noise)).astype(np.float32)
    columns = given.state, given.subgoal, noise
    alone = np.vstack([policy.act(*(column[[row]] for column in columns)) for row in range(64)])
    for rows in (2, 3, 4, 8, 16, 32, 64):
        batches = [[column[first : first + rows] for column in columns] for first in range(0, 64, rows)]
        assert np.array_equal(np.vstack([policy.act(*batch) for batch in batches]), alone), rows
    # And beside a row far from all others, which would stretch a scale of the rows at hand.
    far = [np.vstack([column[:1], 5 * column[1:]]) for column in columns]
    assert np.array_equal(policy.act(*far)[0], alone[0])


def test_it_acts_nearly_as_in_float32_also_beyond_its_tuples(kitchen: Bundle, in_int8: Bundle) -> None:
    noise = np.zeros((256, kitchen.spec.low_noise), np.float32)
    for spread, most in ((1.0, 0.04), (2.0, 0.08)):
        given = states(kitchen, 256, spread)
        ours, theirs = (OnnxPolicy(each).act(given.state, given.subgoal, noise) for each in (in_int8, kitchen))
        assert 0 < np.abs(ours - theirs).max() < most


def test_it_is_a_graph_of_integers_and_four_times_smaller_there(kitchen: Bundle, in_int8: Bundle) -> None:
    graph = onnx.load_from_string(in_int8.files[LOW])
    operators = [node.op_type for node in graph.graph.node]
    assert (operators.count("MatMulInteger"), operators.count("Gemm")) == (2, 2)
    saved = len(kitchen.files[LOW]) - len(in_int8.files[LOW])
    assert saved == pytest.approx(2 * 3 * 512 * 512, rel=0.01)  # [bytes]


def test_a_level_without_inner_layers_is_refused(tmp_path: Path) -> None:
    policy, record = drawers.imitated(tmp_path / "run", 3, NetworkConfig((8,), (8,)))
    bundle = export(policy, record.spec, record.provenance, tmp_path / "b", record.statistics, SHORT).bundle
    with pytest.raises(InvalidInput, match="the low level has 2 layers; must be at least 3"):
        quantize(onnx.load_from_string(bundle.files[LOW]), states(bundle, 8), record.spec.low_noise)


def test_rounded_weights_are_not_read_back(in_int8: Bundle) -> None:
    with pytest.raises(InvalidInput, match=r"has int8 weights, which are rounded; must be the bundle or the run"):
        restore(in_int8, "kitchen")


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that imitated the drawers' script, and that script's play."""
    folder = tmp_path_factory.mktemp("taught")
    play(TASK, PlayConfig(sequences=3, seed=5), folder / "play")
    play(TASK, PlayConfig(sequences=3, seed=6), folder / "other")
    found = load_demonstrations([folder / "play"], TASK)
    policy, record = drawers.imitated(folder / "run", 3, NetworkConfig((8,), (8, 8)), found)
    export(policy, record.spec, record.provenance, folder / "bundle", record.statistics, SHORT, TASK)
    return folder


def rpl(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["rpl", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("source", ["run", "bundle"])
def test_the_command_quantises_and_plays_the_same_episodes(
    source: str, taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ("export", taught / source, tmp_path / "int8", "--quantize", "int8", "--demos", taught / "play")
    assert rpl(monkeypatch, *command, "--task", "drawers:make", "--episodes", 2, "--json") == 0
    facts, bundle = json.loads(capfd.readouterr().out), load_bundle(tmp_path / "int8")
    assert bundle.manifest.quantized == "int8"
    assert facts["parity"]["tolerance"] == 0.1
    assert 1e-5 < facts["parity"]["max_abs_target_difference"] <= 0.1
    assert facts["beside_float32"]["beside"]["pairs"] == 2
    assert bundle.evaluation is not None
    assert bundle.evaluation["beside_float32"] == facts["beside_float32"]
    assert "computed in int8" in (bundle.path / "MODEL_CARD.md").read_text()
    assert b"MatMulInteger" in bundle.files[LOW]
    plain = load_bundle(taught / "bundle")
    assert b"MatMulInteger" not in plain.files[LOW]
    assert bundle.manifest.provenance.parents == ((plain.digest,) if source == "bundle" else ())
    assert rpl(monkeypatch, "inspect", bundle.path) == 0


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("--quantize", "int4", "--demos", "play"), "Invalid value for '--quantize'"),
        (("--quantize", "int8"), "--quantize needs --demos"),
        (("--demos", "play"), "--quantize needs --demos"),
        (("--quantize", "int8", "--demos", "other"), "the demonstrations have the digests"),
        (("--quantize", "int8", "--demos", "play", "--low-only"), "not with --low-only"),
    ],
)
def test_what_cannot_be_quantised_is_one_sentence(
    given: tuple[str, ...],
    sentence: str,
    taught: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(taught)
    assert rpl(monkeypatch, "export", "run", tmp_path / "new", *given, "--task", "drawers:make") == 2
    said = capfd.readouterr().err
    assert sentence in " ".join(said.replace("│", " ").split())
    assert "Traceback" not in said
    assert not (tmp_path / "new").exists()
