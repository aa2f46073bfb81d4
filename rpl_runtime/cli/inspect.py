"""What `rpl inspect` says of a bundle: everything a person needs before running it.

In: the path of a bundle. Out: plain facts, and tables of them. It loads both graphs as a server would, so a bundle
that inspects well serves; it decides nothing.
"""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.policy.graphs import OnnxPolicy, graph_metadata
from rpl_runtime.policy.spec import PolicySpec, VectorSpec

_VERIFIED = "every digest matches, both graphs load, take what the manifest says and belong to each other"


def inspect_bundle(path: Path) -> dict[str, Any]:
    """The facts of a bundle, ready for JSON.

    Raises:
        BundleError: it cannot be served; the message says why.
    """
    bundle = load_bundle(path)
    OnnxPolicy(bundle).warm_up()
    manifest, spec = bundle.manifest, bundle.spec
    return {
        "path": str(path),
        "digest": bundle.digest,
        "pair_id": manifest.pair_id,
        "verified": _VERIFIED,
        "spec": spec.model_dump(mode="json"),
        "rate_hz": 1 / spec.period_s,
        "horizon_s": spec.horizon * spec.period_s,
        "graphs": {
            graph.stem: {
                "bytes": graph.stat().st_size,
                "parameters": graph_metadata(bundle, graph.name).get("parameters"),
            }
            for graph in (bundle.high, bundle.low)
        },
        "parity": manifest.parity,
        "provenance": manifest.provenance.model_dump(mode="json"),
        "statistics": manifest.statistics and manifest.statistics.model_dump(mode="json"),
        "evaluation": bundle.evaluation,
    }


def print_facts(facts: dict[str, Any]) -> None:
    """Print what `inspect_bundle` found."""
    console = Console(markup=False, highlight=False)  # a name or a command may hold brackets
    spec = PolicySpec.model_validate(facts["spec"])
    console.print(spec.name, style="bold", end="  ")
    console.print(spec.description)
    console.print(_summary(facts, spec))
    console.print(_vector("state", spec.state))
    console.print(_vector("action", spec.action))
    if spec.elements:
        console.print(_elements(spec))


def _summary(facts: dict[str, Any], spec: PolicySpec) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("digest", facts["digest"])
    table.add_row("pair", facts["pair_id"])
    table.add_row("period", f"{spec.period_s:g} s ({facts['rate_hz']:.4g} Hz)")
    table.add_row("horizon", f"{spec.horizon} steps ({facts['horizon_s']:.4g} s) for each subgoal")
    table.add_row("noise", f"{spec.high_noise} numbers for the high level, {spec.low_noise} for the low level")
    for level, graph in facts["graphs"].items():
        parameters = "an unknown number of" if graph["parameters"] is None else f"{graph['parameters']:,}"
        table.add_row(f"{level} level", f"{decimal(graph['bytes'])}, {parameters} parameters")
    table.add_row("parity", _parity(facts["parity"]))
    table.add_row("evaluation", _evaluation(facts["evaluation"]))
    provenance = facts["provenance"]
    for source in provenance["data"]:
        table.add_row("data", ", ".join(f"{key} {value}" for key, value in source.items() if key != "digest"))
    table.add_row("command", provenance["command"])
    table.add_row("commit", provenance["commit"])
    table.add_row("seeds", ", ".join(map(str, provenance["seeds"])) or "none recorded")
    table.add_row("verified", facts["verified"], style="green")
    return table


def _parity(parity: dict[str, float]) -> str:
    if "max_abs_target_difference" not in parity:
        return "not measured"
    return (
        f"within {parity['max_abs_target_difference']:.2g} of its torch modules over "
        f"{parity.get('episodes', 0):.0f} episodes (allowed {parity.get('tolerance', float('nan')):.2g})"
    )


def _evaluation(evaluation: dict[str, Any] | None) -> str:
    starts = (evaluation or {}).get("starts") or {}
    return "\n".join(_start(name, found) for name, found in starts.items()) or "not measured"


def _start(name: str, found: dict[str, Any]) -> str:
    steps, success = found.get("mean_steps_ever"), found.get("success_ever")
    if steps is None or success is None:
        return f"{name} start: no means recorded"
    goals = len(found.get("goals") or {})
    return f"{name} start: {steps:.2f} elements ever done, all of them in {success:.1%}, mean of {goals} goals"


def _vector(title: str, vector: VectorSpec) -> Table:
    table = Table(title=f"{title} ({vector.dim})", title_justify="left")
    for heading in ("", "name", "unit"):
        table.add_column(heading)
    for heading in ("lowest", "highest"):
        table.add_column(heading, justify="right")
    for dim in range(vector.dim):
        limits = (f"{vector.low[dim]:.4g}", f"{vector.high[dim]:.4g}")
        table.add_row(str(dim), vector.names[dim], vector.units[dim], *limits)
    return table


def _elements(spec: PolicySpec) -> Table:
    table = Table(title=f"goals: any set of these {len(spec.elements)} elements", title_justify="left")
    for heading in ("element", "goal", "done within", "in the library's"):
        table.add_column(heading)
    for name, element in spec.elements.items():
        goal = ", ".join(
            f"{spec.state.names[d]} {value:.4g}" for d, value in zip(element.dims, element.goal, strict=True)
        )
        library = " ".join(label for label, goals in spec.library.items() if name in goals)
        table.add_row(name, goal, f"{element.tolerance:g}", library)
    return table
