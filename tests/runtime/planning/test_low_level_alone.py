"""A bundle that holds a low level alone: a planner sets its subgoals, and without one it is refused in one sentence."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import policies
from rpl_runtime.cli.app import app
from rpl_runtime.client.client import Client
from rpl_runtime.errors import BundleCorrupt, BundleNotFound, InvalidInput, ProtocolViolation
from rpl_runtime.planning.planner import HighLevel
from rpl_runtime.planning.planning import PlanningConfig
from rpl_runtime.planning.serve import serve_planner
from rpl_runtime.policy.bundle import HIGH, LOW, Bundle, load_bundle, write_bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.relay.plans import Fallback, PlanRules, Source
from rpl_runtime.server.server import ServerConfig, serve_in_thread
from rpl_runtime.server.subprocess import serve_in_process

SPEC = policies.tiny_spec()
STATES = np.random.default_rng(0).uniform(-0.4, 0.4, (12, 5)).astype(np.float32)
GOAL = SPEC.resolve(["door"], STATES[0])


@pytest.fixture(scope="module")
def low(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The low level of the tiny bundle."""
    return write_bundle(tmp_path_factory.mktemp("low") / "bundle", tiny_bundle.manifest, None, tiny_bundle.files[LOW])


def config(**planning: object) -> ServerConfig:
    return ServerConfig(address="127.0.0.1:0", drain_s=0.0, planning=PlanningConfig(**planning))  # type: ignore[arg-type]


def test_it_names_its_planners_service_and_holds_no_high_level(low: Bundle, tiny_bundle: Bundle) -> None:
    assert (low.graphs, low.manifest.planner, set(low.manifest.files)) == ((LOW,), "rpl.v1.Planner", {LOW})
    assert not low.high.exists()
    assert low == load_bundle(low.path)
    assert (tiny_bundle.graphs, tiny_bundle.manifest.planner) == ((HIGH, LOW), None)


def test_with_a_planner_it_acts_as_the_whole_bundle_does(low: Bundle, tiny_bundle: Bundle, grpc_aio: None) -> None:
    """The planner is that bundle's high level, in another process's place."""
    runs = []
    with (
        serve_planner(HighLevel(OnnxPolicy(tiny_bundle)), "high", SPEC) as planner,
        serve_in_thread(low, config(planner=planner)) as led,
        serve_in_thread(tiny_bundle, config(planner=planner)) as whole,
    ):
        for address in (led, whole):
            with Client(address) as client, client.control() as control:
                control.start("a", GOAL, STATES[0], seed=3, rules=PlanRules(wait=True))
                runs.append([control.step("a", step, state) for step, state in enumerate(STATES)])
    for found, expected in zip(*runs, strict=True):
        np.testing.assert_array_equal(found.target, expected.target)
    assert runs[0][0].origin is not None
    assert runs[0][0].origin.source is Source.PLANNER


def test_without_a_planner_it_is_refused_in_one_sentence(low: Bundle, grpc_aio: None) -> None:
    sentence = (
        r"^tiny is a low level alone, and nobody plans for it; must be served with `rpl serve BUNDLE --planner "
        r"HOST:PORT`, the address of an rpl.v1.Planner for its states$"
    )
    with pytest.raises(InvalidInput, match=sentence), serve_in_thread(low, config()):
        pass
    with pytest.raises(InvalidInput, match=sentence), serve_in_process(low.path):
        pass


def test_a_planner_for_other_states_is_refused(low: Bundle, tiny_bundle: Bundle, grpc_aio: None) -> None:
    kitchen = SPEC.model_copy(update={"state": SPEC.state.model_copy(update={"units": ("mm", *SPEC.state.units[1:])})})
    with (
        serve_planner(HighLevel(OnnxPolicy(tiny_bundle)), "other", kitchen) as planner,
        pytest.raises(InvalidInput, match="units"),
        serve_in_thread(low, config(planner=planner)),
    ):
        pass


def test_nobody_falls_back_on_a_high_level_that_is_not_there(low: Bundle, tiny_bundle: Bundle, grpc_aio: None) -> None:
    planner = HighLevel(OnnxPolicy(tiny_bundle))
    with (
        pytest.raises(
            InvalidInput, match="tiny is a low level alone; the fallback must be another one than the bundle"
        ),
        serve_in_thread(low, config(planner=planner, fallback=Fallback.BUNDLE)),
    ):
        pass
    with serve_in_thread(low, config(planner=planner)) as address, Client(address) as client:
        with client.control() as control, pytest.raises(InvalidInput, match="the run's fallback is the bundle's high"):
            control.start("a", GOAL, STATES[0], rules=PlanRules(fallback=Fallback.BUNDLE))
        rows = STATES[:1], GOAL.state[None], GOAL.mask[None], np.zeros((1, SPEC.high_noise), np.float32)
        with pytest.raises(ProtocolViolation, match="tiny is a low level alone; its subgoals must come from a planner"):
            client.plan(*rows)


def test_a_bundle_that_says_one_thing_and_holds_another_is_corrupt(low: Bundle, own_bundle: Bundle) -> None:
    (own_bundle.path / HIGH).unlink()
    with pytest.raises(BundleNotFound, match=r"holds no high\.onnx"):
        load_bundle(own_bundle.path)
    stray = write_bundle(own_bundle.path.with_name("stray"), low.manifest, None, low.files[LOW]).path
    (stray / HIGH).write_bytes(b"anything")
    with pytest.raises(BundleCorrupt, match=r"holds high\.onnx, but its manifest says that rpl\.v1\.Planner plans"):
        load_bundle(stray)


def test_it_is_inspected_like_any_bundle(low: Bundle) -> None:
    shown = CliRunner().invoke(app, ["inspect", str(low.path)])
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.output.split())
    for part in ("--planner HOST:PORT", "must be an rpl.v1.Planner", "the low level runs, and a planner must set"):
        assert part in text
    assert "high(state" not in text


def test_its_files_travel(low: Bundle, tmp_path: Path, tiny_bundle: Bundle, grpc_aio: None) -> None:
    planner = HighLevel(OnnxPolicy(tiny_bundle))
    with serve_in_thread(low, config(planner=planner)) as address, Client(address) as client:
        fetched = client.fetch(tmp_path / "fetched")
    assert (fetched.digest, fetched.graphs) == (low.digest, (LOW,))
