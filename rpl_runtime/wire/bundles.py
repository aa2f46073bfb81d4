"""`Describe` and `Fetch`: a policy's description and its files, to bytes and back."""

import re
from collections.abc import Iterator

from google.protobuf.message import DecodeError
from pydantic import ValidationError

from rpl_runtime._pb.rpl.v1 import relay_pb2 as pb
from rpl_runtime.errors import ProtocolViolation
from rpl_runtime.policy.spec import ElementSpec, PolicySpec, VectorSpec
from rpl_runtime.relay.messages import FileInfo, ModelInfo
from rpl_runtime.relay.plans import MAX_DEADLINE_S

CHUNK_BYTES = 1 << 16
_DIGEST = re.compile(r"[0-9a-f]{64}")  # a SHA-256
_PLAIN = ("name", "description", "horizon", "period_s", "high_noise", "low_noise", "goal_dims")  # same in both specs


def pack_model(model: ModelInfo) -> bytes:
    """The reply of Describe."""
    spec = model.spec
    return pb.DescribeReply(
        spec=pb.ModelSpec(
            state=spec.state.model_dump(),
            action=spec.action.model_dump(),
            elements=[{"name": name, **element.model_dump()} for name, element in spec.elements.items()],
            library=[{"name": name, "elements": elements} for name, elements in spec.library.items()],
            **{field: getattr(spec, field) for field in _PLAIN},
        ),
        digest=model.digest,
        schema_version=model.schema_version,
        plan_s=model.plan_s,
        files=[{"name": name, **file._asdict()} for name, file in model.files.items()],
    ).SerializeToString()


def unpack_model(raw: bytes) -> ModelInfo:
    """The description in a reply of Describe.

    Raises:
        ProtocolViolation: the bytes are not a DescribeReply, or do not describe a policy.
    """
    try:
        reply = pb.DescribeReply.FromString(raw)
        spec = reply.spec
        policy = PolicySpec(
            state=VectorSpec.model_validate(spec.state, from_attributes=True),
            action=VectorSpec.model_validate(spec.action, from_attributes=True),
            elements={
                element.name: ElementSpec.model_validate(element, from_attributes=True) for element in spec.elements
            },
            library={goal.name: tuple(goal.elements) for goal in spec.library},
            **{field: getattr(spec, field) for field in _PLAIN},
        )
    except (DecodeError, ValidationError) as error:
        raise ProtocolViolation(f"the server describes its policy in a way this client cannot read: {error}") from error
    if not _DIGEST.fullmatch(reply.digest):  # it names a folder in the cache of the client that fetches the bundle
        raise ProtocolViolation(f"the server's bundle has digest {reply.digest[:80]!r}; must be 64 hex digits")
    files = {file.name: FileInfo(file.size, file.sha256) for file in reply.files}
    plan_s = reply.plan_s if 0 <= reply.plan_s <= MAX_DEADLINE_S else 0.0
    return ModelInfo(policy, reply.digest, reply.schema_version, files, plan_s)


def pack_chunks(name: str, content: bytes) -> Iterator[bytes]:
    """The replies of Fetch for one file, at least one."""
    for at in range(0, max(len(content), 1), CHUNK_BYTES):
        yield pb.FetchReply(name=name, chunk=content[at : at + CHUNK_BYTES]).SerializeToString()


def unpack_chunk(raw: bytes) -> tuple[str, bytes]:
    """The name of the file that a reply of Fetch belongs to, and its next bytes.

    Raises:
        ProtocolViolation: the bytes are not a FetchReply.
    """
    try:
        reply = pb.FetchReply.FromString(raw)
    except DecodeError as error:
        raise ProtocolViolation(f"the server sent {len(raw)} bytes that are not a rpl.v1.FetchReply") from error
    return reply.name, reply.chunk
