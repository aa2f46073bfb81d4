"""Relay policy runtime: from a bundle to a robot's motion. Needs neither torch nor mujoco.

The names of a robot loop are imported when they are first used; `import rpl_runtime` itself loads nothing else.
"""

import os
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

# Since 1.29 ONNX Runtime reports to its maker which graphs are loaded on which machine, unless this is set before it is
# imported. Set it to 0 to allow that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# gRPC would wake its threads in a child between fork and exec, where they break the pipes of the started program, such
# as a video's encoder. Set it to 1 if a forked process goes on with gRPC.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# gRPC's newer poller, the default since 1.80, takes 70 to 90 us longer for a message and its answer. An unknown name is
# an error on the terminal, so the switch is used only with the versions that are known to have it.
try:
    _grpcio = version("grpcio")
except PackageNotFoundError:  # a peer of `rpl bench` has an environment of its own
    _grpcio = ""
if "1.80" <= _grpcio[:4] <= "1.85":
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
    # With it nobody reads a connection between two steps but a poller that wakes so often [ms], by default every 5 s,
    # and takes one message each time. A server's ping is to be answered within 3 s, on 64 connections too.
    os.environ.setdefault("GRPC_CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS", "10")

if TYPE_CHECKING:
    from rpl_runtime.client import Action, Client, ReconnectConfig, TimeBudget, lasting_control, on_robot_control
    from rpl_runtime.errors import RelayError
    from rpl_runtime.loop.lockstep import run
    from rpl_runtime.loop.realtime import drive
    from rpl_runtime.relay.run import RunConfig
    from rpl_runtime.robots import LiveRobot, Robot

__all__ = [
    "Action",
    "Client",
    "LiveRobot",
    "ReconnectConfig",
    "RelayError",
    "Robot",
    "RunConfig",
    "TimeBudget",
    "drive",
    "lasting_control",
    "on_robot_control",
    "run",
]

_ELSEWHERE = {  # than in client
    "LiveRobot": "robots",
    "RelayError": "errors",
    "Robot": "robots",
    "RunConfig": "relay.run",
    "drive": "loop.realtime",
    "run": "loop.lockstep",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ELSEWHERE.get(name, 'client')}"), name)
