"""The model card: what a manifest and an evaluation say, for people.

In: a manifest, its digest, and an evaluation where there is one. Out: Markdown. It reads no files, and states
nothing that those do not say: what was not measured is said to be so.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rpl_runtime.policy.manifest import Manifest, Provenance
from rpl_runtime.policy.spec import PolicySpec, VectorSpec

_MEASURES = {  # key in an evaluation -> heading, format
    "mean_steps_ever": ("elements ever done", "{:.2f}"),
    "mean_steps_end": ("elements done at the end", "{:.2f}"),
    "success_ever": ("all ever done", "{:.1%}"),
    "success_end": ("all done at the end", "{:.1%}"),
}


def render_card(manifest: Manifest, digest: str, evaluation: dict[str, Any] | None) -> str:
    """The card as Markdown text."""
    sections = (
        _head(manifest.spec, digest),
        _serving(manifest.spec),
        _interface(manifest.spec),
        _goals(manifest.spec),
        _results(evaluation),
        _parity(manifest),
        _training(manifest.provenance),
        _limits(manifest, evaluation),
    )
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n\n"


def _head(spec: PolicySpec, digest: str) -> list[str]:
    return [
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
    ]


def _serving(spec: PolicySpec) -> list[str]:
    goal = next(iter(spec.library.values()), tuple(spec.elements)[:1])
    given = f"names its goal by elements, for example `{','.join(goal)}`" if goal else "gives its goal as a whole state"
    return [
        "## Serving it",
        "",
        "    rpl serve PATH_OF_THIS_FOLDER",
        "",
        f"A client {given}, and sends a state each step. The graphs run in any ONNX runtime too:",
        "",
        "    high(state, goal, mask, noise) -> subgoal",
        "    low(state, subgoal, noise) -> action",
        "",
        (
            "All are float32 with a free batch dimension first. Normalisation is inside. goal and subgoal are laid out "
            "as the state is; mask is 1 for the dimensions of the goal that count. noise, standard normal for a "
            f"sample and zero for the mode, has {spec.high_noise} numbers for the high level and {spec.low_noise} for "
            "the low level."
        ),
    ]


def _interface(spec: PolicySpec) -> list[str]:
    return [
        "## State",
        "",
        *_vector(spec.state),
        "",
        "A state outside these limits is refused.",
        "",
        "## Action",
        "",
        *_vector(spec.action),
    ]


def _vector(vector: VectorSpec) -> list[str]:
    rows = zip(range(vector.dim), vector.names, vector.units, vector.low, vector.high, strict=True)
    return _table(
        ("", "name", "unit", "lowest", "highest"), ((*row[:3], *(f"{x:.4g}" for x in row[3:])) for row in rows)
    )


def _goals(spec: PolicySpec) -> list[str]:
    names = spec.state.names
    whole = ", ".join(names[dim] for dim in spec.goal_dims)
    if not spec.elements:
        return ["## Goals", "", f"A goal is a whole state, of which these count: {whole}."]
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
        f"Any set of these elements can be commanded, or a whole state, of which these count: {whole}.",
        "",
        *_table(("element", "goal", "done within"), rows),
    ]
    if spec.library:
        lines += ["", "Compound goals with a name:", ""]
        lines += _table(("name", "elements"), ((name, ", ".join(goal)) for name, goal in spec.library.items()))
    return lines


def _results(evaluation: dict[str, Any] | None) -> list[str]:
    starts = (evaluation or {}).get("starts") or {}
    if not starts:
        return ["## Results", "", "Not measured: this bundle holds no evaluation."]
    assert evaluation is not None
    lines = ["## Results", ""]
    headings = ("start", *(heading for heading, _ in _MEASURES.values()))
    lines += _table(headings, ((start, *_measures(found)) for start, found in starts.items()))
    lines += ["", "Means over goals; in brackets 95 % bootstrap intervals over goals."]
    for start, found in starts.items():
        goals = found.get("goals") or {}
        if goals:
            lines += ["", f"From the {start} start, by goal:", ""]
            rows = ((name, goal.get("episodes", "–"), *_measures(goal)) for name, goal in goals.items())
            lines += _table(("goal", "episodes", *headings[1:]), rows)
    measured = {"Protocol": _facts(evaluation.get("protocol") or {})}
    measured |= {
        key.capitalize(): _plain(evaluation[key]) for key in ("command", "commit", "seeds") if key in evaluation
    }
    return [*lines, "", *(f"- {key}: {value}" for key, value in measured.items() if value)]


def _measures(found: dict[str, Any]) -> list[str]:
    cells = []
    for key, (_, form) in _MEASURES.items():
        value, interval = found.get(key), (found.get("intervals") or {}).get(key)
        cell = "–" if value is None else form.format(value)
        cells.append(f"{cell} ({form.format(interval[0])} to {form.format(interval[1])})" if interval else cell)
    return cells


def _parity(manifest: Manifest) -> list[str]:
    parity = manifest.parity
    if "max_abs_target_difference" not in parity:
        return ["## Fidelity of the graphs", "", "Not measured."]
    return [
        "## Fidelity of the graphs",
        "",
        (
            f"Over {parity.get('episodes', 0):.0f} whole episodes ({parity.get('steps', 0):.0f} decisions), both "
            "levels composed, the actions of the graphs differ from those of the modules they were exported from by "
            f"at most {parity['max_abs_target_difference']:.2g} in the action's units; "
            f"{parity.get('tolerance', float('nan')):.2g} is allowed."
        ),
    ]


def _training(provenance: Provenance) -> list[str]:
    lines = ["## Training data and provenance", ""]
    if provenance.data:
        keys = list(dict.fromkeys(key for source in provenance.data for key in source))
        rows = ([_plain(source.get(key, "–")) for key in keys] for source in provenance.data)
        lines += [*_table(keys, rows), ""]
    else:
        lines += ["No training data is recorded.", ""]
    groups = {key: value for key, value in provenance.settings.items() if _is_group(value)}
    settings = {key: value for key, value in provenance.settings.items() if key not in groups}
    facts = {
        "Command": f"`{provenance.command}`",
        "Commit": f"`{provenance.commit}`",
        "Seeds": _plain(provenance.seeds),
        "Settings": _facts(settings),
        **{key.capitalize(): _group(value) for key, value in groups.items()},
        "Packages": _facts(provenance.packages),
        "Distilled from": _plain(provenance.parents),
    }
    return [*lines, *(f"- {key}: {value}" for key, value in facts.items() if value)]


def _limits(manifest: Manifest, evaluation: dict[str, Any] | None) -> list[str]:
    lines = [
        "## Intended use and limits",
        "",
        "For research on the task described above, with states measured as listed, at the stated control period.",
        "A policy has no notion of safety: limits on force, speed and workspace belong to the robot that runs it.",
        "",
        "- Goals outside the element table, and sets of elements that are not among the results above, are unmeasured.",
        "- Behaviour far from the training data, though inside the range of accepted states, is unmeasured.",
    ]
    if evaluation is None or not evaluation.get("starts"):
        lines.append("- How well it does its task is unmeasured altogether.")
    else:
        lines.append(
            "- The results hold for the protocol above; they say nothing of another environment or of hardware."
        )
    if not manifest.provenance.data:
        lines.append("- What it was trained on, and under which licence, is not recorded.")
    elif any(not source.get("licence") for source in manifest.provenance.data):
        lines.append("- The licence of some of its training data is not recorded.")
    return lines


def _table(headings: Sequence[Any], rows: Iterable[Sequence[Any]]) -> list[str]:
    def line(cells: Sequence[Any]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return [line(headings), "|" + "---|" * len(headings), *map(line, rows)]


def _is_group(value: Any) -> bool:
    """Whether it is several things with the same settings, such as the specialists that a policy was distilled from."""
    entries = list(value.values()) if isinstance(value, dict) else []
    return len(entries) > 1 and all(isinstance(entry, dict) and entry.keys() == entries[0].keys() for entry in entries)


def _group(entries: dict[str, dict[str, Any]]) -> str:
    """What all have in common, then what is each one's own."""
    flat = {name: dict(_paths(entry)) for name, entry in entries.items()}
    first, *others = flat.values()
    shared = {path: value for path, value in first.items() if all(path in o and o[path] == value for o in others)}
    own = {name: {path: value for path, value in entry.items() if path not in shared} for name, entry in flat.items()}
    return "\n".join(
        [f"each {_facts(shared)}" if shared else "", *(f"  - {name}: {_facts(entry)}" for name, entry in own.items())]
    )


def _paths(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its path, such as npg.damping."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _paths(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _facts(values: dict[str, Any]) -> str:
    return "; ".join(f"{key} {_plain(value)}" for key, value in values.items())


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return f"({_facts(value)})"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return str(value)
