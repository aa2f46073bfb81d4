"""Two policies on the same episodes."""

import pytest

from rpl_runtime.errors import InvalidInput
from rpl_runtime.evaluation.paired import compare, verdict
from rpl_runtime.evaluation.results import Episode


def episodes(successes: str, start: str = "near") -> list[Episode]:
    """An episode for each letter, s for one that succeeds."""
    return [
        Episode(
            start=start,
            goal="door",
            elements=("door",),
            seed=seed,
            steps=5,
            refused=None,
            first_done={"door": 3} if letter == "s" else {},
            done_at_end=(),
            final_distance={"door": 0.0},
        )
        for seed, letter in enumerate(successes)
    ]


def test_pairs_in_which_one_alone_succeeds_decide() -> None:
    found = compare(episodes("s" * 20 + "f" * 30), episodes("s" * 19 + "f" + "s" * 25 + "f" * 5))["near"]
    assert (found["pairs"], found["gained"], found["lost"]) == (50, 25, 1)
    assert (found["old"], found["new"], found["difference"]) == (0.4, 0.88, pytest.approx(0.48))
    # By hand: 24 / 52, and 1.96 sqrt(27 - 24**2 / 52) / 52 to both sides.
    assert found["interval"] == pytest.approx([0.3111, 0.6119], abs=1e-4)
    assert verdict(found) == "the new policy is better (+48.0 points, +31.1 to +61.2)"


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [("ssssffff", "ssssffff", "not told apart"), ("ff", "ss", "not told apart"), ("s" * 9, "f" * 9, "worse")],
)
def test_few_pairs_do_not_tell_policies_apart(old: str, new: str, word: str) -> None:
    assert word in verdict(compare(episodes(old), episodes(new))["near"])


def test_each_start_is_compared_by_itself() -> None:
    both = compare(episodes("ss") + episodes("ff", "far"), episodes("ff", "far") + episodes("sf"))
    assert list(both) == ["near", "far"]
    assert (both["near"]["lost"], both["far"]["lost"]) == (1, 0)


def test_other_episodes_are_not_pairs() -> None:
    with pytest.raises(InvalidInput, match="2 and 3 episodes are not pairs"):
        compare(episodes("ss"), episodes("sss"))
