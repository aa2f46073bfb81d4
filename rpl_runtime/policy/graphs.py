"""Both levels of a bundle as one ONNX Runtime policy.

In: a checked bundle, then batches of arrays. Out: subgoals and actions. It does not know steps, goals by name or
the wire; the relay loop above it does.
"""

import json
import os
import threading
from typing import Any

import numpy as np
import onnxruntime

from rpl_runtime.errors import BundleError, MismatchedPair
from rpl_runtime.policy.bundle import HIGH, LOW, Bundle, read_graph


class OnnxPolicy:
    """`plan` and `act` of a bundle (the `Levels` protocol of the relay loop).

    Raises:
        MismatchedPair: the two graphs do not belong to each other or to the manifest.
        BundleError: a graph cannot be loaded or has another signature than the manifest says.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.spec = bundle.spec
        n, m = self.spec.state.dim, self.spec.action.dim
        noises = self.spec.high_noise, self.spec.low_noise
        self._high = _Graph(bundle, HIGH, {"state": n, "goal": n, "mask": n, "noise": noises[0]}, ("subgoal", n))
        self._low = _Graph(bundle, LOW, {"state": n, "subgoal": n, "noise": noises[1]}, ("action", m))
        _check_pair(bundle.manifest.pair_id, high=self._high.session, low=self._low.session)

    def plan(self, state: np.ndarray, goal: np.ndarray, mask: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """state, goal, mask (B, n) and noise (B, high_noise), float32 -> subgoal (B, n)."""
        return self._high.run(state, goal, mask, noise)

    def act(self, state: np.ndarray, subgoal: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """state, subgoal (B, n) and noise (B, low_noise), float32 -> action (B, m)."""
        return self._low.run(state, subgoal, noise)

    def warm_up(self) -> None:
        """Run both levels once, so that the first robot does not pay for lazy initialisation, nor for a bad graph.

        Raises:
            BundleError: a level fails, or answers with a number that is not finite.
        """
        spec = self.spec
        state = np.clip(np.zeros(spec.state.dim, dtype=np.float32), *spec.state.bounds)
        goal = spec.resolve_state(state)
        noises = [np.zeros((1, size), dtype=np.float32) for size in (spec.high_noise, spec.low_noise)]
        try:
            plan = self.plan(state[None], goal.state[None], goal.mask[None], noises[0])
            action = self.act(state[None], state[None], noises[1])
        except Exception as error:  # onnxruntime's exceptions share no base class but this one
            raise BundleError(f"the policy {spec.name} fails when it is run: {error}") from error
        for level, answer in (("high", plan), ("low", action)):
            if not np.isfinite(answer).all():
                raise BundleError(f"the {level} level of {spec.name} answers with a number that is not finite")


class _Graph:
    """One graph; the names and sizes of its inputs and of its output are checked against the file."""

    def __init__(self, bundle: Bundle, name: str, inputs: dict[str, int], output: tuple[str, int]) -> None:
        self.session = _session(bundle, name, inputs, dict([output]))
        self._inputs = tuple(inputs)
        self._outputs = [output[0]]
        self._row = _Row(self.session, inputs, output)

    def run(self, *batches: np.ndarray) -> np.ndarray:
        """The output (B, dim) for the inputs (B, dim), in their order."""
        if len(batches[0]) == 1:
            return self._row.run(batches)
        return self.session.run(self._outputs, dict(zip(self._inputs, batches, strict=True)))[0]  # type: ignore[return-value]


class _Row(threading.local):
    """A graph bound to memory for a batch of one, each thread to its own.

    Copying into that memory takes less than what ONNX Runtime does about names, types and allocation in every call.
    """

    def __init__(self, session: onnxruntime.InferenceSession, inputs: dict[str, int], output: tuple[str, int]) -> None:
        name, dim = output
        self._session = session
        self._inputs = [np.zeros((1, size), dtype=np.float32) for size in inputs.values()]
        self._output = np.zeros((1, dim), dtype=np.float32)
        self._binding = session.io_binding()
        for bound, array in zip(inputs, self._inputs, strict=True):
            self._binding.bind_cpu_input(bound, array)
        self._binding.bind_output(name, "cpu", 0, np.float32, self._output.shape, self._output.ctypes.data)

    def run(self, rows: tuple[np.ndarray, ...]) -> np.ndarray:
        for bound, row in zip(self._inputs, rows, strict=True):
            bound[:] = row
        self._session.run_with_iobinding(self._binding)
        return self._output.copy()


def graph_metadata(bundle: Bundle, name: str) -> dict[str, Any]:
    """What a bundle's graph says of itself, read from its ONNX metadata.

    Raises:
        BundleError: the file is no ONNX graph.
    """
    return _metadata(_load(bundle, name))


def _load(bundle: Bundle, name: str) -> onnxruntime.InferenceSession:
    content = read_graph(bundle, name)
    options = onnxruntime.SessionOptions()
    # One row through small layers is faster on the calling thread than handed to a pool, and many servers share
    # a machine: no worker threads, so nothing spins either.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Weights in files beside the graph would be under no digest: they are looked for where no file can be.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class but this one
        raise BundleError(
            f"{bundle.path / name} is not a graph that ONNX Runtime {onnxruntime.__version__} loads: {error}"
        ) from error


def _session(
    bundle: Bundle, name: str, inputs: dict[str, int], outputs: dict[str, int]
) -> onnxruntime.InferenceSession:
    session = _load(bundle, name)
    for what, nodes, expected in (
        ("inputs", session.get_inputs(), inputs),
        ("outputs", session.get_outputs(), outputs),
    ):
        # A free dimension is a name or None in a node's shape, a fixed one a number.
        found = {
            node.name: tuple(node.shape[1:])
            for node in nodes
            if node.type == "tensor(float)" and node.shape and not isinstance(node.shape[0], int)
        }
        if len(found) != len(nodes) or found != {name: (dim,) for name, dim in expected.items()}:
            got = ", ".join(f"{node.name} {node.type}{node.shape}" for node in nodes)
            asked = ", ".join(f"{name} (batch, {dim})" for name, dim in expected.items())
            raise BundleError(f"{bundle.path / name} has {what} {got}; the manifest asks for float32 {asked}")
    return session


def _check_pair(pair_id: str, **sessions: onnxruntime.InferenceSession) -> None:
    for level, session in sessions.items():
        metadata = _metadata(session)
        if metadata.get("pair_id") != pair_id or metadata.get("level") != level:
            raise MismatchedPair(
                f"{level}.onnx says it is the {metadata.get('level')} level of pair "
                f"{str(metadata.get('pair_id'))[:12]}; the manifest names pair {pair_id[:12]}"
            )


def _metadata(session: onnxruntime.InferenceSession) -> dict[str, Any]:
    found = session.get_modelmeta().custom_metadata_map
    try:
        return {key: json.loads(value) for key, value in found.items()}
    except (ValueError, RecursionError) as error:
        raise BundleError(f"a graph's metadata is not JSON: {error}; expected what `rpl export` writes") from error
