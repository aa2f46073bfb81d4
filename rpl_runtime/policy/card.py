"""The model card: a manifest and an evaluation as Markdown, for people. It names what was not measured or recorded.

`rpl inspect` prints the same text.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rpl_runtime.files import JsonDict
from rpl_runtime.policy.manifest import Manifest, Provenance
from rpl_runtime.policy.spec import PolicySpec, VectorSpec

_MEASURES = {  # key in an evaluation -> heading, format
    "mean_steps_ever": ("elements ever done", "{:.2f}"),
    "mean_steps_end": ("elements done at the end", "{:.2f}"),
    "success_ever": ("all ever done", "{:.1%}"),
    "success_end": ("all done at the end", "{:.1%}"),
}


def render_card(manifest: Manifest, digest: str, evaluation: JsonDict | None) -> str:
    """The card as Markdown text."""
    spec, parity = manifest.spec, manifest.parity
    goal = next(iter(spec.library.values()), tuple(spec.elements)[:1])
    given = f"names its goal by elements, for example `{','.join(goal)}`" if goal else "gives its goal as a whole state"
    fidelity = "Not measured."
    if "max_abs_target_difference" in parity:
        fidelity = (
            f"Over {parity.get('episodes', 0):.0f} whole episodes ({parity.get('steps', 0):.0f} decisions), with both "
            "levels composed, the actions of the graphs differ from those of the exported modules by at most "
            f"{parity['max_abs_target_difference']:.2g} in the action's units; the export requires at most "
            f"{parity.get('tolerance', float('nan')):.2g}."
        )
    if manifest.quantized is not None:
        fidelity += (
            f" The products of the low level's inner layers are computed in {manifest.quantized}: with one fixed scale "
            "for each layer's inputs, so that a row's answer depends on that row alone."
        )
    sections = (
        [
            f"# {spec.name}",
            "",
            *([spec.description, ""] if spec.description else []),
            (
                f"A relay policy of two levels: the high level sets a subgoal every {spec.horizon} steps "
                f"({spec.horizon * spec.period_s:.3g} s), the low level turns state and subgoal into an action every "
                f"{spec.period_s:g} s ({1 / spec.period_s:.4g} Hz)."
            ),
            "",
            f"Bundle `{digest}`.",
        ],
        [
            "## Serving it",
            "",
            f"    rpl serve PATH_OF_THIS_FOLDER{'' if manifest.planner is None else ' --planner HOST:PORT'}",
            *(() if manifest.planner is None else _planned(manifest.planner)),
            "",
            f"A client {given}, and sends a state each step. The graphs also run in any ONNX runtime:",
            "",
            *(["    high(state, goal, mask, noise) -> subgoal"] if manifest.planner is None else []),
            "    low(state, subgoal, noise) -> action",
            "",
            (
                "All arrays are float32 with a free batch dimension first; normalisation is inside. goal and subgoal "
                "have the layout of the state; mask is 1 for the dimensions of the goal that count. noise is standard "
                f"normal for a sample and zero for the mode; it has {spec.high_noise} numbers for the high level and "
                f"{spec.low_noise} for the low level."
            ),
        ],
        ["## State", "", *_vector(spec.state), "", "A state outside these limits is refused."],
        ["## Action", "", *_vector(spec.action)],
        _goals(spec),
        _results(evaluation),
        ["## Fidelity of the graphs", "", fidelity],
        _training(manifest.provenance),
        _limits(manifest, evaluation),
    )
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n\n"


def _planned(service: str) -> tuple[str, ...]:
    return (
        "",
        f"This is the low level alone: at that address must be an {service} for states with the names and units below.",
    )


def _vector(vector: VectorSpec) -> list[str]:
    rows = zip(range(vector.dim), vector.names, vector.units, vector.low, vector.high, strict=True)
    return _table(
        ("", "name", "unit", "lowest", "highest"), ((*row[:3], *(f"{x:.4g}" for x in row[3:])) for row in rows)
    )


def _goals(spec: PolicySpec) -> list[str]:
    names = spec.state.names
    whole = ", ".join(names[dim] for dim in spec.goal_dims)
    if not spec.elements:
        return ["## Goals", "", f"A goal is a whole state, of which these dimensions count: {whole}."]
    rows = (
        (
            name,
            ", ".join(f"{names[dim]} {value:.4g}" for dim, value in zip(element.dims, element.goal, strict=True)),
            f"{element.tolerance:g}",
        )
        for name, element in spec.elements.items()
    )
    lines = [
        "## Goals",
        "",
        f"A goal is any set of these elements, or a whole state, of which these dimensions count: {whole}.",
        "",
        *_table(("element", "goal", "done within"), rows),
    ]
    if spec.library:
        lines += ["", "Compound goals with a name:", ""]
        lines += _table(("name", "elements"), ((name, ", ".join(goal)) for name, goal in spec.library.items()))
    return lines


def _results(evaluation: JsonDict | None) -> list[str]:
    starts = (evaluation or {}).get("starts") or {}
    if evaluation is None or not starts:
        return ["## Results", "", "Not measured: this bundle holds no evaluation."]
    headings = [heading for heading, _ in _MEASURES.values()]
    lines = ["## Results", ""]
    lines += _table(["start", *headings], ((start, *_measures(found)) for start, found in starts.items()))
    lines += ["", "Means over goals; 95 % bootstrap intervals over goals in brackets."]
    for start, found in starts.items():
        if goals := found.get("goals"):
            lines += ["", f"From the {start} start, by goal:", ""]
            rows = ((name, goal.get("episodes", "–"), *_measures(goal)) for name, goal in goals.items())
            lines += _table(["goal", "episodes", *headings], rows)
    measured = {"Protocol": _facts(evaluation.get("protocol") or {})}
    measured |= {
        key.capitalize(): _plain(evaluation[key]) for key in ("command", "commit", "seeds") if key in evaluation
    }
    return [*lines, "", *(f"- {key}: {value}" for key, value in measured.items() if value)]


def _measures(found: JsonDict) -> list[str]:
    cells = []
    for key, (_, form) in _MEASURES.items():
        value, interval = found.get(key), (found.get("intervals") or {}).get(key)
        cell = "–" if value is None else form.format(value)
        cells.append(f"{cell} ({form.format(interval[0])} to {form.format(interval[1])})" if interval else cell)
    return cells


def _training(provenance: Provenance) -> list[str]:
    lines = ["## Training data and provenance", ""]
    if provenance.data:
        # How a demonstrator was set is for `rpl improve`, which plays again, not for a table.
        keys = [key for key in dict.fromkeys(key for source in provenance.data for key in source) if key != "play"]
        rows = ([_plain(source.get(key, "–")) for key in keys] for source in provenance.data)
        lines += [*_table(keys, rows), ""]
    else:
        lines += ["No training data is recorded.", ""]
    groups = {key: group for key, value in provenance.settings.items() if (group := _group(value))}
    facts = {
        "Command": f"`{provenance.command}`",
        "Commit": f"`{provenance.commit}`",
        "Seeds": _plain(provenance.seeds),
        "Settings": _facts({key: value for key, value in provenance.settings.items() if key not in groups}),
        **{key.capitalize(): group for key, group in groups.items()},
        "Packages": _facts(provenance.packages),
        "Made from": _plain(provenance.parents),
    }
    return [*lines, *(f"- {key}: {value}" for key, value in facts.items() if value)]


def _group(value: Any) -> str | None:
    """Several entries with the same settings, such as specialists: first what they share, then each one's own.

    None if the value is not such a group.
    """
    entries = list(value.values()) if isinstance(value, dict) else []
    if len(entries) < 2 or not all(isinstance(entry, dict) and entry.keys() == entries[0].keys() for entry in entries):
        return None
    flat = {name: dict(_paths(entry)) for name, entry in value.items()}
    first, *others = flat.values()
    shared = {path: x for path, x in first.items() if all(path in other and other[path] == x for other in others)}
    own = {name: {path: x for path, x in entry.items() if path not in shared} for name, entry in flat.items()}
    return "\n".join(
        [f"each {_facts(shared)}" if shared else "", *(f"  - {name}: {_facts(entry)}" for name, entry in own.items())]
    )


def _paths(values: JsonDict, above: str = "") -> Iterator[tuple[str, object]]:
    """Every setting by its path, such as npg.damping."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _paths(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _limits(manifest: Manifest, evaluation: JsonDict | None) -> list[str]:
    lines = [
        "## Intended use and limits",
        "",
        "For research on the task described above, with states measured as listed, at the stated control period.",
        "The policy is not a safety function: the robot that runs it must limit force, speed and workspace.",
        "",
        "- Goals outside the element table, and sets of elements that are not among the results above, are unmeasured.",
        "- Behaviour far from the training data, though inside the range of accepted states, is unmeasured.",
    ]
    if evaluation is None or not evaluation.get("starts"):
        lines.append("- Its performance on the task is not measured.")
    else:
        lines.append("- The results hold for the protocol above, not for another environment or for hardware.")
    if not manifest.provenance.data:
        lines.append("- The training data and its licence are not recorded.")
    elif any(not source.get("licence") for source in manifest.provenance.data):
        lines.append("- The licence of some of its training data is not recorded.")
    return lines


def _table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    def line(cells: Sequence[object]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return [line(headings), "|" + "---|" * len(headings), *map(line, rows)]


def _facts(values: JsonDict) -> str:
    return "; ".join(f"{key} {_plain(value)}" for key, value in values.items())


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return f"({_facts(value)})"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return str(value)
