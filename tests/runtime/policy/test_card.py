"""The card states the known facts, and names what is unknown."""

from typing import Any

from rpl_runtime.policy.card import render_card
from rpl_runtime.policy.manifest import Manifest, Provenance
from rpl_runtime.tasks.kitchen.elements import kitchen_spec

DATA = {"name": "play.hdf5", "digest": "ab" * 32, "episodes": 19, "steps": 3680, "licence": "CC BY 4.0"}
EVALUATION: dict[str, Any] = {
    "bundle_digest": "d" * 64,
    "protocol": {"environment": "FrankaKitchen-v1", "steps": 280},
    "starts": {
        "nominal": {
            "mean_steps_ever": 3.512,
            "success_ever": 0.67,
            "intervals": {"mean_steps_ever": [3.3, 3.7]},
            "goals": {"mkbs": {"episodes": 20, "mean_steps_ever": 4.0, "success_ever": 1.0}},
        },
        "perturbed": {"mean_steps_ever": 2.9},
    },
    "command": "rpl evaluate models/kitchen",
    "seeds": [1, 2],
}


def manifest(**changes: Any) -> Manifest:
    provenance = Provenance(
        command="rpl train", commit="c0ffee", seeds=(0,), data=(DATA,), settings={"low": {"steps": 9}}
    )
    facts: dict[str, Any] = {"spec": kitchen_spec("kitchen", 30, 30, 9), "pair_id": "p" * 64, "files": {}}
    return Manifest(**facts | {"provenance": provenance} | changes)


def test_it_tells_what_the_policy_is() -> None:
    card = render_card(manifest(), "d" * 64, None)
    for fact in (
        *("# kitchen", "d" * 64, "rpl serve", "every 30 steps (2.4 s)", "every 0.08 s (12.5 Hz)"),
        *("| 0 | panda_joint1 | rad |", "| microwave | microwave_door -0.75 | 0.3 |"),
        *("| mkbs | microwave, kettle, bottom burner, slide cabinet |", "`c0ffee`", "CC BY 4.0", "low (steps 9)"),
    ):
        assert fact in card


def test_what_many_have_in_common_is_said_once() -> None:
    teachers = {
        goal: {"weights": goal * 2, "fine-tuning": {"goal": [goal], "npg": {"damping": 0.5}}} for goal in ("mk", "bt")
    }
    provenance = Provenance(command="x", commit="y", settings={"rounds": 3, "specialists": teachers})
    card = render_card(manifest(provenance=provenance), "d" * 64, None)
    assert "- Settings: rounds 3\n- Specialists: each fine-tuning.npg.damping 0.5\n" in card
    assert "  - mk: weights mkmk; fine-tuning.goal mk\n  - bt: weights btbt; fine-tuning.goal bt\n" in card


def test_it_says_what_is_not_measured() -> None:
    bare = render_card(manifest(provenance=Provenance(command="x", commit="y")), "d" * 64, None)
    for fact in (
        "Not measured: this bundle holds no evaluation.",
        "## Fidelity of the graphs\n\nNot measured.",
        "Its performance on the task is not measured.",
        "No training data is recorded.",
        "The training data and its licence are not recorded.",
    ):
        assert fact in bare


def test_a_source_without_licence_is_pointed_out() -> None:
    source = {key: value for key, value in DATA.items() if key != "licence"}
    card = render_card(manifest(provenance=Provenance(command="x", commit="y", data=(DATA, source))), "d" * 64, None)
    assert "The licence of some of its training data is not recorded." in card


def test_results_with_their_intervals_and_gaps() -> None:
    parity = {"max_abs_target_difference": 2.1e-6, "episodes": 17.0, "steps": 22680.0, "tolerance": 1e-5}
    card = render_card(manifest(parity=parity), "d" * 64, EVALUATION)
    for fact in (
        "| nominal | 3.51 (3.30 to 3.70) | – | 67.0% | – |",
        "| perturbed | 2.90 | – | – | – |",
        "| mkbs | 20 | 4.00 | – | 100.0% | – |",
        "- Protocol: environment FrankaKitchen-v1; steps 280",
        "- Command: rpl evaluate models/kitchen",
        "- Seeds: 1, 2",
        "at most 2.1e-06",
    ):
        assert fact in card
    assert "Not measured" not in card


def test_a_bar_in_a_name_does_not_break_a_table() -> None:
    card = render_card(
        manifest(provenance=Provenance(command="x", commit="y", data=({"name": "a|b"},))), "d" * 64, None
    )
    assert "| a\\|b |" in card
