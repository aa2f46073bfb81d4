"""The operators that a bundle's graphs must keep to, checked in their bytes before anything runs them.

A graph is a program. Here every node runs once in each call, on arrays whose sizes follow from constants and from the
number of rows, and never fall as rows are added. So one run with a single row and one with as many rows as a request
holds show what serving costs, whatever the states. Loops, branches, functions, other domains, random numbers and files
beside the graph are refused.

The bytes are read as protobuf's wire format with the field numbers of onnx.proto3; the `onnx` package is for training.
"""

from collections.abc import Iterator
from enum import IntEnum

from rpl_runtime.errors import BundleError

# Operators whose output's size follows from the sizes of their inputs.
_PLAIN = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast CastLike Ceil Celu
    Clip Concat Constant Conv Cos Cosh CumSum Div Dropout Einsum Elu Equal Erf Exp Flatten Floor GRU Gather
    GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GroupNormalization
    HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LSTM LayerNormalization LeakyRelu Less
    LessOrEqual Log LogSoftmax LpNormalization MatMul Max MaxPool Mean Min Mish Mod Mul Neg Not Or PRelu Pow
    RMSNormalization RNN Reciprocal Relu Round ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Sinh Size Softmax
    Softplus Softsign Sqrt Sub Sum Tan Tanh ThresholdedRelu Transpose Trilu Where Xor
"""
# Operators with inputs whose values decide the output's size. These may hold the number of rows, ...
_SIZED_BY_ROWS = "ConstantOfShape Expand Reshape"
# ... and these must be constants.
_SIZED = """
    OneHot Pad Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Slice Split Squeeze Tile TopK Unsqueeze
"""
_FIRST_SIZING = {"ConstantOfShape": 0, "Range": 0}  # operator -> the first such input; the second of all others
# These only pick, order or retype numbers, so that the number of rows stays what it is.
_CARRYING = "Cast Concat Gather Identity Reshape Slice Squeeze Unsqueeze"


class _From(IntEnum):
    """Where a value comes from."""

    CONSTANTS = 0
    ROWS = 1  # the number of rows, or constants
    DATA = 2


# Operator -> where the values that decide its output's size may come from.
_SIZING = (
    dict.fromkeys(_PLAIN.split(), _From.DATA)
    | dict.fromkeys(_SIZED_BY_ROWS.split(), _From.ROWS)
    | dict.fromkeys(_SIZED.split(), _From.CONSTANTS)
)


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
    except (ValueError, IndexError) as error:
        raise BundleError(f"{where} is not a graph that ONNX Runtime loads: {error}") from error


class _Refused(Exception):
    pass


def _check_model(model: memoryview) -> None:
    nodes: list[memoryview] = []
    come: dict[bytes, _From] = {}
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
                come[_text(value, 8)] = _From.CONSTANTS
            elif part == 15:
                raise _Refused("sparse weights")
    for node in nodes:
        _check_node(node, come)


def _check_node(node: memoryview, come: dict[bytes, _From]) -> None:
    """Check a node, and note where its outputs come from. A name that was not seen before counts as data."""
    name, inputs, outputs = _text(node, 4), list[_From](), list[bytes]()
    for field, value in _fields(node):
        if field == 1:
            inputs.append(come.get(bytes(value), _From.DATA) if value else _From.CONSTANTS)
        elif field == 2:
            outputs.append(bytes(value))
        elif field == 5:
            _check_attribute(value, name)
    operator = name.decode(errors="replace")
    if _text(node, 7) not in (b"", b"ai.onnx") or operator not in _SIZING:
        raise _Refused(f"the operator {_shown(name)}")
    if any(source > _SIZING[operator] for source in inputs[_FIRST_SIZING.get(operator, 1) :]):
        raise _Refused(f"a node {operator} whose output's size depends on its data")
    found = max(inputs, default=_From.CONSTANTS)
    if operator in ("Shape", "Size"):
        found = _From.ROWS
    elif found is _From.ROWS and operator not in _CARRYING.split():
        found = _From.DATA  # of arithmetic with the number of rows, which may fall as rows are added
    for output in outputs:
        come[output] = max(found, come.get(output, found))


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
        ValueError, IndexError: the bytes are not a message.
    """
    at = 0
    while at < len(message):
        tag, at = _number(message, at)
        kind = tag & 7
        if tag >> 32 or not tag >> 3 or kind not in (0, 1, 2, 5):
            raise ValueError("a field has an impossible number or kind")
        # Kind 0 is a varint, 2 a length and its content; the others have fixed sizes.
        size, at = _number(message, at) if kind in (0, 2) else ({1: 8, 5: 4}[kind], at)
        if kind == 0:
            continue
        if at + size > len(message):
            raise ValueError("it ends within a field")
        if kind == 2:
            yield tag >> 3, message[at : at + size]
        at += size


def _number(message: memoryview, at: int) -> tuple[int, int]:
    """The varint at a place, and the place after it."""
    value = 0
    for index in range(10):
        byte = message[at + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    raise ValueError("a number has more than ten bytes")


def _text(message: memoryview, wanted: int) -> bytes:
    """The last content of a field, which is the one that counts."""
    found = b""
    for field, value in _fields(message):
        if field == wanted:
            found = bytes(value)
    return found


def _shown(name: bytes) -> str:
    return repr(name[:60].decode(errors="replace"))
