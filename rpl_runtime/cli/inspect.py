"""What `rpl inspect` prints: a bundle's model card, and that the bundle is intact."""

from rich.filesize import decimal
from rich.markdown import Markdown

from rpl_runtime.console import Console
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.policy.card import render_card
from rpl_runtime.policy.graphs import graph_metadata
from rpl_runtime.policy.manifest import JsonDict

_VERIFIED = "every digest matches; both graphs run and belong to each other"
_LOW_VERIFIED = "every digest matches; the low level runs, and a planner must set its subgoals"


def bundle_facts(bundle: Bundle) -> JsonDict:
    """The facts of a verified bundle, ready for JSON."""
    manifest, spec = bundle.manifest, bundle.spec
    return {
        "path": str(bundle.path),
        "digest": bundle.digest,
        "pair_id": manifest.pair_id,
        "verified": _VERIFIED if manifest.planner is None else _LOW_VERIFIED,
        "spec": spec.model_dump(mode="json"),
        "rate_hz": 1 / spec.period_s,
        "horizon_s": spec.horizon * spec.period_s,
        "graphs": {
            name.removesuffix(".onnx"): {
                "bytes": len(bundle.files[name]),
                "parameters": graph_metadata(bundle, name).get("parameters"),
            }
            for name in bundle.graphs
        },
        "planner": manifest.planner,
        "parity": manifest.parity,
        "quantized": manifest.quantized,
        "provenance": manifest.provenance.model_dump(mode="json"),
        "statistics": manifest.statistics and manifest.statistics.model_dump(mode="json"),
        "evaluation": bundle.evaluation,
    }


def print_bundle(bundle: Bundle) -> None:
    """Print the model card of a verified bundle, and the sizes of its graphs."""
    console = Console(markup=False, highlight=False)  # a name or a command may contain brackets
    console.print(Markdown(render_card(bundle.manifest, bundle.digest, bundle.evaluation)))
    facts = bundle_facts(bundle)
    for level, graph in facts["graphs"].items():
        known = isinstance(graph["parameters"], int)
        parameters = f"{graph['parameters']:,}" if known else "an unknown number of"
        console.print(f"{level} level: {decimal(graph['bytes'])}, {parameters} parameters")
    console.print(f"pair: {bundle.manifest.pair_id}")
    console.print(f"verified: {facts['verified']}", style="green")
