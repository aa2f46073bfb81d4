"""Scripted play on disk."""

import json
import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3
import numpy as np
import pytest

from rpl_runtime.errors import DemonstrationError, InvalidInput, JobsFailed, MissingExtra
from rpl_runtime.tasks import Task
from rpl_runtime.tasks.kitchen.elements import ELEMENTS
from rpl_runtime.tasks.kitchen.render import CAPTION_HEIGHT, HEIGHT, WIDTH
from rpl_runtime.tasks.kitchen.simulator import open_kitchen
from rpl_train import play as module
from rpl_train.data.sheet import contact_sheet
from rpl_train.data.trajectory import digest, load, load_folder
from rpl_train.play import PlayConfig, perform, play, print_play
from rpl_train.tasks.kitchen.play import KitchenPlay
from rpl_train.tasks.kitchen.task import KITCHEN

SHORT = PlayConfig(sequences=3, seed=7)


def kitchen(**settings: Any) -> Task:
    """The kitchen with a demonstrator that gives up far too early to finish anything."""
    return replace(KITCHEN, demonstrator=KitchenPlay(**{"limit": 6, **settings}))


def test_a_sequence_is_played_to_its_end():
    task = kitchen(start="nominal", noise=0.0, pause=0.0, detour=0.0, limit=360)
    with open_kitchen() as world:
        trajectory = perform(task, world, PlayConfig(seed=1), 0)
        assert set(trajectory.elements) <= world.done()
    assert len(trajectory) < 280
    assert trajectory.elements == KitchenPlay().sequence(1, 0)
    assert trajectory.source == "play of kitchen, seed 1 #0"


def test_an_element_that_comes_undone_while_the_hand_settles_is_done_again(monkeypatch: pytest.MonkeyPatch):
    demonstrator = KitchenPlay(length=1, start="nominal", noise=0.0, pause=0.0, detour=0.0, settle=20)
    index = [demonstrator.sequence(1, index) for index in range(len(ELEMENTS))].index(("slide cabinet",))
    with open_kitchen() as world:
        once = len(demonstrator.perform(KITCHEN, world, 1, index).states)
        step, steps = world.step, 0

        def undone_at_the_end(target: np.ndarray) -> np.ndarray:
            nonlocal steps
            steps += 1
            if steps == once - 10:
                assert "slide cabinet" in world.done()
                world.data.qpos[list(ELEMENTS["slide cabinet"].dims)] = 0.0
            return step(target)

        monkeypatch.setattr(world, "step", undone_at_the_end)
        twice = len(demonstrator.perform(KITCHEN, world, 1, index).states)
        assert "slide cabinet" in world.done()
    assert once + 10 < twice < demonstrator.limit


def test_what_is_stored_is_the_intention_and_what_is_executed_is_not(tmp_path: Path):
    quiet = play(kitchen(noise=0.0, pause=0.0, detour=0.0), SHORT, tmp_path / "quiet").sequences[0]
    noisy = play(kitchen(noise=0.05, pause=0.0, detour=0.0), SHORT, tmp_path / "noisy").sequences[0]
    quiet, noisy = load(quiet.path), load(noisy.path)
    np.testing.assert_array_equal(quiet.states[0], noisy.states[0])
    np.testing.assert_array_equal(quiet.targets[0], noisy.targets[0])
    assert not np.array_equal(quiet.states[1], noisy.states[1])


def test_a_resumed_folder_equals_an_unbroken_one(tmp_path: Path):
    seen: list[tuple[int, int]] = []
    play(kitchen(), replace(SHORT, sequences=1), tmp_path / "resumed")
    resumed = play(kitchen(), SHORT, tmp_path / "resumed", lambda *counts: seen.append(counts))
    unbroken = play(kitchen(), SHORT, tmp_path / "unbroken")
    assert (resumed.played, unbroken.played) == (2, 3)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert digest(load_folder(tmp_path / "resumed")) == digest(load_folder(tmp_path / "unbroken"))
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_number_of_processes_changes_nothing(tmp_path: Path):
    play(kitchen(), SHORT, tmp_path / "one")
    play(kitchen(), replace(SHORT, jobs=2), tmp_path / "two")
    assert digest(load_folder(tmp_path / "one")) == digest(load_folder(tmp_path / "two"))


def test_another_seed_gives_another_folder(tmp_path: Path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for seed, folder in enumerate(folders):
        play(kitchen(), replace(SHORT, sequences=1, seed=seed), folder)
    assert digest(load_folder(folders[0])) != digest(load_folder(folders[1]))


@pytest.mark.parametrize("order", ["human", "random"])
def test_every_set_of_four_takes_its_turn(order):
    player = KitchenPlay(order=order)
    sequences = [player.sequence(0, index) for index in range(70)]
    assert set(Counter(frozenset(sequence) for sequence in sequences).values()) == {2}
    assert all(len(set(sequence)) == player.length for sequence in sequences)
    in_human_order = [list(sequence) == [name for name in ELEMENTS if name in sequence] for sequence in sequences]
    assert all(in_human_order) if order == "human" else not all(in_human_order)


def test_elements_are_played_alone_or_all_together():
    alone = [KitchenPlay(length=1).sequence(0, index) for index in range(7)]
    assert sorted(name for (name,) in alone) == sorted(ELEMENTS)
    assert KitchenPlay(length=7).sequence(0, 5) == tuple(ELEMENTS)


def test_the_summary_counts_every_element(tmp_path: Path):
    result = play(kitchen(), SHORT, tmp_path / "play")
    assert result.completed == 0
    assert [row.name for row in result.by_element()] == list(ELEMENTS)
    assert sum(row.tried for row in result.by_element()) == 4 * SHORT.sequences
    assert all(sequence.steps == 6 for sequence in result.sequences)
    facts = result.facts()
    assert {element["steps"] for element in facts["elements"]} == {None}  # none was ever done
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    print_play(result)


def test_an_element_that_nobody_tried_has_no_share_in_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    result = play(kitchen(length=1), replace(SHORT, sequences=1), tmp_path / "play")
    print_play(result)
    printed = capsys.readouterr().out
    assert printed.count(" 0.0%") == 2  # of the one that was tried, and of sequences with every element done
    assert "1 sequence in" in printed


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"length": 8}, "length of scripted play is 8; must be 1 to 7"),
        ({"noise": float("nan")}, "noise of scripted play is nan"),
        ({"pause": 2.0}, "pause of scripted play is 2.0; must be 0 to 0.5"),
        ({"order": "alphabetical"}, "order of scripted play is 'alphabetical'; must be one of human, random"),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    with pytest.raises(InvalidInput, match=message):
        KitchenPlay(**setting)


@pytest.mark.parametrize(("setting", "value"), [("sequences", 0), ("seed", -1), ("jobs", 0)])
def test_an_amount_out_of_range_is_named(setting: str, value: int):
    with pytest.raises(InvalidInput, match=f"{setting} of play is {value}; must be"):
        PlayConfig(**{setting: value})


def test_play_with_other_settings_is_not_mixed_in(tmp_path: Path):
    play(kitchen(), SHORT, tmp_path / "play")
    with pytest.raises(InvalidInput, match="play with another order, seed; use the same settings or another folder"):
        play(kitchen(order="random"), replace(SHORT, seed=8), tmp_path / "play")


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DemonstrationError, match="cannot be written"):
        play(kitchen(), SHORT, tmp_path / "file" / "play")


def test_a_full_disk_keeps_the_finished_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    compress, written = np.savez_compressed, []

    def fill(file, **arrays):
        if written:
            raise OSError(28, "No space left on device")
        written.append(file)
        compress(file, **arrays)

    monkeypatch.setattr(np, "savez_compressed", fill)
    with pytest.raises(DemonstrationError, match="No space left on device; the episodes before it are kept"):
        play(kitchen(), SHORT, tmp_path / "play")
    assert sorted(path.name for path in (tmp_path / "play").iterdir()) == ["play-000000.npz", "play.json"]


def test_settings_that_a_full_disk_cut_off_claim_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fill(path, text):
        path.write_bytes(text[:20].encode())
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(Path, "write_text", fill)
        with pytest.raises(DemonstrationError, match="No space left on device"):
            play(kitchen(), SHORT, tmp_path / "play")
    assert list((tmp_path / "play").iterdir()) == []


def kill(*_: object) -> None:
    """What a worker does that the system kills."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_thrice_is_one_sentence_and_play_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as killing:
        killing.setattr(module, "_perform_here", kill)
        with pytest.raises(JobsFailed, match="1 of 1 jobs failed: sequence 0: its worker was killed 3 times"):
            play(kitchen(), replace(SHORT, sequences=1, jobs=2), tmp_path / "play")
    assert play(kitchen(), SHORT, tmp_path / "play").played == SHORT.sequences


def test_a_contact_sheet_has_a_row_for_each_demonstration(tmp_path: Path):
    demonstrations = load_folder(play(kitchen(), replace(SHORT, sequences=2), tmp_path / "play").folder)
    try:
        contact_sheet(KITCHEN, demonstrations, tmp_path / "sheet.png", columns=2)
    except MissingExtra as error:
        pytest.skip(str(error))
    height, width = (HEIGHT + CAPTION_HEIGHT) // 2, WIDTH // 2
    sheet = imageio.v3.imread(tmp_path / "sheet.png")
    assert sheet.shape == (2 * height, 2 * width, 3)
    one, other = sheet[:height], sheet[height:]
    assert (one != other).any()


def test_an_empty_contact_sheet_is_refused(tmp_path: Path):
    with pytest.raises(InvalidInput, match="0 demonstrations in 6 columns"):
        contact_sheet(KITCHEN, [], tmp_path / "sheet.png")
