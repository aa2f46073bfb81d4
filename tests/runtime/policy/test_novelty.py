"""The out-of-distribution score of a state, and how it is added to an existing bundle."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

import policies
from demonstrations import drawer_demonstrations, drawer_spec
from rpl_runtime.errors import BundleError, DemonstrationError
from rpl_runtime.policy.bundle import Bundle, attach_evaluation, load_bundle, write_bundle
from rpl_runtime.policy.manifest import Statistics
from rpl_runtime.policy.novelty import Novelty
from rpl_train.data.sources import Demonstrations
from rpl_train.export.novelty import add_novelty


def test_the_score_is_the_length_of_the_whitened_deviation() -> None:
    rng = np.random.default_rng(0)
    triangle = np.tril(rng.normal(size=(4, 4)))
    mean, states = rng.normal(size=4), rng.normal(size=(7, 4))
    rows = tuple(tuple(row[: dim + 1]) for dim, row in enumerate(triangle.tolist()))
    statistics = Statistics(mean=tuple(mean), std=(1,) * 4, low=(0,) * 4, high=(1,) * 4, whitening=rows)
    novelty = Novelty.of(statistics)
    assert novelty is not None
    expected = [np.linalg.norm(triangle @ (state - mean)) for state in states]
    np.testing.assert_allclose(novelty.score(states.astype(np.float32)), expected, rtol=1e-5)


def test_without_the_statistic_there_is_no_score() -> None:
    assert Novelty.of(None) is None
    assert Novelty.of(Statistics(mean=(0,), std=(1,), low=(0,), high=(1,))) is None


@pytest.mark.parametrize("rows", [((1.0,),), ((1.0,), (1.0,)), ((1.0,), (0.0, float("nan")))])
def test_a_whitening_of_another_shape_is_refused(rows: tuple[tuple[float, ...], ...]) -> None:
    with pytest.raises(ValidationError):
        Statistics(mean=(0, 0), std=(1, 1), low=(0, 0), high=(1, 1), whitening=rows)


def test_statistics_of_other_sizes_make_no_bundle(tmp_path: Path) -> None:
    short = Statistics(mean=(0.0,), std=(1.0,), low=(0.0,), high=(1.0,))
    with pytest.raises((BundleError, ValidationError), match="each dimension"):
        policies.tiny_bundle(tmp_path / "bundle", statistics=short)


@pytest.fixture
def drawer_bundle(tmp_path: Path) -> Bundle:
    """A bundle without statistics that names its demonstrations."""
    bundle = policies.tiny_bundle(tmp_path / "bundle", drawer_spec())
    provenance = bundle.manifest.provenance.model_copy(update={"data": tuple(drawer_demonstrations().sources)})
    manifest = bundle.manifest.model_copy(update={"provenance": provenance})
    return write_bundle(bundle.path, manifest, bundle.high.read_bytes(), bundle.low.read_bytes())


def test_a_bundle_gets_its_score_and_keeps_its_graphs(drawer_bundle: Bundle) -> None:
    graphs = drawer_bundle.high.read_bytes(), drawer_bundle.low.read_bytes()
    attach_evaluation(drawer_bundle, {"starts": {}})
    add_novelty(load_bundle(drawer_bundle.path), drawer_demonstrations())
    added = load_bundle(drawer_bundle.path)
    assert (added.high.read_bytes(), added.low.read_bytes()) == graphs
    assert added.digest != drawer_bundle.digest
    assert added.evaluation is None  # measured on another identity
    novelty = Novelty.of(added.manifest.statistics)
    assert novelty is not None
    states = np.concatenate([demonstration.states for demonstration in drawer_demonstrations().trajectories])
    assert (novelty.score(states) > 1).mean() < 0.05


def test_demonstrations_that_a_policy_did_not_learn_from_are_refused(drawer_bundle: Bundle) -> None:
    known = drawer_demonstrations()
    other = Demonstrations(known.trajectories, [known.sources[0] | {"digest": "1" * 64}])
    with pytest.raises(DemonstrationError, match="learned from"):
        add_novelty(drawer_bundle, other)
    assert load_bundle(drawer_bundle.path).manifest.statistics is None
