"""The estimator as a whole: what it changes, and that it changes nothing where the senses are perfect."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rpl_runtime.client.client import Client
from rpl_runtime.errors import InvalidInput
from rpl_runtime.estimation.body import Ages, Body, Hand
from rpl_runtime.estimation.calibration import Calibration, NoiseWatch
from rpl_runtime.estimation.estimator import Estimator
from rpl_runtime.loop.calibrate import calibrate
from rpl_runtime.loop.lockstep import run
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.relay.run import RunConfig, RunResult, Step
from rpl_runtime.robots.degraded import Conditions, DegradedRobot
from rpl_runtime.robots.kitchen.task import KITCHEN
from rpl_runtime.robots.simulated import SimulatedRobot
from rpl_runtime.server.server import serve_in_thread
from rpl_runtime.tasks.kitchen.body import KITCHEN_BODY
from rpl_runtime.tasks.kitchen.elements import PERIOD, STATE_NAMES, kitchen_spec
from source import ROOT

NAMES = ("joint", "finger", "knob", "rail", "door")
PERIOD_S = 0.1


@dataclass(frozen=True)
class Trained:
    mean: tuple[float, ...] = (0.0, 0.02, 0.1, 0.5, 1.0)
    std: tuple[float, ...] = (1.0, 0.02, 1e-4, 0.5, 1.0)  # the knob never moves


def spring(position: np.ndarray, target: np.ndarray, load: np.ndarray, duration_s: float) -> np.ndarray:
    return target + load + (position - target - load) * np.exp(-8 * duration_s)


BODY = Body(
    objects=((2,), (3,), (4,)),
    arm=(0,),
    arm_targets=(0,),
    servo=spring,
    hand=Hand(dims=(1,), targets=(1,), opened=0.04, close_below=0.015, open_above=0.025),
)
EXACT = Calibration(names=NAMES, rest=(0.0, 0.0, 0.1, 0.0, 0.0), sigma=(0.0,) * 5, arm_age_s=0.0)
NOISY = EXACT.model_copy(update={"sigma": (0.0, 0.0, 0.01, 0.0, 0.01)})
READINGS = arrays(np.float32, (6, 5), elements=st.floats(-3, 3, width=32))


def estimator(calibration: Calibration) -> Estimator:
    return Estimator(BODY, calibration, Trained(), PERIOD_S)


@given(readings=READINGS, ages=st.sampled_from([Ages(), Ages(0.0), Ages(0.0, 0.3)]))
def test_perfect_senses_and_commands_pass_to_the_bit(readings: np.ndarray, ages: Ages) -> None:
    made = estimator(EXACT)
    assert made.idle
    for reading in readings:
        assert made.see(reading, ages).tobytes() == reading.tobytes()
        target = reading[:2].astype(np.float64)
        assert made.command(target).tobytes() == target.tobytes()


@given(readings=READINGS)
def test_only_what_the_calibration_finds_at_fault_is_changed(readings: np.ndarray) -> None:
    made = estimator(NOISY)
    assert not made.idle
    for number, reading in enumerate(readings):
        state = made.see(reading, Ages(0.0))
        exact = [0, 1, 3]
        assert state[exact].tobytes() == reading[exact].tobytes()
        assert state[2] == np.float32(0.1)  # where it was in the training data, however it is read
        assert number or state[4] == reading[4]
        made.command(np.zeros(2))


def test_a_run_begins_without_the_memory_of_the_last_one() -> None:
    made, readings = estimator(NOISY), np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)

    def states() -> list[bytes]:
        made.reset()
        found = []
        for reading in readings:
            found.append(made.see(reading, Ages(0.15)).tobytes())
            made.command(reading[:2])
        return found

    assert states() == states()


def test_an_arm_is_predicted_only_if_its_age_is_known() -> None:
    """By the reading's own timestamp, else by the calibration."""
    reading = np.zeros(5, dtype=np.float32)
    for calibrated, ages, moved in (
        (None, Ages(), False),
        (0.1, Ages(), True),
        (0.1, Ages(0.0), False),
        (None, Ages(0.1), True),
    ):
        made = estimator(EXACT.model_copy(update={"arm_age_s": calibrated}))
        for _ in range(2):
            made.see(reading, ages)
            made.command(np.array([1.0, 0.04]))
        assert (made.see(reading, ages)[0] > 0.1) == moved


def test_a_bias_of_what_never_moves_is_removed() -> None:
    biased = EXACT.model_copy(update={"rest": (0.0, 0.0, 0.13, 0.03, 0.03)})
    state = estimator(biased).see(np.array([0, 0, 0.13, 0.03, 0.03], dtype=np.float32))
    np.testing.assert_array_equal(state, np.array([0, 0, 0.1, 0.03, 0.03], dtype=np.float32))


def test_without_statistics_nothing_is_known_never_to_move() -> None:
    made = Estimator(BODY, NOISY, None, PERIOD_S)
    reading = np.full(5, 0.7, dtype=np.float32)
    np.testing.assert_array_equal(made.see(reading), reading)


def test_a_calibration_of_another_state_is_refused() -> None:
    with pytest.raises(InvalidInput, match="must be the same"):
        EXACT.checked(("joint", "knob"))
    assert EXACT.checked(NAMES) is EXACT


@given(seed=st.integers(0, 1000))
def test_noise_is_told_from_motion(seed: int) -> None:
    rng = np.random.default_rng(seed)
    moving = np.zeros((40, 5)) + np.linspace(0, 1, 40)[:, None] * [1, 1, 0, 0, 1]
    plain, noisy = NoiseWatch(BODY), NoiseWatch(BODY)
    assert [plain.see(reading) for reading in moving] == [None] * 40
    told = [noise for reading in moving if (noise := noisy.see(reading + rng.normal(scale=0.01, size=5)))]
    assert len(told) == 1
    assert told[0] == pytest.approx(0.01, rel=0.6)


# ------------------------------------------------------------------------------------------------ the real kitchen


@pytest.fixture(scope="module")
def kitchen() -> Iterator[SimulatedRobot]:
    with closing(SimulatedRobot(KITCHEN, "perturbed")) as robot:
        yield robot


def episode(robot: DegradedRobot, client: Client, made: Estimator | None, steps: int) -> tuple[RunResult, list[Step]]:
    kept: list[Step] = []
    with client.control() as control:
        config = RunConfig(("microwave", "kettle"), steps, "arm", seed=3, start_seed=5)
        return run(robot, control, config, kept.append, made), kept


@pytest.mark.parametrize(("name", "profile"), [("kitchen", "fr3"), ("play", "own")])
def test_in_a_perfect_kitchen_episodes_are_the_same_to_the_bit(
    kitchen: SimulatedRobot, name: str, profile: str
) -> None:
    """With the calibration that is measured there; the environment's own noise is that of the training data."""
    robot, bundle = DegradedRobot(kitchen, Conditions(profile)), load_bundle(ROOT / "models" / name)
    calibration = calibrate(robot, KITCHEN_BODY, bundle.spec)
    made = Estimator(KITCHEN_BODY, calibration, bundle.manifest.statistics, PERIOD)
    assert made.idle
    with serve_in_thread(bundle) as address, Client(address) as client:
        with_one, _ = episode(robot, client, made, 120)
        without, _ = episode(robot, client, None, 120)
    for values in ("states", "targets", "subgoals", "final_state"):
        assert getattr(with_one, values).tobytes() == getattr(without, values).tobytes(), values
    assert with_one.done == without.done


def test_in_a_noisy_and_late_kitchen_the_estimate_is_nearer_to_the_truth(kitchen: SimulatedRobot) -> None:
    robot = DegradedRobot(kitchen, Conditions("fr3", 0.005, 0.01, latency=1))
    bundle = load_bundle(ROOT / "models" / "play")
    calibration = calibrate(robot, KITCHEN_BODY, bundle.spec)
    made = Estimator(KITCHEN_BODY, calibration, bundle.manifest.statistics, PERIOD)
    truth: list[np.ndarray] = []
    observe = robot.observe

    def observed() -> np.ndarray:
        truth.append(kitchen.world.truth)
        return observe()

    robot.observe = observed
    with serve_in_thread(bundle) as address, Client(address) as client:
        _, steps = episode(robot, client, made, 120)
    errors = []
    for what in ("state", "reading"):
        values = np.array([getattr(step, what) for step in steps])
        errors.append(np.sqrt(np.mean((values - np.array(truth[: len(values)])) ** 2, axis=0)))
    estimated, read = errors
    assert np.linalg.norm(estimated[:7]) < 0.5 * np.linalg.norm(read[:7])
    objects = [dims[0] for dims in KITCHEN_BODY.objects]
    assert np.median(estimated[objects] / read[objects]) < 0.4


@pytest.mark.parametrize(
    ("conditions", "arm_age_s", "hand_s"),
    [
        (Conditions("fr3", 0.01, 0.02, latency=2, object_dropout=0.3), 0.16, None),
        (Conditions("fr3", hand_time=1.0), 0.0, 1.1),
        (Conditions("panda", hand_time=0.3, latency=1), 0.08, 0.4),
    ],
)
def test_a_calibration_finds_the_faults_of_a_robot(
    kitchen: SimulatedRobot, conditions: Conditions, arm_age_s: float, hand_s: float | None
) -> None:
    robot = DegradedRobot(kitchen, replace(conditions, stamped=False))
    found = calibrate(robot, KITCHEN_BODY, kitchen_spec("kitchen"))
    assert found.arm_age_s == pytest.approx(arm_age_s, abs=0.02)
    assert found.object_age_s is None
    assert (found.hand_s is None) == (hand_s is None)
    if hand_s is not None:
        assert found.hand_s == pytest.approx(hand_s, abs=0.12)
    sigma = dict(zip(STATE_NAMES, found.sigma, strict=True))
    for name, noise in (("microwave_door", conditions.angle_noise), ("kettle_x", conditions.position_noise)):
        assert sigma[name] == pytest.approx(noise, rel=0.35, abs=1e-4)
    assert sigma["panda_joint1"] == 0.0
