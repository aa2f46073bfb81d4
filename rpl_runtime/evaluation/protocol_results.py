"""The results of the hard protocol: a JSON file for each policy, and one table and picture for several."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from rpl_runtime.console import count
from rpl_runtime.errors import InvalidInput
from rpl_runtime.evaluation.figures import COLOURS, INK, STYLE, check_output, picture_suffixes
from rpl_runtime.evaluation.protocol import Hardship, Outcome, ProtocolConfig
from rpl_runtime.files import JsonDict, staged
from rpl_runtime.provenance import command, commit, versions
from rpl_runtime.tasks.task import Task

_PACKAGES = ("numpy", "onnxruntime", "grpcio")
NOTE = (
    "Success: all named elements done together at the last step. Of a second goal, only that counts; of a shift, each "
    "goal. 95 %: Wilson score interval."
)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion (Wilson, JASA 22, 1927)."""
    if not trials:
        return 0.0, 1.0
    z, share = 1.959964, successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return float(max(0.0, middle - half)), float(min(1.0, middle + half))


def summarized(outcomes: Sequence[Outcome]) -> dict[str, JsonDict]:
    """The results of each condition: goals reached of those asked, with their interval."""
    found: dict[str, JsonDict] = {}
    for name in dict.fromkeys(outcome.condition for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.condition == name]
        if len(own[0].goals) == 2:  # only the second one counts
            reached, asked = sum(each.goals[-1][0] == each.goals[-1][1] for each in own), len(own)
        else:
            reached, asked = sum(each.reached for each in own), sum(len(each.goals) for each in own)
        found[name] = {
            "episodes": len(own),
            "reached": reached,
            "asked": asked,
            "interval": wilson(reached, asked),
            "refused": sum(each.refused is not None for each in own),
            "redrawn": dict(sum((Counter(each.redrawn) for each in own), Counter[str]())),
            "fell": sum(each.fell for each in own),
        }
    return found


def content_of(
    system: str,
    digest: str,
    hardships: Mapping[str, Hardship],
    config: ProtocolConfig,
    task: Task,
    estimated: bool,
    outcomes: Sequence[Outcome],
) -> JsonDict:
    """The content of a policy's file: its results, and everything needed to reproduce them."""
    return {
        "system": system,
        "bundle_digest": digest,
        "protocol": {
            "environment": task.environment,
            "episodes": config.episodes,
            "seed": config.seed,
            "estimated": estimated,
            "conditions": {name: asdict(hardship.of(task)) for name, hardship in hardships.items()},
        },
        "conditions": summarized(outcomes),
        "outcomes": [outcome.model_dump(mode="json") for outcome in outcomes],
        "command": command(),
        "commit": commit(),
        "versions": versions(["relay-policy", *task.packages, *_PACKAGES]),
    }


def check_content(content: object) -> JsonDict:
    """
    Raises:
        InvalidInput: it is not the content of a file of the hard protocol.
    """
    if not isinstance(content, dict) or not {"system", "conditions", "protocol"} <= content.keys():
        raise InvalidInput(
            "this is not a result of the hard protocol; must be a file of `rpl evaluate --protocol hard`"
        )
    return content


def table_rows(contents: Sequence[JsonDict]) -> tuple[list[str], list[list[str]]]:
    """The headings, and for each condition its cells: a column for each policy."""
    names = list(dict.fromkeys(name for content in contents for name in content["conditions"]))
    systems = [content["system"] for content in contents]
    rows = [[name, *(_cell(content["conditions"].get(name)) for content in contents)] for name in names]
    return ["condition", *systems], rows


def print_protocol(contents: Sequence[JsonDict]) -> None:
    """Print the results of one or more policies as a table."""
    headings, rows = table_rows(contents)
    table = Table(headings[0], box=box.SIMPLE_HEAD, show_edge=False, header_style="bold")
    for heading in headings[1:]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    console.print(table, "", NOTE)
    for content in contents:
        redrawn = sum((Counter(each["redrawn"]) for each in content["conditions"].values()), Counter[str]())
        if fell := sum(each.get("fell", 0) for each in content["conditions"].values()):
            console.print(f"{content['system']}: an object fell in {count(fell, 'episode')}")
        if redrawn:
            console.print(f"{content['system']}, drawn again: " + ", ".join(f"{why} {n}" for why, n in redrawn.items()))


def draw_protocol(contents: Sequence[JsonDict], path: Path) -> None:
    """Draw the results of one or more policies: a group of bars for each condition.

    Raises:
        MissingExtra: matplotlib is not installed.
        InvalidInput: the suffix is not that of an image format.
    """
    check_output(path, picture_suffixes())
    import matplotlib as mpl
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for content in contents for name in content["conditions"]))
    colours = (*COLOURS, "#7a9a4a", "#9a6fa8", "#8c8c8c")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.5, 1.4 + (0.16 + 0.16 * len(contents)) * len(names)), layout="constrained", dpi=150)
        axes = figure.subplots()
        height = 0.8 / len(contents)
        for index, content in enumerate(contents):
            found = [(y, content["conditions"][name]) for y, name in enumerate(names) if name in content["conditions"]]
            y = np.array([place for place, _ in found]) + (index - (len(contents) - 1) / 2) * height
            shares = [100 * each["reached"] / each["asked"] for _, each in found]
            low, high = np.transpose([np.multiply(100, each["interval"]) for _, each in found])
            axes.barh(y, shares, 0.9 * height, color=colours[index % len(colours)], label=content["system"])
            axes.hlines(y, low, high, color=INK, linewidth=1.0)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set(title="All named elements done at the end [%], with 95 % interval", xlim=(0, 102))
        axes.grid(axis="x", color="#e5e5e5", linewidth=0.8)
        axes.set_axisbelow(True)
        figure.legend(loc="outside lower left", ncols=3, frameon=False)
        with staged(path) as staging:
            figure.savefig(staging)


def _cell(found: JsonDict | None) -> str:
    if found is None:
        return ""
    low, high = found["interval"]
    return f"{found['reached']}/{found['asked']}, {found['reached'] / found['asked']:.0%} ({low:.0%}–{high:.0%})"
