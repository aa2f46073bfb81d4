"""A bundle's graphs in ONNX Runtime, and graphs that do not match their manifest."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.external_data_helper import set_external_data

import policies
from rpl_runtime.errors import BundleError, InvalidInput, MismatchedPair
from rpl_runtime.policy.bundle import LOW, Bundle, load_bundle, write_bundle
from rpl_runtime.policy.graphs import OnnxPolicy, graph_metadata


def add_last(graph: onnx.ModelProto, nodes: Sequence[tuple[str, list[str]]]) -> None:
    """Append operations to a last layer; inputs: "before", earlier operations by number, and "much", a million."""
    attributes = {"Cast": {"to": onnx.TensorProto.INT64}, "GatherElements": {"axis": 1}}
    last = graph.graph.node[-1]
    outputs = [*map(str, range(1, len(nodes))), last.output[0]]
    last.output[0] = "before"
    for (operation, inputs), output in zip(nodes, outputs, strict=True):
        graph.graph.node.append(onnx.helper.make_node(operation, inputs, [output], **attributes.get(operation, {})))
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1e6, dtype=np.float32), "much"))


def rows(bundle: Bundle, batch: int) -> dict[str, np.ndarray]:
    rng, spec = np.random.default_rng(batch), bundle.spec
    sizes = {"state": spec.state.dim, "goal": spec.state.dim, "mask": spec.state.dim, "noise": spec.high_noise}
    return {name: rng.normal(size=(batch, size)).astype(np.float32) for name, size in sizes.items()}


@pytest.mark.parametrize("batch", [1, 64])
def test_rows_of_a_batch_do_not_touch_each_other(tiny_bundle: Bundle, batch: int) -> None:
    policy, inputs = OnnxPolicy(tiny_bundle), rows(tiny_bundle, batch)
    subgoal = policy.plan(**inputs)
    action = policy.act(inputs["state"], subgoal, inputs["noise"][:, :2])
    assert (subgoal.shape, action.shape) == ((batch, 5), (batch, 2))
    last = {name: value[-1:] for name, value in inputs.items()}
    np.testing.assert_allclose(policy.plan(**last), subgoal[-1:], atol=1e-6)
    np.testing.assert_allclose(policy.act(last["state"], subgoal[-1:], last["noise"][:, :2]), action[-1:], atol=1e-6)


def test_rows_share_a_call_only_if_that_changes_no_bit_and_takes_little_time(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    act = OnnxPolicy.act

    def mixes(policy: OnnxPolicy, *rows: np.ndarray) -> np.ndarray:
        action = act(policy, *rows)
        return np.nextafter(action, np.float32(9)) if len(action) == 8 else action

    def fails(policy: OnnxPolicy, *rows: np.ndarray) -> np.ndarray:
        if rows[0].any():
            raise ValueError("not in this state")
        return act(policy, *rows)

    def found() -> bool:
        policy = OnnxPolicy(tiny_bundle)
        policy.find_joint()
        return policy.joint

    assert found()
    for other in (mixes, fails):
        with monkeypatch.context() as patch:
            patch.setattr(OnnxPolicy, "act", other)
            assert not found()
    monkeypatch.setattr(OnnxPolicy, "act_time_s", lambda _: 0.01)
    assert not found()


def test_every_input_reaches_the_output(tiny_bundle: Bundle) -> None:
    policy, inputs = OnnxPolicy(tiny_bundle), rows(tiny_bundle, 1)
    subgoal = policy.plan(**inputs)
    for name in inputs:
        assert not np.array_equal(policy.plan(**inputs | {name: inputs[name] + 1}), subgoal), name


def test_one_row_is_what_onnx_runtime_makes_of_it(tiny_bundle: Bundle) -> None:
    policy, inputs = OnnxPolicy(tiny_bundle), rows(tiny_bundle, 1)
    session = onnxruntime.InferenceSession(tiny_bundle.high, providers=["CPUExecutionProvider"])
    first = policy.plan(**inputs)
    policy.plan(**inputs | {"state": inputs["state"] + 1})
    np.testing.assert_array_equal(first, session.run(["subgoal"], inputs)[0])  # and it stays what it was


OTHERS = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]


@pytest.mark.parametrize("named", ["cpu", "CPUExecutionProvider", ",".join(OTHERS)])
def test_every_installed_execution_provider_computes_the_same(tiny_bundle: Bundle, named: str) -> None:
    inputs = rows(tiny_bundle, 8)
    expected = OnnxPolicy(tiny_bundle).plan(**inputs)
    np.testing.assert_allclose(OnnxPolicy(tiny_bundle, named).plan(**inputs), expected, atol=1e-5)


def test_an_execution_provider_that_is_not_there_is_named_with_those_that_are(tiny_bundle: Bundle) -> None:
    with pytest.raises(InvalidInput, match=f"no execution provider 'Abacus' here; must be of {', '.join(OTHERS)}"):
        OnnxPolicy(tiny_bundle, "CPU, Abacus")


def test_an_execution_provider_that_does_not_start_is_not_replaced_in_silence(tiny_bundle: Bundle, monkeypatch) -> None:
    """As CUDA's is that finds no GPU."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(InvalidInput, match=r"the execution providers CUDA do not all start; .* would compute with CPU"),
    ):
        OnnxPolicy(tiny_bundle, "CUDA")


def test_threads_do_not_touch_each_other(tiny_bundle: Bundle) -> None:
    policy, inputs = OnnxPolicy(tiny_bundle), rows(tiny_bundle, 8)
    alone = [policy.plan(*(batch[row : row + 1] for batch in inputs.values())) for row in range(8)]

    def many(row: int) -> list[np.ndarray]:
        return [policy.plan(*(batch[row : row + 1] for batch in inputs.values())) for _ in range(300)]

    with ThreadPoolExecutor(8) as threads:
        for row, found in enumerate(threads.map(many, range(8))):
            np.testing.assert_array_equal(np.stack(found), np.repeat(alone[row][None], 300, axis=0))


def test_warm_up_takes_any_sizes(tmp_path: Path) -> None:
    for noise in (0, 4):
        spec = policies.tiny_spec(high_noise=noise, low_noise=noise)
        OnnxPolicy(policies.tiny_bundle(tmp_path / str(noise), spec)).warm_up()


def _rename_input(graph: onnx.ModelProto) -> None:
    graph.graph.input[0].name = graph.graph.node[0].input[0] = "observation"


def _fix_batch(graph: onnx.ModelProto) -> None:
    for value in graph.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 2


@pytest.mark.parametrize("change", [_rename_input, _fix_batch])
def test_a_graph_with_another_signature(own_bundle: Bundle, change: Callable[[onnx.ModelProto], object]) -> None:
    bundle = policies.rewritten(own_bundle, "high", change)
    with pytest.raises(
        BundleError, match=r"high\.onnx has inputs .*; the manifest asks for float32 state \(batch, 5\)"
    ):
        OnnxPolicy(bundle)


def test_a_manifest_with_other_noise_sizes(own_bundle: Bundle) -> None:
    spec = own_bundle.spec.model_copy(update={"high_noise": 7})
    manifest = own_bundle.manifest.model_copy(update={"spec": spec})
    bundle = write_bundle(own_bundle.path, manifest, own_bundle.high.read_bytes(), own_bundle.low.read_bytes())
    with pytest.raises(BundleError, match=r"noise \(batch, 7\)"):
        OnnxPolicy(bundle)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"level": "high"}, "low.onnx says it is the high level"),
        ({"pair_id": "0" * 64}, "of pair 000000000000; the manifest names pair"),
        ({}, "low.onnx says it is the None level of pair None"),
    ],
)
def test_a_graph_of_another_pair(own_bundle: Bundle, facts: dict[str, str], message: str) -> None:
    sound = graph_metadata(own_bundle, LOW) if facts else {}
    props = {key: json.dumps(value) for key, value in (sound | facts).items()}

    def relabel(graph: onnx.ModelProto) -> None:
        del graph.metadata_props[:]
        onnx.helper.set_model_props(graph, props)

    with pytest.raises(MismatchedPair, match=message):
        OnnxPolicy(policies.rewritten(own_bundle, "low", relabel))


def test_metadata_that_is_not_ours(own_bundle: Bundle) -> None:
    bundle = policies.rewritten(
        own_bundle, "low", lambda graph: onnx.helper.set_model_props(graph, {"author": "someone else"})
    )
    with pytest.raises(BundleError, match="metadata is not JSON"):
        OnnxPolicy(bundle)


def test_metadata_that_is_nested_without_end(own_bundle: Bundle) -> None:
    props = {"level": "[" * 200_000}
    bundle = policies.rewritten(own_bundle, "low", lambda graph: onnx.helper.set_model_props(graph, props))
    with pytest.raises(BundleError, match="metadata is not JSON"):
        OnnxPolicy(bundle)


def test_weights_that_no_digest_covers_are_refused(own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def move_out(graph: onnx.ModelProto) -> None:
        weights = graph.graph.initializer[0]
        (own_bundle.path.parent / "weights.bin").write_bytes(weights.raw_data)
        set_external_data(weights, "weights.bin")
        weights.ClearField("raw_data")

    bundle = policies.rewritten(own_bundle, "low", move_out)
    shutil.copy(own_bundle.path.parent / "weights.bin", own_bundle.path)
    monkeypatch.chdir(bundle.path)  # so that they are beside the graph, and here
    with pytest.raises(BundleError, match="External data"):
        OnnxPolicy(bundle)


def test_a_graph_that_fails_when_it_is_run(own_bundle: Bundle) -> None:
    def reach_beyond(graph: onnx.ModelProto) -> None:
        """Index columns that the last layer does not have."""
        add_last(graph, [("Add", ["before", "much"]), ("Cast", ["1"]), ("GatherElements", ["before", "2"])])

    policy = OnnxPolicy(policies.rewritten(own_bundle, "low", reach_beyond))
    with pytest.raises(BundleError, match="tiny fails when it is run"):
        policy.warm_up()


def test_a_graph_that_answers_with_no_number(own_bundle: Bundle) -> None:
    def take_a_root(graph: onnx.ModelProto) -> None:
        add_last(graph, [("Sub", ["before", "much"]), ("Sqrt", ["1"])])

    policy = OnnxPolicy(policies.rewritten(own_bundle, "high", take_a_root))
    with pytest.raises(BundleError, match="high level of tiny answers with a number that is not finite"):
        policy.warm_up()


def test_a_file_that_is_no_graph(own_bundle: Bundle) -> None:
    bundle = write_bundle(own_bundle.path, own_bundle.manifest, b"\x00" * 100, own_bundle.low.read_bytes())
    with pytest.raises(BundleError, match="not a graph that ONNX Runtime"):
        OnnxPolicy(load_bundle(bundle.path))


def test_nobody_is_told_what_runs(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """ONNX Runtime would write a machine id for telemetry into the home folder, except in CI."""
    program = "import sys, rpl_runtime.policy.graphs, rpl_runtime.policy.bundle as b; b.load_bundle(sys.argv[1])"
    surroundings = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    env = surroundings | {"HOME": str(tmp_path), "XDG_CACHE_HOME": "", "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", program, str(tiny_bundle.path)], env=env, check=True)
    assert list(tmp_path.rglob("*")) == []
