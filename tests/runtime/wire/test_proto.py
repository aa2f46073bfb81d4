"""The proto files: every field is documented, and the generated code equals them."""

import re
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from rpl_runtime._pb.rpl.v1 import relay_pb2 as pb
from rpl_runtime.wire import control as codec

ROOT = Path(__file__).parents[3]
PROTOS = [ROOT / "proto" / "rpl" / "v1" / f"{name}.proto" for name in ("relay", "admin", "objects", "planner", "log")]
FIELD = re.compile(r"^  +(?:repeated |optional )?[\w.]+ \w+ = \d+;(?P<comment>\s*// \S.*)?$")
# Fields that hold a message, whose own fields are commented, or a choice whose name says it all.
SPEAKING = {"start", "observation", "set_goal", "take_over", "applied", "hand_back", "finish", "goal"}
each_proto = pytest.mark.parametrize("proto", PROTOS, ids=lambda path: path.stem)


def test_the_generated_code_is_what_the_proto_file_says(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "proto" / "generate.py", tmp_path], check=True)
    committed = ROOT / "rpl_runtime" / "_pb"
    fresh = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.py*")}
    assert fresh == {
        path.relative_to(committed): path.read_text()
        for path in committed.rglob("*.py*")
        if "__pycache__" not in path.parts
    }


@each_proto
def test_every_field_is_commented(proto: Path) -> None:
    bare = []
    for line in proto.read_text().splitlines():
        field = FIELD.match(line)
        if field and not field["comment"] and line.split()[-3] not in SPEAKING:
            bare.append(line.strip())
    assert bare == []


@each_proto
def test_every_vector_of_floats_says_its_shape_and_its_unit(proto: Path) -> None:
    for line in proto.read_text().splitlines():
        if line.strip().startswith("repeated float"):
            assert re.search(r"// \((B, )?(n|m|high_noise|low_noise|B),?\) \w", line), line


def test_vectors_are_packed() -> None:
    def fields(message):
        yield from message.fields
        for nested in message.nested_types:
            yield from fields(nested)

    floats = [
        field
        for message in pb.DESCRIPTOR.message_types_by_name.values()
        for field in fields(message)
        if field.is_repeated and field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE)
    ]
    assert len(floats) > 15
    assert all(field.is_packed for field in floats)


@pytest.mark.parametrize("method", ["Describe", "Fetch", "Plan", "Act", "Control"])
def test_the_server_answers_every_method_of_the_service(method: str, tiny_address: str) -> None:
    assert method in pb.DESCRIPTOR.services_by_name["RelayPolicy"].methods_by_name
    with grpc.insecure_channel(tiny_address) as channel:
        replies = channel.stream_stream(f"/{codec.SERVICE}/{method}")(iter([b""]), timeout=5)
        try:
            list(replies)
        except grpc.RpcError:
            assert replies.code() is not grpc.StatusCode.UNIMPLEMENTED


def test_the_service_has_no_other_method() -> None:
    assert len(pb.DESCRIPTOR.services_by_name["RelayPolicy"].methods) == 5
