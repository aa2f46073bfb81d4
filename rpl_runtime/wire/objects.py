"""Sightings of objects (objects.proto) to bytes and back, as names and plain numbers."""

from collections.abc import Mapping, Sequence
from math import isfinite
from types import MappingProxyType
from typing import NamedTuple

from google.protobuf.message import DecodeError

from rpl_runtime._pb.rpl.v1 import objects_pb2 as pb
from rpl_runtime.errors import InvalidInput, ProtocolViolation

WATCH = f"/{pb.DESCRIPTOR.services_by_name['ObjectStates'].full_name}/Watch"  # path of the method
_SHOWN = 60  # [characters] of a name in a message


class Sighting(NamedTuple):
    """What was seen, by name."""

    joints: Mapping[str, float]  # [rad, m]
    poses: Mapping[str, Sequence[float]]  # each (7,) [m, quaternion wxyz] in the base frame
    ages_ns: Mapping[str, int] = MappingProxyType({})  # [ns] from when each was seen until it was sent; 0 by default
    sent_ns: int | None = None  # [ns] in the sender's clock


def pack_sighting(seen: Sighting) -> bytes:
    """One message."""
    sighting = pb.Sighting(sent_ns=seen.sent_ns)
    for name, position in seen.joints.items():
        sighting.joints.add(name=name, position=position, age_ns=seen.ages_ns.get(name, 0))
    for name, pose in seen.poses.items():
        age_ns = seen.ages_ns.get(name, 0)
        sighting.poses.add(name=name, position=pose[:3], orientation=pose[3:], age_ns=age_ns)
    return sighting.SerializeToString()


def unpack_sighting(raw: bytes) -> Sighting:
    """The sighting of a message.

    Raises:
        ProtocolViolation: the bytes are not a Sighting.
        InvalidInput: a pose is not of size 3 + 4, a quaternion is not of length 1, a number is not finite, or an age is
            negative.
    """
    try:
        sighting = pb.Sighting.FromString(raw)
    except DecodeError:
        raise ProtocolViolation(f"{len(raw)} bytes came that are not a {pb.Sighting.DESCRIPTOR.full_name}") from None
    joints = {joint.name: joint.position for joint in sighting.joints}
    poses = {pose.name: (*pose.position, *pose.orientation) for pose in sighting.poses}
    for seen in (*sighting.joints, *sighting.poses):
        if seen.age_ns < 0:
            raise InvalidInput(f"{seen.name[:_SHOWN]!r} was seen {seen.age_ns} ns ago; must be 0 or more")
    for name, position in joints.items():
        if not isfinite(position):
            raise InvalidInput(f"the joint {name[:_SHOWN]!r} was seen at {position}; must be a finite number")
    for pose in sighting.poses:
        length, place = sum(number * number for number in pose.orientation), (*pose.position, *pose.orientation)
        if (len(pose.position), len(pose.orientation)) != (3, 4):
            got = f"{len(pose.position)} + {len(pose.orientation)} numbers"
            raise InvalidInput(f"{pose.name[:_SHOWN]!r} was seen at {got}; must be 3 numbers [m] and a quaternion of 4")
        if not abs(length - 1) < 1e-2 or not all(map(isfinite, pose.position)):
            raise InvalidInput(
                f"{pose.name[:_SHOWN]!r} was seen at {place}; must be 3 finite numbers [m] and a quaternion of length 1"
            )
    ages_ns = {seen.name: seen.age_ns for seen in (*sighting.joints, *sighting.poses)}
    return Sighting(joints, poses, ages_ns, sighting.sent_ns if sighting.HasField("sent_ns") else None)
