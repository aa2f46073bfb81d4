"""The safety filter, proved on what it commands at 1 kHz."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from limits_kept import MS, assert_inside
from rpl_runtime.errors import InvalidInput, ProtocolViolation
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.relay.loop import RelayLoop
from rpl_runtime.robots.kitchen.limits import KITCHEN
from rpl_runtime.robots.profiles import PROFILES
from rpl_runtime.safety.filter import SafetyFilter, reading_fault
from rpl_runtime.safety.kinematics import flange_pose
from rpl_runtime.safety.limits import Box, Profile
from rpl_runtime.tasks.kitchen.elements import PERIOD, compound_goal
from rpl_runtime.tasks.kitchen.simulator import PERTURBED, Kitchen

HOME = np.array([0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785, 0.04, 0.04])
CENTRE = flange_pose(HOME[:7])[0]
CRAMPED = Box(tuple(CENTRE - 0.1), tuple(CENTRE + 0.1))  # type: ignore[arg-type]
ARMS = {
    "panda": PROFILES["panda"],
    "fr3": PROFILES["fr3"],
    "cramped": PROFILES["fr3"].within(CRAMPED),
    "rezeroed": PROFILES["panda"].rezeroed(np.array([0.0, 0.0, 0.3, 0.0, 0.0, 1.57, 0.7854])),
}
arms = pytest.mark.parametrize("profile", ARMS.values(), ids=ARMS)


def home(profile: Profile) -> np.ndarray:
    assert profile.arm is not None
    return np.append(HOME[:7] - profile.arm.zero, HOME[7:])


def hostile(profile: Profile, start: np.ndarray, manner: str, rng: np.random.Generator) -> Iterator[np.ndarray | None]:
    """Targets (m,) without end, None for a period without one."""
    target, low, high = start.copy(), profile.low, profile.high
    speed = rng.uniform(-0.3, 0.3, len(low))
    while True:
        match manner:
            case "anywhere":
                target = rng.uniform(low, high)
            case "far away":
                target = rng.normal(size=len(low)) * 10.0 ** rng.integers(0, 6)
            case "from end to end":
                target = np.where(rng.random(len(low)) < 0.3, rng.choice([low, high]), target)
            case "to an end":
                target = np.where(rng.random(len(low)) < 0.5, high, target)
            case "ramp":
                target = target + speed
            case "jitter":
                target = np.clip(target + rng.normal(0, 0.03, len(low)), low, high)
            case "near an end":
                target = high - rng.exponential(0.01, len(low))
        yield None if manner == "silence" or rng.random() < 0.05 else target


MANNERS = ("anywhere", "far away", "from end to end", "to an end", "ramp", "jitter", "near an end", "silence")
segments = st.lists(st.tuples(st.sampled_from(MANNERS), st.integers(1, 8)), min_size=1, max_size=4)


@arms
@given(segments=segments, seed=st.integers(0, 2**32), at_home=st.booleans())
@settings(max_examples=40)
def test_no_sequence_of_targets_leads_outside_and_the_arm_can_always_stop(
    profile: Profile, segments: list[tuple[str, int]], seed: int, at_home: bool
) -> None:
    rng = np.random.default_rng(seed)
    start = home(profile) if at_home else rng.uniform(profile.low, profile.high)
    safety, commanded = SafetyFilter(profile, PERIOD), []
    try:
        safety.start(start)
    except InvalidInput:
        assume(False)  # the flange began outside
    for manner, periods in segments:
        targets = hostile(profile, start, manner, rng)
        for _ in range(periods):
            target = next(targets)
            filtered = safety.stop() if target is None else safety.step(target)
            np.testing.assert_array_equal(filtered.target, filtered.trajectory[-1])
            commanded.append(filtered.trajectory)
    commanded += come_to_rest(safety, profile)
    assert_inside(profile, start, np.vstack(commanded))


def test_a_motion_that_another_proved_goes_on_as_if_the_filter_had_commanded_it() -> None:
    other, resumed = started(), started()
    turned = HOME + 0.06 * (np.arange(9) == 0)
    commanded = np.vstack([other.step(turned).trajectory, other.step(turned).trajectory])
    way = np.vstack(come_to_rest(other, PROFILES["fr3"]))
    resumed.resume(commanded[-3:, :7], way[:, :7])
    assert not resumed.at_rest
    np.testing.assert_array_equal(resumed.position[:7], commanded[-1, :7])
    np.testing.assert_array_equal(resumed.resting_place[:7], way[-1, :7])
    first = resumed.stop()
    assert first.limit_violations == ()
    np.testing.assert_array_equal(first.trajectory[:, :7], way[:80, :7])
    np.testing.assert_allclose(first.velocity[:7], (way[79] - way[78])[:7] / MS, atol=1e-9)
    commanded = np.vstack([commanded, first.trajectory])
    for target in (HOME, turned, HOME):
        commanded = np.vstack([commanded, resumed.step(target).trajectory])
    assert_inside(PROFILES["fr3"], HOME, commanded)
    np.testing.assert_array_equal(resumed.position[:7], commanded[-1, :7])


def come_to_rest(safety: SafetyFilter, profile: Profile) -> list[np.ndarray]:
    """Stop, in no more periods than the limits make it."""
    assert profile.arm is not None
    longest = (profile.arm.velocity / profile.arm.acceleration + 3 * profile.arm.acceleration / profile.arm.jerk).max()
    periods = []
    while not safety.at_rest:
        periods.append(safety.stop().trajectory)
        assert len(periods) <= longest / PERIOD + 2
    return periods


def curve(targets: np.ndarray) -> np.ndarray:
    """The motion (T * 80, m) that targets (T + 1, m) ask for, the first of them the start, from its definition alone.

    Between two targets the polynomial of the fifth degree that has, at each, the target's position, the speed
    (this target - the one before) / period, and no acceleration.
    """
    speed = np.vstack([np.zeros_like(targets[:1]), np.diff(targets, axis=0) / PERIOD])
    powers = np.arange(6)
    at = np.array([PERIOD, *np.arange(1, 81) * MS])[:, None]
    value = at**powers
    slope = powers * at ** np.maximum(powers - 1, 0)
    bend = powers * (powers - 1) * at ** np.maximum(powers - 2, 0)
    conditions = np.vstack([np.eye(6)[:2], [0, 0, 2, 0, 0, 0], value[0], slope[0], bend[0]])
    samples = []
    for number in range(len(targets) - 1):
        still = np.zeros_like(targets[0])
        known = np.stack([targets[number], speed[number], still, targets[number + 1], speed[number + 1], still])
        samples.append(value[1:] @ np.linalg.solve(conditions, known))
    return np.vstack(samples)


@given(
    seed=st.integers(0, 2**32),
    name=st.sampled_from(["panda", "fr3", "rezeroed"]),
    size=st.floats(0, 0.4),
    period_s=st.floats(0.5, 4),
)
@settings(max_examples=80)
def test_targets_that_respect_the_limits_pass_unchanged(seed: int, name: str, size: float, period_s: float) -> None:
    """They respect them when the curve through them does, at 1 kHz, and leaves room to stop."""
    profile, rng = ARMS[name], np.random.default_rng(seed)
    assert profile.arm is not None
    start = home(profile)
    time_s = PERIOD * np.arange(25)[:, None]
    phase = rng.uniform(0, 2 * np.pi, 9)
    wave = np.sin(2 * np.pi * time_s / period_s + phase) - np.sin(phase)
    # It begins slowly, as an arm at rest has to.
    targets = start + size * rng.uniform(-1, 1, 9) * wave * np.minimum(1, time_s / 0.8) ** 2
    targets[:, 7:] = np.clip(targets[:, 7:], 0, 0.04)
    wanted = curve(targets)
    room = np.diff(np.vstack([start, wanted]), axis=0)[:, :7] / MS
    assume((abs(room) < 0.9 * np.array(profile.arm.velocity)).all())
    bends = np.diff(room, axis=0) / MS
    assume((abs(bends) < profile.arm.acceleration * (1 - 1e-9)).all())
    assume((abs(np.diff(bends, axis=0)) / MS < profile.arm.jerk * (1 - 1e-9)).all())
    stopping = room**2 / (2 * profile.arm.acceleration) + 0.05
    assume((wanted[:, :7] + stopping < profile.high[:7]).all())
    assume((wanted[:, :7] - stopping > profile.low[:7]).all())
    assume((abs(flange_pose(wanted[:, :7] + profile.arm.zero)[0] - CENTRE) < 0.15).all())

    safety = SafetyFilter(profile, PERIOD)
    safety.start(start)
    filtered = [safety.step(target) for target in targets[1:]]
    assert not any(each.limit_violations for each in filtered)
    assert not safety.counts
    for each, target in zip(filtered, targets[1:], strict=True):
        assert (each.target == target).all()
    commanded = np.vstack([each.trajectory for each in filtered])
    np.testing.assert_allclose(commanded[:, :7], wanted[:, :7], atol=1e-9)


@arms
@given(seed=st.integers(0, 2**32), manner=st.sampled_from(MANNERS[:-1]))
@settings(max_examples=25)
def test_a_target_without_a_limit_violation_is_reached_to_the_last_bit(
    profile: Profile, seed: int, manner: str
) -> None:
    rng = np.random.default_rng(seed)
    safety = SafetyFilter(profile, PERIOD)
    safety.start(home(profile))
    targets = hostile(profile, home(profile), manner, rng)
    for _ in range(8):
        target = next(targets)
        if target is None:
            continue
        filtered = safety.step(target)
        changed = {violation.dimension for violation in filtered.limit_violations}
        if None not in changed:
            same = [dimension for dimension in range(9) if dimension not in changed]
            assert (filtered.target[same] == target[same]).all()


def started(profile: Profile = PROFILES["fr3"], period_s: float = PERIOD) -> SafetyFilter:
    safety = SafetyFilter(profile, period_s)
    safety.start(home(profile) if profile.arm else HOME)
    return safety


@pytest.mark.parametrize("joint", range(7))
@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("name", ["panda", "fr3"])
def test_a_joint_driven_at_its_end_stops_before_it_and_close_by(name: str, joint: int, up: bool) -> None:
    profile = PROFILES[name].within(Box((-2, -2, -2), (2, 2, 2)))
    safety, commanded = started(profile), []
    target = HOME.copy()
    target[joint] = profile.high[joint] + 1 if up else profile.low[joint] - 1
    for _ in range(60):
        commanded.append(safety.step(target).trajectory)
    assert_inside(profile, HOME, np.vstack(commanded))
    assert profile.arm is not None
    end = profile.high[joint] if up else profile.low[joint]
    assert abs(commanded[-1][-1, joint] - end) < 1e-3
    assert safety.counts["position"] >= 60


@pytest.mark.parametrize("end", ["low", "high"])
def test_a_joint_at_its_end_stays_there_without_a_violation(end: str) -> None:
    profile = PROFILES["panda"].within(Box((-2, -2, -2), (2, 2, 2)))
    target = HOME.copy()
    target[1] = getattr(profile, end)[1]
    safety = SafetyFilter(profile, PERIOD)
    safety.start(target)
    filtered = safety.step(target)
    assert (filtered.trajectory == target).all()
    assert not safety.counts


@pytest.mark.parametrize("speed", [0.2, 0.5, 1.0, 1.5])
def test_a_moving_target_is_met_and_then_followed_without_lag(speed: float) -> None:
    safety, target, unchanged = started(), HOME.copy(), []
    for _ in range(round(1.2 / speed / PERIOD)):
        target[0] += speed * PERIOD
        filtered = safety.step(target)
        unchanged.append(filtered.target[0] == target[0])
    met = unchanged.index(True)
    assert met <= 1 + 4 * speed / 1.0
    assert all(unchanged[met:])


def test_a_step_of_the_target_is_made_without_overshoot_or_vibration() -> None:
    safety, target, path = started(), HOME.copy(), []
    target[0] += 0.16
    for _ in range(10):
        path.append(safety.step(target).trajectory[:, 0])
    path = np.concatenate(path)
    assert path.max() <= target[0] + 1e-9
    assert (np.diff(path) >= -1e-9).all()
    assert path[-1] == target[0]
    assert safety.at_rest


def jump(joint: int, by: float) -> Callable[[], np.ndarray]:
    def target() -> np.ndarray:
        moved = HOME.copy()
        moved[joint] += by
        return moved

    return target


@pytest.mark.parametrize(
    ("target", "kind", "dimension"),
    [
        (jump(0, 9.0), "position", 0),
        (jump(0, 0.5), "velocity", 0),
        (jump(1, 0.02), "acceleration", 1),
        (jump(2, 0.2), "jerk", 2),
        (jump(8, 0.01), "position", 8),
        (jump(5, -2.0), "position", 5),
    ],
)
def test_a_limit_violation_says_which_limit_and_which_dimension(target, kind: str, dimension: int) -> None:
    safety = started()
    filtered = safety.step(target())
    assert (kind, dimension) in filtered.limit_violations
    assert len(set(filtered.limit_violations)) == len(filtered.limit_violations)
    assert {found for found, _ in filtered.limit_violations} == set(safety.counts)
    assert {place for _, place in filtered.limit_violations} == {dimension}


def test_the_edge_of_the_workspace_is_one_and_does_not_trap_the_arm() -> None:
    safety = started(ARMS["cramped"])
    target = HOME.copy()
    for _ in range(30):
        target[1] += 0.02  # the arm leans forward
        filtered = safety.step(target)
    assert ("workspace", None) in filtered.limit_violations
    edge = flange_pose(filtered.target[:7])[0]
    assert min(*(edge - CRAMPED.low), *(np.array(CRAMPED.high) - edge)) < 0.01
    for _ in range(30):
        filtered = safety.step(HOME)
    np.testing.assert_array_equal(filtered.target, HOME)


def test_a_flange_that_starts_outside_the_workspace_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"the flange at .* m, under the profile fr3; must be inside"):
        SafetyFilter(PROFILES["fr3"].within(Box((2, 2, 2), (3, 3, 3))), PERIOD).start(HOME)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_target_that_is_not_finite_is_refused_and_moves_nothing(bad: float) -> None:
    safety, other = started(), started()
    target = HOME + 0.01
    target[8] = HOME[8]
    sick = target.copy()
    sick[3] = bad
    with pytest.raises(InvalidInput, match="must be 9 finite numbers"):
        safety.step(sick)
    np.testing.assert_array_equal(safety.step(target).trajectory, other.step(target).trajectory)
    assert safety.counts == other.counts


def test_a_target_of_another_size_is_refused() -> None:
    with pytest.raises(InvalidInput, match="must be 9 finite numbers"):
        started().step(np.zeros(7))


def test_an_arm_comes_to_rest_at_a_target_that_is_repeated() -> None:
    safety = started()
    target = HOME.copy()
    for _ in range(5):
        target[0] += 0.08
        safety.step(target)
    assert not safety.at_rest
    for _ in range(15):
        filtered = safety.step(target)
    assert safety.at_rest
    np.testing.assert_array_equal(filtered.target, target)


def test_a_stop_ends_where_the_next_target_begins() -> None:
    """The next target is taken from where the arm came to rest, not from the target it was stopped from."""
    safety = started()
    for _ in range(2):
        safety.step(HOME + 0.3 * (np.arange(9) == 0))
    come_to_rest(safety, PROFILES["fr3"])
    counts, rest = safety.counts.copy(), safety.position
    assert 0.01 < rest[0] - HOME[0] < 0.29
    filtered = safety.step(rest)
    assert safety.at_rest
    assert not np.ptp(filtered.trajectory, axis=0).any()
    assert safety.counts == counts


def test_set_points_are_held_inside_their_range() -> None:
    """An arm's fingers, which a hand moves at a speed of its own, and everything in the simulated kitchen."""
    target = HOME.copy()
    target[7:] = 0.01, 0.09
    filtered = started().step(target)
    assert (filtered.trajectory[:, 7:] == [0.01, 0.04]).all()
    assert not filtered.velocity[7:].any()
    filtered = started(KITCHEN).step(target + 0.5)
    assert (filtered.trajectory == np.clip(target + 0.5, KITCHEN.low, KITCHEN.high)).all()
    assert {place for _, place in filtered.limit_violations} == {7, 8}


def test_the_kitchens_profile_leaves_the_shipped_policy_as_it_is() -> None:
    policy = OnnxPolicy(load_bundle(Path(__file__).parents[3] / "models" / "kitchen"))
    kitchen, loop = Kitchen(), RelayLoop(policy, policy.spec)
    safety = SafetyFilter(KITCHEN, policy.spec.period_s)
    state = kitchen.reset(11, PERTURBED)
    safety.start(state[:9])
    loop.start("arm", policy.spec.resolve(compound_goal("mkbs"), state), seed=11)
    for step in range(120):
        target = loop.step(["arm"], [step], state[None]).action[0]
        filtered = safety.step(target)
        np.testing.assert_array_equal(filtered.target, target)
        state = kitchen.step(filtered.target)
    assert not safety.counts
    kitchen.close()


def test_a_start_a_little_outside_is_brought_inside() -> None:
    safety = SafetyFilter(PROFILES["panda"], PERIOD)
    position = HOME.copy()
    position[1] = PROFILES["panda"].low[1] - 0.05
    safety.start(position)
    assert safety.position[1] == PROFILES["panda"].low[1]
    position[1] -= 1
    with pytest.raises(InvalidInput, match=r"-2.813 in dimension 1, under the profile panda; must be -1.763 to 1.763"):
        safety.start(position)


def test_a_filter_moves_only_when_it_was_started() -> None:
    safety = SafetyFilter(PROFILES["fr3"], PERIOD)
    for move in (lambda: safety.step(HOME), safety.stop, lambda: safety.position):
        with pytest.raises(ProtocolViolation, match="not started"):
            move()


@pytest.mark.parametrize("period_s", [0.0, -0.08, 0.0805, 1e-4])
def test_a_period_is_whole_milliseconds(period_s: float) -> None:
    with pytest.raises(InvalidInput, match="whole number of milliseconds"):
        SafetyFilter(PROFILES["fr3"], period_s)


@pytest.mark.parametrize("period_s", [0.001, 0.01, 0.08, 0.5])
def test_other_periods_have_as_many_samples(period_s: float) -> None:
    safety = started(period_s=period_s)
    commanded = [safety.step(HOME + 0.1 * (np.arange(9) == 0)).trajectory for _ in range(3)]
    assert commanded[0].shape == (round(period_s * 1000), 9)
    assert_inside(PROFILES["fr3"], HOME, np.vstack(commanded))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda reading: reading, None),
        (lambda reading: reading + 0.02, None),
        (lambda reading: np.where(np.arange(9) == 3, np.nan, reading), "dimension 3 is not finite"),
        (lambda reading: np.where(np.arange(9) == 3, 0.2, reading), "dimension 3 is at 0.2, outside -3.072 to -0.0698"),
        (lambda reading: np.where(np.arange(9) == 0, 0.5, reading), "joint 1 jumped by 0.5 rad in 0.080 s"),
    ],
)
def test_a_reading_that_cannot_be_is_a_fault(change, sentence: str | None) -> None:
    profile = PROFILES["panda"].within(CRAMPED)
    found = reading_fault(profile, change(HOME), HOME, PERIOD)
    assert found is None if sentence is None else sentence in str(found)
    assert reading_fault(KITCHEN, HOME + 0.05, HOME - 3, PERIOD) is None


def test_a_flange_outside_the_workspace_is_a_fault() -> None:
    leaning = HOME + 0.4 * (np.arange(9) == 1)
    assert "outside the workspace" in str(reading_fault(PROFILES["panda"].within(CRAMPED), leaning, leaning, PERIOD))
    assert reading_fault(PROFILES["panda"], leaning, leaning, PERIOD) is None
