"""The shipped policy: it came from the specialists that are kept beside it."""

from pathlib import Path

from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.tasks.kitchen.elements import PAPER_GOALS
from rpl_train.runs import weights_digest
from rpl_train.specialists import load_specialists

MODELS = Path(__file__).parent.parent / "models"


def test_the_manifest_names_the_specialists_that_are_kept() -> None:
    family = load_specialists(MODELS / "kitchen-specialists.safetensors")
    named = load_bundle(MODELS / "kitchen").manifest.provenance.settings["specialists"]
    kept = {goal: weights_digest(trained.policy) for goal, trained in family.specialists.items()}
    assert kept == {goal: teacher["weights"] for goal, teacher in named.items()}
    assert set(kept) == set(PAPER_GOALS)
