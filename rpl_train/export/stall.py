"""Calibrate when a bundle's policy asks for help (rpl_runtime/policy/stall.py), on episodes of its task.

The policy plays held-out episodes from the task's starts in turn. Of each that reaches its goal, the largest count of
steps without progress is kept. The limit is the conformal quantile of these counts: it holds its rate of false alarms
for any distribution of episodes, as long as later ones are drawn as these were.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rpl_runtime.errors import InvalidInput
from rpl_runtime.policy.bundle import HIGH, LOW, Bundle, write_bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.policy.manifest import Stall, Statistics
from rpl_runtime.policy.novelty import Novelty
from rpl_runtime.policy.spec import PolicySpec, ResolvedGoal
from rpl_runtime.policy.stall import Clock, StallDetector
from rpl_runtime.tasks.task import Task
from rpl_train.rl.rollout import Episode, Start, open_worlds, rollout
from rpl_train.statistics import STD_FLOOR

HELD_OUT = 700_000  # first seed; training and the parity gate use lower ones, evaluation higher ones
_REACHED = 0.9  # quantile of the distances at which goals without elements were first reached


@dataclass(frozen=True, kw_only=True)
class StallConfig:
    """How asking for help is calibrated.

    Raises:
        InvalidInput: a setting is out of its range.
    """

    rate: float = 0.02  # of episodes that reach their goal, and ask for help all the same
    episodes: int = 136
    worlds: int = 17  # side by side

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise InvalidInput(f"the rate of false alarms is {self.rate:g}; must be between 0 and 1")
        if self.episodes < self.needed:
            raise InvalidInput(f"{self.episodes} episodes are too few; a rate of {self.rate:g} needs {self.needed}")

    @property
    def needed(self) -> int:
        """The least number of episodes by which the rate can be held."""
        return math.ceil(1 / self.rate) - 1


def add_stall(bundle: Bundle, task: Task, config: StallConfig) -> Bundle:
    """Write the bundle again, in its place, with a new digest. Its evaluation is dropped and must be made again.

    Raises:
        InvalidInput: too few episodes reach their goal.
    """
    manifest = bundle.manifest
    if not bundle.spec.elements and manifest.statistics is None:
        raise InvalidInput(f"{bundle.path} holds no statistics of its training states; without elements it needs them")
    stall = calibrate(held_out(bundle, task, config), bundle.spec, manifest.statistics, config)
    manifest = manifest.model_copy(update={"stall": stall})
    return write_bundle(bundle.path, manifest, bundle.files.get(HIGH), bundle.files[LOW])


def held_out(bundle: Bundle, task: Task, config: StallConfig) -> list[Episode]:
    """Episodes of the goals of the task's first group, from its starts in turn."""
    goals, episodes = task.parse_goals(next(iter(task.groups))), []
    policy, names = OnnxPolicy(bundle), list(task.starts)
    with open_worlds(task, min(config.worlds, config.episodes)) as worlds:
        for turn, name in enumerate(names):
            numbers = range(turn, config.episodes, len(names))
            starts = [Start(goals[at // len(names) % len(goals)].elements, HELD_OUT + at) for at in numbers]
            episodes += rollout(policy, bundle.spec, task, starts, worlds, start=name)
    return episodes


def calibrate(
    episodes: Sequence[Episode], spec: PolicySpec, statistics: Statistics | None, config: StallConfig
) -> Stall:
    """The limit by which at most a share of episodes like these asks for help in vain.

    Raises:
        InvalidInput: too few of them reach their goal.
    """
    good = [each for each in episodes if frozenset().union(*each.done).issuperset(each.start.elements)]
    if len(good) < config.needed:
        raise InvalidInput(
            f"{len(good)} of {len(episodes)} episodes reach their goal; a rate of {config.rate:g} needs "
            f"{config.needed}: play more episodes, or train a policy that reaches more"
        )
    tolerance = None if spec.elements else _tolerance(good, spec, statistics)
    first = Stall(limit=1.0, rate=config.rate, episodes=len(good), tolerance=tolerance)
    detector, novelty = StallDetector(spec, statistics, first), Novelty.of(statistics)
    counts = sorted(max(counted(each, detector, novelty)) for each in good)
    rank = math.ceil((len(counts) + 1) * (1 - config.rate))
    return first.model_copy(update={"limit": max(counts[rank - 1], 1.0)})


@dataclass
class _Run:
    goal: ResolvedGoal
    clock: Clock | None = None


def counted(episode: Episode, detector: StallDetector, novelty: Novelty | None) -> list[float]:
    """The count of steps without progress at each step of an episode."""
    run, counts = _Run(episode.goal), []
    scores = [None] * len(episode.states) if novelty is None else novelty.score(episode.states).tolist()
    for state, score in zip(episode.states, scores, strict=True):
        detector.asks([run], state[None], [score])
        assert run.clock is not None
        counts.append(run.clock.count)
    return counts


def _tolerance(episodes: Sequence[Episode], spec: PolicySpec, statistics: Statistics | None) -> float:
    """The distance from goals without elements, in standard deviations of the data, at which they count as reached."""
    assert statistics is not None
    dims, found = list(spec.goal_dims), []
    scale = np.maximum(statistics.std, STD_FLOOR)[dims]
    for each in episodes:
        after = np.vstack([each.states[1:], each.final_state])[next(t for t, done in enumerate(each.done) if done)]
        found.append(float(np.linalg.norm((after - each.goal.state)[dims] / scale)))
    return max(float(np.quantile(found, _REACHED)), 1e-6)
