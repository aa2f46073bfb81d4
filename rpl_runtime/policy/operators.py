"""The operators that a bundle's graphs must keep to, checked in their bytes before anything runs them.

A graph is a program. Here every node runs once in each call, on arrays whose sizes follow from constants and from the
number of rows. So one run with each number of rows that a server may give it (graphs.py) shows what serving costs,
whatever the states. Loops, branches, functions, other domains, random numbers and files beside the graph are refused.

The bytes are read as protobuf's wire format with the field numbers of onnx.proto3; the `onnx` package is for training.
"""

from collections.abc import Iterator

from rpl_runtime.errors import BundleError
from rpl_runtime.wireformat import CONTENT, GROUP, fields

# Operators whose output's size follows from the sizes of their inputs.
_PLAIN = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast CastLike Ceil Celu
    Clip Concat Constant Conv Cos Cosh CumSum Div Dropout Einsum Elu Equal Erf Exp Flatten Floor GRU Gather
    GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GroupNormalization
    HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LSTM LayerNormalization LeakyRelu Less
    LessOrEqual Log LogSoftmax LpNormalization MatMul MatMulInteger Max MaxPool Mean Min Mish Mod Mul Neg Not Or PRelu
    Pow RMSNormalization RNN Reciprocal Relu Round ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Sinh Size
    Softmax Softplus Softsign Sqrt Sub Sum Tan Tanh ThresholdedRelu Transpose Trilu Where Xor
"""
# Operators with inputs whose values decide the output's size, which no state may.
_SIZED = """
    ConstantOfShape Expand OneHot Pad Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
    ReduceMin ReduceProd ReduceSum ReduceSumSquare Reshape Slice Split Squeeze Tile TopK Unsqueeze
"""
_ROUNDS = "QuantizeLinear"  # with a scale of the rows at hand ("dynamic") a row would depend on its neighbours
_FIRST_SIZING = {"ConstantOfShape": 0, "Range": 0}  # operator -> the first such input; the second of all others
_PLAIN_OPERATORS, _SIZED_OPERATORS = set(_PLAIN.split()), set(_SIZED.split())


def check_operators(graph: bytes, where: str) -> None:
    """Check that the cost of a graph does not depend on the states that it is given.

    Args:
        where: the file's name for messages.

    Raises:
        BundleError: the graph holds something else than such operators, or is not an ONNX graph.
    """
    try:
        _check_model(memoryview(graph))
    except _Refused as refused:
        raise BundleError(f"{where} holds {refused}; docs/security.md says what a graph must keep to") from None
    except ValueError as error:
        raise BundleError(f"{where} is not a graph that ONNX Runtime loads: {error}") from error


class _Refused(Exception):
    pass


def _check_model(model: memoryview) -> None:
    nodes: list[memoryview] = []
    known: dict[bytes, bool] = {}  # whether a value is the same whatever the states
    for field, content in _fields(model):
        if field in (20, 25):
            raise _Refused("training steps" if field == 20 else "functions")
        if field == 8 and _text(content, 1) not in (b"", b"ai.onnx"):
            raise _Refused(f"operators of the domain {_shown(_text(content, 1))}")
        for part, value in _fields(content) if field == 7 else ():  # two parts of a graph are merged by every reader
            if part == 1:
                nodes.append(value)
            elif part == 5:
                _check_tensor(value)
                known[_text(value, 8)] = True
            elif part == 15:
                raise _Refused("sparse weights")
    for node in nodes:
        _check_node(node, known)


def _check_node(node: memoryview, known: dict[bytes, bool]) -> None:
    """Check a node, and note whether its outputs are known without the states. A name that was not seen is not."""
    name, inputs, outputs = _text(node, 4), list[bool](), list[bytes]()
    for field, value in _fields(node):
        if field == 1:
            inputs.append(not value or known.get(bytes(value), False))
        elif field == 2:
            outputs.append(bytes(value))
        elif field == 5:
            _check_attribute(value, name)
    operator = name.decode(errors="replace")
    if _text(node, 7) not in (b"", b"ai.onnx") or operator not in _PLAIN_OPERATORS | _SIZED_OPERATORS | {_ROUNDS}:
        raise _Refused(f"the operator {_shown(name)}")
    if operator in _SIZED_OPERATORS and not all(inputs[_FIRST_SIZING.get(operator, 1) :]):
        raise _Refused(f"a node {operator} whose output's size depends on its data")
    if operator == _ROUNDS and not all(inputs[1:]):
        raise _Refused(f"a node {operator} whose scale or zero point depends on its data")
    found = operator in ("Shape", "Size") or all(inputs)
    known.update({output: found and known.get(output, True) for output in outputs})


def _check_attribute(attribute: memoryview, operator: bytes) -> None:
    for field, value in _fields(attribute):
        if field in (6, 11):
            raise _Refused(f"a graph within the operator {_shown(operator)}")
        if field in (22, 23):
            raise _Refused("sparse weights")
        if field in (5, 10):
            _check_tensor(value)


def _check_tensor(tensor: memoryview) -> None:
    if any(field == 13 for field, _ in _fields(tensor)):
        raise _Refused("weights in a file beside it, which no digest covers: external data")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The number and content of each field with content of a protobuf message; fields that hold a number are skipped.

    Raises:
        ValueError: the bytes are not a message.
    """
    for tag, content in fields(message):
        number, kind = tag >> 3, tag & 7
        if not number or tag >> 32 or kind in GROUP:
            raise ValueError("a field has an impossible number or kind")
        if kind == CONTENT:
            yield number, content


def _text(message: memoryview, wanted: int) -> bytes:
    """The last content of a field, which is the one that counts."""
    found = b""
    for field, value in _fields(message):
        if field == wanted:
            found = bytes(value)
    return found


def _shown(name: bytes) -> str:
    return repr(name[:60].decode(errors="replace"))
