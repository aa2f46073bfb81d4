"""The systems of Relay Policy Learning (Gupta et al., CoRL 2019) and its two ablations, each a row of data.

A row says which relabelling is imitated, which levels start from these weights, and which are fine-tuned by which
objective.

The paper's figures are means over its 17 goals; those read off a plot are accurate to about two points.

Results are saved by the name of their row, so a row with other settings needs another name. The rows of the first table
weigh demonstrations by 0.01, at which DAPG-RPL and IRIL-RPL hardly differ from NPG-RPL. The rows of the table `levels`
use the current default.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Literal, NamedTuple

from rpl_runtime.tasks.kitchen.elements import HORIZON, PAPER_GOALS
from rpl_train.rl.finetune import FinetuneConfig, Objective
from rpl_train.rl.rewards import RewardName
from rpl_train.runs import LevelName
from rpl_train.tuples import Relabelling

Table = Literal["systems", "levels", "windows", "rewards"]
# Rows compared on a few goals use every fourth of the 17, from the fourth on.
COMPARED_GOALS = PAPER_GOALS[3::4]


class Imitation(NamedTuple):
    """How demonstrations are imitated; rows with the same imitation start from the same weights."""

    relabelling: Relabelling
    window: int = HORIZON  # [steps] W_l
    flat: bool = False  # one level, which gets the goal itself
    components: int = 4  # of the high level's mixture
    horizon: int | None = None  # [steps] H, how long a subgoal is kept; None: the window
    seed: int = 0

    @property
    def name(self) -> str:
        kept = f"-kept-{self.horizon}" if self.horizon else ""
        several = "" if self.flat or self.components == 4 else f"-of-{self.components}"
        seed = f"-seed-{self.seed}" if self.seed else ""
        return f"{'flat' if self.flat else 'relay'}-{self.relabelling}-{self.window}{kept}{several}{seed}"


class Published(NamedTuple):
    """The paper's figures; a range if its plot shows several rows as one."""

    success: str  # [%]
    steps: str  # of 4
    plot: bool = True  # read off a plot


@dataclass(frozen=True)
class Method:
    """One row."""

    name: str
    title: str
    imitation: Imitation | None  # None: no policy is learned
    _: KW_ONLY
    tunes: tuple[LevelName, ...] = ()
    objective: Objective = "npg"
    reward: RewardName = "completion"
    high_reward: RewardName | None = None  # of the high level; None: the same
    likelihood: float = 1e-2  # lambda_0 of dapg and iril
    scratch: tuple[LevelName, ...] = ()  # levels that start from random weights
    goals: tuple[str, ...] = COMPARED_GOALS
    seeds: tuple[int, ...] = (0, 1)  # of fine-tuning
    imitation_seeds: bool = False  # whether each seed of fine-tuning has its own imitation
    published: Published | None = None
    table: Table = "systems"


RELAY = Imitation("relay")
_SEGMENTS = Imitation("segments")
_GCBC = Imitation("goal", flat=True, components=1)
_BC = Imitation("end", flat=True, components=1)
_LOW: tuple[LevelName, ...] = ("low",)
_BOTH: tuple[LevelName, ...] = ("high", "low")


def _levels() -> list[Method]:
    """RPL by each objective, at the low level and at both, for our reward and the paper's sparse one."""
    rewards: dict[RewardName, str] = {"completion": "completion", "sparse-objects": "sparse on objects"}
    objectives: tuple[Objective, ...] = ("npg", "dapg", "iril")
    return [
        Method(
            f"{objective}-{which}-{reward}",
            f"{objective.upper()}-RPL, {'low level' if which == 'low' else 'both levels'}, {title}",
            RELAY,
            tunes=tunes,
            objective=objective,
            reward=reward,
            likelihood=FinetuneConfig.likelihood,
            seeds=(0, 1, 2),
            imitation_seeds=True,
            table="levels",
        )
        for reward, title in rewards.items()
        for which, tunes in (("low", _LOW), ("both", _BOTH))
        for objective in objectives
    ]


def _rpl(name: str, title: str, objective: Objective, published: Published) -> Method:
    return Method(
        name, title, RELAY, tunes=_LOW, objective=objective, goals=PAPER_GOALS, seeds=(0,), published=published
    )


METHODS = {
    method.name: method
    for method in (
        _rpl("iril-rpl", "IRIL-RPL", "iril", Published("82", "3.5")),
        _rpl("dapg-rpl", "DAPG-RPL", "dapg", Published("78", "3.5")),
        _rpl("npg-rpl", "NPG-RPL", "npg", Published("75", "3.45")),
        Method("ril", "RIL, imitation alone", RELAY, goals=PAPER_GOALS, published=Published("21.7", "2.4", plot=False)),
        Method(
            "gcbc", "GCBC with relabelling", _GCBC, goals=PAPER_GOALS, published=Published("8.8", "2.2", plot=False)
        ),
        Method("bc", "GCBC without (BC)", _BC, goals=PAPER_GOALS, published=Published("7.6", "1.78", plot=False)),
        Method(
            "npg-gcbc",
            "NPG-GCBC, flat",
            _GCBC,
            tunes=_LOW,
            objective="npg",
            published=Published("3 to 12", "0.75 to 1.9"),
        ),
        Method(
            "dapg-gcbc",
            "DAPG-GCBC, flat",
            _GCBC,
            tunes=_LOW,
            objective="dapg",
            published=Published("3 to 12", "0.75 to 1.9"),
        ),
        Method(
            "npg-bc", "NPG-BC, flat", _BC, tunes=_LOW, objective="npg", published=Published("3 to 12", "0.75 to 1.9")
        ),
        Method(
            "dapg-bc", "DAPG-BC, flat", _BC, tunes=_LOW, objective="dapg", published=Published("3 to 12", "0.75 to 1.9")
        ),
        Method(
            "oracle",
            "Oracle segments, fine-tuned",
            _SEGMENTS,
            tunes=_LOW,
            published=Published("0 to 6", "1.45, falling to 0.83"),
        ),
        Method(
            "oracle-70",
            "Oracle segments, planned once for each, fine-tuned",
            Imitation("segments", horizon=70),
            tunes=_LOW,
        ),
        Method("nearest", "Nearest neighbour, open loop", None, goals=PAPER_GOALS, published=Published("0", "1.45")),
        Method(
            "hiro",
            "On-policy HIRO from scratch",
            RELAY,
            tunes=_BOTH,
            reward="sparse",
            scratch=_BOTH,
            published=Published("0", "0.06"),
        ),
        Method(
            "hiro-dense",
            "On-policy HIRO from scratch, dense at the low level",
            RELAY,
            tunes=_BOTH,
            reward="euclidean",
            high_reward="completion",
            scratch=_BOTH,
        ),
        Method(
            "pretrained-low",
            "Pre-trained low level, high level from scratch",
            RELAY,
            tunes=("high",),
            scratch=("high",),
            published=Published("0", "0.06"),
        ),
        Method(
            "ril-one",
            "RIL with one Gaussian, as flat policies have",
            Imitation("relay", components=1),
            goals=PAPER_GOALS,
        ),
        *_levels(),
        Method(
            "window-60",
            "NPG-RPL, window 60",
            Imitation("relay", 60),
            tunes=_LOW,
            published=Published("47", "2.9"),
            table="windows",
        ),
        Method(
            "window-90",
            "NPG-RPL, window 90",
            Imitation("relay", 90),
            tunes=_LOW,
            published=Published("0", "1.05"),
            table="windows",
        ),
        *(
            Method(
                f"window-{window}-kept-30",
                f"NPG-RPL, window {window}, subgoals kept 30 steps",
                Imitation("relay", window, horizon=HORIZON),
                tunes=_LOW,
                table="windows",
            )
            for window in (60, 90)
        ),
        Method(
            "sparse",
            "NPG-RPL, sparse reward",
            RELAY,
            tunes=_LOW,
            reward="sparse",
            published=Published("85", "3.66"),
            table="rewards",
        ),
        Method(
            "euclidean",
            "NPG-RPL, Euclidean reward",
            RELAY,
            tunes=_LOW,
            reward="euclidean",
            published=Published("26", "2.6"),
            table="rewards",
        ),
        Method(
            "elements",
            "NPG-RPL, element-wise reward",
            RELAY,
            tunes=_LOW,
            reward="elements",
            published=Published("26", "2.45"),
            table="rewards",
        ),
    )
}
# `rpl paper` does not train it: a row's specialists are distilled, exported and evaluated like any policy.
DISTILLED = Method(
    "distilled", "RPL distilled, one policy", RELAY, goals=PAPER_GOALS, seeds=(0,), published=Published("70.5", "3.28")
)
REFERENCE = "npg-rpl"  # ablations change one setting of this row
WINDOW_30 = Published("76", "3.48")  # the paper's ablation at the window of its systems
