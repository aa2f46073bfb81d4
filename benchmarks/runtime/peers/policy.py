"""The policy of the peers: the same two graphs in the same relay, without checks, noise or leases."""

import json
import os
from pathlib import Path

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as rpl_runtime does, before the import
import onnxruntime


class Policy:
    """Both levels of a bundle, and the spec of its manifest."""

    def __init__(self, bundle: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.spec = json.loads((bundle / "manifest.json").read_text())["spec"]
        self.high, self.low = (
            onnxruntime.InferenceSession(bundle / name, options, providers=["CPUExecutionProvider"])
            for name in ("high.onnx", "low.onnx")
        )


class Relay:
    """A batch of robots that start together; their goal is their first state."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._subgoal = np.empty(0, np.float32)

    def step(self, step: int, state: np.ndarray) -> np.ndarray:
        """State (B, n) -> action (B, m)."""
        spec, batch = self._policy.spec, len(state)
        if step % spec["horizon"] == 0:
            noise = np.zeros((batch, spec["high_noise"]), np.float32)
            feed = {"state": state, "goal": state, "mask": np.ones_like(state), "noise": noise}
            [self._subgoal] = self._policy.high.run(["subgoal"], feed)
        noise = np.zeros((batch, spec["low_noise"]), np.float32)
        [action] = self._policy.low.run(["action"], {"state": state, "subgoal": self._subgoal, "noise": noise})
        return action


def states(bundle: Path, batch: int) -> np.ndarray:
    """A batch of equal states (B, n), the middle of those that the policy accepts."""
    vector = json.loads((bundle / "manifest.json").read_text())["spec"]["state"]
    middle = (np.array(vector["low"], np.float32) + np.array(vector["high"], np.float32)) / 2
    return np.tile(middle, (batch, 1))
