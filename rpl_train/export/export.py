"""Export: two torch modules and a spec become a bundle.

The modules are `high(state, goal, mask, noise) -> subgoal` and `low(state, subgoal, noise) -> action`, float32 with the
batch first, normalisation inside, and the mode at zero noise. The bundle has two ONNX graphs, IR version 10, opset 18.
With the same versions of the packages, their bytes depend only on the modules and the spec. A noise of size 0 stays an
input of shape (B, 0).

The graphs are written to a scratch folder first, and are loaded from there by the parity gate as a server would load
them. The bundle is written to its path only if they pass.
"""

import contextlib
import hashlib
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import onnx
import torch
from google.protobuf.message import Message
from rich.filesize import decimal
from rich.table import Table
from torch import Tensor, nn

from rpl_runtime.errors import InvalidInput
from rpl_runtime.files import JsonDict
from rpl_runtime.policy.bundle import Bundle, standing_at, write_bundle
from rpl_runtime.policy.manifest import Manifest, Provenance, Statistics
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.policy.trial import open_policy
from rpl_runtime.tasks.task import Task
from rpl_train.augment import LowBatch
from rpl_train.export.parity import Parity, ParityConfig, check_parity
from rpl_train.export.quantize import quantize
from rpl_train.networks import RelayPolicy

OPSET = 18  # the exporter's native one
IR_VERSION = 10  # ONNX Runtime 1.18 and later
INT8_TOLERANCE = 0.1  # [rad], or the action's unit; success says what it costs
_BATCH = torch.export.Dim("batch")


@dataclass(frozen=True)
class ExportResult:
    """The bundle that was written, and the result of the parity gate."""

    bundle: Bundle
    parity: Parity
    replaced: str | None  # name and short digest of the bundle that was there before

    def facts(self) -> JsonDict:
        """The result, ready for JSON."""
        return {
            "path": str(self.bundle.path),
            "digest": self.bundle.digest,
            "replaced": self.replaced,
            "pair_id": self.bundle.manifest.pair_id,
            "bytes": {name: len(self.bundle.files[name]) for name in self.bundle.graphs},
            "parity": asdict(self.parity),
        }


def export(
    policy: RelayPolicy,
    spec: PolicySpec,
    provenance: Provenance,
    path: Path,
    statistics: Statistics | None = None,
    config: ParityConfig = ParityConfig(),
    task: Task | None = None,
    low_only: bool = False,
    calibration: LowBatch | None = None,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> ExportResult:
    """Write the bundle of a policy, in place of one that is there already; parity is checked in the task's worlds.

    `on_batch` is told how many batches of episodes were compared, of how many.

    With `low_only` both levels are checked, and the low level alone is written: a planner must set its subgoals.
    With a `calibration` the low level is quantised (quantize.py), and may differ from its module by INT8_TOLERANCE.

    Raises:
        InvalidInput: a module violates the contract, cannot be exported, or has no layers to quantise.
        ParityError: the graphs' actions differ from the modules'; nothing was written.
        BundleError: something that is not a bundle is at the path.
    """
    n, m = spec.state.dim, spec.action.dim
    high_inputs = {"state": n, "goal": n, "mask": n, "noise": spec.high_noise}
    low_inputs = {"state": n, "subgoal": n, "noise": spec.low_noise}
    levels = [
        (_Signature("high", high_inputs, "subgoal", n), policy.high),
        (_Signature("low", low_inputs, "action", m), policy.low),
    ]
    for signature, module in levels:
        _check_module(signature, module, spec)
    graphs = [_graph(signature, module, spec) for signature, module in levels]
    if calibration is not None:
        quantize(graphs[1], calibration, spec.low_noise)
        config = replace(config, tolerance=INT8_TOLERANCE)
    pair_id = hashlib.sha256(b"".join(hashlib.sha256(_bytes(graph)).digest() for graph in graphs)).hexdigest()
    for graph, (signature, module) in zip(graphs, levels, strict=True):
        # A graph's file is readable without its bundle.
        facts: JsonDict = {
            "pair_id": pair_id,
            "level": signature.level,
            "signature": f"{signature}; goal and subgoal are laid out as state is",
            "noise": signature.inputs["noise"],
            "parameters": sum(parameter.numel() for parameter in module.parameters()),
            "relay_policy": version("relay-policy"),
            **spec.model_dump(mode="json"),
        }
        onnx.helper.set_model_props(graph, {key: json.dumps(value) for key, value in facts.items()})
    high, low = map(_bytes, graphs)

    manifest = Manifest(
        spec=spec,
        pair_id=pair_id,
        files={},
        quantized=None if calibration is None else "int8",
        statistics=statistics,
        provenance=provenance,
    )
    with tempfile.TemporaryDirectory() as scratch:
        candidate = write_bundle(Path(scratch) / "candidate", manifest, high, low)
        parity = check_parity(policy, open_policy(candidate, config.providers), spec, config, task, on_batch)
    manifest = manifest.model_copy(update={"parity": asdict(parity)})
    replaced = standing_at(path)
    return ExportResult(write_bundle(path, manifest, None if low_only else high, low), parity, replaced)


def result_table(result: ExportResult) -> Table:
    """The result as a table."""
    parity, facts = result.parity, result.facts()
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("bundle", facts["path"])
    table.add_row("digest", facts["digest"])
    if result.replaced is not None:
        table.add_row("replaced", result.replaced)
    table.add_row("pair", facts["pair_id"])
    for name, size in facts["bytes"].items():
        table.add_row(name, decimal(size))
    table.add_row(
        "targets", f"differ by {parity.max_abs_target_difference:.2g} at most; must be {parity.tolerance:g} or less"
    )
    table.add_row("subgoals", f"differ by {parity.max_abs_subgoal_difference:.2g} at most")
    table.add_row("compared", f"{parity.episodes} episodes, {parity.steps:,} decisions")
    return table


class _Signature(NamedTuple):
    """One level's contract."""

    level: Literal["high", "low"]
    inputs: dict[str, int]  # name -> size
    output: str
    size: int

    def __str__(self) -> str:
        inputs = ", ".join(f"{name} (B, {size})" for name, size in self.inputs.items())
        return f"{self.level}({inputs}) -> {self.output} (B, {self.size}), float32"


def _example(signature: _Signature, spec: PolicySpec, rows: int) -> tuple[Tensor, ...]:
    """Inputs (rows, .): states in the middle of the accepted range, a mask of ones, zero noise."""
    middle = torch.from_numpy(np.add(*spec.state.bounds) / 2)
    fixed = {"mask": torch.ones(spec.state.dim), "noise": torch.zeros(signature.inputs["noise"])}
    return tuple(fixed.get(name, middle).repeat(rows, 1) for name in signature.inputs)


def _check_module(signature: _Signature, module: nn.Module, spec: PolicySpec) -> None:
    for rows in (1, 3):
        try:
            with torch.no_grad():
                output = module(*_example(signature, spec, rows))
        except Exception as error:  # a user's module may raise anything
            raise InvalidInput(f"the {signature.level} level fails as {signature}: {_summary(error)}") from error
        if not isinstance(output, Tensor):
            raise InvalidInput(f"the {signature.level} level returned a {type(output).__name__}; must be {signature}")
        if output.dtype != torch.float32 or output.shape != (rows, signature.size):
            got = f"{str(output.dtype).removeprefix('torch.')} {tuple(output.shape)} for a batch of {rows}"
            raise InvalidInput(f"the {signature.level} level returned {got}; must be {signature}")
        if not output.isfinite().all():
            raise InvalidInput(
                f"the {signature.level} level returned {signature.output} {output[0].tolist()} in the middle of the "
                "accepted states; every number must be finite"
            )


def _graph(signature: _Signature, module: nn.Module, spec: PolicySpec) -> onnx.ModelProto:
    """The module as a bare ONNX graph with a free batch."""
    example = _example(signature, spec, rows=3)
    free = torch.export.ShapesCollection()  # by tensor, which also works for a forward(*inputs)
    for tensor in example:
        free[tensor] = {0: _BATCH}
    try:
        with _quiet(), torch.no_grad():
            # Traced here, since torch.onnx.export would fall back to a fixed batch.
            program = torch.export.export(module, example, dynamic_shapes=free.dynamic_shapes(module, example))
            exported = torch.onnx.export(
                program,
                input_names=list(signature.inputs),
                output_names=[signature.output],
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # tracing may raise anything
        raise InvalidInput(
            f"the {signature.level} level cannot be exported with a free batch: {_summary(error)}"
        ) from error
    assert exported is not None  # with dynamo=True
    graph = exported.model_proto
    graph.ir_version = IR_VERSION
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.graph.value_info[:]
    _strip(graph)
    onnx.checker.check_model(graph, full_check=True)
    return graph


def _strip(message: Message) -> None:
    """Remove the exporter's notes for debugging: stack traces, paths, its own version."""
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string", "producer_name", "producer_version"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for child in [value] if isinstance(value, Message) else value:
                _strip(child)


def _bytes(graph: onnx.ModelProto) -> bytes:
    return graph.SerializeToString(deterministic=True)


def _summary(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the messages of torch 2.13 about itself, which it writes on every export."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # "torchvision is not installed"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        registration.setLevel(level)
