"""Export: any two modules that keep the contract become a bundle that moves a robot exactly as they do."""

import contextlib
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import policies
from rpl_runtime.cli import app as cli
from rpl_runtime.client.client import Client
from rpl_runtime.errors import InvalidInput, ParityError
from rpl_runtime.policy.bundle import LOW, Bundle, load_bundle
from rpl_runtime.policy.graphs import OnnxPolicy, graph_metadata
from rpl_runtime.policy.manifest import Provenance, Statistics
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.relay.loop import RelayLoop
from rpl_runtime.server.server import serve_in_thread
from rpl_runtime.tasks.kitchen.elements import PAPER_GOALS, kitchen_spec
from rpl_train.export import parity
from rpl_train.export.export import IR_VERSION, OPSET, ExportResult, export
from rpl_train.export.factory import CustomPolicy, load_factory
from rpl_train.export.parity import ParityConfig
from rpl_train.networks import HighLevel, LowLevel, NetworkConfig, RelayPolicy, TargetStatistics
from rpl_train.runs import LEVELS, RunRecord, build_level, open_run, save_weights

ROOT = Path(__file__).parents[3]
PROVENANCE = Provenance(command="test", commit="none")
SHORT = ParityConfig(steps=40)


class TinyHigh(nn.Module):
    """A learned level of the tiny policy's sizes; `break_graph` makes its graph another function."""

    def __init__(self, spec: PolicySpec, break_graph: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3 * spec.state.dim + spec.high_noise, spec.state.dim)
        self.break_graph = break_graph

    def forward(self, state: Tensor, goal: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        weight = self.layer.weight
        if torch.compiler.is_exporting():
            weight = weight + self.break_graph * (torch.arange(weight.numel()).reshape(weight.shape) == 0)
        return nn.functional.linear(torch.cat([state, goal, mask, noise], dim=1), weight, self.layer.bias)


class TinyLow(nn.Module):
    """A level that ignores its noise."""

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(2 * spec.state.dim, spec.action.dim)

    def forward(self, state: Tensor, subgoal: Tensor, noise: Tensor) -> Tensor:
        return torch.tanh(self.layer(torch.cat([state, subgoal], dim=1)))


class Returns(nn.Module):
    """A module that returns what it is told to, computed from its first two inputs."""

    def __init__(self, make: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.make = make

    def forward(self, state: Tensor, second: Tensor, *rest: Tensor) -> object:
        return self.make(state, second)


def tiny(break_graph: float = 0.0) -> tuple[RelayPolicy, PolicySpec]:
    spec = policies.tiny_spec()
    return RelayPolicy(TinyHigh(spec, break_graph), TinyLow(spec)), spec


@pytest.fixture(scope="session")
def tiny_export(tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    return export(*tiny(), PROVENANCE, tmp_path_factory.mktemp("tiny export") / "bundle", config=SHORT)


@pytest.fixture(scope="session")
def quadrotor() -> CustomPolicy:
    with contextlib.chdir(ROOT):
        return load_factory("examples.my_policy:make")


@pytest.fixture(scope="session")
def quadrotor_export(quadrotor: CustomPolicy, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    path = tmp_path_factory.mktemp("quadrotor") / "bundle"
    return export(quadrotor.policy, quadrotor.spec, PROVENANCE, path, config=SHORT)


@pytest.mark.parametrize("batch", [1, 2, 64, 257])
def test_batch_is_free(tiny_export: ExportResult, batch: int) -> None:
    modules, spec = tiny()
    rng = np.random.default_rng(batch)
    state, goal, mask = rng.normal(size=(3, batch, spec.state.dim)).astype(np.float32)
    graphs = OnnxPolicy(tiny_export.bundle)
    for noise in (rng.normal(size=(batch, 3)).astype(np.float32), np.zeros((batch, 3), np.float32)):
        subgoal = graphs.plan(state, goal, mask, noise)
        np.testing.assert_allclose(subgoal, modules.plan(state, goal, mask, noise), atol=1e-6)
        action = graphs.act(state, subgoal, noise[:, :2])
        np.testing.assert_allclose(action, modules.act(state, subgoal, noise[:, :2]), atol=1e-6)


def test_every_input_survives_even_where_it_is_ignored(tiny_export: ExportResult) -> None:
    low = onnx.load(tiny_export.bundle.low)
    assert [value.name for value in low.graph.input] == ["state", "subgoal", "noise"]
    assert not any("noise" in node.input for node in low.graph.node)


def test_graphs_are_of_the_stated_versions(tiny_export: ExportResult) -> None:
    for path in (tiny_export.bundle.high, tiny_export.bundle.low):
        graph = onnx.load(path)
        assert (graph.ir_version, [entry.version for entry in graph.opset_import]) == (IR_VERSION, [OPSET])


def test_same_weights_give_the_same_bytes(tiny_export: ExportResult, tmp_path: Path) -> None:
    again = export(*tiny(), PROVENANCE, tmp_path / "again", config=SHORT)
    assert again.bundle.digest == tiny_export.bundle.digest
    for name in ("manifest.json", "high.onnx", "low.onnx", "MODEL_CARD.md"):
        assert (again.bundle.path / name).read_bytes() == (tiny_export.bundle.path / name).read_bytes()


def test_graphs_say_nothing_of_the_machine_they_were_made_on(tiny_export: ExportResult) -> None:
    for path in (tiny_export.bundle.high, tiny_export.bundle.low):
        content = path.read_bytes()
        for leak in (b"File ", b".py", b"stack_trace", b"torch", b"TinyHigh"):
            assert leak not in content


def test_a_graph_alone_explains_itself(tiny_export: ExportResult) -> None:
    spec = policies.tiny_spec()
    for level, noise, parameters in (("high", 3, 18 * 5 + 5), ("low", 2, 10 * 2 + 2)):
        facts = graph_metadata(tiny_export.bundle, f"{level}.onnx")
        assert (facts["level"], facts["noise"], facts["parameters"]) == (level, noise, parameters)
        assert facts["pair_id"] == tiny_export.bundle.manifest.pair_id
        assert PolicySpec.model_validate({key: facts[key] for key in PolicySpec.model_fields}) == spec


def test_pair_id_is_the_digest_of_both_graphs_without_metadata(tiny_export: ExportResult) -> None:
    digests = b""
    for path in (tiny_export.bundle.high, tiny_export.bundle.low):
        graph = onnx.load(path)
        del graph.metadata_props[:]
        digests += hashlib.sha256(graph.SerializeToString(deterministic=True)).digest()
    assert hashlib.sha256(digests).hexdigest() == tiny_export.bundle.manifest.pair_id


def test_manifest_holds_what_the_gate_measured(tiny_export: ExportResult) -> None:
    parity = tiny_export.bundle.manifest.parity
    assert parity["max_abs_target_difference"] == tiny_export.parity.max_abs_target_difference <= 1e-5
    assert parity["tolerance"] == 1e-5
    assert parity["episodes"] == 10
    assert parity["steps"] == (10 + 64) * SHORT.steps


def test_a_slow_high_level_is_compared_in_fewer_plans(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, spent_s = OnnxPolicy(tiny_bundle), [0.0]

    class Slow:
        act = staticmethod(policy.act)

        @staticmethod
        def plan(*rows: np.ndarray) -> np.ndarray:
            spent_s[0] += 0.3 * len(rows[0])
            return policy.plan(*rows)

    monkeypatch.setattr(parity, "perf_counter", lambda: spent_s[0])
    found = parity.check_parity(Slow(), Slow(), tiny_bundle.spec, ParityConfig())
    assert (found.max_abs_target_difference, found.max_abs_subgoal_difference) == (0.0, 0.0)
    assert found.steps > 0
    assert spent_s[0] < 120  # [s] and not the 500 of all plans


def test_a_graph_that_differs_is_not_written(own_bundle: Bundle) -> None:
    # One weight of the high level is off; the gate looks at what the low level makes of it.
    before = {file.name: file.read_bytes() for file in own_bundle.path.iterdir()}
    differs = r"differ from their modules by .* in (speed|turn) \[.*\] at step \d+ of a batch"
    with pytest.raises(ParityError, match=differs) as caught:
        export(*tiny(break_graph=1e-2), PROVENANCE, own_bundle.path, config=SHORT)
    assert "\n" not in str(caught.value)
    assert {file.name: file.read_bytes() for file in own_bundle.path.iterdir()} == before
    assert list(own_bundle.path.parent.iterdir()) == [own_bundle.path]


def test_the_gate_needs_the_execution_provider_that_will_serve(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no execution provider 'Abacus' here"):
        export(*tiny(), PROVENANCE, tmp_path / "bundle", config=replace(SHORT, providers="Abacus"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda state, goal: goal[:, :2], r"returned float32 \(1, 2\) for a batch of 1; must be high\(state \(B, 5\)"),
        (lambda state, goal: goal.double(), r"returned float64 \(1, 5\) for a batch of 1"),
        (lambda state, goal: (goal, state), "returned a tuple"),
        (lambda state, goal: goal * float("nan"), "every number must be finite"),
        (lambda state, goal: goal[:1], r"returned float32 \(1, 5\) for a batch of 3"),
        (
            lambda state, goal: goal @ torch.zeros(3, 5),
            r"the high level fails as high\(.*: RuntimeError: mat1 and mat2",
        ),
        (lambda state, goal: goal if len(goal) < 4 else state, "cannot be exported with a free batch"),
    ],
)
def test_a_module_that_breaks_the_contract(make, message: str, tmp_path: Path) -> None:
    spec = policies.tiny_spec()
    with pytest.raises(InvalidInput, match=message) as caught:
        export(RelayPolicy(Returns(make), TinyLow(spec)), spec, PROVENANCE, tmp_path / "bundle", config=SHORT)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_level_may_pass_an_input_on(tmp_path: Path) -> None:
    spec = policies.tiny_spec(low_noise=0)
    made = export(
        RelayPolicy(Returns(lambda state, goal: goal), TinyLow(spec)), spec, PROVENANCE, tmp_path / "b", config=SHORT
    )
    goal = np.arange(10, dtype=np.float32).reshape(2, 5)
    graphs = OnnxPolicy(made.bundle)
    assert np.array_equal(graphs.plan(goal + 1, goal, goal, np.zeros((2, 3), np.float32)), goal)
    assert graphs.act(goal, goal, np.zeros((2, 0), np.float32)).shape == (2, 2)


@pytest.mark.parametrize("seed", [None, 7])
def test_the_example_is_served_and_flies_to_its_goal(quadrotor_export: ExportResult, seed: int | None) -> None:
    spec = quadrotor_export.bundle.spec
    assert (spec.state.dim, spec.action.dim) == (6, 4)
    state = np.array([-4.0, 3.0, 0.2, 0.0, 0.0, 0.0], dtype=np.float32)
    goal = spec.library["hover"]
    beside = RelayLoop(OnnxPolicy(quadrotor_export.bundle), spec)
    beside.start("quad", spec.resolve(goal, state), seed)
    with serve_in_thread(quadrotor_export.bundle) as address, Client(address) as client, client.control() as control:
        control.start("quad", goal, state, seed)
        for step in range(600):
            target = control.step("quad", step, state).target
            assert np.array_equal(target, beside.step(["quad"], [step], state[None]).action[0])
            state = _fly(state, target, spec.period_s)
    place = np.array([3.0, -2.0, 1.5])
    assert np.linalg.norm(state[:3] - place) < 0.25


def _fly(state: np.ndarray, action: np.ndarray, period: float) -> np.ndarray:
    """A point mass (6,) under thrust and tilt (4,) for one period, at zero yaw."""
    thrust, roll, pitch, _ = action
    push = thrust * np.array([np.cos(roll) * np.sin(pitch), -np.sin(roll), np.cos(roll) * np.cos(pitch)])
    velocity = state[3:] + period * (push - [0.0, 0.0, 9.81])
    return np.concatenate([state[:3] + period * velocity, velocity]).astype(np.float32)


def test_a_kitchen_policy_is_measured_in_the_kitchen(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium_robotics")
    spec = kitchen_spec("kitchen", horizon=4, high_noise=30, low_noise=9)
    # What an untrained policy of this kind can do without leaving the accepted states: stay about the home pose.
    home = (0.15, -1.77, 1.84, -2.47, 0.25, 0.71, 1.59, 0.04, 0.04)
    mean = (*home, *[0.0] * 21)
    statistics = Statistics(mean=mean, std=(0.1,) * 30, low=mean, high=mean)
    torch.manual_seed(0)
    high = HighLevel(spec, statistics, (16,), components=1)
    low = LowLevel(spec, statistics, TargetStatistics(home, (0.01,) * 9), (16,))
    made = export(RelayPolicy(high, low), spec, PROVENANCE, tmp_path / "b", statistics, ParityConfig(steps=10))
    assert made.parity.episodes == len(PAPER_GOALS) == 17
    assert made.bundle.manifest.statistics == statistics
    assert made.parity.max_abs_target_difference <= 1e-5


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("my_factory", "is not a factory; must be module:factory"),
        ("no_such_module:make", "there is no module 'no_such_module'"),
        ("broken_import:make", "broken_import fails on import: ZeroDivisionError"),
        ("sound:missing", "has no factory 'missing'; it has fails, make, wrong"),
        ("sound:fails", "sound:fails fails: RuntimeError: out of ideas"),
        ("sound:wrong", r"returned \(int, int\); must be \(high: nn.Module"),
    ],
)
def test_a_factory_that_is_not_one(
    reference: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_import.py").write_text("1 / 0\n")
    (tmp_path / "sound.py").write_text(
        "def make(): pass\ndef wrong(): return 1, 2\ndef fails(): raise RuntimeError('out of ideas')\n"
    )
    monkeypatch.chdir(tmp_path)
    path_before = list(sys.path)
    with pytest.raises(InvalidInput, match=message):
        load_factory(reference)
    assert sys.path == path_before
    sys.modules.pop("sound", None)


def test_the_command_exports_a_factory_and_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rpl_train.export.parity.ParityConfig", partial(ParityConfig, steps=SHORT.steps))
    bundle = tmp_path / "quadrotor"
    assert rpl(monkeypatch, "export", "--from", "examples.my_policy:make", str(bundle), "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["digest"], facts["replaced"]) == (load_bundle(bundle).digest, None)
    assert facts["bytes"]["high.onnx"] == load_bundle(bundle).high.stat().st_size
    assert load_bundle(bundle).manifest.provenance.settings == {"factory": "examples.my_policy:make"}

    statistics = Statistics(mean=(0.0,) * 5, std=(1.0,) * 5, low=(-1.0,) * 5, high=(1.0,) * 5)
    record = RunRecord(
        spec=policies.tiny_spec(high_noise=5),
        networks=NetworkConfig((8,), (8,)),
        statistics=statistics,
        targets=TargetStatistics((0.0,) * 2, (1.0,) * 2),
        provenance=Provenance(command="rpl imitate", commit="none", seeds=(3,)),
        task="",
    )
    open_run(tmp_path / "run", record)
    for level in LEVELS:
        save_weights(tmp_path / "run" / f"{level}.safetensors", build_level(level, record))
    assert rpl(monkeypatch, "export", str(tmp_path / "run"), str(tmp_path / "tiny")) == 0
    assert "differ by" in capsys.readouterr().out
    whole = load_bundle(tmp_path / "tiny")
    written = whole.manifest
    assert (written.provenance, written.statistics, written.spec) == (record.provenance, statistics, record.spec)

    assert rpl(monkeypatch, "export", str(tmp_path / "run"), str(tmp_path / "low"), "--low-only", "--name", "tiny") == 0
    assert "subgoals" in capsys.readouterr().out  # both levels were compared
    low = load_bundle(tmp_path / "low")
    assert (low.graphs, low.files[LOW]) == ((LOW,), whole.files[LOW])


def test_a_bundle_that_stands_there_is_replaced_only_by_force(
    own_bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rpl_train.export.parity.ParityConfig", partial(ParityConfig, steps=SHORT.steps))
    path, before = own_bundle.path, {file.name: file.read_bytes() for file in own_bundle.path.iterdir()}
    # Refused first of all: before anyone finds that the factory is missing.
    assert rpl(monkeypatch, "export", "--from", "examples.my_policy:nothing", str(path)) == 2
    said = capsys.readouterr().err
    assert f"{path} already holds tiny {own_bundle.digest[:12]}; pass --force to replace it" in said
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert rpl(monkeypatch, "export", "--from", "examples.my_policy:make", str(path), "--force") == 0
    assert f"tiny {own_bundle.digest[:12]}" in capsys.readouterr().out
    (path / "high.onnx").write_bytes(b"")
    assert rpl(monkeypatch, "export", "--from", "examples.my_policy:make", str(path)) == 2
    assert "already holds a bundle that cannot be read" in capsys.readouterr().err
    assert rpl(monkeypatch, "export", "--from", "examples.my_policy:make", str(path), "--force", "--json") == 0
    assert json.loads(capsys.readouterr().out)["replaced"] == "a bundle that cannot be read"
    assert load_bundle(path).spec.name == "quadrotor"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("run",), 2, "give two paths"),
        (("--from", "a:b", "run", "bundle"), 2, "with --from give one path"),
        (("--from", "examples.my_policy:nothing", "bundle"), 2, "has no factory 'nothing'"),
        (("no such run", "bundle"), 2, "holds no run.json"),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: tuple[str, ...],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert rpl(monkeypatch, "export", *arguments) == code
    captured = capsys.readouterr()
    assert message in " ".join(captured.err.replace("│", " ").split())
    assert captured.out == ""


def rpl(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run `rpl` in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["rpl", *arguments])
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)
