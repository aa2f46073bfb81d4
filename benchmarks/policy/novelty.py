"""How well the novelty score separates failing episodes from others, in kitchens unlike the training data.

    python -m benchmarks.policy.novelty models/relay --output docs/data/novelty.json --picture docs/data/novelty.png
    python -m benchmarks.policy.novelty --from docs/data/novelty.json

A policy plays every compound goal of the paper, through the relay loop in process: from starts farther and farther from
the nominal one, with the kettle displaced or observed in the wrong place, with sensor noise and with late observations.
An episode fails if an element of its goal is never done. The score is that of a server's reply; it depends on states
alone, not on goal or outcome.

The figures are areas under the ROC curve with 95 % bootstrap intervals over episodes; 0.5 is chance. "within" compares
only episodes of the same condition, so that separating conditions does not count. "by deviation" uses the largest
deviation of any dimension, in standard deviations, instead of the score.

The threshold of a flag comes from the training data. The score and this protocol were chosen on seeds below 1,000,000.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NamedTuple

import matplotlib as mpl
import numpy as np
import typer
from matplotlib.figure import Figure
from rich.table import Table

from benchmarks.common import Given, Json, Output, Saved, circumstances, obtained, show, table, tracked
from rpl_runtime.errors import InvalidInput
from rpl_runtime.evaluation.evaluate import FIRST_SEED
from rpl_runtime.evaluation.figures import COLOURS, INK, STYLE
from rpl_runtime.files import JsonDict, staged
from rpl_runtime.policy.bundle import Bundle, load_bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.policy.novelty import Novelty
from rpl_runtime.robots.kitchen.task import KITCHEN
from rpl_runtime.tasks.kitchen.elements import PAPER_GOALS, ROBOT_DIM, STATE_NAMES, compound_goal
from rpl_runtime.tasks.kitchen.simulator import NOMINAL, PERTURBED, StartNoise
from rpl_train.rl.rollout import Start, open_worlds, rollout
from rpl_train.statistics import STD_FLOOR
from rpl_train.tasks.kitchen.fast import FastKitchen

AFTER = (80, 120, 280)  # [control steps] an episode is judged by its states until then
RESAMPLES = 2000
LABELS = {"others": "episodes that succeed: median, quartiles", "failed": "episodes that fail"}
PACKAGES = ("numpy", "onnxruntime", "mujoco", "gymnasium-robotics")
KETTLE = [STATE_NAMES.index(name) for name in ("kettle_x", "kettle_y")]


class Condition(NamedTuple):
    """A kitchen unlike the training data, or wrong observations of it."""

    name: str
    start: StartNoise
    aside: float = 0.0  # [m] largest error of the kettle's observed x and y
    joint_noise: float = 0.0  # [rad] standard deviation of an arm joint's reading
    object_noise: float = 0.0  # [rad, m] standard deviation of every object dimension
    late: int = 0  # [control steps] age of an observation


CONDITIONS = (
    Condition("nominal", NOMINAL),
    Condition("arm ±0.05 rad, kettle ±0.02 m", PERTURBED),
    Condition("arm ±0.15 rad, kettle ±0.06 m", StartNoise(0.15, 0.06)),
    Condition("arm ±0.3 rad, kettle ±0.1 m", StartNoise(0.3, 0.1)),
    Condition("kettle ±0.12 m", StartNoise(0.0, 0.12)),
    Condition("kettle seen up to 0.04 m aside", PERTURBED, aside=0.04),
    Condition("sensor noise 0.005 rad, 0.001 m", PERTURBED, joint_noise=0.005, object_noise=0.001),
    Condition("seen one step late", PERTURBED, late=1),
)


class Outcome(NamedTuple):
    """One episode."""

    condition: str
    failed: bool
    scores: np.ndarray  # (T,)
    deviations: np.ndarray  # (T,) largest of any dimension [standard deviations]


def main(
    bundle: Given = None,
    saved: Saved = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each of 17 goals in each condition.")] = 4,
    seed: Annotated[int, typer.Option(help="First seed of the episodes.")] = FIRST_SEED,
    output: Output = None,
    picture: Annotated[Path | None, typer.Option(help="Draw it here (.png).")] = None,
    as_json: Json = False,
) -> None:
    """Measure how well the novelty score separates failing episodes from others."""
    content = obtained(bundle, saved, lambda path: measure(load_bundle(path), episodes, seed), output)
    if picture is not None:
        draw(content, picture)
    show(content, as_json, *shown(content))


def measure(bundle: Bundle, episodes: int, seed: int) -> JsonDict:
    """Play every condition, and compare the scores of failing and other episodes."""
    novelty = Novelty.of(bundle.manifest.statistics)
    if novelty is None:
        raise InvalidInput(f"{bundle.path} has no novelty statistic; `rpl novelty` adds it")
    outcomes = list(play(bundle, novelty, episodes, seed))
    rng = np.random.default_rng(0)
    return {
        "bundle": {"name": bundle.spec.name, "digest": bundle.digest},
        "episodes": len(outcomes),
        "failed": sum(outcome.failed for outcome in outcomes),
        "areas": [area for after in AFTER for area in areas(outcomes, after, rng)],
        "conditions": [condition_facts(condition.name, outcomes) for condition in CONDITIONS],
        "curves": curves(outcomes),
        "seeds": f"{seed} + 1000 x the goal's elements as bits + the episode's number",
        **circumstances(PACKAGES),
    }


def play(bundle: Bundle, novelty: Novelty, episodes: int, seed: int) -> Iterator[Outcome]:
    """Every episode of every condition."""
    policy, statistics = OnnxPolicy(bundle), bundle.manifest.statistics
    assert statistics is not None
    scale = np.maximum(statistics.std, STD_FLOOR)
    goals = [compound_goal(goal) for goal in PAPER_GOALS]
    starts = [Start(goal, KITCHEN.episode_seed(seed, goal, number)) for number in range(episodes) for goal in goals]
    for condition in tracked(CONDITIONS, "playing"):
        seen = replace(KITCHEN, open_world=lambda c=condition: SeenKitchen(c), starts={"start": condition.start})
        with open_worlds(seen, len(goals)) as kitchens:
            played = rollout(policy, bundle.spec, seen, starts, kitchens)
        for episode in played:
            ever = frozenset[str]().union(*episode.done)
            deviations = (abs(episode.states - np.array(statistics.mean)) / scale).max(axis=1)
            failed = not ever.issuperset(episode.start.elements)
            yield Outcome(condition.name, failed, novelty.score(episode.states), deviations)


class SeenKitchen(FastKitchen):
    """A kitchen with a condition's observations; its physics is unchanged."""

    def __init__(self, condition: Condition) -> None:
        self._condition = condition
        super().__init__()

    def reset(self, seed: int, noise: StartNoise = NOMINAL) -> np.ndarray:
        self._eyes = np.random.default_rng([seed, 1])
        self._aside = self._eyes.uniform(-self._condition.aside, self._condition.aside, len(KETTLE))
        self._recent: deque[np.ndarray] = deque(maxlen=self._condition.late + 1)
        super().reset(seed, noise)
        return self._see()

    def step(self, target: np.ndarray) -> np.ndarray:
        super().step(target)
        return self._see()

    def _see(self) -> np.ndarray:
        seen = self.state.copy()
        seen[KETTLE] += self._aside
        seen[: ROBOT_DIM - 2] += self._eyes.normal(0.0, self._condition.joint_noise, ROBOT_DIM - 2)
        seen[ROBOT_DIM:] += self._eyes.normal(0.0, self._condition.object_noise, len(seen) - ROBOT_DIM)
        self._recent.append(seen)
        self.state = self._recent[0]
        return self.state


def flagged(outcome: Outcome, after: int) -> float:
    """The fraction of an episode's control steps, up to `after`, that are flagged."""
    return float((outcome.scores[:after] > 1).mean())


def mean_score(outcome: Outcome, after: int) -> float:
    return float(outcome.scores[:after].mean())


def mean_deviation(outcome: Outcome, after: int) -> float:
    return float(outcome.deviations[:after].mean())


JUDGES: dict[str, Callable[[Outcome, int], float]] = {
    "by flags": flagged,
    "by mean score": mean_score,
    "by deviation": mean_deviation,
}


def areas(outcomes: list[Outcome], after: int, rng: np.random.Generator) -> Iterator[JsonDict]:
    """The area under each judge's ROC curve, over all episodes and within conditions."""
    failed = np.array([outcome.failed for outcome in outcomes])
    condition = np.array([outcome.condition for outcome in outcomes])
    for name, judge in JUDGES.items():
        values = np.array([judge(outcome, after) for outcome in outcomes])

        def both(rows: np.ndarray, values: np.ndarray = values) -> tuple[float, float]:
            return area(values[rows], failed[rows]), area_within(values[rows], failed[rows], condition[rows])

        everyone = np.arange(len(outcomes))
        drawn = np.array([both(rng.choice(everyone, len(everyone))) for _ in range(RESAMPLES)])
        low, high = np.nanpercentile(drawn, (2.5, 97.5), axis=0)
        overall, within = both(everyone)
        yield {
            "judged": name,
            "after_steps": after,
            "area": overall,
            "interval": [low[0], high[0]],
            "within": within,
            "within_interval": [low[1], high[1]],
        }


def wins(values: np.ndarray, failed: np.ndarray) -> tuple[float, int]:
    """The number of correctly ordered pairs of a failed and another episode, ties as half; and the number of pairs."""
    bad, good = values[failed][:, None], values[~failed][None]
    return float((bad > good).sum() + 0.5 * (bad == good).sum()), bad.size * good.size


def area(values: np.ndarray, failed: np.ndarray) -> float:
    """Area under the ROC curve: how often a failed episode has the larger value (Mann-Whitney U)."""
    won, pairs = wins(values, failed)
    return won / pairs if pairs else float("nan")


def area_within(values: np.ndarray, failed: np.ndarray, condition: np.ndarray) -> float:
    """The area over pairs of episodes of the same condition."""
    found = [wins(values[condition == name], failed[condition == name]) for name in np.unique(condition)]
    pairs = sum(count for _, count in found)
    return sum(won for won, _ in found) / pairs if pairs else float("nan")


def condition_facts(name: str, outcomes: list[Outcome]) -> JsonDict:
    """The outcomes of a condition's episodes, and the fraction of their control steps that were flagged."""
    mine = [outcome for outcome in outcomes if outcome.condition == name]
    shares = {failed: [flagged(o, AFTER[-1]) for o in mine if o.failed is failed] for failed in (False, True)}
    return {
        "condition": name,
        "episodes": len(mine),
        "failed": len(shares[True]),
        "flagged_where_it_succeeds": float(np.mean(shares[False])) if shares[False] else None,
        "flagged_where_it_fails": float(np.mean(shares[True])) if shares[True] else None,
        "area": area(np.array([*shares[False], *shares[True]]), np.repeat([False, True], [*map(len, shares.values())]))
        if all(shares.values())
        else None,
    }


def curves(outcomes: list[Outcome]) -> JsonDict:
    """Quartiles of the score over time, for failing and for other episodes."""
    steps = list(range(0, AFTER[-1], 5))
    kinds = {"failed": True, "others": False}
    quartiles = {
        name: np.percentile([o.scores[steps] for o in outcomes if o.failed is failed], (25, 50, 75), axis=0)
        for name, failed in kinds.items()
    }
    return {"steps": steps} | {name: np.round(found, 3).tolist() for name, found in quartiles.items()}


def shown(content: JsonDict) -> list[Table]:
    areas = [
        (
            row["judged"],
            row["after_steps"],
            *(
                f"{row[key]:.3f} ({row[span][0]:.3f}-{row[span][1]:.3f})"
                for key, span in (("area", "interval"), ("within", "within_interval"))
            ),
        )
        for row in content["areas"]
    ]
    flags = []
    for row in content["conditions"]:
        shares = (row["flagged_where_it_succeeds"], row["flagged_where_it_fails"])
        texts = ("" if share is None else f"{share:.1%}" for share in shares)
        within = "" if row["area"] is None else f"{row['area']:.2f}"
        flags.append((row["condition"], row["episodes"], row["failed"], *texts, within))
    title = f"{content['failed']} of {content['episodes']} episodes fail"
    headings = ("", "episodes", "failed", "in successes", "in failures", "area by flags")
    return [
        table(title, ("judged", "after", "area under the curve", "within conditions"), areas),
        table("control steps flagged", headings, flags),
    ]


def draw(content: JsonDict, path: Path) -> None:
    """Draw the score over time, and the fraction of control steps flagged in each condition."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.8), layout="constrained", dpi=150)
        over_time, shares = figure.subplots(1, 2, width_ratios=(1, 1.25))
        steps = content["curves"]["steps"]
        for name, colour in zip(("others", "failed"), COLOURS, strict=True):
            low, middle, high = content["curves"][name]
            over_time.fill_between(steps, low, high, color=colour, alpha=0.25, linewidth=0)
            over_time.plot(steps, middle, color=colour, label=LABELS[name])
        over_time.axhline(1, color=INK, linewidth=0.8, linestyle=":")
        over_time.annotate("flagged above", (0, 1), (4, 3), textcoords="offset points", fontsize=8)
        over_time.set(title="Novelty of the state", xlabel="control step", xlim=(0, steps[-1]), ylim=(0, None))
        over_time.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 0.98), fontsize=8)
        rows = content["conditions"]
        for key, colour in zip(("flagged_where_it_succeeds", "flagged_where_it_fails"), COLOURS, strict=True):
            offset = 0.2 if key == "flagged_where_it_fails" else -0.2
            known = [(index + offset, 100 * row[key]) for index, row in enumerate(rows) if row[key] is not None]
            shares.barh(*zip(*known, strict=True), height=0.38, color=colour)
        shares.set_yticks(
            range(len(rows)),
            [f"{row['condition']}\n{row['failed']} of {row['episodes']} fail" for row in rows],
            fontsize=8,
        )
        shares.invert_yaxis()
        shares.set(title="Control steps flagged [%]", xlim=(0, 100))
        best = next(row for row in content["areas"] if row["judged"] == "by flags" and row["after_steps"] == AFTER[-1])
        figure.suptitle(
            f"{content['bundle']['name']}: flags separate failing episodes from others, area under the ROC curve "
            f"{best['area']:.2f} ({best['interval'][0]:.2f} to {best['interval'][1]:.2f}), n = {content['episodes']}",
            x=0.008,
            ha="left",
            fontsize=10,
        )
        with staged(path) as staging:
            figure.savefig(staging)


if __name__ == "__main__":
    typer.run(main)
