"""Which tuples demonstrations give: how far goals lie ahead, which state is the subgoal, what moves and what rests."""

from dataclasses import replace

import numpy as np
import pytest

from demonstrations import STEPS, drawer_demonstration, drawer_demonstrations, drawer_spec
from rpl_runtime.errors import DemonstrationError, InvalidInput
from rpl_runtime.policy.spec import VectorSpec
from rpl_train.data.trajectory import Trajectory
from rpl_train.tuples import NEVER, Timeline, lay_out

WINDOW = 4


def timeline(count: int = 8) -> Timeline:
    return lay_out(drawer_demonstrations(count).trajectories, drawer_spec(), hold=0)


def every(tuples):
    """All tuples of a level."""
    return tuples[np.arange(len(tuples))]


def whole(tuples):
    """All tuples of both levels, and the default subgoals."""
    return every(tuples.low), every(tuples.high), tuples.ahead


def offsets(relabelling, high_window=STEPS) -> tuple[np.ndarray, np.ndarray]:
    """Of each low tuple, how far its goal lies ahead, and how far the end of its demonstration does."""
    step, goal = every(timeline().tuples(relabelling, WINDOW, high_window).low)
    return goal - step, STEPS - 1 - step % STEPS


def test_a_relay_sees_states_within_the_window():
    ahead, _ = offsets("relay")
    assert (ahead.min(), ahead.max()) == (1, WINDOW)


def test_goals_reach_to_the_end_of_the_high_window():
    ahead, left = offsets("goal", high_window=10)
    assert (ahead.min(), ahead.max()) == (1, 10)
    assert (ahead <= left).all()


def test_without_relabelling_every_goal_is_the_end():
    ahead, left = offsets("end")
    assert (ahead == left).all()
    assert len(ahead) == len(timeline().states)


def test_the_default_subgoal_is_a_window_ahead_or_the_end():
    laid = timeline(2)
    ahead = laid.tuples("relay", WINDOW, STEPS).ahead
    assert ahead.tolist() == [min(step + WINDOW, (step // STEPS + 1) * STEPS - 1) for step in range(2 * STEPS)]


def test_segments_end_where_the_next_drawer_comes_to_rest():
    """In a demonstration that opens both, the first rests a little before step 10, the second before step 20."""
    both = lay_out([drawer_demonstration(np.random.default_rng(0))], drawer_spec(), hold=0)
    low, high, ahead = whole(both.tuples("segments", WINDOW, STEPS))
    ends = np.unique(low.goal)
    assert len(ends) == 3  # after the second drawer, the end of the demonstration
    assert ends == pytest.approx([9.5, 19.5, STEPS - 1], abs=1)
    assert low.step.tolist() == list(range(STEPS))
    assert (low.goal[:-1] > low.step[:-1]).all()
    assert (np.diff(low.goal) >= 0).all()
    assert np.array_equal(ahead, low.goal)
    assert np.array_equal(high.subgoal, np.minimum(high.goal, ahead[high.step]))


def test_segments_are_those_of_the_elements_that_a_demonstration_does():
    one = lay_out([drawer_demonstration(np.random.default_rng(0), opens=(1,))], drawer_spec(), hold=0)
    goal = every(one.tuples("segments", WINDOW, STEPS).low).goal
    assert np.unique(goal) == pytest.approx([9.5, STEPS - 1], abs=1)


@pytest.mark.parametrize("relabelling", ["relay", "segments", "goal", "end"])
def test_no_goal_lies_in_another_demonstration(relabelling):
    low, high, ahead = whole(timeline().tuples(relabelling, WINDOW, STEPS))
    for columns in (low, high, (np.arange(len(ahead)), ahead)):
        episodes = [column // STEPS for column in columns]
        assert all((episode == episodes[0]).all() for episode in episodes)


def test_an_element_rests_until_it_moves_and_after_it_settles():
    laid = lay_out([drawer_demonstration(np.random.default_rng(0), opens=(1,))], drawer_spec(), hold=0)
    assert laid.moves.tolist() == [[NEVER, pytest.approx(3, abs=1)]]
    assert laid.done.tolist() == [[False, True]]
    start, end = np.array([0, 0, 4, 12]), np.array([1, 6, 8, 20])
    resting = laid.resting(np.zeros(4, np.int64), start, end)
    assert resting.tolist() == [[True, True], [True, False], [True, False], [True, True]]


def test_behaviour_serves_the_elements_that_move_and_the_next_one_to_move():
    """The first drawer moves from about step 3 to 9, the second from about 13 to 19."""
    laid = lay_out([drawer_demonstration(np.random.default_rng(0))], drawer_spec(), hold=0)
    spans = {(0, 1): [True, False], (4, 6): [True, True], (10, 12): [False, True], (10, 16): [False, True]}
    start, end = np.array(list(spans)).T
    assert laid.served(np.zeros(len(spans), np.int64), start, end).tolist() == list(spans.values())
    [after_both] = laid.served(np.zeros(1, np.int64), np.array([21]), np.array([23]))
    assert not after_both.any()


def test_what_is_only_touched_on_the_way_is_not_what_the_behaviour_goes_on_to():
    states = np.zeros((STEPS, 3), np.float32)
    states[:, 1] = np.where(np.arange(STEPS) < 6, 1.0, 0.7)  # it was open, and is dragged along
    states[:, 2] = np.arange(STEPS) >= 12
    goal = np.array([0, 1, 1], np.float32)
    laid = lay_out([Trajectory(states, states[:, :1], ("second drawer",), "dragged", goal=goal)], drawer_spec(), hold=0)
    assert laid.led.tolist() == [[False, True]]
    assert laid.goals == pytest.approx(np.array([[0, 0.7, 1]]))
    one = np.zeros(1, np.int64)
    assert laid.served(one, np.array([0]), np.array([3])).tolist() == [[False, True]]
    assert laid.served(one, np.array([4]), np.array([8])).tolist() == [[True, True]]


def test_an_order_that_some_demonstration_shows_is_known():
    rng = np.random.default_rng(0)
    shown = {opens: drawer_demonstration(rng, opens) for opens in ((0, 1), (1, 0), (0,), (1,))}
    for orders, precedes in (
        ([(0, 1), (0,)], [[False, True], [False, False]]),
        ([(0, 1), (1, 0)], [[False, True], [True, False]]),
        ([(0,), (1,)], [[False, False], [False, False]]),
    ):
        laid = lay_out([shown[order] for order in orders], drawer_spec(), hold=0)
        assert laid.precedes.tolist() == precedes


def test_an_element_is_done_that_reaches_its_goal_in_the_very_last_step():
    laid = first_drawer(0, 0, 0, 0, 1)
    assert laid.done.tolist() == [[True, False]]
    assert laid.settles.tolist() == [[4, 0]]
    assert laid.resting(np.zeros(2, np.int64), np.array([3, 4]), np.array([4, 4]))[:, 0].tolist() == [False, True]


def first_drawer(*values: float) -> Timeline:
    """One demonstration in which the first drawer, whose goal is 1, stands at these values."""
    states = np.zeros((len(values), 3), np.float32)
    states[:, 1] = values
    return lay_out([Trajectory(states, states[:, :1])], drawer_spec(), hold=0)


def test_an_element_has_moved_or_come_to_rest_by_a_tenth_of_its_way():
    """From -9 to 1 a tenth is 1, which is not enough to have moved and near enough to rest."""
    assert first_drawer(-9, -8, -8).moves[0, 0] == NEVER
    moved = first_drawer(-9, 1, 1, 0)
    assert (moved.moves[0, 0], moved.settles[0, 0]) == (1, 1)
    nudged = first_drawer(0, 0.12, 0.06)  # moves, and at no step is it further than that from where it ends
    assert (nudged.moves[0, 0], nudged.settles[0, 0]) == (1, 0)


SPEED = 0.1  # [m] a step


def moving(steps: int = 8) -> Trajectory:
    """A recording that stops while the hand moves at SPEED and its last target lies far ahead."""
    states = np.zeros((steps, 3), np.float32)
    states[:, 0] = SPEED * np.arange(steps)
    return Trajectory(states, states[:, :1] + 0.5, source="cut off")


def test_motion_decays_after_the_end_of_a_recording_and_then_the_robot_stays():
    hold = 40
    laid = lay_out([moving()], drawer_spec(), hold)
    hand = laid.states[:, 0]
    assert len(hand) == 8 + hold
    assert np.array_equal(laid.states[:8], moving().states)
    speeds = np.diff(hand)[7:]
    assert speeds[:6] == pytest.approx(SPEED * (2 / 3) ** np.arange(1, 7), rel=1e-3)
    assert hand[-1] == pytest.approx(hand[7] + 2 * SPEED, rel=1e-3)
    assert (laid.states[:, 1:] == 0).all()
    assert laid.states.dtype == laid.targets.dtype == np.float32


@pytest.mark.parametrize("hold", [1, 3, 40])
def test_from_the_last_recorded_step_on_the_target_is_where_the_motion_ends(hold):
    laid = lay_out([moving()], drawer_spec(), hold)
    assert np.array_equal(laid.targets[:7], moving().targets[:7])
    assert laid.targets[7:] == pytest.approx(np.full((hold + 1, 1), laid.states[-1, 0]))


def test_steps_are_appended_to_what_names_the_author_of_each_step_too():
    laid = lay_out([replace(moving(), authors=("anna",) * 8)], drawer_spec(), hold=4)
    assert np.array_equal(laid.states, lay_out([moving()], drawer_spec(), hold=4).states)


def test_nothing_can_be_appended_where_no_target_is_known_to_stop_the_robot():
    spec = drawer_spec()
    velocity = VectorSpec(names=("hand_velocity",), units=("m/s",), low=(-1.0,), high=(1.0,))
    driven = spec.model_copy(update={"action": velocity})
    with pytest.raises(InvalidInput, match="hold is 40, but the actions of drawers are not position targets"):
        lay_out([moving()], driven, hold=40)
    assert len(lay_out([moving()], driven, hold=0).states) == 8


@pytest.mark.parametrize(
    ("demonstrations", "sentence"),
    [
        ([], "no demonstrations"),
        ([replace(moving(), states=np.zeros((8, 4), np.float32), source="foreign")], "foreign has"),
    ],
)
def test_foreign_demonstrations_are_refused(demonstrations, sentence):
    with pytest.raises(DemonstrationError, match=sentence):
        lay_out(demonstrations, drawer_spec(), hold=0)


def cut_at(length: int) -> Trajectory:
    """Both drawers, cut after `length` steps on the way to both being open."""
    whole = drawer_demonstration(np.random.default_rng(0))
    elements = ("first drawer", "second drawer")
    return Trajectory(whole.states[:length], whole.targets[:length], elements, "cut", goal=whole.states[-1], cut=True)


def test_what_a_cut_demonstration_has_not_finished_moves_after_its_end():
    laid = lay_out([cut_at(8)], drawer_spec(), hold=4)
    assert len(laid.states) == 8  # nobody held there
    assert laid.moves[0].tolist() == [laid.moves[0, 0], 8 + 1]
    assert laid.moves[0, 0] < 8 <= laid.settles[0, 0] < laid.settles[0, 1]
    assert laid.asked.tolist() == [[True, True]]
    served = laid.served(np.array([0]), np.array([0]), np.array([1]))
    assert served.tolist() == [[True, False]]


def test_no_plan_is_learned_from_the_last_window_before_a_cut():
    step, _, subgoal = every(lay_out([cut_at(16)], drawer_spec(), hold=0).tuples("relay", WINDOW, STEPS).high)
    assert step.max() == 16 - 1 - WINDOW
    assert (subgoal <= step + WINDOW).all()
    whole_low = every(lay_out([cut_at(16)], drawer_spec(), hold=0).tuples("relay", WINDOW, STEPS).low)
    assert whole_low.step.max() == 16 - 2  # what the arm did is known to the last step
