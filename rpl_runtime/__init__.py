"""Relay policy runtime: a bundle in, motion out. Needs neither torch nor mujoco."""

import os

# From 1.29 on, ONNX Runtime tells its maker which graphs are loaded on which machine, unless this is set before it is
# imported. Who wants that can set it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
