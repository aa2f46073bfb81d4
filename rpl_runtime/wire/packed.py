"""The messages of relay.proto with each vector as the bytes that it is on the wire.

In: the schema that protoc made. Out: a twin of each message, the same but for its fields `repeated float`, which are
`bytes`. Both mean the same wire: a packed field is written as its length and its bytes, whatever is in it. Python sees
a `repeated float` one number at a time, which costs several times what else a step costs the codec; bytes are an array
as they stand. It does not know arrays.
"""

from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from rpl_runtime._pb.rpl.v1 import relay_pb2 as pb

_PACKAGE = "rpl.v1.packed"


def parse(kind: Any, raw: bytes) -> Any:
    """A message of one of the twins below from the bytes of its original, written by any library.

    Raises:
        DecodeError: the bytes are no such message.
    """
    message = kind.FromString(raw)
    # Protobuf also allows a vector number by number, or in several parts, which no twin reads: bytes are left over.
    message.DiscardUnknownFields()
    if message.ByteSize() == len(raw):
        return message
    plain = getattr(pb, kind.DESCRIPTOR.name).FromString(raw)
    return kind.FromString(plain.SerializeToString())


def _twins() -> dict[str, Any]:
    file = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    file.name, file.package = "rpl/v1/packed.proto", _PACKAGE
    file.ClearField("service")
    for message in file.message_type:
        _pack(message)
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        message.name: GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{message.name}"))
        for message in file.message_type
    }


def _pack(message: DescriptorProto) -> None:
    for field in message.field:
        if field.HasField("type_name"):
            field.type_name = field.type_name.replace(f".{pb.DESCRIPTOR.package}.", f".{_PACKAGE}.")
        if field.type == field.TYPE_FLOAT and field.label == field.LABEL_REPEATED:
            field.type, field.label = FieldDescriptorProto.TYPE_BYTES, FieldDescriptorProto.LABEL_OPTIONAL


_TWINS = _twins()
ControlRequest = _TWINS["ControlRequest"]
ControlReply = _TWINS["ControlReply"]
PlanRequest = _TWINS["PlanRequest"]
PlanReply = _TWINS["PlanReply"]
ActRequest = _TWINS["ActRequest"]
ActReply = _TWINS["ActReply"]
