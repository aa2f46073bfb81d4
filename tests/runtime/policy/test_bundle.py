"""A bundle is intact, or refused with one clear sentence."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import policies
from rpl_runtime.errors import BundleCorrupt, BundleError, BundleNotFound, MismatchedPair, UnsupportedSchema
from rpl_runtime.policy import bundle as bundle_module
from rpl_runtime.policy.bundle import (
    CARD,
    EVALUATION,
    FILES,
    HIGH,
    LOW,
    MANIFEST,
    Bundle,
    attach_evaluation,
    load_bundle,
    standing_at,
)
from rpl_runtime.policy.graphs import OnnxPolicy

EVALUATED = {"starts": {"nominal": {"mean_steps_ever": 3.5, "tiny": 1e-05}}, "seeds": [1, 2]}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with all five files; tests leave it unchanged."""
    path = tmp_path_factory.mktemp("evaluated") / "bundle"
    return attach_evaluation(policies.tiny_bundle(path), EVALUATED)


def reseal(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest and seal it again."""
    content = json.loads(path.read_bytes())
    del content["digest"]
    change(content)
    digest = hashlib.sha256((json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()).hexdigest()
    path.write_text(json.dumps(content | {"digest": digest}, indent=1, ensure_ascii=False) + "\n")


def snapshot(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_a_bundle_is_its_five_files(evaluated: Bundle) -> None:
    assert {file.name for file in evaluated.path.iterdir()} == set(FILES)
    assert load_bundle(evaluated.path) == evaluated


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_changed_byte_anywhere_is_found(evaluated: Bundle, name: str, place: float, flip: int) -> None:
    file = evaluated.path / name
    sound = file.read_bytes()
    damaged = bytearray(sound)
    damaged[int(place * len(sound))] ^= flip
    try:
        file.write_bytes(damaged)
        with pytest.raises(BundleError) as caught:
            load_bundle(evaluated.path)
        assert isinstance(caught.value, BundleCorrupt | UnsupportedSchema)
        assert "\n" not in str(caught.value)
    finally:
        file.write_bytes(sound)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-1], lambda raw: raw + b"\n", lambda raw: b"", lambda raw: b"[[]]"]
)
def test_a_truncated_or_longer_file_is_found(own_bundle: Bundle, name: str, damage: Callable[[bytes], bytes]) -> None:
    bundle = attach_evaluation(own_bundle, EVALUATED)
    (bundle.path / name).write_bytes(damage((bundle.path / name).read_bytes()))
    with pytest.raises(BundleCorrupt, match=name):
        load_bundle(bundle.path)


@pytest.mark.parametrize(
    "change", [lambda text: text.replace("1e-05", "1e905"), lambda text: text.replace("3.5", "NaN")]
)
def test_a_number_that_is_not_finite_is_found(own_bundle: Bundle, change: Callable[[str], str]) -> None:
    file = attach_evaluation(own_bundle, EVALUATED).path / EVALUATION
    assert change(file.read_text()) != file.read_text()
    file.write_text(change(file.read_text()))
    with pytest.raises(BundleCorrupt, match="not the JSON object"):
        load_bundle(own_bundle.path)


def test_two_sound_graphs_in_each_others_place(own_bundle: Bundle) -> None:
    high, low = own_bundle.high.read_bytes(), own_bundle.low.read_bytes()
    own_bundle.high.write_bytes(low)
    own_bundle.low.write_bytes(high)
    with pytest.raises(BundleCorrupt, match=r"high\.onnx has digest"):
        load_bundle(own_bundle.path)


@pytest.mark.parametrize("name", [MANIFEST, HIGH, LOW])
def test_a_missing_file(own_bundle: Bundle, name: str) -> None:
    (own_bundle.path / name).unlink()
    with pytest.raises(BundleNotFound, match=f"holds no {name}"):
        load_bundle(own_bundle.path)


def test_a_path_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(BundleNotFound, match="a bundle is a folder of `rpl export`"):
            load_bundle(path)


def test_a_newer_schema(own_bundle: Bundle) -> None:
    reseal(own_bundle.path / MANIFEST, lambda content: content.update(schema_version=2, novelty={"from": "the future"}))
    with pytest.raises(UnsupportedSchema, match="schema version 2; this version of relay-policy reads 1"):
        load_bundle(own_bundle.path)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda content: content.pop("pair_id"), "pair_id"),
        (lambda content: content["spec"].update(horizon=0), "spec.horizon"),
        (lambda content: content["spec"].update(horizon=2**32), "spec.horizon"),
        (lambda content: content["spec"]["state"]["high"].__setitem__(0, 1.7e308), "spec.state: .*float32"),
        (lambda content: content.update(surprise=1), "surprise"),
        (lambda content: content["spec"].update(period_s=1e-9), "spec.period_s"),
        (lambda content: content["spec"].update(period_s=1e9), "spec.period_s"),
        (lambda content: content["spec"].update(high_noise=10_000), "spec.high_noise"),
        (lambda content: content["spec"].update(name="\x1b]0;owned\x07"), "spec.name: .*printable"),
        (lambda content: content["spec"].update(name="right\u202eleft"), "spec.name: .*printable"),
        (lambda content: content["spec"].update(name="x" * 129), "spec.name"),
        (lambda content: content["spec"].update(description="safe\nverified: every digest matches"), "spec.desc"),
        (
            lambda content: content["spec"]["state"]["units"].__setitem__(0, "\x1b[2J"),
            "spec.state.units.0: ",
        ),
        (lambda content: content["spec"]["elements"]["door"].update(goal=[7.0]), "spec: .*'door' has a goal outside"),
        (lambda content: content["spec"]["library"].update({"\x1b[2J": ["door"]}), "spec.library"),
    ],
)
def test_a_sound_manifest_that_makes_no_sense(own_bundle: Bundle, change: Callable, where: str) -> None:
    reseal(own_bundle.path / MANIFEST, change)
    with pytest.raises(BundleError, match=f"cannot be used: {where}"):
        load_bundle(own_bundle.path)


@pytest.mark.parametrize(
    "content",
    [
        {"starts": []},
        {"starts": {"nominal": {"success_ever": "all"}}},
        {"starts": {"nominal": {"intervals": {"success_ever": 1}}}},
        {"starts": {"nominal": {"goals": {"home": 3}}}},
        {"protocol": "mine"},
    ],
)
def test_a_sound_evaluation_that_makes_no_sense(own_bundle: Bundle, content: dict[str, Any]) -> None:
    file = attach_evaluation(own_bundle, EVALUATED).path / EVALUATION
    reseal(file, lambda sound: sound.update(content))
    with pytest.raises(BundleError, match=r"evaluation\.json cannot be used: (starts|protocol)"):
        load_bundle(own_bundle.path)


@pytest.mark.parametrize("depth", [40, 900, 200_000])
def test_json_that_is_nested_without_end(own_bundle: Bundle, depth: int) -> None:
    file = own_bundle.path / MANIFEST
    deep = "[" * depth + "]" * depth
    file.write_text(file.read_text().replace('"settings": {}', f'"settings": {{"a": {deep}}}'))
    with pytest.raises(BundleCorrupt, match="not the JSON object"):
        load_bundle(own_bundle.path)


def test_a_high_level_with_another_low_level(own_bundle: Bundle, tmp_path: Path) -> None:
    other = policies.tiny_bundle(tmp_path / "other", seed=1)
    shutil.copy(other.low, own_bundle.low)
    files = {LOW: hashlib.sha256(own_bundle.low.read_bytes()).hexdigest()}
    reseal(own_bundle.path / MANIFEST, lambda content: content["files"].update(files))
    with pytest.raises(MismatchedPair, match=r"low\.onnx says it is the low level of pair"):
        OnnxPolicy(load_bundle(own_bundle.path))


@pytest.mark.parametrize("fatal_call", [0, 1])
def test_an_interrupted_write_leaves_the_older_bundle(
    own_bundle: Bundle, fatal_call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, calls = snapshot(own_bundle.path), iter(range(10))
    replace = os.replace

    def interrupted(source: Path, target: Path) -> None:
        if next(calls) == fatal_call:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(bundle_module.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        policies.tiny_bundle(own_bundle.path, seed=1)
    assert snapshot(own_bundle.path) == before
    assert list(own_bundle.path.parent.iterdir()) == [own_bundle.path]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_space(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle_module, "render_card", out_of_space)
    with pytest.raises(OSError, match="No space left"):
        policies.tiny_bundle(tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_a_new_bundle_replaces_an_older_one_whole(own_bundle: Bundle) -> None:
    attach_evaluation(own_bundle, EVALUATED)
    newer = policies.tiny_bundle(own_bundle.path, seed=1)
    assert newer.digest != own_bundle.digest
    assert newer.evaluation is None
    assert list(own_bundle.path.parent.iterdir()) == [own_bundle.path]


def test_a_bundle_behind_a_link_is_replaced_and_the_link_stays(own_bundle: Bundle, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(own_bundle.path)
    newer = policies.tiny_bundle(link, seed=1)
    assert link.is_symlink()
    assert load_bundle(own_bundle.path).digest == newer.digest != own_bundle.digest


def test_bundles_that_are_written_at_once_leave_one_of_them(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        written = list(threads.map(lambda seed: policies.tiny_bundle(tmp_path / "bundle", seed=seed).digest, range(8)))
    assert load_bundle(tmp_path / "bundle").digest in written
    assert list(tmp_path.iterdir()) == [tmp_path / "bundle"]


def test_a_folder_that_is_no_bundle_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("irreplaceable")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "manifest.json").write_text("irreplaceable")
    for path in (tmp_path, tmp_path / "thesis.tex", tmp_path / "site" / "manifest.json"):
        with pytest.raises(BundleError, match="exists and is not a bundle"):
            policies.tiny_bundle(path)
    assert (tmp_path / "thesis.tex").read_text() == "irreplaceable"
    assert (tmp_path / "site" / "manifest.json").read_text() == "irreplaceable"


def test_a_bundle_with_something_of_somebodys_in_it_is_left_alone(own_bundle: Bundle) -> None:
    (own_bundle.path / "notes.md").write_text("irreplaceable")
    with pytest.raises(BundleError, match=r"holds notes\.md, which is not the bundle's"):
        policies.tiny_bundle(own_bundle.path, seed=1)
    assert load_bundle(own_bundle.path).digest == own_bundle.digest
    assert (own_bundle.path / "notes.md").exists()


def test_the_bytes_that_were_checked_are_the_bytes_that_are_used(own_bundle: Bundle) -> None:
    checked = snapshot(own_bundle.path)
    for name in (HIGH, LOW):
        (own_bundle.path / name).write_bytes(b"another graph")
    assert own_bundle.files == checked
    OnnxPolicy(own_bundle).warm_up()


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_never_ends_or_is_too_large_is_refused(own_bundle: Bundle, name: str) -> None:
    file = attach_evaluation(own_bundle, EVALUATED).path / name
    os.truncate(file, 1 << 30)  # of holes
    with pytest.raises(BundleError, match=f"{name} cannot be read: has 1,073,741,824 bytes; must be"):
        load_bundle(own_bundle.path)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(BundleError, match=f"{name} cannot be read: must be a regular file"):
        load_bundle(own_bundle.path)


def test_a_path_with_a_nul_is_one_sentence() -> None:
    with pytest.raises(BundleError, match="a path must not hold a NUL"):
        load_bundle(Path("models\0/kitchen"))


def test_an_evaluation_comes_back_as_it_was(own_bundle: Bundle) -> None:
    assert own_bundle.evaluation is None
    bundle = attach_evaluation(own_bundle, EVALUATED)
    assert bundle.evaluation == {"bundle_digest": own_bundle.digest} | EVALUATED
    assert bundle.digest == own_bundle.digest
    assert "3.5" in (bundle.path / CARD).read_text()
    assert attach_evaluation(bundle, {"starts": {}}).evaluation == {"bundle_digest": own_bundle.digest, "starts": {}}


def test_an_evaluation_of_another_bundle(own_bundle: Bundle, tmp_path: Path) -> None:
    other = attach_evaluation(policies.tiny_bundle(tmp_path / "other", seed=1), EVALUATED)
    before = snapshot(own_bundle.path)
    assert other.evaluation is not None
    with pytest.raises(BundleError, match=f"must be {own_bundle.digest[:12]}"):
        attach_evaluation(own_bundle, other.evaluation)
    assert snapshot(own_bundle.path) == before

    shutil.copy(other.path / EVALUATION, own_bundle.path)
    with pytest.raises(BundleCorrupt, match="was measured on bundle"):
        load_bundle(own_bundle.path)


def test_a_full_disk_is_told_of_with_the_bundle_s_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left") as told:
        bundle_module.store_files(tmp_path / "cart", {"low.onnx": b""})
    assert told.value.filename == str(tmp_path / "cart")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_told_of_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert standing_at(tmp_path / "new") is None
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(BundleError, match=r"new cannot be made, since .* cannot be written to; choose another path"):
        standing_at(tmp_path / "new")
