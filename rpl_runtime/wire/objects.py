"""Sightings of objects (objects.proto) to bytes and back, as names and plain numbers."""

from collections.abc import Mapping, Sequence
from math import isfinite

from google.protobuf.message import DecodeError

from rpl_runtime._pb.rpl.v1 import objects_pb2 as pb
from rpl_runtime.errors import InvalidInput, ProtocolViolation

WATCH = f"/{pb.DESCRIPTOR.services_by_name['ObjectStates'].full_name}/Watch"  # path of the method


def pack_sighting(joints: Mapping[str, float], poses: Mapping[str, Sequence[float]]) -> bytes:
    """One message: joints by name [rad, m], poses by name, each (7,) [m, quaternion wxyz] in the base frame."""
    sighting = pb.Sighting()
    for name, position in joints.items():
        sighting.joints.add(name=name, position=position)
    for name, pose in poses.items():
        sighting.poses.add(name=name, position=pose[:3], orientation=pose[3:])
    return sighting.SerializeToString()


def unpack_sighting(raw: bytes) -> tuple[dict[str, float], dict[str, tuple[float, ...]]]:
    """Joints by name, and poses (7,) by name, as `pack_sighting` takes them.

    Raises:
        ProtocolViolation: the bytes are not a Sighting.
        InvalidInput: a pose is not of size 3 + 4, a quaternion is not of length 1, or a number is not finite.
    """
    try:
        sighting = pb.Sighting.FromString(raw)
    except DecodeError:
        raise ProtocolViolation(f"{len(raw)} bytes came that are not a {pb.Sighting.DESCRIPTOR.full_name}") from None
    joints = {joint.name: joint.position for joint in sighting.joints}
    poses = {pose.name: (*pose.position, *pose.orientation) for pose in sighting.poses}
    for name, position in joints.items():
        if not isfinite(position):
            raise InvalidInput(f"the joint {name} was seen at {position}; must be a finite number")
    for pose in sighting.poses:
        length = sum(number * number for number in pose.orientation)
        if (len(pose.position), len(pose.orientation)) != (3, 4) or not abs(length - 1) < 1e-2:
            raise InvalidInput(
                f"{pose.name} was seen at {poses[pose.name]}; must be 3 numbers [m] and a quaternion of length 1"
            )
        if not all(map(isfinite, pose.position)):
            raise InvalidInput(f"{pose.name} was seen at {poses[pose.name]}; must be finite numbers")
    return joints, poses
