"""The networks behind a bundle's graphs, read back from them to the bit.

`rpl export` keeps each tensor of networks.py under its name in the graph. Only a level's log standard deviation is
folded: the graph holds its exponential, and the logarithm is chosen that gives it back. Graphs of other modules are
refused, by their names or because they compute something else.
"""

from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from rpl_runtime.errors import InvalidInput
from rpl_runtime.files import translated
from rpl_runtime.policy.bundle import HIGH, LOW, Bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_train.networks import Level, NetworkConfig, RelayPolicy, TargetStatistics
from rpl_train.runs import RunRecord, TrainedRun, build_policy

_KIND = "a bundle that `rpl export` made of a training run"
_FOLDED = "exp"  # a level's standard deviation in its graph
_ROWS = 64  # compared with the graphs
_TOLERANCE = 1e-4  # of the same sums in another order, far from the training data


def restore(bundle: Bundle, task: str) -> TrainedRun:
    """The trained run of a bundle for a task, by its reference.

    Raises:
        InvalidInput: its graphs are not those of networks.py, or its manifest holds no statistics.
    """
    manifest = bundle.manifest
    if manifest.planner is not None:
        raise InvalidInput(f"{bundle.path} holds a low level alone; must hold both levels")
    if manifest.quantized is not None:
        raise InvalidInput(
            f"the low level of {bundle.path} has {manifest.quantized} weights, which are rounded; "
            "must be the bundle or the run that it was made of"
        )
    if manifest.statistics is None:
        raise InvalidInput(f"{bundle.path} holds no statistics of its training states; must be {_KIND}")
    with translated(bundle.path, InvalidInput, _KIND):
        high, low = (onnx.load_from_string(bundle.files[name]).graph for name in (HIGH, LOW))
        tensors = [{each.name: numpy_helper.to_array(each) for each in graph.initializer} for graph in (high, low)]
        layers = [[found[name] for name in found if name.endswith(".bias")] for found in tensors]
        record = RunRecord(
            spec=manifest.spec,
            networks=NetworkConfig(
                high_hidden=_hidden(layers[0]),
                low_hidden=_hidden(layers[1]),
                high_components=max(1, manifest.spec.high_noise - manifest.spec.state.dim),
                flat=not layers[0],
                relative="state" in _selections(low),
            ),
            statistics=manifest.statistics,
            targets=TargetStatistics(*(tuple(tensors[1][name].tolist()) for name in ("target_mean", "scale"))),
            provenance=manifest.provenance,
            task=task,
            subgoal_dims=() if not layers[0] else _seen(low, tensors[1]),
        )
        policy = build_policy(record)
        for module, found in zip((policy.high, policy.low), tensors, strict=True):
            if isinstance(module, Level):
                _fill(module, found)
    check_same(bundle, policy)
    return TrainedRun(policy, record)


def check_same(bundle: Bundle, policy: RelayPolicy) -> None:
    """
    Raises:
        InvalidInput: the networks compute something else than the bundle's graphs.
    """
    spec, statistics, rng = bundle.spec, bundle.manifest.statistics, np.random.default_rng(0)
    low, high = spec.state.bounds
    mean, std = (low + high) / 2, (high - low) / 4
    if statistics is not None:
        mean, std = np.array(statistics.mean), np.array(statistics.std)

    def states() -> np.ndarray:
        return np.clip(rng.normal(mean, std, (_ROWS, spec.state.dim)), low, high).astype(np.float32)

    def noise(size: int) -> np.ndarray:
        return rng.standard_normal((_ROWS, size)).astype(np.float32) * (np.arange(_ROWS) % 2)[:, None].astype("f4")

    mask = rng.integers(2, size=(_ROWS, spec.state.dim)).astype(np.float32)
    given = {
        "plan": (states(), states(), mask, noise(spec.high_noise)),
        "act": (states(), states(), noise(spec.low_noise)),
    }
    graphs = OnnxPolicy(bundle)
    for verb, inputs in given.items():
        apart = np.abs(getattr(graphs, verb)(*inputs) - getattr(policy, verb)(*inputs)).max()
        if not apart <= _TOLERANCE:
            raise InvalidInput(
                f"the networks differ from the graphs of {bundle.path} by {apart:.2g} when they {verb}; "
                f"must be {_TOLERANCE:g} or less"
            )


def _hidden(biases: list[np.ndarray]) -> tuple[int, ...]:
    return tuple(len(bias) for bias in biases[:-1])


def _selections(graph: onnx.GraphProto) -> dict[str, str]:
    """What dimensions are selected of -> the tensor that names them."""
    return {node.input[0]: node.input[1] for node in graph.node if node.op_type in ("Gather", "GatherND")}


def _seen(graph: onnx.GraphProto, tensors: dict[str, np.ndarray]) -> tuple[int, ...]:
    """The dimensions of the subgoal that the low level sees; none if it sees all."""
    dims = (tensors[name] for of, name in _selections(graph).items() if of != "state")
    return next((tuple(each.ravel().tolist()) for each in dims), ())


def _fill(module: Level, tensors: dict[str, np.ndarray]) -> None:
    state: dict[str, Any] = module.state_dict()
    tensors = tensors | {"log_std": _logarithm(tensors[_FOLDED])}
    known = {name: torch.from_numpy(values.copy()) for name, values in tensors.items() if name in state}
    if missing := [name for name, _ in module.named_parameters() if name not in known]:
        raise KeyError(f"there is no {missing[0]}")
    module.load_state_dict(state | known)


def _logarithm(values: np.ndarray) -> np.ndarray:
    """The numbers (d,) whose exponentials are these, to the bit: the exporter folds with numpy's."""
    best = np.log(values)
    for direction in (-np.inf, np.inf):
        candidate = np.log(values)
        for _ in range(4):  # [units in the last place]
            candidate = np.nextafter(candidate, np.float32(direction))
            best = np.where(abs(np.exp(candidate) - values) < abs(np.exp(best) - values), candidate, best)
    return best
