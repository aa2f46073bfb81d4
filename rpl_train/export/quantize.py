"""The low level in int8: the products of its inner layers are products of 8-bit integers.

The inner layers are those between the first and the last; of two hidden layers it is the product between them, nearly
all of the work. Their inputs are rounded with one scale, fixed by their range over training tuples. So a row's answer
depends on that row alone, to the bit; a scale of the rows at hand ("dynamic") would change it with its neighbours. The
range has room: a policy drives itself into states that no demonstration holds, and to cut off numbers there costs more
than a coarser scale. The first layer, which sees small differences of states, the last and all else stay float32.

Weights have 7 bits, and a scale for each output. A processor without VNNI adds two products in 16 bits, which products
with 8-bit weights overflow.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from rpl_runtime.errors import InvalidInput
from rpl_train.augment import LowBatch, Pool

_WEIGHT, _INPUT = 63, 255  # the largest integers
_ROOM = 3.0  # times the range over training tuples; episodes of models/relay use up to 1.8 times, a stray one 3.8
_TUPLES, _SEED = 8192, 0
_PLAIN = {"alpha": 1.0, "beta": 1.0, "transA": 0}  # attributes of torch's linear layers


def calibration(pool: Pool) -> LowBatch:
    """The training tuples whose ranges fix the scales."""
    return pool.low_batch(np.random.default_rng(_SEED), _TUPLES)


def quantize(model: onnx.ModelProto, batch: LowBatch, low_noise: int) -> None:
    """Replace the inner layers in the graph of a low level by products of integers.

    Raises:
        InvalidInput: it has none.
    """
    graph = model.graph
    weights = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    layers = [node for node in graph.node if _is_layer(node, weights)]
    if len(layers) < 3:
        raise InvalidInput(f"the low level has {len(layers)} layers; must be at least 3 to quantise those in between")
    inner = {node.name: node.input[0] for node in layers[1:-1]}  # its name -> the value that it reads
    ranges = _ranges(model, list(inner.values()), batch, low_noise)
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.name not in inner:
            graph.node.append(node)
            continue
        constants = _constants(node, weights[node.input[1]], *ranges[inner[node.name]])
        graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
        graph.node.extend(_in_integers(node))
    used = {name for node in graph.node for name in node.input}
    kept = [each for each in graph.initializer if each.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    onnx.checker.check_model(model, full_check=True)


def _is_layer(node: onnx.NodeProto, weights: Mapping[str, np.ndarray]) -> bool:
    given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    plain = all(given.get(name, value) == value for name, value in _PLAIN.items()) and given.get("transB") == 1
    return node.op_type == "Gemm" and len(node.input) == 3 and node.input[1] in weights and plain


def _ranges(
    model: onnx.ModelProto, names: list[str], batch: LowBatch, low_noise: int
) -> dict[str, tuple[float, float]]:
    """The range of each value that is rounded: of the batch and 0, with room."""
    shown = onnx.ModelProto.FromString(model.SerializeToString())
    shown.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    noise = np.zeros((len(batch.state), low_noise), dtype=np.float32)
    values = session.run(names, {"state": batch.state, "subgoal": batch.subgoal, "noise": noise})
    found = (np.append(np.asarray(value), 0.0) for value in values)
    return {name: (_ROOM * value.min(), _ROOM * value.max()) for name, value in zip(names, found, strict=True)}


def _constants(node: onnx.NodeProto, weights: np.ndarray, low: float, high: float) -> dict[str, np.ndarray]:
    """Scales and integers of a layer with the weights (out, in), whose inputs lie between `low` and `high`."""
    step = max(high - low, 1e-6) / _INPUT
    steps = np.maximum(np.abs(weights).max(axis=1), 1e-6) / _WEIGHT  # (out,)
    return {
        f"{node.name}.step": np.array(step, dtype=np.float32),
        f"{node.name}.zero": np.array(round(-low / step), dtype=np.uint8),
        f"{node.name}.integers": np.round(weights / steps[:, None]).astype(np.int8).T.copy(),
        f"{node.name}.scales": np.asarray(step * steps, dtype=np.float32),
    }


def _in_integers(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    source, _, bias = node.input
    step, zero, integers, scales = (f"{node.name}.{key}" for key in ("step", "zero", "integers", "scales"))
    rounded, product, number, scaled = (f"{node.name}.{key}" for key in ("rounded", "product", "number", "scaled"))
    yield helper.make_node("QuantizeLinear", [source, step, zero], [rounded])
    yield helper.make_node("MatMulInteger", [rounded, integers, zero], [product])
    yield helper.make_node("Cast", [product], [number], to=onnx.TensorProto.FLOAT)
    yield helper.make_node("Mul", [number, scales], [scaled])
    yield helper.make_node("Add", [scaled, bias], list(node.output))
