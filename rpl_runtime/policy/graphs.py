"""Both levels of a bundle, run by ONNX Runtime."""

import json
import os
import threading
from collections.abc import Callable
from time import perf_counter

import numpy as np
import onnxruntime

from rpl_runtime.errors import BundleError, InvalidInput, MismatchedPair, ProtocolViolation
from rpl_runtime.files import JsonDict
from rpl_runtime.policy.bundle import HIGH, LOW, Bundle

CPU = "CPU"
_PROVIDER = "ExecutionProvider"  # the end of each one's name in ONNX Runtime
PLANS_S = 2.0  # [s] for the largest batch of plans: it holds up other batches, and shutdown
TOGETHER = 16  # rows of several streams in a call of the low level: a row of 64 would cost a seventh less
_JOINT_S = 0.001  # [s] the longest that one action of a policy may take whose actions are computed together
_TRIES, _TRYING_S = 3, 1.0  # runs of which the fastest counts, and [s] after which one is enough


def check_providers(providers: str) -> list[str]:
    """ONNX Runtime's names of execution providers, of a list such as "CUDA,CPU"; the first is preferred.

    Raises:
        InvalidInput: one of them is not installed.
    """
    installed = {name.removesuffix(_PROVIDER): name for name in onnxruntime.get_available_providers()}
    folded = {short.lower(): name for short, name in installed.items()}
    asked = [name.strip().removesuffix(_PROVIDER) for name in providers.split(",")]
    for name in asked:
        if name.lower() not in folded:
            raise InvalidInput(
                f"ONNX Runtime has no execution provider {name!r} here; must be of {', '.join(installed)}"
            )
    return [folded[name.lower()] for name in asked]


class OnnxPolicy:
    """`plan` and `act` of a bundle (the `Levels` protocol of the relay loop).

    Args:
        providers: ONNX Runtime's execution providers that compute it, preferred first, separated by commas.

    Raises:
        InvalidInput: an execution provider is not installed, or does not start.
        MismatchedPair: the two graphs do not belong to each other or to the manifest.
        BundleError: a graph cannot be loaded, or its inputs or outputs do not match the manifest.
    """

    def __init__(self, bundle: Bundle, providers: str = CPU) -> None:
        self.spec = bundle.spec
        self.joint = False  # whether rows of several streams may share a call of the low level; see `find_joint`
        self._plan_time_s: float | None = None
        n, m = self.spec.state.dim, self.spec.action.dim
        high = {"state": n, "goal": n, "mask": n, "noise": self.spec.high_noise}
        low = {"state": n, "subgoal": n, "noise": self.spec.low_noise}
        self.high: Graph | None = None  # of a low level alone
        if HIGH in bundle.graphs:
            self.high = Graph(_load_level(bundle, "high", high, {"subgoal": n}, providers), high, "subgoal", n)
        self.low = Graph(_load_level(bundle, "low", low, {"action": m}, providers), low, "action", m)

    def plan(self, state: np.ndarray, goal: np.ndarray, mask: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """state, goal, mask (B, n) and noise (B, high_noise), float32 -> subgoal (B, n).

        Raises:
            ProtocolViolation: there is a low level alone.
        """
        if self.high is None:
            raise ProtocolViolation(f"{self.spec.name} is a low level alone; its subgoals must come from a planner")
        return self.high.run(state, goal, mask, noise)

    def act(self, state: np.ndarray, subgoal: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """state, subgoal (B, n) and noise (B, low_noise), float32 -> action (B, m)."""
        return self.low.run(state, subgoal, noise)

    def plan_time_s(self, clock: Callable[[], float] = perf_counter) -> float:
        """[s] of a clock for one plan, measured once; 0 of a low level alone."""
        if self.high is None:
            return 0.0
        if (known_s := self._plan_time_s) is None:
            rows = self._example(1)
            self._plan_time_s = known_s = _fastest_s(lambda: self.plan(*rows[0]), clock)
        return known_s

    def act_time_s(self, clock: Callable[[], float] = perf_counter) -> float:
        """[s] of a clock for one action, measured now."""
        rows = self._example(1)
        return _fastest_s(lambda: self.act(*rows[1]), clock)

    def find_joint(self) -> None:
        """Find out whether rows may share a call: if that changes no bit of an action, and an action takes little time.

        Products of another number of rows may be summed in another order, and a graph may even mix rows.
        """
        if self.act_time_s() > _JOINT_S:
            return
        draw, spec = np.random.default_rng(0).standard_normal, self.spec
        rows = [draw((TOGETHER, size), np.float32) for size in (spec.state.dim, spec.state.dim, spec.low_noise)]
        rows[:2] = (np.clip(vectors, *spec.state.bounds) for vectors in rows[:2])
        counts = _numbers_up_to(TOGETHER)
        try:
            alone = np.concatenate([self.act(*(vectors[row : row + 1] for vectors in rows)) for row in range(TOGETHER)])
            self.joint = all(np.array_equal(self.act(*(v[:count] for v in rows)), alone[:count]) for count in counts)
        except Exception:  # onnxruntime's exceptions share no base class but this one
            return  # a graph that fails in some states is found out by the robots that are in them

    def most_plans(self) -> int:
        """Rows that the high level may be given at once: as many as it can plan in PLANS_S, and at least one."""
        most = max(1, int(PLANS_S / max(self.plan_time_s(), 1e-6)))  # a clock may stand still meanwhile
        return 1 << most.bit_length() - 1  # so that no rows are added to them

    def warm_up(self, request_bytes: int = 0) -> None:
        """Run both levels once, so that the first robot pays for no lazy initialisation and meets no broken graph.

        Args:
            request_bytes: with each number of rows that `Graph.run` gives them for as many as fit into so many bytes,
                at least one; the high level with at most `most_plans`.

        Raises:
            BundleError: a level fails, or its output is not finite.
        """
        spec = self.spec
        high, low = self._example(1)
        plans, acts = (max(1, request_bytes // sum(row.nbytes for row in rows)) for rows in (high, low))
        plans = min(plans, self.most_plans()) if plans > 1 else 1
        answers: list[tuple[str, np.ndarray]] = []
        try:
            if self.high is not None:
                answers += [("high", self.plan(*self._example(rows)[0])) for rows in _numbers_up_to(plans)]
            answers += [("low", self.act(*self._example(rows)[1])) for rows in _numbers_up_to(acts)]
        except Exception as error:  # onnxruntime's exceptions share no base class but this one
            raise BundleError(f"the policy {spec.name} fails when it is run: {error}") from error
        for level, answer in answers:
            if not np.isfinite(answer).all():
                raise BundleError(f"the {level} level of {spec.name} answers with a number that is not finite")

    def _example(self, rows: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Inputs of both levels: the accepted state nearest to zero, as its own goal and subgoal, without noise."""
        spec = self.spec
        state = np.clip(np.zeros(spec.state.dim, dtype=np.float32), *spec.state.bounds)
        goal = spec.resolve_state(state)
        noises = [np.zeros(size, dtype=np.float32) for size in (spec.high_noise, spec.low_noise)]
        levels = (state, goal.state, goal.mask, noises[0]), (state, state, noises[1])
        high, low = ([np.tile(row, (rows, 1)) for row in inputs] for inputs in levels)
        return high, low


def _number_for(rows: int) -> int:
    """The number of rows with which a graph runs that is given so many: the next power of two."""
    return 1 << (rows - 1).bit_length()


def _numbers_up_to(rows: int) -> list[int]:
    """All of these numbers, up to that for so many rows."""
    return [1 << power for power in range(_number_for(rows).bit_length())]


def _fastest_s(run: Callable[[], object], clock: Callable[[], float]) -> float:
    """[s] of a clock for the fastest of three runs, of fewer if they take long."""
    spent: list[float] = []
    while len(spent) < _TRIES and sum(spent) < _TRYING_S:
        began = clock()
        run()
        spent.append(clock() - began)
    return min(spent)


class Graph(threading.local):
    """A checked graph. Each thread has its own memory bound to it for a batch of one.

    Copying into that memory is faster than the checks of names, types and allocation in a call of ONNX Runtime.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, inputs: dict[str, int], output: str, output_dim: int
    ) -> None:
        self._session = session
        self._names = tuple(inputs)
        self._outputs = [output]
        self._inputs = tuple(np.zeros((1, size), dtype=np.float32) for size in inputs.values())  # of a batch of one
        self._output = np.zeros((1, output_dim), dtype=np.float32)  # of the same
        self._binding = session.io_binding()
        for name, row in zip(inputs, self._inputs, strict=True):
            self._binding.bind_cpu_input(name, row)
        shape, address = self._output.shape, self._output.ctypes.data
        self._binding.bind_output(output, "cpu", 0, np.float32, shape, address)

    def run(self, *batches: np.ndarray) -> np.ndarray:
        """The output (B, dim) for the inputs (B, dim), in their order.

        The last row is repeated up to a number of rows that was tried (trial.py). What another costs, nobody knows.
        """
        if (rows := len(batches[0])) != 1:
            if more := _number_for(rows) - rows:
                batches = tuple(np.concatenate([batch, np.repeat(batch[-1:], more, axis=0)]) for batch in batches)
            return self._session.run(self._outputs, dict(zip(self._names, batches, strict=True)))[0][:rows]  # type: ignore[index, return-value]
        return self.run_one(*(batch[0] for batch in batches)).copy()

    def run_one(self, *inputs: np.ndarray) -> np.ndarray:
        """The output (1, dim) for one row of inputs (dim,), in their order; it is overwritten by the next one."""
        for bound, row in zip(self._inputs, inputs, strict=True):
            bound[0] = row
        self._session.run_with_iobinding(self._binding)
        return self._output


def graph_metadata(bundle: Bundle, name: str) -> JsonDict:
    """The ONNX metadata of a bundle's graph.

    Raises:
        BundleError: the file is not an ONNX graph.
    """
    return _metadata(_load(bundle, name))


def _load(bundle: Bundle, name: str, providers: str = CPU) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # One row through small layers is faster on the calling thread than in a pool, and many servers share a machine:
    # without worker threads nothing spins either.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # No digest covers weights in files beside the graph: have them searched where no file can be.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    wanted = check_providers(providers)
    try:
        session = onnxruntime.InferenceSession(bundle.files[name], options, providers=wanted)
    except Exception as error:  # onnxruntime's exceptions share no base class but this one
        raise BundleError(
            f"{bundle.path / name} is not a graph that ONNX Runtime {onnxruntime.__version__} loads: {error}"
        ) from error
    if session.get_providers()[: len(wanted)] != wanted:  # ONNX Runtime would go on without it
        raise InvalidInput(
            f"the execution providers {providers} do not all start; ONNX Runtime would compute with "
            f"{', '.join(name.removesuffix(_PROVIDER) for name in session.get_providers())}"
        )
    return session


def _load_level(
    bundle: Bundle, level: str, inputs: dict[str, int], outputs: dict[str, int], providers: str
) -> onnxruntime.InferenceSession:
    """A level's graph, if its inputs, outputs and metadata match the manifest."""
    name, pair_id = {"high": HIGH, "low": LOW}[level], bundle.manifest.pair_id
    session = _load(bundle, name, providers)
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
        if len(found) != len(nodes) or found != {key: (dim,) for key, dim in expected.items()}:
            got = ", ".join(f"{node.name} {node.type}{node.shape}" for node in nodes)
            asked = ", ".join(f"{key} (batch, {dim})" for key, dim in expected.items())
            raise BundleError(f"{bundle.path / name} has {what} {got}; the manifest asks for float32 {asked}")
    metadata = _metadata(session)
    if metadata.get("pair_id") != pair_id or metadata.get("level") != level:
        raise MismatchedPair(
            f"{level}.onnx says it is the {metadata.get('level')} level of pair "
            f"{str(metadata.get('pair_id'))[:12]}; the manifest names pair {pair_id[:12]}"
        )
    return session


def _metadata(session: onnxruntime.InferenceSession) -> JsonDict:
    found = session.get_modelmeta().custom_metadata_map
    try:
        return {key: json.loads(value) for key, value in found.items()}
    except (ValueError, RecursionError) as error:
        raise BundleError(f"a graph's metadata is not JSON: {error}; must be as `rpl export` writes it") from error
