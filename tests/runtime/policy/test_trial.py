"""Graphs are programs: those that never end, that take the memory, or whose cost depends on the states."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import policies
from processes import started
from rpl_runtime.client.client import Client
from rpl_runtime.errors import BundleError, MismatchedPair
from rpl_runtime.policy import trial
from rpl_runtime.policy.bundle import HIGH, LOW, Bundle, load_bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.policy.operators import check_operators
from rpl_runtime.policy.trial import REQUEST_BYTES, open_policy
from rpl_runtime.server.subprocess import serve_in_process
from rpl_runtime.wire.control import MAX_MESSAGE_BYTES

ROOT = Path(__file__).parents[3]
Change = Callable[[onnx.ModelProto], object]


def after_the_last(*nodes: onnx.NodeProto, **constants: np.ndarray) -> Change:
    """A change that puts nodes behind the last layer's output: they read "before" and add "extra" to it."""

    def change(graph: onnx.ModelProto) -> None:
        last = graph.graph.node[-1]
        output, last.output[0] = last.output[0], "before"
        graph.graph.node.extend([*nodes, helper.make_node("Add", ["before", "extra"], [output])])
        graph.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())

    return change


def node(operator: str, inputs: list[str], output: str = "extra", **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [output], **attributes)


def endless_loop() -> onnx.NodeProto:
    """Loop without a trip count, whose condition stays true."""
    condition = helper.make_tensor_value_info("on", TensorProto.BOOL, [])
    count = helper.make_tensor_value_info("count", TensorProto.INT64, [])
    still = helper.make_tensor_value_info("still", TensorProto.BOOL, [])
    body = helper.make_graph([node("Identity", ["on"], "still")], "body", [count, condition], [still])
    return helper.make_node("Loop", ["", "yes"], [], body=body)


def branch() -> onnx.NodeProto:
    value = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    arm = helper.make_graph([node("Identity", ["before"], "out")], "arm", [], [value])
    return node("If", ["yes"], then_branch=arm, else_branch=arm)


def sum_of(name: str) -> onnx.NodeProto:
    return node("ReduceSum", [name], keepdims=0)


HUGE = np.array([1_000_000_000], dtype=np.int64)
YES, ONE, ZERO = np.array(True), np.array(1.0, dtype=np.float32), np.array(0.0, dtype=np.float32)
AXES = np.array([0], dtype=np.int64)

# Refused for their operators, whatever they would cost now.
REFUSED: dict[str, tuple[Change, str]] = {
    "a loop": (after_the_last(endless_loop(), yes=YES, extra=ONE), "a graph within the operator 'Loop'"),
    "a branch": (after_the_last(branch(), yes=YES), "a graph within the operator 'If'"),
    "a random number": (after_the_last(node("RandomNormal", [], shape=[1])), "the operator 'RandomNormal'"),
    "a sequence": (
        after_the_last(node("SequenceConstruct", ["before"], "s"), node("ConcatFromSequence", ["s"], axis=0)),
        "the operator 'SequenceConstruct'",
    ),
    "a size from the states": (
        after_the_last(
            node("ReduceSum", ["before"], "much", keepdims=0),
            node("Range", ["zero", "much", "one"], "row"),
            sum_of("row"),
            zero=ZERO,
            one=ONE,
        ),
        "a node Range whose output's size depends on its data",
    ),
    "a scale from the states": (
        after_the_last(
            node("ReduceMax", ["before"], "most", keepdims=0),
            node("QuantizeLinear", ["before", "most", "none"], "rounded"),
            node("Cast", ["rounded"], to=TensorProto.FLOAT),
            none=np.array(0, dtype=np.uint8),
        ),
        "a node QuantizeLinear whose scale or zero point depends on its data",
    ),
    "a size from a number that the states choose": (
        after_the_last(
            node("ReduceSum", ["before"], "much", keepdims=0),
            node("Cast", ["much"], "index", to=TensorProto.INT64),
            node("Gather", ["sizes", "index"], "size"),
            node("ConstantOfShape", ["size"], "zeros"),
            sum_of("zeros"),
            sizes=np.array([[1], [9]]),
        ),
        "a node ConstantOfShape whose output's size depends on its data",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_operators_whose_cost_the_states_decide_are_refused_unseen(
    case: str, own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, message = REFUSED[case]
    monkeypatch.setattr(trial, "_try", lambda bundle: pytest.fail("the graph was run"))
    with pytest.raises(BundleError, match=message):
        open_policy(policies.rewritten(own_bundle, "low", change))


def _foreign_domain(graph: onnx.ModelProto) -> None:
    graph.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    graph.graph.node[-1].domain = "com.microsoft"


def _function(graph: onnx.ModelProto) -> None:
    twice = [helper.make_node("Add", ["x", "x"], ["y"])]
    graph.functions.append(helper.make_function("", "Twice", ["x"], ["y"], twice, graph.opset_import))


def _address_as_a_file(graph: onnx.ModelProto) -> None:
    """Weights that ONNX Runtime would read from an address in its own memory."""
    weights = graph.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "*/_ORT_MEM_ADDR_/*"), ("offset", "4096"), ("length", "60")):
        weights.external_data.add(key=key, value=value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_foreign_domain, "operators of the domain 'com.microsoft'"),
        (_function, "holds functions"),
        (_address_as_a_file, "external data"),
        (lambda graph: graph.training_info.add(), "holds training steps"),
        (lambda graph: graph.graph.sparse_initializer.add(), "holds sparse weights"),
    ],
)
def test_what_a_policy_does_not_need_is_refused(own_bundle: Bundle, change: Change, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        open_policy(policies.rewritten(own_bundle, "high", change))


def test_a_field_of_another_kind_hides_no_domain(own_bundle: Bundle) -> None:
    """Readers of protobuf skip a field that has the number of `domain` and the kind of an integer."""
    graph = onnx.load(own_bundle.low)
    last = graph.graph.node[-1]
    last.domain = "com.microsoft"
    hidden = last.SerializeToString() + b"\x38\x00"  # field 7 as a varint
    rest = b"".join(
        b"\x0a" + bytes([len(raw)]) + raw for raw in [*(n.SerializeToString() for n in graph.graph.node[:-1]), hidden]
    )
    raw = b"\x3a" + bytes([0x80 | len(rest) & 0x7F, len(rest) >> 7]) + rest
    with pytest.raises(BundleError, match="holds the operator 'Add'"):
        check_operators(raw, "low.onnx")


@pytest.mark.parametrize("raw", [b"\xff" * 20, b"\x3a\xff\xff\xff\xff\x0f", b"\x3b", b"\x00", b"\x80"])
def test_bytes_that_are_not_a_message(raw: bytes) -> None:
    with pytest.raises(BundleError, match="not a graph that ONNX Runtime loads"):
        check_operators(raw, "low.onnx")


def most_memory(who: int) -> int:
    """[bytes] the most that this process, or one of its children, has held."""
    return resource.getrusage(who).ru_maxrss << 10


def square_of(size: Callable[[int], int]) -> Change:
    """A change that makes a square of zeros, of a size for each number of rows up to that of a full request."""
    most = REQUEST_BYTES // 48  # the smallest row of the tiny policy has 48 bytes
    return after_the_last(
        node("Shape", ["before"], "rows", end=1),
        node("Gather", ["sizes", "rows"], "size"),
        node("Concat", ["size", "size"], "shape", axis=0),
        node("ConstantOfShape", ["shape"], "zeros"),
        sum_of("zeros"),
        sizes=np.array([size(rows) for rows in range(2 * most)]),
    )


MUCH_MEMORY: dict[str, Change] = {
    "with three or four rows": square_of(lambda rows: 20_000 if rows in (3, 4) else 1),
    "while it loads": after_the_last(node("ConstantOfShape", ["huge"], "zeros"), sum_of("zeros"), huge=HUGE),
    "in a step": after_the_last(
        node("ReduceSum", ["before"], "one", keepdims=0),
        node("Expand", ["one", "huge"], "row"),
        sum_of("row"),
        huge=HUGE,
    ),
    "with many rows": after_the_last(
        node("ReduceSum", ["before", "axes"], "column", keepdims=1),
        node("Transpose", ["column"], "row"),
        node("MatMul", ["column", "row"], "square"),
        sum_of("square"),
        axes=np.array([1]),
    ),
}


@pytest.mark.parametrize("case", MUCH_MEMORY)
def test_a_graph_that_takes_the_memory_is_refused(case: str, own_bundle: Bundle) -> None:
    before, earlier = most_memory(resource.RUSAGE_SELF), most_memory(resource.RUSAGE_CHILDREN)
    bundle = policies.rewritten(own_bundle, "low", MUCH_MEMORY[case])
    assert bundle.low.stat().st_size < 500_000
    with pytest.raises(BundleError, match=r"memory|bad_alloc|allocat"):
        open_policy(bundle)
    after = most_memory(resource.RUSAGE_SELF)
    assert after - before < 50 << 20
    # A child counts the memory of its parent until it runs its own program; earlier ones were started by other tests.
    assert most_memory(resource.RUSAGE_CHILDREN) <= max(800 << 20, earlier, after)


def test_a_graph_runs_with_no_number_of_rows_that_was_not_tried(own_bundle: Bundle) -> None:
    """With another number this one would take all memory."""
    tried = {1 << power for power in range(20)}
    policy = open_policy(policies.rewritten(own_bundle, "low", square_of(lambda rows: 1 if rows in tried else 200_000)))
    rng, spec = np.random.default_rng(0), own_bundle.spec
    inputs = [rng.uniform(-0.1, 0.1, (70, size)).astype(np.float32) for size in (5, 5, spec.low_noise)]
    alone = np.vstack([policy.act(*(batch[[row]] for batch in inputs)) for row in range(70)])
    for rows in (2, 3, 7, 64, 65, 70):
        np.testing.assert_allclose(policy.act(*(batch[:rows] for batch in inputs)), alone[:rows], atol=1e-6)


def slow(size: int, times: int) -> Change:
    """Products of a large matrix with itself: little memory, much time."""
    names = ["square", *(f"power{index}" for index in range(times))]
    nodes = [node("MatMul", [before, "square"], after) for before, after in pairwise(names)]
    shape = np.array([size, size], dtype=np.int64)
    grow = [node("ReduceSum", ["before"], "one", keepdims=0), node("Expand", ["one", "shape"], "square")]
    return after_the_last(
        *grow,
        *nodes,
        node("ReduceMax", [names[-1]], "most", keepdims=0),
        node("Clip", ["most", "low", "high"]),
        shape=shape,
        low=ZERO,
        high=ONE,
    )


def test_a_policy_slower_than_its_period_is_refused(own_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"a control step of tiny takes .* s of processor time; must be at most its"):
        open_policy(policies.rewritten(own_bundle, "low", slow(1000, 10)))


def test_a_plan_may_take_longer_than_a_period_but_not_than_its_horizon(tmp_path: Path) -> None:
    """A plan of 7 billion operations takes more than 4 ms and less than 10 s of any processor."""
    patient, hasty = (
        policies.tiny_bundle(tmp_path / str(steps), policies.tiny_spec(steps).model_copy(update={"period_s": 0.001}))
        for steps in (10_000, 4)
    )
    policy = open_policy(policies.rewritten(patient, "high", slow(700, 10)))
    assert policy.plan_time_s() > policy.spec.period_s
    assert policy.most_plans() < 100
    with pytest.raises(BundleError, match=r"a plan of tiny takes .* s of processor time; must be at most its ho"):
        open_policy(policies.rewritten(hasty, "high", slow(700, 10)))


def test_a_policy_is_opened_knowing_whether_its_rows_may_share_a_call(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnnxPolicy, "act_time_s", lambda _: 0.0)
    assert open_policy(tiny_bundle).joint


def test_a_graph_that_takes_the_processor_is_refused(own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_CPU_S", 1)
    with pytest.raises(BundleError, match="needs more than 1 s of processor time"):
        open_policy(policies.rewritten(own_bundle, "low", slow(3000, 100)))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda graph: helper.set_model_props(graph, {"level": '"high"'}), MismatchedPair),
        (lambda graph: graph.graph.node.pop(), BundleError),
    ],
)
def test_the_trial_says_what_opening_it_would(own_bundle: Bundle, change: Change, error: type[BundleError]) -> None:
    with pytest.raises(error, match=r"low\.onnx"):
        open_policy(policies.rewritten(own_bundle, "low", change))


def test_a_bundle_is_tried_once(own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(trial, "_passed", set())
    monkeypatch.setattr(trial, "_try", lambda bundle: tried.append(bundle.digest))
    for _ in range(2):
        open_policy(own_bundle)
    assert tried == [own_bundle.digest]
    open_policy(policies.tiny_bundle(own_bundle.path, seed=1))
    assert len(tried) == 2


@pytest.mark.parametrize("known", [True, False])
def test_a_server_in_a_process_of_its_own_tries_no_bundle_that_its_parent_has_tried(
    known: bool, own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "_passed", {own_bundle.digest} if known else {"0" * 64})
    with serve_in_process(own_bundle.path) as address, Client(address) as client:
        assert client.describe().digest == own_bundle.digest
        [server] = multiprocessing.active_children()
        spent_s = children_s(server.pid)
    assert (spent_s == 0) == known


def children_s(process: int | None) -> float:
    """The processor time [s] of the children of a process that have ended."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def test_a_request_holds_no_more_rows_than_are_tried() -> None:
    assert REQUEST_BYTES == MAX_MESSAGE_BYTES


@pytest.mark.parametrize("name", ["kitchen", "play", "relay"])
def test_the_shipped_bundles_pass(name: str) -> None:
    bundle = load_bundle(ROOT / "models" / name)
    for graph in (HIGH, LOW):
        check_operators(bundle.files[graph], graph)
    open_policy(bundle)


def test_a_server_of_a_graph_that_never_answers_hears_a_signal(own_bundle: Bundle) -> None:
    bundle = policies.rewritten(own_bundle, "low", slow(3000, 100))
    command = [sys.executable, "-c", "from rpl_runtime.cli import main; main()", "serve", str(bundle.path)]
    with started([*command, "--address", "127.0.0.1:0", "--drain", "0"], stderr=subprocess.DEVNULL) as process:
        while not any(task.read_text() for task in Path(f"/proc/{process.pid}/task").glob("*/children")):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) in (0, 1, -signal.SIGTERM)  # 1: it hung and was ended
