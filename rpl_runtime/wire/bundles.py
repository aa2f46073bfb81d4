"""`Describe` and `Fetch` to bytes and back: what a policy is and the files it is made of.

In: a `ModelInfo`, chunks of files, or the bytes of either. Out: the other. It does not know vectors or runs.
"""

import re
from collections.abc import Iterator

from google.protobuf.message import DecodeError
from pydantic import ValidationError

from rpl_runtime._pb.rpl.v1 import relay_pb2 as pb
from rpl_runtime.errors import ProtocolViolation
from rpl_runtime.policy.spec import ElementSpec, PolicySpec, VectorSpec
from rpl_runtime.relay.messages import FileInfo, ModelInfo

CHUNK_BYTES = 1 << 16
_DIGEST = re.compile(r"[0-9a-f]{64}")  # a SHA-256


def pack_model(model: ModelInfo) -> bytes:
    """The reply of Describe."""
    spec = model.spec
    return pb.DescribeReply(
        spec=pb.ModelSpec(
            name=spec.name,
            description=spec.description,
            state=pb.VectorSpec(**spec.state.model_dump()),
            action=pb.VectorSpec(**spec.action.model_dump()),
            horizon=spec.horizon,
            period_s=spec.period_s,
            high_noise=spec.high_noise,
            low_noise=spec.low_noise,
            elements=[pb.ElementSpec(name=name, **element.model_dump()) for name, element in spec.elements.items()],
            library=[pb.CompoundGoal(name=name, elements=elements) for name, elements in spec.library.items()],
            goal_dims=spec.goal_dims,
        ),
        digest=model.digest,
        schema_version=model.schema_version,
        files=[pb.BundleFile(name=name, size=file.size, sha256=file.sha256) for name, file in model.files.items()],
    ).SerializeToString()


def unpack_model(raw: bytes) -> ModelInfo:
    """What the reply of Describe says.

    Raises:
        ProtocolViolation: the bytes are no DescribeReply, or describe no policy.
    """
    try:
        reply = pb.DescribeReply.FromString(raw)
        spec = _unpack_spec(reply.spec)
    except (DecodeError, ValidationError) as error:
        raise ProtocolViolation(f"the server describes its policy in a way this client cannot read: {error}") from error
    if not _DIGEST.fullmatch(reply.digest):  # it names a folder in the cache of whoever fetches the bundle
        raise ProtocolViolation(f"the server says that its bundle is {reply.digest[:80]!r}; a digest is 64 hex digits")
    files = {file.name: FileInfo(file.size, file.sha256) for file in reply.files}
    return ModelInfo(spec, reply.digest, reply.schema_version, files)


def pack_chunks(name: str, content: bytes) -> Iterator[bytes]:
    """The replies of Fetch for one file, at least one."""
    for at in range(0, max(len(content), 1), CHUNK_BYTES):
        yield pb.FetchReply(name=name, chunk=content[at : at + CHUNK_BYTES]).SerializeToString()


def unpack_chunk(raw: bytes) -> tuple[str, bytes]:
    """The name of the file that a reply of Fetch belongs to, and its next bytes.

    Raises:
        ProtocolViolation: the bytes are no FetchReply.
    """
    try:
        reply = pb.FetchReply.FromString(raw)
    except DecodeError as error:
        raise ProtocolViolation(f"the server sent {len(raw)} bytes that are not a rpl.v1.FetchReply") from error
    return reply.name, reply.chunk


def _unpack_spec(spec: pb.ModelSpec) -> PolicySpec:
    return PolicySpec(
        name=spec.name,
        description=spec.description,
        state=_unpack_vector_spec(spec.state),
        action=_unpack_vector_spec(spec.action),
        horizon=spec.horizon,
        period_s=spec.period_s,
        high_noise=spec.high_noise,
        low_noise=spec.low_noise,
        elements={
            element.name: ElementSpec(dims=tuple(element.dims), goal=tuple(element.goal), tolerance=element.tolerance)
            for element in spec.elements
        },
        library={goal.name: tuple(goal.elements) for goal in spec.library},
        goal_dims=tuple(spec.goal_dims),
    )


def _unpack_vector_spec(vector: pb.VectorSpec) -> VectorSpec:
    return VectorSpec(
        names=tuple(vector.names), units=tuple(vector.units), low=tuple(vector.low), high=tuple(vector.high)
    )
