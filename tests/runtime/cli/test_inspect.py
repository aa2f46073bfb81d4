"""`rpl inspect` as a command line."""

import json

import pytest

from rpl_runtime.cli import app as cli
from rpl_runtime.policy.bundle import Bundle, attach_evaluation

EVALUATION = {"starts": {"nominal": {"mean_steps_ever": 3.5, "success_ever": 0.61, "goals": {"home": {}}}, "odd": {}}}


def rpl(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run `rpl` in this process; returns its exit code."""
    monkeypatch.setattr("sys.argv", ["rpl", *arguments])
    monkeypatch.setenv("COLUMNS", "150")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_it_prints_the_model_card_and_that_the_bundle_is_intact(
    own_bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    attach_evaluation(own_bundle, EVALUATION)
    assert rpl("inspect", str(own_bundle.path), monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr().out
    for fact in (
        *(own_bundle.digest, own_bundle.manifest.pair_id, "0.05 s (20 Hz)", "4 steps (0.2 s)"),
        *("heading", "m/s", "rad/s", "door 1.5", "home", "high level: ", "parameters", "every digest matches"),
    ):
        assert fact in " ".join(printed.split())  # wherever a line was wrapped
    rows = [line.split() for line in printed.splitlines()]
    assert ["nominal", "3.50", "–", "61.0%", "–"] in rows
    assert ["odd", "–", "–", "–", "–"] in rows
    # Every heading of the card is there, so that the two say the same.
    card = (own_bundle.path / "MODEL_CARD.md").read_text()
    headings = [line.removeprefix("## ") for line in card.splitlines() if line.startswith("## ")]
    assert len(headings) > 5
    assert all(heading in printed for heading in headings)


def test_json_holds_the_same(
    own_bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rpl("inspect", "--json", str(own_bundle.path), monkeypatch=monkeypatch) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["digest"] == own_bundle.digest
    assert facts["spec"] == own_bundle.spec.model_dump(mode="json")
    assert facts["graphs"]["high"]["bytes"] == own_bundle.high.stat().st_size
    assert (facts["rate_hz"], facts["evaluation"]) == (20.0, None)


def test_a_damaged_bundle_is_one_sentence_and_exit_code_3(
    own_bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own_bundle.low.write_bytes(b"")
    assert rpl("inspect", str(own_bundle.path), monkeypatch=monkeypatch) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "low.onnx has digest" in captured.err
