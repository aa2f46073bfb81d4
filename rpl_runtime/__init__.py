"""Relay policy runtime: a bundle in, motion out. Needs neither torch nor mujoco."""

import os

# From 1.29 on, ONNX Runtime tells its maker which graphs are loaded on which machine, unless this is set before it is
# imported. Who wants that can set it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# gRPC would wake its threads in a child between fork and exec, where they break the pipes of the program that is
# started: a video's encoder fails now and then. Who forks a process that goes on with gRPC can set it to 1.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
