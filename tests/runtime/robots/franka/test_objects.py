"""Object states from functions and from a stream, over a real connection."""

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from certificates import pems
from rpl_runtime.auth.client import Access
from rpl_runtime.errors import InvalidInput, ObjectsLost, ProtocolViolation
from rpl_runtime.robots.franka.frames import pose_in_base
from rpl_runtime.robots.franka.objects import CalledObjects, FixedObjects, StreamedObjects
from rpl_runtime.tasks.kitchen.elements import ELEMENTS, STATE_NAMES
from rpl_runtime.wire import objects as wire

ROBOT = np.zeros(9)
JOINTS = STATE_NAMES[9:23]
OBJECTS = np.concatenate([np.linspace(-0.5, 0.1, 14), [-0.27, 0.35, 1.62, 1.0, 0.0, 0.0, 0.0]])


def sighting(objects: np.ndarray = OBJECTS, **more: Any) -> bytes:
    """All of the kitchen, as a camera that is calibrated to the robot's base would tell it."""
    joints = dict(zip(JOINTS, objects[:14].tolist(), strict=True))
    return wire.pack_sighting(wire.Sighting(joints, {"kettle": pose_in_base(objects[14:]).tolist()}, **more))


class Camera:
    """A server of rpl.v1.ObjectStates that says what the test gives it."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.sightings: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.callers: list[dict[str, str]] = []  # what each call carried
        self._workers = ThreadPoolExecutor(2)
        self._server = grpc.server(self._workers)
        method = grpc.unary_stream_rpc_method_handler(self._watch)
        service, name = wire.WATCH[1:].split("/")
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: method}),))
        here, server = "127.0.0.1:0", self._server
        port = server.add_secure_port(here, credentials) if credentials else server.add_insecure_port(here)
        self.address = f"127.0.0.1:{port}"
        self._server.start()

    def _watch(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        self.callers.append(dict(context.invocation_metadata()))
        return iter(self.sightings.get, None)

    def close(self) -> None:
        for _ in range(2):  # as many calls as may be waiting
            self.sightings.put(None)
        self._server.stop(None).wait()
        self._workers.shutdown()


@pytest.fixture
def camera() -> Iterator[Camera]:
    camera = Camera()
    yield camera
    camera.close()


@pytest.fixture
def objects(camera: Camera) -> Iterator[StreamedObjects]:
    objects = StreamedObjects(camera.address, max_age_s=60.0)
    yield objects
    objects.close()


def test_a_function_and_a_fixed_state_say_what_they_say() -> None:
    moving = OBJECTS.copy()
    called, fixed = CalledObjects(lambda: moving), FixedObjects(moving)
    moving[0] += 1
    np.testing.assert_array_equal(called.read(ROBOT).objects, moving)
    np.testing.assert_array_equal(fixed.read(ROBOT).objects, OBJECTS)


@pytest.mark.parametrize("objects", [np.zeros(20), np.full(21, np.nan)])
def test_what_are_no_object_states_is_refused(objects: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match="21 finite numbers"):
        FixedObjects(objects)
    with pytest.raises(InvalidInput, match="21 finite numbers"):
        CalledObjects(lambda: objects).read(ROBOT)


def test_a_stream_is_turned_into_the_kitchens_frame(camera: Camera, objects: StreamedObjects) -> None:
    camera.sightings.put(sighting())
    objects.reset(0, ROBOT)
    np.testing.assert_allclose(objects.read(ROBOT).objects, OBJECTS, atol=1e-12)


def test_what_a_message_leaves_out_is_as_it_was(camera: Camera, objects: StreamedObjects) -> None:
    camera.sightings.put(sighting())
    objects.reset(0, ROBOT)
    camera.sightings.put(
        wire.pack_sighting(wire.Sighting({"microwave_door": -0.75, "fridge": 1.0}, {"cat": (1, 1, 1, 1, 0, 0, 0)}))
    )
    with objects._news:
        assert objects._news.wait_for(lambda: objects._objects[13] == -0.75, 10)
    np.testing.assert_allclose(np.delete(objects.read(ROBOT).objects, 13), np.delete(OBJECTS, 13), atol=1e-12)
    assert ELEMENTS["microwave"].is_done(np.append(ROBOT, objects.read(ROBOT).objects))


def test_a_run_does_not_start_before_everything_was_seen(
    camera: Camera, objects: StreamedObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rpl_runtime.robots.franka.objects._FIRST_SIGHT_S", 0.2)
    camera.sightings.put(wire.pack_sighting(wire.Sighting(dict.fromkeys(JOINTS, 0.0), {})))
    with pytest.raises(ObjectsLost, match="has not reported kettle"):
        objects.reset(0, ROBOT)


def test_what_was_seen_long_ago_no_longer_counts(camera: Camera) -> None:
    with closing(StreamedObjects(camera.address, max_age_s=0.0)) as objects:
        camera.sightings.put(sighting())
        with pytest.raises(ObjectsLost, match=r"s ago; must be at most 0\.0 s"):
            objects.reset(0, ROBOT)


HOUR_NS = 3600 * 10**9


def test_each_object_has_an_age_of_its_own(camera: Camera, objects: StreamedObjects) -> None:
    camera.sightings.put(sighting(ages_ns={"light": HOUR_NS}))
    with pytest.raises(ObjectsLost, match=r"last saw light 3600\.\d\d s ago; must be at most 60\.0 s"):
        objects.reset(0, ROBOT)


def arrived(objects: StreamedObjects, camera: Camera, *sightings: bytes) -> None:
    """Send sightings, and return when all have arrived: the last thing is a door, half open."""
    for each in sightings:
        camera.sightings.put(each)
    camera.sightings.put(wire.pack_sighting(wire.Sighting({"microwave_door": -0.75}, {})))
    with objects._news:
        assert objects._news.wait_for(lambda: objects._objects[13] == -0.75, 10)


def test_a_message_that_sees_nothing_makes_nothing_fresh(camera: Camera, objects: StreamedObjects) -> None:
    camera.sightings.put(sighting())
    objects.reset(0, ROBOT)
    seen_s = objects._seen_s.copy()
    arrived(
        objects, camera, wire.pack_sighting(wire.Sighting({}, {})), wire.pack_sighting(wire.Sighting({"cat": 1}, {}))
    )
    np.testing.assert_array_equal(np.delete(objects._seen_s, 13), np.delete(seen_s, 13))


def test_a_message_that_was_held_up_on_its_way_is_as_old_as_it_is(camera: Camera, objects: StreamedObjects) -> None:
    """The second one was sent an hour before it came, by the clock of the first, which has a zero of its own."""
    camera.sightings.put(sighting(sent_ns=2 * HOUR_NS))
    objects.reset(0, ROBOT)
    objects._least_s -= 3600.0
    camera.sightings.put(sighting(sent_ns=2 * HOUR_NS + 1))
    arrived(objects, camera)
    with pytest.raises(ObjectsLost, match=r"36\d\d\.\d\d s ago"):
        objects.read(ROBOT)


TOKEN = "rpl_" + "a" * 43


def test_from_another_machine_they_come_over_tls_with_a_token(tmp_path: Path) -> None:
    for access in (Access(), Access(token=TOKEN), Access(tls=True)):
        with pytest.raises(InvalidInput, match="must come over TLS with a token"):
            StreamedObjects("camera.example:50060", access)
    with closing(StreamedObjects("192.0.2.1:50060", Access(insecure=True))):
        pass  # on a network that its owner trusts
    cert, key, ca = pems(tmp_path)
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())])
    with closing(Camera(credentials)) as camera:
        camera.sightings.put(sighting())
        with closing(StreamedObjects(camera.address, Access(ca=ca, token=TOKEN), max_age_s=60.0)) as objects:
            objects.reset(0, ROBOT)
        assert camera.callers[0]["authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize(
    ("last", "why"),
    [
        (None, "closed"),
        (b"\xff\xff", "not a rpl.v1.Sighting"),
        (wire.pack_sighting(wire.Sighting({"microwave_door": np.nan}, {})), "'microwave_door' was seen at nan"),
        (sighting(ages_ns={"light": -1}), "'light' was seen -1 ns ago"),
        (sighting(sent_ns=5), "sent at 5 ns, after one at 5 ns"),
        (wire.pack_sighting(wire.Sighting({}, {"kettle": (0, 0, 0, 2, 0, 0, 0)})), "quaternion of length 1"),
    ],
)
def test_a_stream_that_breaks_off_says_why(camera: Camera, objects: StreamedObjects, last: bytes | None, why: str):
    camera.sightings.put(sighting(sent_ns=5))
    objects.reset(0, ROBOT)
    camera.sightings.put(last)
    objects._thread.join(10)
    with pytest.raises(ObjectsLost, match=why):
        objects.read(ROBOT)


def test_nobody_there_is_said_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rpl_runtime.robots.franka.objects._FIRST_SIGHT_S", 0.2)
    objects = StreamedObjects("127.0.0.1:1")
    with pytest.raises(ObjectsLost, match=r"127\.0\.0\.1:1 has not reported"):
        objects.reset(0, ROBOT)
    objects.close()


def test_bytes_come_back_as_they_were_sent() -> None:
    joints, poses = {"a": 0.25, "b": -1.0}, {"c": (1.0, 2.0, 3.0, 0.6, 0.8, 0.0, 0.0)}
    for sent_ns in (None, 0, 7):
        seen = wire.Sighting(joints, poses, {"a": 3, "b": 0, "c": 2**40}, sent_ns)
        assert wire.unpack_sighting(wire.pack_sighting(seen)) == seen
    with pytest.raises(ProtocolViolation):
        wire.unpack_sighting(b"\x00")
    with pytest.raises(InvalidInput, match="3 numbers"):
        wire.unpack_sighting(wire.pack_sighting(wire.Sighting({}, {"c": (1.0, 2.0, 3.0, 1.0)})))


def test_a_sender_of_before_is_understood() -> None:
    """Its messages have neither times nor ages: what it sees is as old as the message."""
    raw = bytes.fromhex("0a190a0e6d6963726f776176655f646f6f7211000000000000e8bf")
    assert wire.unpack_sighting(raw) == wire.Sighting({"microwave_door": -0.75}, {}, {"microwave_door": 0})


def test_every_field_of_the_proto_file_is_commented() -> None:
    proto = Path(__file__).parents[4] / "proto" / "rpl" / "v1" / "objects.proto"
    fields = [line for line in proto.read_text().splitlines() if line.startswith("  ") and " = " in line]
    assert len(fields) == 10
    assert all("; " in line and "// " in line for line in fields)
