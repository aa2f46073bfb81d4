"""Bundles made of small random graphs, so that no test needs a trained policy.

`tiny_spec` differs from the kitchen in its dimensions, its horizon and its names.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rpl_runtime.policy.bundle import Bundle, write_bundle
from rpl_runtime.policy.manifest import Manifest, Provenance, Stall, Statistics
from rpl_runtime.policy.spec import ElementSpec, PolicySpec, VectorSpec
from rpl_runtime.tasks.kitchen.elements import kitchen_spec


def tiny_spec(horizon: int = 4, high_noise: int = 3, low_noise: int = 2) -> PolicySpec:
    """A 5-dimensional cart with a door and a lamp, moved by two numbers."""
    return PolicySpec(
        name="tiny",
        description="A cart that opens a door and lights a lamp.",
        state=VectorSpec(
            names=("x", "y", "heading", "door", "lamp"),
            units=("m", "m", "rad", "rad", "1"),
            low=(-10.0, -10.0, -3.2, -1.0, -0.5),
            high=(10.0, 10.0, 3.2, 2.0, 1.5),
        ),
        action=VectorSpec(names=("speed", "turn"), units=("m/s", "rad/s"), low=(-1.0, -2.0), high=(1.0, 2.0)),
        horizon=horizon,
        period_s=0.05,
        high_noise=high_noise,
        low_noise=low_noise,
        elements={
            "door": ElementSpec(dims=(3,), goal=(1.5,), tolerance=0.1),
            "lamp": ElementSpec(dims=(4,), goal=(1.0,), tolerance=0.1),
            "dock": ElementSpec(dims=(0, 1), goal=(1.0, -1.0), tolerance=0.2),
        },
        library={"home": ("door", "lamp")},
        goal_dims=(0, 1, 3, 4),
    )


def tiny_bundle(
    path: Path,
    spec: PolicySpec | None = None,
    seed: int = 0,
    statistics: Statistics | None = None,
    stall: Stall | None = None,
) -> Bundle:
    """Write a bundle of `spec` (by default `tiny_spec()`), one random layer for each level, drawn with the seed."""
    spec = spec or tiny_spec()
    rng = np.random.default_rng(seed)
    n = spec.state.dim
    high_inputs = {"state": n, "goal": n, "mask": n, "noise": spec.high_noise}
    low_inputs = {"state": n, "subgoal": n, "noise": spec.low_noise}
    graphs = {
        "high": _layer("high", high_inputs, "subgoal", spec.state, rng),
        "low": _layer("low", low_inputs, "action", spec.action, rng),
    }
    pair_id = hashlib.sha256(b"".join(graph.SerializeToString() for graph in graphs.values())).hexdigest()
    for level, graph in graphs.items():
        facts = {"pair_id": pair_id, "level": level, "horizon": spec.horizon}
        helper.set_model_props(graph, {key: json.dumps(value) for key, value in facts.items()})
    provenance = Provenance(command="test", commit="none")
    manifest = Manifest(spec=spec, pair_id=pair_id, files={}, statistics=statistics, stall=stall, provenance=provenance)
    return write_bundle(path, manifest, graphs["high"].SerializeToString(), graphs["low"].SerializeToString())


def tiny_statistics() -> Statistics:
    """Statistics with a simple score: the length of the state, with its heading counted half."""
    triangle = ((1.0,), (0.0, 1.0), (0.0, 0.0, 0.5), (0.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0, 0.0, 1.0))
    return Statistics(mean=(0.0,) * 5, std=(0.3,) * 5, low=(-1.0,) * 5, high=(1.0,) * 5, whitening=triangle)


def kitchen_bundle(path: Path, seed: int = 0) -> Bundle:
    """Write a bundle of the kitchen's sizes with an untrained policy."""
    return tiny_bundle(path, kitchen_spec("kitchen", horizon=30, high_noise=4, low_noise=9), seed)


def rewritten(bundle: Bundle, level: str, change: Callable[[onnx.ModelProto], object]) -> Bundle:
    """The bundle with one graph changed and all files sealed again."""
    graphs = {name: onnx.load(bundle.path / f"{name}.onnx") for name in ("high", "low")}
    change(graphs[level])
    high, low = (graph.SerializeToString() for graph in graphs.values())
    return write_bundle(bundle.path, bundle.manifest, high, low)


def _layer(
    name: str, inputs: dict[str, int], output: str, into: VectorSpec, rng: np.random.Generator
) -> onnx.ModelProto:
    """output = centre + reach * tanh(inputs @ weight): depends on every input and stays inside `into`."""
    low, high = into.bounds
    constants = {
        "weight": rng.normal(0.0, 0.3, (sum(inputs.values()), into.dim)).astype(np.float32),
        "reach": (high - low) * np.float32(0.4),
        "centre": (high + low) * np.float32(0.5),
    }
    nodes = [
        helper.make_node("Concat", list(inputs), ["joined"], axis=1),
        helper.make_node("MatMul", ["joined", "weight"], ["product"]),
        helper.make_node("Tanh", ["product"], ["unit"]),
        helper.make_node("Mul", ["unit", "reach"], ["scaled"]),
        helper.make_node("Add", ["scaled", "centre"], [output]),
    ]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(key, TensorProto.FLOAT, ["batch", dim]) for key, dim in inputs.items()],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", into.dim])],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    return model
