"""Networks read back from a bundle's graphs."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import drawers
import policies
from rpl_runtime.errors import InvalidInput
from rpl_runtime.policy.bundle import Bundle, load_bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_train.export.export import export
from rpl_train.export.parity import ParityConfig, check_parity
from rpl_train.export.restore import restore
from rpl_train.networks import NetworkConfig
from rpl_train.runs import weights_digest
from rpl_train.tasks.kitchen.task import KITCHEN
from source import ROOT

SHORT = ParityConfig(episodes=1, steps=20)


def tensors(bundle: Bundle, level: str) -> dict[str, bytes]:
    graph = onnx.load_from_string(bundle.files[f"{level}.onnx"]).graph
    return {each.name: numpy_helper.to_array(each).tobytes() for each in graph.initializer}


@pytest.mark.parametrize("name", ["kitchen", "play", "relay"])
def test_the_shipped_policies_act_as_their_graphs(name: str) -> None:
    shipped = load_bundle(ROOT / "models" / name)
    parity = check_parity(restore(shipped, "kitchen").policy, OnnxPolicy(shipped), shipped.spec, SHORT, KITCHEN)
    assert parity.max_abs_target_difference <= parity.tolerance
    assert parity.max_abs_subgoal_difference <= parity.tolerance


def test_a_shipped_policy_comes_back_to_the_bit(tmp_path: Path) -> None:
    shipped = load_bundle(ROOT / "models" / "kitchen")
    policy, record = restore(shipped, "kitchen")
    again = export(policy, record.spec, record.provenance, tmp_path / "again", record.statistics, SHORT, KITCHEN).bundle
    for level in ("high", "low"):
        assert tensors(again, level) == tensors(shipped, level)
    assert weights_digest(restore(again, "kitchen").policy) == weights_digest(policy)


@pytest.mark.parametrize(
    ("networks", "sees"),
    [
        (NetworkConfig((8, 4), (6,), 3), (0, 2)),
        (NetworkConfig((8,), (6,), relative=True), (0, 2)),
        pytest.param(NetworkConfig((8,), (6,), relative=True), (), marks=pytest.mark.long),
        pytest.param(NetworkConfig((8,), (6,)), (), marks=pytest.mark.long),
        pytest.param(NetworkConfig((), (6,), flat=True), (), marks=pytest.mark.long),
    ],
)
def test_a_run_of_any_shape_comes_back(
    networks: NetworkConfig, sees: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawers, "TASK", replace(drawers.TASK, subgoal_dims=sees))
    policy, record = drawers.imitated(tmp_path / "run", 3, networks)
    exported = export(policy, record.spec, record.provenance, tmp_path / "bundle", record.statistics, SHORT).bundle
    found = restore(exported, record.task)
    assert (found.record.networks, found.record.subgoal_dims) == (networks, sees)
    ours, theirs = ({**run.low.state_dict(), **run.high.state_dict()} for run in (policy, found.policy))
    for name, values in ours.items():
        near = 1e-6 if name == "log_std" else 0.0  # several have the same exponential
        assert np.allclose(values, theirs[name], atol=near, rtol=0), name


def test_graphs_of_others_are_one_sentence(tmp_path: Path) -> None:
    bundle = policies.tiny_bundle(tmp_path / "bundle", statistics=policies.tiny_statistics())
    with pytest.raises(InvalidInput, match="is damaged or not a bundle that `rpl export` made of a training run"):
        restore(bundle, "drawers:make")
    with pytest.raises(InvalidInput, match="holds no statistics of its training states"):
        restore(policies.tiny_bundle(tmp_path / "other"), "drawers:make")


def test_a_graph_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "models" / "play", tmp_path / "bundle")

    def bend(model: onnx.ModelProto) -> None:
        next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Tanh"

    with pytest.raises(InvalidInput, match=r"the networks differ from the graphs of .* when they act"):
        restore(policies.rewritten(load_bundle(tmp_path / "bundle"), "low", bend), "kitchen")
