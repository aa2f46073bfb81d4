"""The vectors of messages as numpy reads them, and messages to bytes and back.

Python reads a field `repeated float` one number at a time, which would cost several times the rest of a step. In a
message's twin, vectors are fields `bytes`, with the same bytes on the wire, and numpy reads them as they are.
"""

from itertools import islice
from typing import Any, TypeVar

import numpy as np
from google.protobuf import message as protobuf
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from rpl_runtime._pb.rpl.v1 import relay_pb2 as pb
from rpl_runtime.errors import InvalidInput, RelayError
from rpl_runtime.wireformat import fields

FLOATS, COUNTS = np.dtype("<f4"), np.dtype("<u4")  # packed vectors on the wire
_M = TypeVar("_M", bound=protobuf.Message)
Message = Any  # a twin of a message; its class is made at import, so it has no static type


def packed(values: np.ndarray, kind: np.dtype = FLOATS) -> bytes:
    """A vector, or a matrix row after row."""
    return np.asarray(values, kind).tobytes()


def vector(raw: bytes, kind: np.dtype = FLOATS) -> np.ndarray:
    """The numbers of a packed vector, a read-only view of the message."""
    if len(raw) % kind.itemsize:
        raise InvalidInput(f"a vector has {len(raw)} bytes; must be {kind.itemsize} for each of its numbers")
    return np.frombuffer(raw, kind)


def parse(name: str, raw: bytes, error: type[RelayError]) -> Message:
    """The twin of the message that bytes hold, whichever library wrote them."""
    twin = TWINS[name]
    try:
        message = twin.FromString(raw)
        # Protobuf also allows a vector number by number, or in several parts. A twin leaves those bytes unread, and
        # the original reads them.
        message.DiscardUnknownFields()
        if message.ByteSize() != len(raw):
            message = twin.FromString(getattr(pb, name).FromString(raw).SerializeToString())
        return message
    except DecodeError:
        raise error(f"{len(raw)} bytes came that are not a {pb.DESCRIPTOR.package}.{name}") from None


def read_as(kind: type[_M], raw: bytes, error: type[RelayError]) -> _M:
    """The message of a kind that bytes hold.

    Raises:
        RelayError: as `error` says, the bytes are not such a message.
    """
    try:
        return kind.FromString(raw)
    except DecodeError:
        raise error(f"{len(raw)} bytes came that are not a {kind.DESCRIPTOR.full_name}") from None


def has_more_fields(raw: bytes, most: int) -> bool:
    """Whether a message has more than so many fields. Reads no more of them; what is no message has no more."""
    try:
        return next(islice(fields(raw), most, None), None) is not None
    except ValueError:
        return False


def _make_twins() -> dict[str, Message]:
    package, original, file = "rpl.v1.packed", f".{pb.DESCRIPTOR.package}.", FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    file.name, file.package = "rpl/v1/packed.proto", package
    file.ClearField("service")
    for field in (field for message in file.message_type for field in message.field):
        if field.HasField("type_name"):
            field.type_name = field.type_name.replace(original, f".{package}.")
        if field.type in (field.TYPE_FLOAT, field.TYPE_FIXED32) and field.label == field.LABEL_REPEATED:
            field.type, field.label = FieldDescriptorProto.TYPE_BYTES, FieldDescriptorProto.LABEL_OPTIONAL
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        message.name: GetMessageClass(pool.FindMessageTypeByName(f"{package}.{message.name}"))
        for message in file.message_type
    }


TWINS = _make_twins()
