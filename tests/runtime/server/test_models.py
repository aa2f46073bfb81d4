"""The models of a server: which one answers a call, how a new version replaces an old one, and their limit."""

from pathlib import Path

import pytest

import policies
from rpl_runtime.errors import BundleCorrupt, BundleError, LimitReached, ModelNotFound, ProtocolViolation
from rpl_runtime.policy.bundle import Bundle
from rpl_runtime.server.models import Model, Models, model_of, prepare


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    """Two versions of one policy, and another policy."""
    folder = tmp_path_factory.mktemp("models")
    other = policies.tiny_spec().model_copy(update={"name": "other"})
    return [
        policies.tiny_bundle(folder / "first", seed=0),
        policies.tiny_bundle(folder / "second", seed=1),
        policies.tiny_bundle(folder / "other", other),
    ]


@pytest.fixture
def versions(bundles: list[Bundle]) -> list[Model]:
    return [model_of(bundle) for bundle in bundles]


def test_a_call_is_for_the_model_that_it_names(versions: list[Model]) -> None:
    first, _, other = versions
    models = Models(8)
    for model in (first, other):
        assert models.put(model) is None
    assert models.active == [first, other]
    assert models.find() is first
    for model in (first, other):
        assert models.find(name=model.name) is model
        assert models.find(digest=model.digest) is model
        assert models.find(model.name, model.digest) is model
    with pytest.raises(ModelNotFound, match="no model is named 'third'; served are tiny, other"):
        models.find("third")
    served = f"{first.digest[:12]}, {other.digest[:12]}"
    for name, digest in ((None, "0" * 64), ("other", first.digest)):
        with pytest.raises(
            BundleError, match=f"the server runs bundle {served}; this call is for bundle {digest[:12]}"
        ):
            models.find(name, digest)


def test_a_name_stands_for_the_newest_and_a_digest_for_itself(versions: list[Model]) -> None:
    first, second, other = versions
    models = Models(8)
    models.put(first)
    models.put(other)
    assert models.put(second) is first
    assert models.find() is models.find("tiny") is second
    assert models.find(digest=first.digest) is first
    assert (first.retired, second.retired) == (True, False)
    assert models.all == [second, other, first]
    assert models.put(second) is None
    assert models.all == [second, other, first]


def test_going_back_to_an_older_version_is_like_any_change(versions: list[Model], bundles: list[Bundle]) -> None:
    first, second, _ = versions
    models = Models(8)
    models.put(first)
    models.put(second)
    again = model_of(bundles[0])
    assert models.put(again) is second
    assert models.find() is models.find(digest=first.digest) is first
    assert models.all == [first, second]
    assert (first.retired, second.retired) == (False, True)


def test_going_back_takes_no_room_and_keeps_the_streams_that_are_on_it(
    versions: list[Model], bundles: list[Bundle]
) -> None:
    first, second, other = versions
    models = Models(2)
    models.put(first)
    models.enter(first)
    models.put(second)
    models.unload(first.digest)
    models.put(model_of(bundles[0]))
    assert models.put(other) is None  # in the room of the second
    assert models.find(digest=first.digest).streams == 1
    with pytest.raises(BundleError):
        models.find(digest=second.digest)
    models.leave(first)
    assert models.find(digest=first.digest) is first  # it was loaded again, and is not leaving any more


def test_room_is_made_of_what_nobody_uses(versions: list[Model]) -> None:
    first, second, other = versions
    models = Models(2)
    models.put(first)
    models.enter(first)
    models.put(second)
    with pytest.raises(LimitReached, match=r"as many models are loaded as this server takes \(2\)"):
        models.put(other)
    assert models.all == [second, first]
    models.leave(first)
    models.put(other)
    assert models.all == [second, other]


def test_what_is_unloaded_ends_with_the_last_stream_on_it(versions: list[Model]) -> None:
    first, second, other = versions
    models = Models(8)
    for model in versions:
        models.put(model)
    models.enter(second)
    models.enter(second)
    assert models.unload("tiny") is second
    assert models.find() is other
    with pytest.raises(ModelNotFound):
        models.find("tiny")
    models.leave(second)
    assert models.find(digest=second.digest) is second
    models.leave(second)
    assert models.all == [other, first]
    assert models.unload(first.digest) is first
    assert models.all == [other]
    with pytest.raises(ModelNotFound, match="no model is named 'tiny', nor has that digest; served are other"):
        models.unload("tiny")
    with pytest.raises(ProtocolViolation, match="other is the last model"):
        models.unload("other")


def test_only_a_sound_bundle_becomes_a_model(tmp_path: Path) -> None:
    bundle = policies.tiny_bundle(tmp_path / "bundle")
    assert prepare(bundle.path).info.digest == bundle.digest
    (bundle.path / "low.onnx").write_bytes(b"other")
    with pytest.raises(BundleCorrupt):
        prepare(bundle.path)
